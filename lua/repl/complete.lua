--- Completion at the prompt: fields and methods of what stands before the cursor, globals, commands, and the names of events
--- inside kumo.on('.... Nothing of the policy runs for it: tables are read raw.
local host = require 'tr.host'
local events = host.internal 'repl.events'

---@class tr.repl.complete
local complete = {}

local MAX_CANDIDATES = 200

local KEYWORDS = ('and break do else elseif end false for function if in local nil not or repeat return then true until while')
local BAD = {} -- no such value

--- A field without running metamethods of policies: raw, then through tables of __index.
local function field(object, name)
  for _ = 1, 10 do
    if type(object) == 'table' then
      local value = rawget(object, name)
      if value ~= nil then
        return value
      end
    end
    local meta = debug.getmetatable(object)
    object = type(meta) == 'table' and rawget(meta, '__index') or nil
    if type(object) ~= 'table' then
      return nil
    end
  end
end

local function each_name(object, see)
  for _ = 1, 10 do
    if type(object) == 'table' then
      for name in next, object do
        if type(name) == 'string' then
          see(name)
        end
      end
    end
    local meta = debug.getmetatable(object)
    object = type(meta) == 'table' and rawget(meta, '__index') or nil
    if type(object) ~= 'table' then
      return
    end
  end
end

-- The value of "a.b[1].c" by raw reading; BAD if it is none.
local function value_of(text, session)
  local name, at = text:match '^([%a_][%w_]*)()'
  if not name then
    return BAD
  end
  local value = session:lookup(name)
  while at <= #text do
    if value == nil then
      return BAD
    end
    local key, stop = text:match('^%s*[.:]%s*([%a_][%w_]*)()', at)
    if not key then
      key, stop = text:match('^%[(%d+)%]()', at)
      key = tonumber(key)
    end
    if not key then
      local _
      _, key, stop = text:match([[^%[(['"])(.-)%1%]()]], at)
    end
    if not key then
      return BAD
    end
    value = field(value, key)
    at = stop
  end
  return value == nil and BAD or value
end

local function add(list, seen, name, prefix, tail)
  if not seen[name] and name:sub(1, #prefix) == prefix and not name:find '[%c\127-\255]' then
    seen[name] = true
    list[#list + 1] = { name, tail or '' }
  end
end

local function fields(list, seen, session, path, separator, prefix)
  local object = value_of(path, session)
  if object == BAD then
    return
  end
  each_name(object, function(name)
    if name:find '^[%a_][%w_]*$' and (prefix ~= '' or name:sub(1, 1) ~= '_') then
      local is_function = type(field(object, name)) == 'function'
      if separator == '.' or is_function then
        add(list, seen, name, prefix, is_function and '(' or '')
      end
    end
  end)
end

local function names(list, seen, session, prefix)
  session:each_global(function(name, value)
    if name:find '^[%a_][%w_]*$' then
      add(list, seen, name, prefix, type(value) == 'function' and '(' or '')
    end
  end)
  for word in KEYWORDS:gmatch '%a+' do
    add(list, seen, word, prefix)
  end
end

--- Where a string begins that is still open at the end of the line; nil: there is none.
local function open_string(line)
  local quote, from, at = nil, nil, 1
  while at <= #line do
    local char = line:sub(at, at)
    if quote and char == '\\' then
      at = at + 1
    elseif quote == char then
      quote, from = nil, nil
    elseif not quote and (char == '"' or char == "'") then
      quote, from = char, at
    end
    at = at + 1
  end
  return from
end

-- An open string that is the first argument of a call: the function, its opening quote, and what is typed of it.
local function open_argument(line)
  local from = open_string(line)
  if not from then
    return nil
  end
  return line:sub(1, from - 1):match '([%w_.:]*)%s*%(?%s*$', line:sub(from, from), line:sub(from + 1)
end

--- What may stand at the cursor: { NAME, TAIL } each, sorted, and the part of it that is typed already. TAIL follows when
--- there is only that one.
---@param session table
---@param line string  up to the cursor
---@return { [1]: string, [2]: string }[] candidates
---@return string typed
function complete.at(session, line)
  local list, seen = {}, {}
  local typed
  local command, argument = line:match '^%s*(:%a*)%s*(.*)$'
  if command and argument == '' and not line:find '%s$' then
    typed = command
    for _, name in ipairs(session.commands) do
      add(list, seen, name, typed, ' ')
    end
  elseif command and (command == ':fire' or command == ':events') then
    typed = argument:match '^[%w_.]*$' or nil
    for _, name in ipairs(typed and events.names() or {}) do
      add(list, seen, name, typed, ' ')
    end
  else
    if command then
      line = argument
    end
    local fn, quote, word = open_argument(line)
    if fn and (fn:find '[.:]on$' or fn == 'on' or fn:find 'get_event_registrars$') then
      typed = word
      for _, name in ipairs(events.names()) do
        add(list, seen, name, typed, quote)
      end
    elseif fn then
      typed = nil -- inside another string
    else
      local path, separator, rest = line:match '([%a_][%w_.:%[%]\'"]*)([.:])([%w_]*)$'
      if path then
        typed = rest
        fields(list, seen, session, path, separator, typed)
      else
        typed = line:match '[%a_][%w_]*$' or ''
        if typed ~= '' then
          names(list, seen, session, typed)
        end
      end
    end
  end
  table.sort(list, function(a, b)
    return a[1] < b[1]
  end)
  return list, typed or ''
end

--- The answer for the line editor: what is to be inserted, and then, one a line, what there is to choose from.
function complete.answer(session, line)
  local list, typed = complete.at(session, line)
  if #list == 0 then
    return ''
  elseif #list == 1 then
    return list[1][1]:sub(#typed + 1) .. list[1][2]
  end
  local common = list[1][1]
  for _, candidate in ipairs(list) do
    while candidate[1]:sub(1, #common) ~= common do
      common = common:sub(1, -2)
    end
  end
  local lines = { common:sub(#typed + 1) }
  for i, candidate in ipairs(list) do
    if i > MAX_CANDIDATES then
      lines[#lines + 1] = ('... %d more'):format(#list - MAX_CANDIDATES)
      break
    end
    lines[#lines + 1] = candidate[1]
  end
  return table.concat(lines, '\n')
end

return complete
