--- The events that a policy handles: whether anything fires them, and whether each of their handlers is ever asked.
local host = require 'tr.host'
local handlers = host.internal 'check.handlers'
local near = host.internal 'check.near'
local place = host.internal 'check.place'
local report = host.internal 'check.report'
local sources = host.internal 'check.sources'
local watch = host.internal 'check.watch'
local getinfo = debug.getinfo -- a policy may replace it

local events = {}

---@class check.Known
---@field events table<string, table>     of the reference
---@field names string[]                  of these
---@field texts table<string, true>       of the policy
---@field prefixes string[]
---@field loaded boolean                  the policy has been

--- Whether anything fires the event that a handler is registered for.
---@param source check.Source
---@param one check.Registration
---@param known check.Known
function events.check(source, one, known)
  local name = one.name
  local event = known.events[name]
  if event then
    if table.concat(event.text, ' '):find 'Never fired' then
      source.add('warning', 'event', one.line, ("Tailrace never fires the event '%s'"):format(name), 'see docs/compatibility.md')
    end
    return
  end
  if name == 'main' or known.texts[name] or watch.filters[name] or watch.dispositions[name] then
    return
  elseif name:find '^log_disposition_' and known.loaded then
    local hook = name:match '^log_disposition_(.*)$'
    source.add('error', 'hook', one.line, ("'%s' is never called: no disposition hook '%s' is configured"):format(name, hook),
      'kumo.configure_log_disposition_hook { name = ... } in pre_init or init') -- stylua: ignore
    return
  end
  for _, prefix in ipairs(known.prefixes) do
    if name:sub(1, #prefix) == prefix then
      return
    end
  end
  local remedy = near.remedy(name, known.names)
  if remedy then
    source.add('error', 'event', one.line, ("there is no event '%s'"):format(name), remedy)
  else
    local text = "nothing fires the event '%s': it is none of Tailrace's, and no other text of the policy names it"
    source.add('warning', 'event', one.line, text:format(name), '`tailrace help events` lists the events')
  end
end

-- The queue helper answers for everything but log hooks, as its documentation says.
local function helper_answers(path)
  return path:find 'policy%-extras/queue%.lua$' ~= nil
end

local function registrar_place(name, i)
  local stack = (host.get_event_registrars(name) or {})[i]
  for _, at in ipairs(stack or {}) do
    local file, line = at:match '^(.*):(%d+)$'
    file = file and place.full(file)
    if place.is_policys(file) then
      return file, tonumber(line)
    end
  end
end

--- Handlers behind one that answers for everything.
function events.check_order()
  for event in pairs(host.MULTIPLE) do
    local before -- { what, is_helper } of the first that always answers
    for i, handler in ipairs(host.handlers_of(event)) do
      local info = getinfo(handler, 'S')
      local path = info.source:sub(2)
      local file, line = registrar_place(event, i)
      local is_log_hook = path:find 'policy%-extras/log_hooks%.lua$' ~= nil
      if before and not (before.is_helper and is_log_hook) then
        local who = is_log_hook and "the log hook's handler" or 'the handler'
        local remedy = 'register it before, or `return` without a value where the other has no answer'
        local text = ("%s of '%s' is never asked: %s answers for everything"):format(who, event, before.what)
        report.add('error', 'order', file, line, text, is_log_hook and 'set the log hook up before it' or remedy)
      end
      local source = sources.by_path[path]
      local fn = source and source.tree and handlers.function_at(source, info.linedefined)
      if not before and fn and handlers.always_answers(source, fn) then
        before = { what = ('the handler at %s:%d'):format(path, info.linedefined) }
      elseif not before and helper_answers(path) and event == 'get_queue_config' then
        before = { what = ('the queue helper set up at %s:%d'):format(file or '?', line or 0), is_helper = true }
      end
    end
  end
end

--- Filters of local logs that nobody handles.
function events.check_filters()
  for event, at in pairs(watch.filters) do
    if not host.has_handler(event) then
      local text = ("the filter_event '%s' has no handler, so nothing is written"):format(event)
      report.add('error', 'hook', at.file, at.line, text,
        near.remedy(event, host.handler_names()) or ("kumo.on('%s', function(msg) ... end)"):format(event)) -- stylua: ignore
    end
  end
end

return events
