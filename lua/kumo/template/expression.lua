--- Expressions of templates: each becomes a function of the scope.
local host = require 'tr.host'
local scanner = host.internal 'kumo.template.scan'
local values = host.internal 'kumo.template.values'
local c = host.c

local fail = scanner.fail
local plain, to_text, truthy, get, contains = values.plain, values.to_text, values.truthy, values.get, values.contains
local FILTERS, FILTER_NAMES = values.FILTERS, values.FILTER_NAMES

local expression = {}

local DEPTH_MAX = 64 -- a template may come from outside

local parse

local function peek(p, value)
  local token = p.list[p.i]
  return token[2] == value and (token[1] == 'op' or token[1] == 'name')
end

local function accept(p, value)
  if peek(p, value) then
    p.i = p.i + 1
    return true
  end
  return false
end

local function unexpected(p)
  local token = p.list[p.i]
  fail(p.state, token[3], "'%s' is not expected here", tostring(token[2]))
end

local function expect(p, value)
  if not accept(p, value) then
    local token = p.list[p.i]
    fail(p.state, token[3], "'%s' expected, got '%s'", value, tostring(token[2]))
  end
end

local RESERVED = { ['and'] = true, ['or'] = true, ['not'] = true, ['if'] = true, ['else'] = true, ['in'] = true, is = true }
local CONSTANTS = { ['true'] = true, ['false'] = false, True = true, False = false }

