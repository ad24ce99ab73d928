---@meta
-- Types of lua/api.lua. From Lua a rule acts on what comes due from now on; over HTTP also on what waits. Errors raise.

---@class kumo
local kumo = {}

kumo.api = { inject = require 'inject', admin = { bounce = {}, suspend = {}, suspend_ready_q = {}, dead_letters = {} } }

---@class (exact) kumo.AdminSuspension
---@field campaign? string         what a queue must have to be meant; nothing: all queues
---@field tenant? string
---@field domain? string
---@field queue_names? string[]    these queues alone
---@field reason string
---@field duration? number|string  seconds, or a text such as "5m"
---@field expires? string          in place of duration: a moment, RFC 3339

---@class (exact) kumo.AdminBounce : kumo.AdminSuspension
---@field routing_domain? string
---@field suppress_logging? boolean  no records

--- Ends the messages of queues with an AdminBounce.
---@param rule kumo.AdminBounce
---@return string id
function kumo.api.admin.bounce.bounce(rule) end

---@return table[] rules
function kumo.api.admin.bounce.list() end

---@param id string
---@return boolean existed
function kumo.api.admin.bounce.delete(id) end

--- Holds the messages of queues back.
---@param rule kumo.AdminSuspension
---@return string id
function kumo.api.admin.suspend.suspend(rule) end

---@return table[] rules
function kumo.api.admin.suspend.list() end

---@param id string
---@return boolean existed
function kumo.api.admin.suspend.delete(id) end

---@class (exact) kumo.ReadyQueueRule
---@field name string              of the ready queue: "unspecified->example.com@smtp_client"
---@field reason string
---@field duration? number|string
---@field expires? string

--- Holds a ready queue back.
---@param rule kumo.ReadyQueueRule
---@return string id
function kumo.api.admin.suspend_ready_q.suspend(rule) end

---@return table[] rules
function kumo.api.admin.suspend_ready_q.list() end

---@param id string
---@return boolean existed
function kumo.api.admin.suspend_ready_q.delete(id) end

---@class (exact) kumo.DeadLetterFilter
---@field hook? string
---@field ids? string[]
---@field since? string           moment, RFC 3339
---@field ["until"]? string
---@field reason? 'rejected'|'expired'|'policy_error'
---@field kind? 'all'|'letters'|'parked'   default 'all'; parked: records that are parked as the policy failed
---@field limit? integer          `list`: default 100, at most 10,000

---@class (exact) kumo.DeadLetterList : kumo.DeadLetterFilter
---@field payload? boolean        with the records
---@field after_seq? integer      behind this letter
---@field hooks? boolean          the names of hooks that have letters, and nothing else

---@class (exact) kumo.DeadLetterChoice : kumo.DeadLetterFilter
---@field all? boolean            needed where nothing else is said

--- Dead letters, the oldest of each hook first. Ours; docs/dead-letters.md.
---@async
---@param filter kumo.DeadLetterList
---@return table[] letters  { id, seq, size, letter = { hook, queue, reason, answer, attempts, at }, payload }
function kumo.api.admin.dead_letters.list(filter) end

--- Puts letters back into the queues that they came from, as new as on the first day; parked records are decided again. Ours.
---@async
---@param filter kumo.DeadLetterChoice
---@return { matched: integer, unreadable: integer, parked: integer?, refused: integer?, why: string? }  refused: by the disk
function kumo.api.admin.dead_letters.replay(filter) end

--- Drops letters; the ledger counts them as dropped, reason removed. Ours.
---@async
---@param filter kumo.DeadLetterChoice
---@return { matched: integer, unreadable: integer, parked: integer?, refused: integer?, why: string? }  refused: by the disk
function kumo.api.admin.dead_letters.purge(filter) end
