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
host.parse_queue_name = parse

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
---@return kumo.EgressPath
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

--- What an event answers for a name, by way of the process-wide cache: its answers live for their ttl, errors for a minute.
local function through_cache(event, name, cached, cache, maker)
  local found, err = cached(name)
  if found then
    return found
  elseif err then
    error(err, 3)
  elseif not host.has_handler(event) then
    error(("there is no handler: kumo.on('%s', function(name) ... end)"):format(event), 3)
  end
  local ok, object = pcall(host.dispatch, event, name)
  if ok then
    found = cache(name, object, ('%s returned %s; the object of kumo.%s{...} is expected'):format(event, type(object), maker))
    if found then
      return found
    end
    object = ('%s returned %s; the object of kumo.%s{...} is expected'):format(event, type(object), maker)
  else
    cache(name, nil, tostring(object))
  end
  error(object, 3)
end

--- The definition of a source, as queues see it: a plain table, durations as text.
---@async
---@param name string
---@return table<string, any>
function invoke.invoke_get_egress_source(name)
  text('kumo.invoke_get_egress_source: name', name)
  if name == 'unspecified' then
    return { name = 'unspecified', ttl = '1m' }
  end
  return (through_cache('get_egress_source', name, queue.cached_source, queue.cache_source, 'make_egress_source'))
end

--- The definition of a pool, as queues see it; every source that it names must resolve.
---@async
---@param name? string  nil: `unspecified`
---@return table<string, any>
function invoke.invoke_get_egress_pool(name)
  text('kumo.invoke_get_egress_pool: name', name, true)
  if name == nil or name == 'unspecified' then
    return { name = 'unspecified', ttl = '1m', entries = { { name = 'unspecified', weight = 1 } } }
  end
  local pool = through_cache('get_egress_pool', name, queue.cached_pool, queue.cache_pool, 'make_egress_pool')
  for _, entry in ipairs(pool.entries) do
    invoke.invoke_get_egress_source(entry.name)
  end
  return pool
end

return invoke
