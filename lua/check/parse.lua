--- Reads Lua (5.1 as LuaJIT takes it) into a tree with scopes: what `tailrace check` looks at. The text has been compiled
--- before, so it is valid; what this does not understand raises, and the caller leaves the file alone.
---
--- A node is a table with `k` (kind) and `line`. Expressions: nil, true, false, number, string {value}, vararg, function,
--- table {items}, name {name, symbol}, index {object, key}, call {fn, args}, method {object, name, args}, op {op, ...}.
--- A symbol is a local variable: { name, line, init, writes }; a name without one is a global.
local host = require 'tr.host'
local tokens = host.internal 'check.tokens'
local advance, fail = tokens.advance, tokens.fail

local parse = {}

-- --- scopes -------------------------------------------------------------------------------------------------------

local function open_scope(p)
  p.scope = { names = {}, outer = p.scope }
end

local function close_scope(p)
  p.scope = p.scope.outer
end

local function declare(p, name, line, init)
  local symbol = { name = name, line = line, init = init, writes = 0, fn = p.fn }
  p.scope.names[name] = symbol
  return symbol
end

local function resolve(p, name)
  local scope = p.scope
  while scope do
    if scope.names[name] then
      return scope.names[name]
    end
    scope = scope.outer
  end
end

-- --- expressions ----------------------------------------------------------------------------------------------------

local expression, block

local function check(p, kind)
  if p.lexer.kind ~= kind then
    fail(p.lexer, ("'%s' expected near '%s'"):format(kind, tostring(p.lexer.value or p.lexer.kind)))
  end
end

local function take(p, kind)
  if p.lexer.kind == kind then
    advance(p.lexer)
    return true
  end
  return false
end

local function expect(p, kind)
  check(p, kind)
  local value = p.lexer.value
  advance(p.lexer)
  return value
end

local function line_of(p)
  return p.lexer.token_line
end