local function arguments(p, what, most, at)
  local args = {}
  if accept(p, '(') then
    while not accept(p, ')') do
      if #args > 0 then
        expect(p, ',')
      end
      args[#args + 1] = parse(p)
    end
  end
  if #args > most then
    fail(p.state, at, '%s: at most %d arguments expected', what, most)
  end
  return args
end

local function primary(p)
  local token = p.list[p.i]
  local kind, value = token[1], token[2]
  p.i = p.i + 1
  if kind == 'number' or kind == 'text' then
    return function() return value end
  elseif kind == 'op' and value == '(' then
    local inner = parse(p)
    expect(p, ')')
    return inner
  elseif kind == 'name' and CONSTANTS[value] ~= nil then
    local constant = CONSTANTS[value]
    return function() return constant end
  elseif kind == 'name' and (value == 'none' or value == 'None') then
    return function() return nil end
  elseif kind == 'name' and not RESERVED[value] then
    return function(scope) return scope[value] end
  end
  p.i = p.i - 1
  unexpected(p)
end

local function attribute(object, key)
  return function(scope) return get(object(scope), key(scope)) end
end

local function filtered(p, value)
  local token = p.list[p.i]
  if token[1] ~= 'name' then
    unexpected(p)
  end
  p.i = p.i + 1
  local filter = FILTERS[token[2]]
  if not filter then
    local near = c.nearest(token[2], FILTER_NAMES)
    fail(p.state, token[3], "unknown filter '%s'%s", token[2], near and (" (did you mean '%s'?)"):format(near) or '')
  end
  local args, fn, state, at = arguments(p, token[2], filter[1], token[3]), filter[2], p.state, token[3]
  local a, b = args[1], args[2]
  return function(scope)
    local ok, result = pcall(fn, value(scope), a and a(scope), b and b(scope))
    if not ok then
      fail(state, at, '%s', tostring(result))
    end
    return result
  end
end

local function postfix(p)
  local value = primary(p)
  while true do
    if accept(p, '.') then
      local token = p.list[p.i]
      if token[1] ~= 'name' and token[1] ~= 'number' then
        unexpected(p)
      end
      p.i = p.i + 1
      local key = token[2]
      value = attribute(value, function() return key end)
    elseif accept(p, '[') then
      local key = parse(p)
      expect(p, ']')
      value = attribute(value, key)
    elseif accept(p, '|') then
      value = filtered(p, value)
    else
      return value
    end
  end
end

local function unary(p)
  if accept(p, '-') then
    local value, at = unary(p), p.list[p.i][3]
    return function(scope)
      local number = tonumber(plain(value(scope)))
      if not number then
        fail(p.state, at, "'-': number expected")
      end
      return -number
    end
  end
  return postfix(p)
end

local function compute(p, at, op, a, b)
  if op == '~' then
    return function(scope) return to_text(a(scope)) .. to_text(b(scope)) end
  end
  local state = p.state
  return function(scope)
    local x, y = plain(a(scope)), plain(b(scope))
    if op == '+' and type(x) == 'string' and type(y) == 'string' then
      return x .. y
    end
    if type(x) ~= 'number' or type(y) ~= 'number' then
      fail(state, at, "'%s': numbers expected", op)
    end
    return op == '+' and x + y or op == '-' and x - y or op == '*' and x * y or x / y
  end
end

local function binary(ops, below)
  return function(p)
    local value = below(p)
    while true do
      local token = p.list[p.i]
      if token[1] ~= 'op' or not ops[token[2]] then
        return value
      end
      p.i = p.i + 1
      value = compute(p, token[3], token[2], value, below(p))
    end
  end
end
local product = binary({ ['*'] = true, ['/'] = true }, unary)
local sum = binary({ ['+'] = true, ['-'] = true, ['~'] = true }, product)

local function compare(p, at, op, a, b)
  if op == '==' then
    return function(scope) return plain(a(scope)) == plain(b(scope)) end
  elseif op == '!=' then
    return function(scope) return plain(a(scope)) ~= plain(b(scope)) end
  elseif op == 'in' then
    return function(scope) return contains(a(scope), b(scope)) end
  elseif op == 'not in' then
    return function(scope) return not contains(a(scope), b(scope)) end
  end
  local state = p.state
  return function(scope)
    local x, y = plain(a(scope)), plain(b(scope))
    if type(x) ~= type(y) or type(x) ~= 'number' and type(x) ~= 'string' then
      fail(state, at, "'%s': two numbers or two texts expected", op)
    end
    if op == '<' then
      return x < y
    elseif op == '<=' then
      return x <= y
    elseif op == '>' then
      return x > y
    end
    return x >= y
  end
end

local COMPARE = { ['=='] = true, ['!='] = true, ['<'] = true, ['<='] = true, ['>'] = true, ['>='] = true, ['in'] = true }

local function comparison(p)
  local value = sum(p)
  local token = p.list[p.i]
  if accept(p, 'is') then
    local negate = accept(p, 'not')
    local test = p.list[p.i][2]
    if test ~= 'defined' and test ~= 'undefined' and test ~= 'none' then
      fail(p.state, p.list[p.i][3], "unknown test '%s'", tostring(test))
    end
    p.i = p.i + 1
    local want = (test == 'defined') ~= negate
    return function(scope) return (value(scope) ~= nil) == want end
  elseif peek(p, 'not') and p.list[p.i + 1][2] == 'in' then
    p.i = p.i + 2
    return compare(p, token[3], 'not in', value, sum(p))
  elseif token[1] ~= 'number' and token[1] ~= 'text' and COMPARE[token[2]] then
    p.i = p.i + 1
    return compare(p, token[3], token[2], value, sum(p))
  end
  return value
end

local function negation(p)
  if accept(p, 'not') then
    local value = negation(p)
    return function(scope) return not truthy(value(scope)) end
  end
  return comparison(p)
end

local function conjunction(p)
  local value = negation(p)
  while accept(p, 'and') do
    local a, b = value, negation(p)
    value = function(scope)
      local x = a(scope)
      return truthy(x) and b(scope) or not truthy(x) and x
    end
  end
  return value
end

local function disjunction(p)
  local value = conjunction(p)
  while accept(p, 'or') do
    local a, b = value, conjunction(p)
    value = function(scope)
      local x = a(scope)
      if truthy(x) then
        return x
      end
      return b(scope)
    end
  end
  return value
end

function parse(p)
  p.depth = p.depth + 1
  if p.depth > DEPTH_MAX then
    fail(p.state, p.list[p.i][3], 'an expression nested deeper than %d', DEPTH_MAX)
  end
  local value = disjunction(p)
  if accept(p, 'if') then
    local condition = disjunction(p)
    local other = accept(p, 'else') and parse(p) or function() return nil end
    local chosen = value
    value = function(scope)
      if truthy(condition(scope)) then
        return chosen(scope)
      end
      return other(scope)
    end
  end
  p.depth = p.depth - 1
  return value
end

local function parser(state, source, at)
  return { state = state, list = scanner.tokens(state, source, at), i = 1, depth = 0 }
end

local function finish(p)
  if p.list[p.i][1] ~= 'end' then
    unexpected(p)
  end
end

--- A whole expression that stands at `at` of the template.
function expression.compile(state, source, at)
  local p = parser(state, source, at)
  local value = parse(p)
  finish(p)
  return value
end

--- "NAME in LIST" and "NAME, NAME in MAP": the names, and what gives the list.
function expression.each(state, source, at)
  local p = parser(state, source, at)
  local names = {}
  repeat
    local token = p.list[p.i]
    if token[1] ~= 'name' or RESERVED[token[2]] or #names == 2 then
      unexpected(p)
    end
    names[#names + 1] = token[2]
    p.i = p.i + 1
  until not accept(p, ',')
  expect(p, 'in')
  local value = parse(p)
  finish(p)
  return names, value
end

return expression
