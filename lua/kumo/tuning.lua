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

for _, name in ipairs { 'enable_memory_callstack_tracking', 'set_timeq_spawn_reinsertion' } do
  tuning[name] = function(value)
    if type(value) ~= 'boolean' then
      error(('kumo.%s: boolean expected, got %s'):format(name, type(value)), 2)
    end
  end
end

--- Makes a new configuration epoch: memoize caches with invalidate_with_epoch forget.
function tuning.bump_config_epoch()
  host.c.epoch_bump()
end

return tuning
