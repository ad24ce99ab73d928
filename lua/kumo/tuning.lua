-- Settings of the reference that mean nothing here: accepted and checked, without effect. And the configuration epoch.
local host = require 'tr.host'

local tuning = {}

for name in
  ([[set_httpinject_threads set_logging_threads set_qmaint_threads set_ready_qmaint_threads set_readyq_threads
  set_smtpsrv_threads set_spoolin_threads set_max_lua_context_use_count set_max_spare_lua_contexts set_lua_gc_on_put
  set_max_lua_context_age set_memory_hard_limit set_memory_soft_limit set_memory_low_thresh]]):gmatch '%S+'
do
  tuning[name] = function(value)
    if type(value) ~= 'number' or value < 0 or value ~= math.floor(value) then
      error(('kumo.%s: integer >= 0 expected, got %s'):format(name, tostring(value)), 2)
    end
  end
end

for _, name in ipairs {
  'enable_memory_callstack_tracking', 'set_timeq_spawn_reinsertion', 'suspend_delivery_when_spool_unhealthy',
} do -- stylua: ignore
  tuning[name] = function(value)
    if type(value) ~= 'boolean' then
      error(('kumo.%s: boolean expected, got %s'):format(name, type(value)), 2)
    end
  end
end

-- What a policy expects something of, and what it gets instead: said once, at the call.
local function told(name, text)
  host.c.log('warn', ('kumo.%s: %s'):format(name, text))
end

local monitor_globs = { '/opt/kumomta/etc/**/*.{lua,json,toml,yaml}' } -- as the reference

--- Accepted: there is no reload of a running process, and so nothing to watch.
---@param globs string[]
function tuning.set_config_monitor_globs(globs)
  if type(globs) ~= 'table' then
    error('kumo.set_config_monitor_globs: a list of patterns is expected, got ' .. type(globs), 2)
  end
  for i, glob in ipairs(globs) do
    if type(glob) ~= 'string' then
      error(('kumo.set_config_monitor_globs: pattern %d: string expected, got %s'):format(i, type(glob)), 2)
    end
  end
  monitor_globs = globs
  told('set_config_monitor_globs', 'files are not watched: restart to load a changed policy, the queues keep their schedule')
end

--- The files that the patterns of set_config_monitor_globs match now, sorted.
---@async
---@return string[] paths
function tuning.eval_config_monitor_globs()
  local seen, paths = {}, {}
  for _, glob in ipairs(monitor_globs) do
    for _, path in ipairs(host.internal('kumo.fs').uncached_glob(glob)) do
      if not seen[path] then
        seen[path] = true
        paths[#paths + 1] = path
      end
    end
  end
  table.sort(paths)
  return host.c.array(paths)
end

--- Accepted: classes come in a later version, records say "Uncategorized".
---@param options table<string, any>  files (a list), back_pressure, pool_size, cache_size, uncategorized_cache_size
function tuning.configure_bounce_classifier(options)
  local known = { 'files', 'back_pressure', 'pool_size', 'cache_size', 'uncategorized_cache_size' }
  if type(options) ~= 'table' or type(options.files) ~= 'table' then
    error("kumo.configure_bounce_classifier: a table with the list 'files' is expected", 2)
  end
  for key in pairs(options) do
    local found = false
    for _, name in ipairs(known) do
      found = found or key == name
    end
    if not found then
      error(
        ("kumo.configure_bounce_classifier: unknown field '%s', expected one of %s"):format(
          tostring(key),
          table.concat(known, ', ')
        ),
        2
      )
    end
  end
  told('configure_bounce_classifier', 'responses are not classified yet: bounce_classification is "Uncategorized"')
end

--- Accepted: there is no accounting database.
---@param path string
function tuning.configure_accounting_db_path(path)
  if type(path) ~= 'string' then
    error('kumo.configure_accounting_db_path: string expected, got ' .. type(path), 2)
  end
end

local CACHES = {}
for name in
  ([[acl_check acl_definition dkim_key_cache dkim_signer_cache dns_resolver_ip dns_resolver_ipv4 dns_resolver_ipv6
  dns_resolver_mx egress_source_pools egress_source_sources http_server_auth mod_filesystem_glob_cache mta_sts_policy
  rustls_client_config smtp_dispatcher_broken_tls smtp_dispatcher_client_certificate smtp_server_tls_config]]):gmatch '%S+'
do
  CACHES[name] = true
end

--- Accepted for the names of the reference: caches here have bounds of their own.
---@param name string
---@param capacity integer
function tuning.set_lruttl_cache_capacity(name, capacity)
  if not CACHES[name] then
    error(("kumo.set_lruttl_cache_capacity: there is no cache named '%s'"):format(tostring(name)), 2)
  elseif type(capacity) ~= 'number' or capacity < 1 then
    error('kumo.set_lruttl_cache_capacity: a capacity of at least 1 is expected, got ' .. tostring(capacity), 2)
  end
end

--- Bounds of memory are the runtime's own.
for _, name in ipairs { 'get_memory_hard_limit', 'get_memory_soft_limit', 'get_memory_low_thresh' } do
  tuning[name] = function()
    return nil
  end
end

--- Makes a new configuration epoch: memoize caches with invalidate_with_epoch forget.
function tuning.bump_config_epoch()
  host.c.epoch_bump()
end

return tuning