local function name_node(p, name, line)
  local node = { k = 'name', name = name, line = line, symbol = resolve(p, name), fn = p.fn, scope = p.scope }
  if not node.symbol then
    p.globals[#p.globals + 1] = node
  end
  return node
end

local function expression_list(p)
  local list = { expression(p) }
  while take(p, ',') do
    list[#list + 1] = expression(p)
  end
  return list
end

local function function_body(p, line, is_method)
  local node = { k = 'function', line = line, outer = p.fn, params = {} }
  local outer_fn = p.fn
  p.functions[line] = p.functions[line] or {}
  table.insert(p.functions[line], node)
  p.fn = node
  open_scope(p)
  if is_method then
    node.params[1] = declare(p, 'self', line)
  end
  expect(p, '(')
  while p.lexer.kind ~= ')' do
    if take(p, '...') then
      node.is_vararg = true
      break
    end
    node.params[#node.params + 1] = declare(p, expect(p, 'name'), line)
    if not take(p, ',') then
      break
    end
  end
  expect(p, ')')
  node.body = block(p)
  node.last_line = line_of(p)
  expect(p, 'end')
  close_scope(p)
  p.fn = outer_fn
  return node
end

local function table_constructor(p)
  local node = { k = 'table', line = line_of(p), items = {} }
  expect(p, '{')
  while p.lexer.kind ~= '}' do
    local item = { line = line_of(p) }
    if take(p, '[') then
      item.key = expression(p)
      expect(p, ']')
      expect(p, '=')
      item.value = expression(p)
    else
      item.value = expression(p)
      if p.lexer.kind == '=' and item.value.k == 'name' then
        local key = item.value
        if p.globals[#p.globals] == key then
          p.globals[#p.globals] = nil -- it was a key
        end
        advance(p.lexer)
        item.key = { k = 'string', value = key.name, line = key.line }
        item.value = expression(p)
      end
    end
    if item.key and item.value.k == 'function' then
      item.value.member = item.key.value
    end
    node.items[#node.items + 1] = item
    if not take(p, ',') and not take(p, ';') then
      break
    end
  end
  expect(p, '}')
  return node
end

local function call_arguments(p)
  local lexer = p.lexer
  if lexer.kind == 'string' then
    local node = { k = 'string', value = lexer.value, line = line_of(p) }
    p.strings[#p.strings + 1] = node
    advance(lexer)
    return { node }
  elseif lexer.kind == '{' then
    return { table_constructor(p) }
  end
  expect(p, '(')
  local args = lexer.kind ~= ')' and expression_list(p) or {}
  expect(p, ')')
  return args
end

local function suffixed(p)
  local lexer, line = p.lexer, line_of(p)
  local node
  if take(p, '(') then
    node = { k = 'paren', line = line, inner = expression(p) }
    expect(p, ')')
  else
    node = name_node(p, expect(p, 'name'), line)
  end
  while true do
    local at = line_of(p)
    if take(p, '.') then
      node = { k = 'index', line = at, object = node, key = { k = 'string', value = lexer.value, line = at } }
      advance(lexer) -- keywords cannot stand here: it compiled
    elseif take(p, '[') then
      local key = expression(p)
      expect(p, ']')
      node = { k = 'index', line = at, object = node, key = key }
    elseif take(p, ':') then
      local name = expect(p, 'name')
      node = { k = 'method', line = at, object = node, name = name, fn_of = p.fn }
      node.args = call_arguments(p)
      p.calls[#p.calls + 1] = node
    elseif lexer.kind == '(' or lexer.kind == 'string' or lexer.kind == '{' then
      node = { k = 'call', line = at, fn = node, fn_of = p.fn }
      node.args = call_arguments(p)
      if node.args[1] and node.fn.k == 'name' and node.fn.name == 'type' then
        node.args[1].is_tested = true
      end
      p.calls[#p.calls + 1] = node
    else
      break
    end
    if node.k == 'index' then
      p.indexes[#p.indexes + 1] = node
    end
  end
  return node
end

local function simple(p)
  local lexer = p.lexer
  local kind, line = lexer.kind, line_of(p)
  if kind == 'number' or kind == 'string' then
    local node = { k = kind, value = lexer.value, line = line }
    if kind == 'string' then
      p.strings[#p.strings + 1] = node
    end
    advance(lexer)
    return node
  elseif kind == 'nil' or kind == 'true' or kind == 'false' then
    advance(lexer)
    return { k = kind, line = line }
  elseif kind == '...' then
    advance(lexer)
    return { k = 'vararg', line = line }
  elseif kind == '{' then
    return table_constructor(p)
  elseif kind == 'function' then
    advance(lexer)
    return function_body(p, line)
  end
  return suffixed(p)
end

local BINARY = { -- left and right priority
  ['or'] = { 1, 1 }, ['and'] = { 2, 2 }, ['<'] = { 3, 3 }, ['>'] = { 3, 3 }, ['<='] = { 3, 3 }, ['>='] = { 3, 3 },
  ['~='] = { 3, 3 }, ['=='] = { 3, 3 }, ['..'] = { 5, 4 }, ['+'] = { 6, 6 }, ['-'] = { 6, 6 }, ['*'] = { 7, 7 },
  ['/'] = { 7, 7 }, ['%'] = { 7, 7 }, ['^'] = { 10, 9 },
} -- stylua: ignore
local UNARY = { ['not'] = true, ['-'] = true, ['#'] = true }
local TESTS = { ['or'] = true, ['and'] = true, ['=='] = true, ['~='] = true } -- a nil on their left is asked about

function expression(p, limit)
  local lexer, line = p.lexer, line_of(p)
  local left
  if UNARY[lexer.kind] then
    local op = lexer.kind
    advance(lexer)
    left = { k = 'op', op = op, line = line, expression(p, 8) }
    if op == 'not' then
      left[1].is_tested = true
    end
  else
    left = simple(p)
  end
  while true do
    local op = lexer.kind
    local priority = BINARY[op]
    if not priority or priority[1] <= (limit or 0) then
      return left
    end
    advance(lexer)
    local right = expression(p, priority[2])
    if TESTS[op] then
      left.is_tested = true
      right.is_tested = op == '==' or op == '~='
    end
    left = { k = 'op', op = op, line = line, left, right }
  end
end

-- --- statements --------------------------------------------------------------------------------------------------------

local BLOCK_END = { ['end'] = true, ['else'] = true, ['elseif'] = true, ['until'] = true, ['<eof>'] = true }

local function written(p, target)
  if target.k == 'name' then
    if target.symbol then
      target.symbol.writes = target.symbol.writes + 1
    else
      target.is_write = true
    end
  elseif target.k == 'index' then
    target.is_write = true
    target.in_fn = p.fn
    p.index_writes[#p.index_writes + 1] = target
  end
end

local function function_statement(p, line)
  local name_line = line_of(p)
  local target, is_method = name_node(p, expect(p, 'name'), name_line), false
  while p.lexer.kind == '.' or p.lexer.kind == ':' do
    is_method = p.lexer.kind == ':'
    advance(p.lexer)
    local key = { k = 'string', value = expect(p, 'name'), line = name_line }
    target = { k = 'index', line = name_line, object = target, key = key }
  end
  written(p, target)
  local body = function_body(p, line, is_method)
  body.member = target.k == 'index' and target.key.value or nil
  return { k = 'assign', line = line, targets = { target }, values = { body } }
end

local function local_statement(p, line)
  if take(p, 'function') then
    local name = expect(p, 'name')
    local symbol = declare(p, name, line)
    symbol.init = function_body(p, line)
    return { k = 'local', line = line, values = { symbol.init } }
  end
  local names = {}
  repeat
    names[#names + 1] = { expect(p, 'name'), p.lexer.last_line }
  until not take(p, ',')
  local values = take(p, '=') and expression_list(p) or {}
  for i, name in ipairs(names) do
    declare(p, name[1], name[2], values[i])
  end
  return { k = 'local', line = line, values = values }
end

local function if_statement(p, line)
  local node = { k = 'if', line = line, branches = {} }
  repeat
    advance(p.lexer) -- if, elseif
    local condition = expression(p)
    condition.is_tested = true
    expect(p, 'then')
    node.branches[#node.branches + 1] = block(p)
  until p.lexer.kind ~= 'elseif'
  if take(p, 'else') then
    node.otherwise = block(p)
  end
  expect(p, 'end')
  return node
end

local function for_statement(p, line)
  local names = {}
  repeat
    names[#names + 1] = expect(p, 'name')
  until not take(p, ',')
  if not take(p, '=') then
    expect(p, 'in')
  end
  expression_list(p)
  expect(p, 'do')
  open_scope(p)
  for _, name in ipairs(names) do
    declare(p, name, line)
  end
  local node = { k = 'loop', line = line, body = block(p) }
  close_scope(p)
  expect(p, 'end')
  return node
end

local function statement(p)
  local lexer = p.lexer
  local kind, line = lexer.kind, line_of(p)
  if kind == 'if' then
    return if_statement(p, line)
  elseif kind == 'while' then
    advance(lexer)
    local condition = expression(p)
    condition.is_tested = true
    expect(p, 'do')
    local node = { k = 'loop', line = line, body = block(p), forever = condition.k == 'true' }
    expect(p, 'end')
    return node
  elseif kind == 'do' then
    advance(lexer)
    local node = { k = 'do', line = line, body = block(p) }
    expect(p, 'end')
    return node
  elseif kind == 'for' then
    advance(lexer)
    return for_statement(p, line)
  elseif kind == 'repeat' then
    advance(lexer)
    open_scope(p)
    local body = block(p, true)
    expect(p, 'until')
    expression(p).is_tested = true
    close_scope(p)
    return { k = 'loop', line = line, body = body }
  elseif kind == 'function' then
    advance(lexer)
    return function_statement(p, line)
  elseif kind == 'local' then
    advance(lexer)
    return local_statement(p, line)
  elseif kind == 'return' then
    advance(lexer)
    local values = {}
    if not BLOCK_END[lexer.kind] and lexer.kind ~= ';' and lexer.kind ~= 'end' then
      values = expression_list(p)
    end
    take(p, ';')
    local node = { k = 'return', line = line, values = values, fn_of = p.fn }
    p.returns[#p.returns + 1] = node
    return node
  elseif kind == 'break' then
    advance(lexer)
    return { k = 'break', line = line }
  elseif kind == '::' then
    advance(lexer)
    expect(p, 'name')
    expect(p, '::')
    return { k = 'label', line = line }
  elseif kind == 'goto' and lexer.text:match('^%s*[%a_]', lexer.at) then
    advance(lexer)
    expect(p, 'name')
    return { k = 'goto', line = line }
  end
  local first = suffixed(p)
  if first.k == 'call' or first.k == 'method' then
    return { k = 'call_statement', line = line, call = first }
  end
  local targets = { first }
  while take(p, ',') do
    targets[#targets + 1] = suffixed(p)
  end
  expect(p, '=')
  local values = expression_list(p)
  for i, target in ipairs(targets) do
    written(p, target)
    if target.k == 'index' and values[i] and values[i].k == 'function' then
      values[i].member = target.key.value
    end
  end
  return { k = 'assign', line = line, targets = targets, values = values }
end

function block(p, keep_scope)
  local out = {}
  if not keep_scope then
    open_scope(p)
  end
  while not BLOCK_END[p.lexer.kind] and not p.at_end(p) do
    if not take(p, ';') then
      out[#out + 1] = statement(p)
      if out[#out].k == 'return' then
        break
      end
    end
  end
  if not keep_scope then
    close_scope(p)
  end
  return out
end

---@class check.Tree
---@field body table[]
---@field globals table[]     names that are no locals; is_write, is_tested
---@field indexes table[]     x.y and x[y]; is_write
---@field calls table[]
---@field returns table[]
---@field strings table[]
---@field index_writes table[]  x.y = ..., with `in_fn`
---@field functions table<integer, table[]>  by the line that they begin at; `member`: the name it is kept under in a table

--- Reads a chunk. Raises "LINE: TEXT" for what it does not understand.
---@param text string
---@return check.Tree
function parse.read(text)
  text = text:gsub('^\239\187\191', ''):gsub('^#[^\n]*', '')
  local main = { k = 'function', line = 0, params = {}, is_main = true }
  local p = {
    lexer = { text = text, at = 1, line = 1, token_line = 1 },
    globals = {}, indexes = {}, index_writes = {}, calls = {}, returns = {}, strings = {}, functions = {},
    fn = main, main = main,
  } -- stylua: ignore
  -- The token `end` closes a block; the end of the text is told by having no value.
  p.at_end = function()
    return p.lexer.kind == 'end' and p.lexer.value == nil
  end
  advance(p.lexer)
  main.body = block(p)
  p.body = main.body
  if not p.at_end() then
    fail(p.lexer, ("unexpected '%s'"):format(tostring(p.lexer.value)))
  end
  return p
end

return parse
