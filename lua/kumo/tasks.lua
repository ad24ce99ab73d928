--- kumo.spawn_task: an event in a task of its own. Contract lua-modules.md 2.1.
local host = require 'tr.host'
local c = host.c

local tasks = {}

---@class (exact) kumo.SpawnTaskOptions
---@field event_name string
---@field args? any[]   the handler gets this list as its one argument

--- Fires an event in a task of its own, on the worker of the caller. Not while validating. When the handler returns, the
--- task is over; an error is logged.
---@param options kumo.SpawnTaskOptions
function tasks.spawn_task(options)
  if type(options) ~= 'table' then
    error('kumo.spawn_task: table of options expected, got ' .. type(options), 2)
  end
  for key in pairs(options) do
    if key ~= 'event_name' and key ~= 'args' then
      error(("kumo.spawn_task: unknown field '%s', expected one of 'event_name', 'args'"):format(tostring(key)), 2)
    end
  end
  local name, args = options.event_name, options.args
  if type(name) ~= 'string' then
    error("kumo.spawn_task: field 'event_name': string expected, got " .. type(name), 2)
  elseif args ~= nil and type(args) ~= 'table' then
    error("kumo.spawn_task: field 'args': list expected, got " .. type(args), 2)
  elseif not host.has_handler(name) then
    error(("kumo.spawn_task: there is no handler for the event '%s'"):format(name), 2)
  end
  if not c.validating then
    c.spawn(function()
      host.dispatch(name, args or {})
    end, name)
  end
end

return tasks
