---@meta tr.http_server
-- Types of runtime/ingress/{receive,admin}_lua.c, for lua/http_server.lua, lua/inject.lua, lua/admin.lua. Internal.

---@class tr.http_server
local core = {}

---@class tr.http_server.Outcome
---@field id string
---@field queued boolean
---@field dropped boolean
---@field error? string

--- Takes messages in, as those of one HTTP request, and waits for the commit. They are gone from the caller then.
---@async
---@param messages kumo.Message[]  made by kumo.make_message
---@param peer_ip string
---@return tr.http_server.Outcome[]?
---@return string? message
---@return string? code
function core.receive(messages, peer_ip) end

---@return string? reason  why nothing may come in now
function core.closed() end

---@class tr.http_server.Rule
---@field campaign? string
---@field tenant? string
---@field domain? string
---@field routing_domain? string
---@field queue_names? string[]
---@field name? string            ready queue, of 'suspend_ready'
---@field reason string
---@field duration number         seconds
---@field suppress_logging? boolean
---@field sweep? boolean          act on what waits already

---@alias tr.http_server.RuleKind 'bounce'|'suspend'|'suspend_ready'

---@param kind tr.http_server.RuleKind
---@param rule tr.http_server.Rule
---@return string? id
---@return string? message
---@return string? code
function core.admin_add(kind, rule) end

---@param kind tr.http_server.RuleKind
---@param id string
---@return boolean existed
function core.admin_delete(kind, id) end

---@param kind tr.http_server.RuleKind
---@return string json
function core.admin_list(kind) end

---@async
---@param what 'sched'|'ready'
---@param name string
---@param limit? number
---@param want_body? boolean
---@return string? json  nil: no such queue
function core.inspect(what, name, limit, want_body) end

---@param form 'text'|'json'
---@param prefix? string
---@return string
function core.metrics(form, prefix) end

---@return string json
function core.ledger() end

---@param moment string  RFC 3339
---@return number? seconds  from now, maybe negative
---@return string? message
---@return string? code
function core.until_s(moment) end

return core
