--- Handlers, as the text of a policy has them: which events they are for, whether they always answer, what they must not do.
local host = require 'tr.host'
local reference = host.internal 'reference'
local types = host.internal 'check.types'

local handlers = {}

---@class check.Registration
---@field name string
---@field line integer
---@field handler? table   the function

--- The calls of kumo.on with a name that can be read.
---@param source check.Source
---@return check.Registration[]
function handlers.registrations(source)
  local out, events = {}, reference.events()
  for _, node in ipairs(source.tree.calls) do
    local path = node.k == 'call' and types.path_of(node.fn)
    if path and path.root == 'kumo' and #path == 1 and path[1] == 'on' and node.args[1] and node.args[1].k == 'string' then
      local handler = types.function_of(node.args[2])
      local name = node.args[1].value
      node.args[1].is_event = true
      out[#out + 1] = { name = name, line = node.line, handler = handler, call = node }
      if handler then
        handler.event = handler.event or name
        if events[name] then
          types.type_parameters(handler, events[name].type)
        end
      end
    end
  end
  return out
end

local function answers(value, count)
  if value.k == 'vararg' then
    return false
  elseif value.k == 'call' or value.k == 'method' then
    local entry = count == 1 and types.entry_of_call(value)
    return count > 1 or (entry and #entry.returns > 0 and not entry.returns[1].optional) or false
  end
  return true
end

local RAISING = { error = true }

local ends_with_answer
function ends_with_answer(body)
  local last = body[#body]
  if not last then
    return false
  elseif last.k == 'return' then
    return #last.values > 0 and answers(last.values[#last.values], #last.values)
  elseif last.k == 'do' then
    return ends_with_answer(last.body)
  elseif last.k == 'if' and last.otherwise then
    for _, branch in ipairs(last.branches) do
      if not ends_with_answer(branch) then
        return false
      end
    end
    return ends_with_answer(last.otherwise)
  elseif last.k == 'call_statement' and last.call.k == 'call' then
    local path = types.path_of(last.call.fn)
    return last.call.fn.k == 'name' and RAISING[last.call.fn.name] == true
      or path ~= nil and path.root == 'kumo' and (path[1] == 'reject' or path[1] == 'disconnect')
  end
  return false
end

--- Whether a handler answers whatever it is asked, so that no handler behind it is.
---@param source check.Source
---@param fn table
function handlers.always_answers(source, fn)
  for _, node in ipairs(source.tree.returns) do
    if node.fn_of == fn and (#node.values == 0 or not answers(node.values[#node.values], #node.values)) then
      return false
    end
  end
  return ends_with_answer(fn.body)
end

--- Whether a function ends by raising, so that it need not return anything.
---@param fn table
function handlers.always_raises(fn)
  local last = fn.body[#fn.body]
  return last ~= nil and last.k == 'call_statement' and ends_with_answer { last }
end

--- The function that begins on a line; nil if there are several or none.
---@param source check.Source
---@param line integer
function handlers.function_at(source, line)
  local list = source.tree.functions[line]
  return list and #list == 1 and list[1] or nil
end

local AT_START = { pre_init = true, init = true, validate_config = true, main = true }
local BLOCKING = { ['os.execute'] = true, ['io.popen'] = true }

local function in_handler(fn)
  while fn do
    if fn.event then
      return fn.event
    end
    fn = fn.outer
  end
end

--- What a handler must not do.
---@param source check.Source
---@param registrations check.Registration[]
---@param multiple table<string, true>    events with several handlers
function handlers.check(source, registrations, multiple)
  for _, one in ipairs(registrations) do
    local event = in_handler(one.call.fn_of)
    if event and event ~= 'main' then
      source.add('error', 'event', one.line, ("kumo.on inside of the handler of '%s' raises"):format(event),
        'register handlers at the top level of the policy') -- stylua: ignore
    end
    if one.handler and multiple[one.name] then
      for _, node in ipairs(source.tree.returns) do
        if node.fn_of == one.handler and #node.values == 1 and node.values[1].k == 'nil' then
          source.add('warning', 'order', node.line, ("`return nil` is an answer: it ends the chain of '%s'"):format(one.name),
            'write `return` to pass on to the next handler') -- stylua: ignore
        end
      end
    end
  end
  for _, node in ipairs(source.tree.calls) do
    local path = node.k == 'call' and types.path_of(node.fn)
    local name = path and #path == 1 and not path.is_module and types.full_name(path, '.')
    local event = name and in_handler(node.fn_of)
    local code = path and path.root == 'kumo' and #path == 1 and path[1] == 'reject' and node.args[1]
    if code and code.k == 'number' and not (code.value >= 400 and code.value <= 599) then
      source.add('error', 'policy', node.line, ('kumo.reject(%d, ...): the code of a refusal is 400 to 599'):format(code.value),
        '4xx: to be tried again; 5xx: for good') -- stylua: ignore
    end
    if event and name == 'os.exit' then
      source.add('error', 'policy', node.line, ("os.exit in the handler of '%s' ends the whole process"):format(event),
        'raise an error, or kumo.reject') -- stylua: ignore
    elseif event and not AT_START[event] and BLOCKING[name] then
      source.add('warning', 'policy', node.line, ("%s in the handler of '%s' stops the whole worker"):format(name, event),
        'do it at the top level, or in a program of its own') -- stylua: ignore
    end
  end
end


return handlers
