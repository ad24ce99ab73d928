--- `kumo.api`: injection and administration from inside of a policy. Contract lua-modules.md, section "kumo.api".
local host = require 'tr.host'
local admin = host.internal 'admin'
local dead = host.internal 'dead'
local http_error = host.internal 'http_error'
local inject = host.internal 'inject'

local function plain(name, fn)
  return function(...)
    local ok, value = pcall(fn, ...)
    if not ok then
      error(http_error.is(value) and name .. ': ' .. value.text or value, 2)
    end
    return value
  end
end

local function rules(name, verb, kind)
  local at = 'kumo.api.admin.' .. name .. '.'
  return {
    -- Only the rule: from Lua, what waits already is met when it is next due (contract lua-modules.md).
    [verb] = plain(at .. verb, function(rule)
      return admin.add(kind, rule, kind == 'suspend_ready')
    end),
    list = plain(at .. 'list', function()
      return admin.list(kind)
    end),
    delete = plain(at .. 'delete', function(id)
      return admin.delete(kind, id)
    end),
  }
end

return {
  inject = { inject_v1 = inject.inject_v1, build_v1 = inject.build_v1 },
  admin = {
    bounce = rules('bounce', 'bounce', 'bounce'),
    suspend = rules('suspend', 'suspend', 'suspend'),
    dead_letters = { -- ours
      list = plain('kumo.api.admin.dead_letters.list', dead.list),
      replay = plain('kumo.api.admin.dead_letters.replay', dead.replay),
      purge = plain('kumo.api.admin.dead_letters.purge', dead.purge),
    },
    suspend_ready_q = rules('suspend_ready_q', 'suspend', 'suspend_ready'),
  },
}
