---@meta

--- The binding behind lua/http_server.lua, lua/inject.lua and lua/admin.lua (runtime/ingress/*_lua.c).
---@class tr.http_server
---@field kumo table start_http_listener, inject_message, bump_config_epoch
local core = {}

---@class tr.http_server.Outcome
---@field id string
---@field queued boolean
---@field dropped boolean  for the queue "null"
---@field error? string    its queue cannot be had

--- Takes the messages (made by kumo.make_message), stores them in one commit and puts them into their queues.
---@async
---@param messages userdata[]
---@param peer string IP address for the Reception records
---@return tr.http_server.Outcome[]? outcomes
---@return string? message nothing was stored
---@return string? code
function core.receive(messages, peer) end

---@return string? why nothing may come in now
function core.closed() end

---@param kind 'bounce'|'suspend'|'suspend_ready'
---@param rule {campaign: string?, tenant: string?, domain: string?, routing_domain: string?, queue_names: string[]?, name: string?, reason: string, duration: number, suppress_logging: boolean, sweep: boolean}
---@return string? id
---@return string? message
function core.admin_add(kind, rule) end

---@return boolean existed
function core.admin_delete(kind, id) end

---@return string json
function core.admin_list(kind) end

---@param request table  checked: criteria, reason, data (strings), trigger_rebind_event, always_flush, suppress_logging
---@return boolean? done
---@return string? message
function core.admin_rebind(request) end

---@return number? seconds from now to the RFC 3339 moment
---@return string? message
function core.until_s(moment) end

---@async
---@param what 'sched'|'ready'|'message'|'why'
---@param name string  of a queue, or a message's id
---@param limit? integer
---@param want_body? boolean
---@return string? json nil: there is none
function core.inspect(what, name, limit, want_body) end

---@param form 'text'|'json'
---@param prefix? string
---@return string
function core.metrics(form, prefix) end

---@return string json
function core.ledger() end

return core
