--- The rules of `tailrace check` that need only the text: what a file names and nobody has, options that nobody reads, handlers
--- that answer for everything.
local host = require 'tr.host'
local reference = host.internal 'reference'
local c = host.c

local scan = {}

local STANDARD = {}
for name in ([[string table math os io coroutine debug package bit jit utf8]]):gmatch '%S+' do
  STANDARD[name] = true
end

---@class check.Source   a file that the policy reaches
---@field path string
---@field tree check.Tree
---@field add fun(level: 'error'|'warning', code: string, line: integer, message: string, remedy?: string)

local function nearest(name, names)
  table.sort(names)
  return c.nearest(name, names)
end

local function keys_of(from)
  local out = {}
  for key in next, from do
    if type(key) == 'string' and not key:find '^_' then
      out[#out + 1] = key
    end
  end
  return out
end

-- --- what an expression is ---------------------------------------------------------------------------------------

--- A module or global and the keys behind it: { root = 'kumo', 'http', 'build_client' }; nil for anything else.
local function path_of(node)
  if node.k == 'paren' then
    return path_of(node.inner)
  elseif node.k == 'name' then
    local symbol = node.symbol
    if not symbol then
      return STANDARD[node.name] and { root = node.name } or nil
    end
    if symbol.writes > 0 or not symbol.init then
      return nil
    end
    if symbol.path == nil then
      symbol.path = false -- no loop through a local that names itself
      symbol.path = path_of(symbol.init) or false
    end
    return symbol.path or nil
  elseif node.k == 'index' and node.key.k == 'string' then
    local path = path_of(node.object)
    if not path then
      return nil
    end
    local out = { root = path.root }
    for i, key in ipairs(path) do
      out[i] = key
    end
    out[#out + 1] = node.key.value
    return out
  elseif node.k == 'call' and node.fn.k == 'name' and node.fn.name == 'require' and not node.fn.symbol then
    local name = node.args[1]
    if name and name.k == 'string' and #node.args == 1 then
      return { root = name.value, is_module = true }
    end
  end
end

-- Modules whose members are known: ours. Those of the policy may fill themselves as they like.
local function value_of_root(path)
  if STANDARD[path.root] and not path.is_module then
    return rawget(_G, path.root)
  elseif path.root == 'kumo' or path.root:find '^policy%-extras%.' or path.root == 'sqlite' or path.root == 'redis' then
    local value = package.loaded[path.root]
    return type(value) == 'table' and value or nil
  end
end

local function full_name(path, sep)
  local name = path.root
  for i, key in ipairs(path) do
    name = name .. (i == #path and sep or '.') .. key
  end
  return name
end

local function entry_of_path(path)
  local by_name = reference.all().by_name
  return by_name[full_name(path, '.')] or by_name[full_name(path, ':')]
end

local function class_named(kind)
  local entry = kind and reference.all().by_name[(kind:gsub('%?$', ''))]
  return entry and entry.kind == 'class' and entry or nil
end

local type_of -- of an expression: a class entry, or nil

--- The reference entry of what is called; nil: unknown.
local function entry_of_call(node)
  if node.k == 'call' then
    local path = path_of(node.fn)
    return path and #path > 0 and entry_of_path(path) or nil
  end
  local path = path_of(node.object)
  if path then
    path[#path + 1] = node.name
    local entry = entry_of_path(path)
    path[#path] = nil
    return entry
  end
  local class = type_of(node.object)
  return class and reference.all().by_name[class.name .. ':' .. node.name] or nil
end

function type_of(node)
  if node.k == 'paren' then
    return type_of(node.inner)
  elseif node.k == 'name' and node.symbol then
    local symbol = node.symbol
    if symbol.type == nil then
      symbol.type = false
      symbol.type = symbol.writes == 0 and symbol.init and type_of(symbol.init) or false
    end
    return symbol.type or nil
  elseif node.k == 'call' or node.k == 'method' then
    local entry = entry_of_call(node)
    return entry and entry.returns and entry.returns[1] and class_named(entry.returns[1].type) or nil
  end
end

--- The function that an argument is; nil: not to be seen.
local function function_of(node)
  if node and node.k == 'function' then
    return node
  elseif node and node.k == 'name' and node.symbol and node.symbol.writes == 0 and node.symbol.init then
    return function_of(node.symbol.init)
  end
end

--- Gives the parameters of a function the types of `fun(msg: kumo.Message, ...)`.
local function type_parameters(fn, kind)
  local list = kind and kind:match '^fun(%b())'
  local i = 0
  for part in (list or '()'):sub(2, -2):gmatch '[^,]+' do
    i = i + 1
    local symbol = fn.params[i]
    local class = class_named(part:match ':%s*([%w_%.]+)')
    if symbol and class and symbol.writes == 0 then
      symbol.type = class
    end
  end
end

-- --- option tables ---------------------------------------------------------------------------------------------------

local LITERAL = {
  string = 'string', number = 'number', ['true'] = 'boolean', ['false'] = 'boolean', table = 'table', ['function'] = 'function',
} -- stylua: ignore

--- The alternatives of a type, aliases followed.
local function alternatives(kind, out, depth)
  out = out or {}
  local level, from = 0, 1
  local function take(text)
    text = text:gsub('%?$', ''):gsub('^%s+', ''):gsub('%s+$', '')
    local inner = text:match '^%((.*)%)$'
    local alias = reference.all().by_name[inner or text]
    if (inner or alias and alias.kind == 'alias') and (depth or 0) < 8 then
      alternatives(inner or alias.type, out, (depth or 0) + 1)
    else
      out[#out + 1] = text
    end
  end
  if kind:find '^fun%(' then
    out[1] = kind
    return out
  end
  for at = 1, #kind + 1 do
    local ch = kind:sub(at, at)
    if ch:find '[%(<{%[]' then
      level = level + 1
    elseif ch:find '[%)>}%]]' then
      level = level - 1
    elseif (ch == '|' and level == 0) or ch == '' then
      take(kind:sub(from, at - 1))
      from = at + 1
    end
  end
  return out
end

local BASIC = {}
for name in ([[nil boolean true false string number integer table function userdata thread]]):gmatch '%S+' do
  BASIC[name] = true
end

local function fits(node, one)
  local kind = LITERAL[node.k]
  if one == 'any' or one == kind then
    return true
  elseif one:find '^[%a_][%w_%.]*$' and not BASIC[one] and not class_named(one) then
    return true -- nothing is known about it
  elseif kind == 'string' then
    local quoted = one:match "^'(.*)'$" or one:match '^"(.*)"$'
    return quoted == node.value
  elseif kind == 'number' then
    return one == 'integer' and node.value ~= nil and node.value % 1 == 0 or one == tostring(node.value)
  elseif kind == 'boolean' then
    return one == node.k
  elseif kind == 'function' then
    return one:find '^fun' ~= nil or one == 'function'
  end
  return one:find '%[%]$' ~= nil or one:find '^table' ~= nil or one:find '^{' ~= nil or class_named(one) ~= nil
end

local check_options

local function check_value(source, what, field, item, fn_name)
  local value = item.value
  local kind = LITERAL[value.k]
  if value.k == 'function' then
    for _, one in ipairs(alternatives(field.type)) do
      type_parameters(value, one)
    end
  end
  if not kind or field.type == '' then
    return
  end
  local list, classes = alternatives(field.type), {}
  local ok = false
  for _, one in ipairs(list) do
    ok = ok or fits(value, one)
    if kind == 'table' and class_named(one) then
      classes[#classes + 1] = class_named(one)
    end
    local element = kind == 'table' and (one:match '^([%w_%.]+)%[%]$' or one:match '^table<[^,]+,%s*([%w_%.]+)>$')
    local class = element and class_named(element)
    for _, inner in ipairs(class and value.items or {}) do
      if inner.value.k == 'table' then
        check_options(source, fn_name, class, inner.value, true)
      end
    end
  end
  if not ok then
    local given = kind == 'string' and ("'%s'"):format(value.value) or kind == 'number' and tostring(value.value) or value.k
    local names = {}
    for i, one in ipairs(list) do
      names[i] = one:match "^'(.*)'$"
    end
    local near = kind == 'string' and #names == #list and nearest(value.value, names)
    source.add('error', 'option', value.line, ('%s: %s is expected, not %s'):format(what, table.concat(list, ' or '), given),
      near and ("did you mean '%s'?"):format(near) or nil) -- stylua: ignore
  elseif kind == 'string' and field.type == 'kumo.DurationValue' and not pcall(c.duration, value.value, '', '') then
    source.add('error', 'option', value.line, ("%s: a duration is expected, not '%s'"):format(what, value.value),
      "seconds, or a text such as '5 minutes', '1h 30m' or '500ms'") -- stylua: ignore
  elseif #classes == 1 and #list == 1 then
    check_options(source, fn_name, classes[1], value, true)
  end
end

--- Compares a literal table with the class of an option table.
function check_options(source, fn_name, class, node, is_direct)
  local fields = reference.fields(class.name)
  local seen, open = {}, not is_direct
  if not fields or not next(fields) then
    return
  end
  for name in pairs(fields) do
    if name:find '^%[' then
      return -- any key
    end
  end
  for _, item in ipairs(node.items) do
    local key = item.key
    if not key or key.k ~= 'string' then
      open = true
    else
      local field = fields[key.value]
      local what = ("%s: the option '%s'"):format(fn_name, key.value)
      seen[key.value] = true
      if not field then
        if class.exact then
          local near = nearest(key.value, keys_of(fields))
          source.add('error', 'option', item.line, ("%s: there is no option '%s'"):format(fn_name, key.value),
            near and ("did you mean '%s'?"):format(near) or nil) -- stylua: ignore
        end
      elseif field.type == 'nil' and item.value.k ~= 'nil' then
        source.add('error', 'option', item.line, ("%s is not supported"):format(what), 'remove it')
      else
        check_value(source, what, field, item, fn_name)
        if field.text:find 'without effect' then
          source.add('warning', 'option', item.line, what .. ' is accepted and never read', 'remove it')
        end
      end
    end
  end
  if class.exact and not open then
    for name, field in pairs(fields) do
      if not field.optional and not seen[name] then
        source.add('error', 'option', node.line, ("%s: the option '%s' is missing"):format(fn_name, name))
      end
    end
  end
end

local function check_call(source, node)
  local entry = entry_of_call(node)
  if not entry or entry.kind ~= 'function' then
    return
  end
  for i, param in ipairs(entry.params) do
    local arg = node.args[i]
    local direct = arg and arg.k == 'table'
    if arg and arg.k == 'name' and arg.symbol and arg.symbol.writes == 0 then
      arg = arg.symbol.init
    end
    if arg and arg.k == 'table' then
      for _, one in ipairs(alternatives(param.type)) do
        local class = class_named(one)
        local element = class_named(one:match '^(.*)%[%]$')
        if class then
          check_options(source, entry.name, class, arg, direct)
        elseif element then
          for _, item in ipairs(arg.items) do
            if item.value.k == 'table' then
              check_options(source, entry.name, element, item.value, true)
            end
          end
        end
      end
    end
  end
end

-- --- names --------------------------------------------------------------------------------------------------------------

local function visible_locals(node, out)
  local scope = node.scope
  while scope do
    for name, symbol in pairs(scope.names) do
      if symbol.line <= node.line then
        out[#out + 1] = name
      end
    end
    scope = scope.outer
  end
end

--- Globals that are read and that nobody has set. `known`: name -> true.
local function check_globals(source, known, assigned)
  local reported, writes = {}, {}
  for _, node in ipairs(source.tree.globals) do
    local name = node.name
    if node.is_write then
      if not node.fn.is_main and not writes[name] then
        writes[name] = true
        source.add('warning', 'global', node.line, ("the global '%s' is written by a function"):format(name),
          'make it local: all events of a worker share a global, and other workers do not see it; what belongs to a message '
            .. 'goes into its metadata') -- stylua: ignore
      end
    elseif not known[name] and not assigned[name] and rawget(_G, name) == nil and not node.is_tested then
      local first = reported[name]
      if first then
        first.more = first.more + 1
      else
        local names = {}
        visible_locals(node, names)
        for other in pairs(known) do
          names[#names + 1] = other
        end
        for other in pairs(assigned) do
          names[#names + 1] = other
        end
        reported[name] = { node = node, near = nearest(name, names), more = 0 }
      end
    end
  end
  for name, one in pairs(reported) do
    local more = one.more > 0 and (' (and in %d more places)'):format(one.more) or ''
    local near = one.near and ("did you mean '%s'?"):format(one.near)
    source.add('error', 'global', one.node.line, ("unknown global '%s'%s"):format(name, more),
      near or 'it is nil: declare it, or require what it comes from') -- stylua: ignore
  end
end

-- The value of a path and, when it ends early, the key that is missing and the table that lacks it.
local function follow(path)
  local value = value_of_root(path)
  for i, key in ipairs(path) do
    if type(value) ~= 'table' then
      return nil
    end
    local found = rawget(value, key)
    if found == nil then
      local ok, other = pcall(function()
        return value[key]
      end)
      if ok and other ~= nil then
        found = other
      else
        return nil, { at = i, key = key, from = value, why = not ok and other or nil }
      end
    end
    value = found
  end
  return value
end

local function name_until(path, last)
  local parts = { path.root }
  for i = 1, last do
    parts[#parts + 1] = path[i]
  end
  return table.concat(parts, '.')
end

local function missing(source, path, line, gap)
  local name = name_until(path, gap.at)
  local why = gap.why and tostring(gap.why) or ''
  if why:find 'is not supported by Tailrace' then
    source.add('error', 'function', line, ('%s is not supported by Tailrace'):format(name), 'see docs/compatibility.md')
    return
  end
  local near = nearest(gap.key, keys_of(gap.from))
  local where = path.is_module and path.root ~= 'kumo' and ("the module '%s' has no '%s'"):format(path.root, gap.key)
    or ('there is no %s'):format(name)
  source.add('error', 'function', line, where, near and ("did you mean '%s'?"):format(near) or nil)
end

local function check_paths(source)
  for _, node in ipairs(source.tree.indexes) do
    if not node.is_write and not node.is_tested then
      local path = path_of(node)
      if path and value_of_root(path) then
        local _, gap = follow(path)
        if gap and gap.at == #path then
          missing(source, path, node.key.line, gap)
        end
      end
    end
  end
  for _, node in ipairs(source.tree.calls) do
    if node.k == 'method' then
      local path = path_of(node.object)
      local value = path and path.is_module and follow(path)
      local class = not path and type_of(node.object)
      if type(value) == 'table' and path.root ~= 'kumo' then
        local full = { root = path.root, is_module = true, node.name }
        local _, gap = follow(full)
        if gap then
          missing(source, full, node.line, gap)
        end
      elseif class and class.complete then
        local names, found = {}, false
        local up = class
        while up do
          for _, method in ipairs(up.methods) do
            names[#names + 1] = method.short
            found = found or method.short == node.name
          end
          for _, field in ipairs(up.fields) do
            found = found or field.name == node.name or field.name:find '^%[' ~= nil
          end
          up = up.parent and class_named(up.parent)
        end
        if not found then
          local near = nearest(node.name, names)
          local remedy = near and ("did you mean '%s'?"):format(near) or ('see `tailrace help %s`'):format(class.name)
          source.add('error', 'function', node.line, ('a %s has no method %s'):format(class.name, node.name), remedy)
        end
      end
    end
  end
end

-- --- requires -----------------------------------------------------------------------------------------------------------

local function is_call_of(node, name)
  return node.k == 'call' and node.fn.k == 'name' and node.fn.name == name and not node.fn.symbol
end

--- Names that a file requires and files that it runs, as written: { name =, path =, line = }.
---@param source check.Source
function scan.reaches(source)
  local out = {}
  for _, node in ipairs(source.tree.calls) do
    local arg = node.k == 'call' and node.args[1]
    if arg and arg.k == 'string' then
      if is_call_of(node, 'require') then
        out[#out + 1] = { name = arg.value, line = node.line, is_tested = node.is_tested }
      elseif is_call_of(node, 'dofile') or is_call_of(node, 'loadfile') then
        out[#out + 1] = { path = arg.value, line = node.line }
      end
    end
  end
  return out
end

-- --- handlers ------------------------------------------------------------------------------------------------------------

---@class check.Registration
---@field name string
---@field line integer
---@field handler? table   the function

--- The calls of kumo.on with a name that can be read.
---@param source check.Source
---@return check.Registration[]
function scan.registrations(source)
  local out, events = {}, reference.events()
  for _, node in ipairs(source.tree.calls) do
    local path = node.k == 'call' and path_of(node.fn)
    if path and path.root == 'kumo' and #path == 1 and path[1] == 'on' and node.args[1] and node.args[1].k == 'string' then
      local handler = function_of(node.args[2])
      local name = node.args[1].value
      node.args[1].is_event = true
      out[#out + 1] = { name = name, line = node.line, handler = handler, call = node }
      if handler then
        handler.event = handler.event or name
        if events[name] then
          type_parameters(handler, events[name].type)
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
    local entry = count == 1 and entry_of_call(value)
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
    local path = path_of(last.call.fn)
    return last.call.fn.k == 'name' and RAISING[last.call.fn.name] == true
      or path ~= nil and path.root == 'kumo' and (path[1] == 'reject' or path[1] == 'disconnect')
  end
  return false
end

--- Whether a handler answers whatever it is asked, so that no handler behind it is.
---@param source check.Source
---@param fn table
function scan.always_answers(source, fn)
  for _, node in ipairs(source.tree.returns) do
    if node.fn_of == fn and (#node.values == 0 or not answers(node.values[#node.values], #node.values)) then
      return false
    end
  end
  return ends_with_answer(fn.body)
end

--- Whether a function ends by raising, so that it need not return anything.
---@param fn table
function scan.always_raises(fn)
  local last = fn.body[#fn.body]
  return last ~= nil and last.k == 'call_statement' and ends_with_answer { last }
end

--- The function that begins on a line; nil if there are several or none.
---@param source check.Source
---@param line integer
function scan.function_at(source, line)
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

local function check_handlers(source, registrations, multiple)
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
    local path = node.k == 'call' and path_of(node.fn)
    local name = path and #path == 1 and not path.is_module and full_name(path, '.')
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

--- Everything that the text of one file tells.
---@param source check.Source
---@param registrations check.Registration[]
---@param known table<string, true>       globals of the runtime
---@param assigned table<string, true>    globals that a file of the policy sets
---@param multiple table<string, true>    events with several handlers
function scan.check(source, registrations, known, assigned, multiple)
  for _, node in ipairs(source.tree.calls) do
    check_call(source, node)
  end
  check_globals(source, known, assigned)
  check_paths(source)
  check_handlers(source, registrations, multiple)
end

return scan
