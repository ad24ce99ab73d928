-- What can be known about log hooks once the policy is loaded and `init` has run: the records of a hook that no
-- constructor is bound to could only be parked. runtime/cli/hook_check.c starts the entry.
local host = require 'tr.host'
local core = require 'tr.queue'
local configure = require('tr.record').configure_log_hook
local c = host.c

local hooks = {} -- of this Lua state, in order: { name =, per_record =, place = }

local function place_of(info)
  return info and info.currentline and info.currentline > 0 and info.short_src .. ':' .. info.currentline or '?'
end

-- Of a hook that policy-extras.log_hooks has set up: where the policy called it. Otherwise where it was configured.
local function policy_place(hook)
  for _, stack in ipairs(host.get_event_registrars('make.' .. hook.name .. '.log_hook') or {}) do
    for _, place in ipairs(stack) do
      if not place:find('policy-extras/', 1, true) then
        return place
      end
    end
  end
  return hook.place
end

-- The first answer of the chain, as the engine takes it, and where the handler that gave it stands.
local function ask(domain)
  for _, handler in ipairs(host.handlers_of 'get_queue_config') do
    local info = debug.getinfo(handler, 'S')
    local function results(...)
      return select('#', ...), (...)
    end
    local count, config = results(handler(domain, nil, nil, nil))
    if count > 0 then
      return config, ('%s:%d'):format(info.short_src, info.linedefined)
    end
  end
end

-- The constructor that a domain's queue names; nil: it is none of ours, or the policy does not say (yet).
local function constructor_of(domain)
  local ok, config, place = pcall(ask, domain)
  if not ok then
    c.log('debug', ('hook check: get_queue_config for %s: %s'):format(domain, tostring(config)))
    return nil
  end
  if core.config_kind(config) ~= 'queue' then
    return nil
  end
  local protocol = config.protocol
  local lua = protocol and protocol.custom_lua
  return lua and lua.constructor, place
end

-- nil: fine, or not to be known from here.
local function fault_of(hook)
  local unbound, domain_of_it, place_of_it
  -- The usual names of a hook's queue: that of policy-extras.log_hooks, and the hook's own. One that works is enough.
  for _, domain in ipairs { hook.name .. '.log_hook', hook.name } do
    local constructor, place = constructor_of(domain)
    if constructor and host.has_handler(constructor) then
      return nil
    end
    if constructor and not unbound then
      unbound, domain_of_it, place_of_it = constructor, domain, place
    end
  end
  if not unbound then
    return nil
  end
  local near = c.nearest(unbound, host.handler_names())
  near = near and (" (did you mean '%s'?)"):format(near) or ''
  return (
    "the log hook '%s' (configured at %s) has no constructor: the get_queue_config handler at %s answers for '%s' with "
    .. "the constructor '%s', which has no handler%s"
  ):format(hook.name, policy_place(hook), place_of_it, domain_of_it, unbound, near),
    ("Register it at the top level of the policy: kumo.on('%s', function(domain, tenant, campaign) ... end)"):format(unbound)
end

---@class tr.hook_check.Finding
---@field level 'error'|'warning'
---@field place string   FILE:LINE of the hook
---@field text string
---@field remedy string

--- The log hooks of this Lua state, in order.
---@return { name: string, per_record: table?, place: string }[]
function host.log_hooks()
  return hooks
end

--- All that is wrong; `tailrace run` starts with warnings only.
---@return tr.hook_check.Finding[]
function host.hook_findings()
  local out = {}
  for _, hook in ipairs(hooks) do
    local place = policy_place(hook)
    if not host.has_handler 'should_enqueue_log_record' then
      out[#out + 1] = {
        level = 'warning',
        place = place,
        text = ("the log hook '%s' (configured at %s) discards every record: there is no handler of "
          .. 'should_enqueue_log_record'):format(hook.name, place),
        remedy = "kumo.on('should_enqueue_log_record', function(msg, hook_name) ... end)",
      }
    end
    local fault, remedy = fault_of(hook)
    if fault then
      out[#out + 1] = { level = 'error', place = place, text = fault, remedy = remedy }
    end
  end
  return out
end

--- Returns what keeps the policy from starting as a text, or nothing.
function host.entry.check_hooks()
  for _, one in ipairs(host.hook_findings()) do
    if one.level == 'error' then
      return ('%s. %s'):format(one.text, one.remedy)
    end
    c.log('warn', one.text)
  end
end

local hook_check = {}

-- Ends with a tail call, so that an error names the place of the policy's own call.
function hook_check.configure_log_hook(options)
  if type(options) == 'table' and type(options.name) == 'string' then
    hooks[#hooks + 1] = {
      name = options.name,
      per_record = options.per_record,
      place = place_of(debug.getinfo(2, 'Sl')),
    }
  end
  return configure(options)
end

return hook_check
