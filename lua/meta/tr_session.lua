---@meta
-- Types of runtime/queue/session_lua.c, for lua/session.lua and the connections that add themselves there. Internal.

---@class tr.session
local session = {}

--- The rejection that an error value is or wraps (field `cause`).
---@param err any
---@return integer? code
---@return string? text
function session.find_rejection(err) end

---@alias tr.session.Phase 'Starting'|'Idle'|'AccumulatingBatch'|'AttemptingConnection'|'DeliveringMessage'|'Closing'|'Throttled'

---@class tr.session.Config
---@field protocol 'custom_lua'|'smtp'
---@field constructor? string
---@field batch_size integer
---@field min_batch_size integer
---@field max_batch_latency_s number
---@field max_batch_bytes number
---@field idle_timeout_s number
---@field max_deliveries integer

--- One connection of a ready queue. It holds the messages in hand: whatever ends the session, they go back.
--- Metatable: tr.session
---@class tr.session.Session
local Session = {}

---@async
---@param seconds number
---@return boolean worked  false after the time
function Session:wait(seconds) end

--- Waits while too many outcomes of this session are not committed.
---@async
---@return boolean
function Session:settle() end

--- One token of each message rate for what is in hand.
---@async
---@return boolean? go  false: it was given back; nil: after a wait, ask again
function Session:pace() end

--- Leases that are shared with other nodes live on.
---@async
---@return boolean? go  false: one is lost, the connection must end; nil: after a wait, ask again
function Session:extend() end

--- Adds to what is in hand.
---@param max integer >= 1
---@param max_bytes? number  0: no bound
---@return integer count  in hand
---@return nil|'empty'|'gate'|'close' why  when nothing was taken
function Session:take(max, max_bytes) end

--- One round of a busy session: takes from `min` to `max` messages and begins the phase DeliveringMessage.
---@param max integer
---@param min integer
---@param max_bytes number  0: no bound
---@return integer? count  in hand; nil: settle, take and wait for what is missing
function Session:next(max, min, max_bytes) end

--- As report('delivered', 200, text, peer_name, nil, 'counts') if the text is a string (or number) in UTF-8.
---@param text any
---@param peer_name string
---@return boolean
function Session:delivered(text, peer_name) end

---@return kumo.Message  the first in hand; raises if there is none
function Session:message() end

---@return kumo.Message[]  all in hand
function Session:batch() end

---@return integer  messages in hand
function Session:count() end

--- Puts all but the first `count` in hand away, for trying the parts of a batch one after the other.
---@param count integer  1 to what is in hand less 1
function Session:keep(count) end

--- Takes up what was put away last, behind what is in hand.
---@return integer count  in hand
function Session:resume() end

--- The outcome of what is in hand.
---@param kind 'delivered'|'bounced'|'transient'
---@param code integer
---@param text? string
---@param peer_name? string      nil: the record has no peer
---@param retry_after_s? number
---@param gate? 'counts'|'at_once'  nil: it says nothing about the endpoint
---@param count? integer      of the first so many; default: of all
function Session:report(kind, code, text, peer_name, retry_after_s, gate, count) end

--- Gives back all in hand without an attempt.
---@param reason 'DispatcherDrop'|'PeerClosedConnection'|'TooManyRecipients'
function Session:requeue(reason) end

--- Restarts the watchdog; it rests in Idle and AccumulatingBatch.
---@param name tr.session.Phase
function Session:phase(name) end

function Session:connected() end

---@param at_once boolean  the peer refuses: close the gate now
---@param text string      for the log
function Session:connect_failed(at_once, text) end

--- Arguments of a constructor.
---@return string domain
---@return string? tenant
---@return string? campaign
function Session:feeding() end

---@return tr.session.Config
function Session:config() end

return session
