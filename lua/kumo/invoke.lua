--- kumo.invoke_get_*: what the configuration events answer, asked from inside of policy. Contract lua-modules.md 2.3.
local host = require 'tr.host'
local queue = require 'tr.queue'
local make_queue_config, make_egress_path = queue.kumo.make_queue_config, queue.kumo.make_egress_path

local invoke = {}

-- What the runtime answers for itself.
local BUILT_IN = { null = { retry_interval = '10s', max_retry_interval = '10s' } }

local function text(name, value, optional)
  if value == nil and optional then
    return
  elseif type(value) ~= 'string' then
    error(('%s: string expected, got %s'):format(name, type(value)), 3)
  end
end

local function plain(config)
  local copy = {}
  for key, value in pairs(config) do
    copy[key] = value
  end
  return copy
end

--- Parts of a queue name: campaign:tenant@domain!routing_domain. Contract queues.md section 1.
local function parse(name)
  local tenant, rest = name:match '^([^@]*)@(.*)$'
  local campaign, routing_domain
  rest = rest or name
  if tenant and tenant:find(':', 1, true) then
    campaign, tenant = tenant:match '^([^:]*):(.*)$'
  end
  local domain = rest
  if rest:find('!', 1, true) then
    domain, routing_domain = rest:match '^([^!]*)!(.*)$'
  end
  return domain, tenant, campaign, routing_domain
end

--- The configuration of a queue, as get_queue_config answers for its name: a plain table, durations as text.
---@async
---@param queue_name string
---@return table<string, any>
function invoke.invoke_get_queue_config(queue_name)
  text('kumo.invoke_get_queue_config: queue_name', queue_name)
  if BUILT_IN[queue_name] then
    return plain(make_queue_config(BUILT_IN[queue_name]))
  end
  local config = (function(...)
    if select('#', ...) == 0 then
      return make_queue_config {}
    end
    return (...)
  end)(host.dispatch('get_queue_config', parse(queue_name)))
  if queue.config_kind(config) ~= 'queue' then
    error('get_queue_config returned ' .. type(config) .. '; the object of kumo.make_queue_config{...} is expected', 2)
  end
  return plain(config)
end

--- The configuration of a path, as get_egress_path_config answers.
---@async
---@param routing_domain string
---@param egress_source string
---@param site_name string
---@return kumo.EgressPathConfig
function invoke.invoke_get_egress_path_config(routing_domain, egress_source, site_name)
  text('kumo.invoke_get_egress_path_config: routing_domain', routing_domain)
  text('kumo.invoke_get_egress_path_config: egress_source', egress_source)
  text('kumo.invoke_get_egress_path_config: site_name', site_name)
  if not host.has_handler 'get_egress_path_config' then
    return make_egress_path {}
  end
  local config = host.dispatch('get_egress_path_config', routing_domain, egress_source, site_name)
  if queue.config_kind(config) ~= 'path' then
    error('get_egress_path_config must return the object of kumo.make_egress_path{...}, got ' .. type(config), 2)
  end
  return config
end

--- The pool `unspecified` and the source of that name are built in: there are no others yet.
---@param name? string
---@return table<string, any>
function invoke.invoke_get_egress_pool(name)
  text('kumo.invoke_get_egress_pool: name', name, true)
  if name ~= nil and name ~= 'unspecified' then
    error('kumo.invoke_get_egress_pool: pools are not supported by Tailrace yet', 2)
  end
  return { name = 'unspecified', ttl = '1m', entries = { { name = 'unspecified', weight = 1 } } }
end

---@param name string
---@return table<string, any>
function invoke.invoke_get_egress_source(name)
  text('kumo.invoke_get_egress_source: name', name)
  if name ~= 'unspecified' then
    error('kumo.invoke_get_egress_source: sources are not supported by Tailrace yet', 2)
  end
  return { name = 'unspecified', ttl = '1m' }
end

return invoke
