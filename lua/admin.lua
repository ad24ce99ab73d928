--- The operations of the admin API: rules for queues, looking into queues. Used by HTTP (lua/http_server.lua) and by
--- `kumo.api.admin` (lua/api.lua). Contract http-admin.md section 3, queues.md section 8.
local core = require 'tr.http_server'
local bytes = require 'tr.http'
local host = require 'tr.host'
local http_error = host.internal 'http_error'

---@class tr.admin
local admin = {}

local DEFAULT_DURATION_S = 300
local MAX_DURATION_S = 3e9 -- what admin_add takes

-- What a rule of each kind may say.
local FIELDS = {
  bounce = {
    campaign = 's',
    tenant = 's',
    domain = 's',
    routing_domain = 's',
    reason = 'S',
    duration = '*',
    expires = 's',
    suppress_logging = 'b',
    queue_names = 't',
  },
  suspend = {
    campaign = 's',
    tenant = 's',
    domain = 's',
    reason = 'S',
    duration = '*',
    expires = 's',
    queue_names = 't',
  },
  rebind = {
    campaign = 's',
    tenant = 's',
    domain = 's',
    routing_domain = 's',
    reason = 'S',
    data = 'T',
    suppress_logging = 'b',
    trigger_rebind_event = 'b',
    always_flush = 'b',
  },
  suspend_ready = { name = 'S', reason = 'S', duration = '*', expires = 's' },
}

local function duration_s(rule)
  if rule.expires then
    local left_s, err = core.until_s(rule.expires)
    if not left_s then
      http_error.raise(422, 'expires: %s', err)
    end
    return math.min(math.max(left_s, 0), MAX_DURATION_S)
  elseif rule.duration == nil then
    return DEFAULT_DURATION_S
  end
  local ok, value = pcall(bytes.duration_s, rule.duration)
  if not ok or value > MAX_DURATION_S then
    http_error.raise(422, '`duration` must be seconds or a text such as "5m", at most 95 years')
  end
  return value
end

--- Adds a rule and returns its id.
---@param kind 'bounce'|'suspend'|'suspend_ready'
---@param rule table
---@param sweep boolean act on what waits now, too
function admin.add(kind, rule, sweep)
  http_error.check_object(rule, '', FIELDS[kind])
  for i, name in ipairs(rule.queue_names or {}) do
    if type(name) ~= 'string' then
      http_error.raise(422, 'queue_names[%d]: a string is expected', i)
    end
  end
  local id, err = core.admin_add(kind, {
    campaign = rule.campaign,
    tenant = rule.tenant,
    domain = rule.domain,
    routing_domain = rule.routing_domain,
    queue_names = rule.queue_names,
    name = rule.name,
    reason = rule.reason,
    duration = duration_s(rule),
    suppress_logging = sweep and rule.suppress_logging or false,
    sweep = sweep,
  })
  if not id then
    http_error.raise(500, err)
  end
  return id
end

---@return string json
function admin.list_json(kind)
  return core.admin_list(kind)
end

function admin.list(kind)
  local _, list = host.c.json_parse(core.admin_list(kind), false)
  return list
end

---@return boolean existed
function admin.delete(kind, id)
  if type(id) ~= 'string' then
    http_error.raise(422, 'missing field `id`')
  end
  return core.admin_delete(kind, id)
end

--- Gives what waits in some queues other metadata, and moves it to where that leads. Runs on after the call.
---@param request table
function admin.rebind(request)
  http_error.check_object(request, '', FIELDS.rebind)
  for name, value in pairs(request.data) do
    if type(name) ~= 'string' or type(value) ~= 'string' then
      http_error.raise(422, 'data: names and values must be strings, got %s for %s', type(value), tostring(name))
    end
  end
  local ok, err = core.admin_rebind(request)
  if not ok then
    http_error.raise(500, err)
  end
end

--- A queue's state, or a message by its id, as JSON; nil when there is no such thing.
---@async
---@param what 'sched'|'ready'|'message'
function admin.inspect(what, name, limit, want_body)
  return core.inspect(what, name, limit, want_body)
end

--- What holds a scheduled queue, a ready queue or a message now, as JSON; nil when there is no such thing.
---@async
---@param name string
function admin.why(name)
  return core.inspect('why', name)
end

--- Changes which diagnostics are written.
function admin.set_log_filter(filter)
  if type(filter) ~= 'string' or not host.c.log_filter(filter) then
    http_error.raise(422, "filter: '%s' is not a filter such as 'info' or 'lua=debug'", tostring(filter))
  end
end

return admin
