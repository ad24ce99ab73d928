--- Templates in the manner of Jinja: `{{ expr }}`, `{% if %}`, `{% for %}`, `{# comment #}`, filters. A template is
--- compiled once into closures; what it does not know is an error when it is compiled, with name and line. A variable that
--- is not there gives nothing, at any depth. Used for log records and for injection by HTTP.
---
---     local t = template.compile('Hello {{ name | default("you") }}!', { name = 'greeting' })
---     t:render { name = 'Ann' }
---
--- Expressions: names, `a.b`, `a['b']`, `a[0]` (lists count from 0), texts, numbers, true, false, none, `( )`, `not`, `and`,
--- `or`, `==` `!=` `<` `<=` `>` `>=`, `in`, `is [not] defined`, `is [not] none`, `+ - * /`, `~` (joins texts), `x if c else y`.
local host = require 'tr.host'
local values = host.internal 'kumo.template_values'
local c = host.c

local plain, to_text, escaped, truthy = values.plain, values.to_text, values.escaped, values.truthy
local is_list, get, contains = values.is_list, values.get, values.contains
local FILTERS, FILTER_NAMES = values.FILTERS, values.FILTER_NAMES

---@class tr.template
local template = { keep_json = values.keep_json }

local DEPTH_MAX = 64 -- of expressions and blocks: a template may come from outside

-- --- scanning ----------------------------------------------------------------------------------------------

local function line_at(text, at)
  local line = 1
  for _ in text:sub(1, at - 1):gmatch '\n' do
    line = line + 1
  end
  return line
end

local function fail(state, at, fmt, ...)
  error(('%s:%d: %s'):format(state.name, line_at(state.text, at), fmt:format(...)), 0)
end

-- Where an expression that starts at `at` ends: the closing mark outside of quotes.
local function find_close(state, at, mark, start)
  local text = state.text
  local i = at
  while true do
    local s = text:find('[\'"%%}]', i)
    if not s then
      fail(state, start, "'%s' is missing", mark)
    end
    local ch = text:sub(s, s)
    if ch == "'" or ch == '"' then
      i = s + 1
      while true do
        local q = text:find('[\\' .. ch .. ']', i)
        if not q then
          fail(state, s, 'a text without its closing quote')
        end
        if text:sub(q, q) == ch then
          i = q + 1
          break
        end
        i = q + 2
      end
    elseif text:sub(s, s + 1) == mark then
      return s
    else
      i = s + 1
    end
  end
end

-- Pieces: { kind = 'text' | 'expr' | 'tag', value, at }. A `-` inside a mark takes the blanks on its side away.
local function scan(state)
  local text, pieces, at, strip = state.text, {}, 1, false
  local function add_text(value, strip_right)
    if strip then
      value = value:gsub('^%s+', '')
    end
    if strip_right then
      value = value:gsub('%s+$', '')
    end
    if value ~= '' then
      pieces[#pieces + 1] = { kind = 'text', value = value }
    end
  end
  while true do
    local start, _, kind = text:find('{([{%%#])', at)
    if not start then
      add_text(text:sub(at), false)
      return pieces
    end
    local inner = start + 2
    local left = text:sub(inner, inner) == '-'
    add_text(text:sub(at, start - 1), left)
    if left then
      inner = inner + 1
    end
    local close
    if kind == '#' then
      close = text:find('#}', inner, true)
      if not close then
        fail(state, start, "'#}' is missing")
      end
    else
      close = find_close(state, inner, kind == '{' and '}}' or '%}', start)
    end
    strip = close > inner and text:sub(close - 1, close - 1) == '-'
    if kind ~= '#' then
      pieces[#pieces + 1] =
        { kind = kind == '{' and 'expr' or 'tag', value = text:sub(inner, strip and close - 2 or close - 1), at = inner }
    end
    at = close + 2
  end
end

local OPERATORS = { ['=='] = true, ['!='] = true, ['<='] = true, ['>='] = true }

-- Tokens of an expression: { type, value, at }.
local function tokens_of(state, source, base)
  local list, i = {}, 1
  while true do
    i = source:find('%S', i)
    if not i then
      list[#list + 1] = { 'end', 'the end', base + #source }
      return list
    end
    local at, ch = base + i - 1, source:sub(i, i)
    local word = source:match('^[%a_][%w_]*', i)
    local number = source:match('^%d+%.?%d*', i)
    if word then
      list[#list + 1] = { 'name', word, at }
      i = i + #word
    elseif number then
      list[#list + 1] = { 'number', tonumber(number), at }
      i = i + #number
    elseif ch == '"' or ch == "'" then
      local out, k = {}, i + 1
      while source:sub(k, k) ~= ch do
        local got = source:sub(k, k)
        if got == '\\' then
          local after = source:sub(k + 1, k + 1)
          got = ({ n = '\n', t = '\t', r = '\r' })[after] or after
          k = k + 1
        end
        out[#out + 1] = got
        k = k + 1
      end
      list[#list + 1] = { 'text', table.concat(out), at }
      i = k + 1
    else
      local two = source:sub(i, i + 1)
      local op = OPERATORS[two] and two or ch:match '[%.%[%]%(%)|,<>+%-*/~:]' or nil
      if not op then
        fail(state, at, "'%s' is not expected here", ch)
      end
      list[#list + 1] = { 'op', op, at }
      i = i + #op
    end
  end
end

-- --- expressions: each becomes a function of the scope ------------------------------------------------------

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
  return { state = state, list = tokens_of(state, source, at), i = 1, depth = 0 }
end

local function finish(p)
  if p.list[p.i][1] ~= 'end' then
    unexpected(p)
  end
end

local function expression(state, source, at)
  local p = parser(state, source, at)
  local value = parse(p)
  finish(p)
  return value
end

-- --- blocks ------------------------------------------------------------------------------------------------------

local block

local function emit(value, autoescape)
  return function(scope, out)
    local result = value(scope)
    if autoescape == 'json' then
      out[#out + 1] = plain(values.jsoned(result))
    else
      out[#out + 1] = autoescape and plain(escaped(result)) or to_text(result)
    end
  end
end

local function tag_word(piece)
  local space, word, rest = piece.value:match '^(%s*)([%a_]*)(.*)$'
  return word, rest, piece.at + #space + #word
end

local function if_block(state, rest, at)
  local branches, other = {}, nil
  local condition = expression(state, rest, at)
  while true do
    local body, word, more, more_at = block(state, at, { elif = true, ['else'] = not other, endif = true })
    if condition then
      branches[#branches + 1] = { condition, body }
    else
      other = body
    end
    if word == 'endif' then
      break
    elseif word == 'elif' then
      if not condition then
        fail(state, more_at, "'elif' after 'else'")
      end
      condition = expression(state, more, more_at)
    else
      condition = nil
      other = true -- a second 'else' is not expected any more
    end
  end
  return function(scope, out)
    for _, branch in ipairs(branches) do
      if truthy(branch[1](scope)) then
        return branch[2](scope, out)
      end
    end
    if other then
      other(scope, out)
    end
  end
end

-- Lists give their elements, maps their keys (sorted), or key and value with two names.
local function entries_of(value, names)
  value = plain(value)
  local list = {}
  if value == nil then
    return list
  elseif type(value) ~= 'table' then
    error('list or map expected, got ' .. type(value), 0)
  elseif is_list(value) then
    for i, item in ipairs(value) do
      list[i] = #names == 1 and { item } or { get(item, 0), get(item, 1) }
    end
    return list
  end
  for key, item in pairs(value) do
    list[#list + 1] = { key, item }
  end
  table.sort(list, function(a, b)
    return tostring(a[1]) < tostring(b[1])
  end)
  return list
end

local function for_block(state, rest, at)
  local p = parser(state, rest, at)
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
  local source = parse(p)
  finish(p)
  local body, word = block(state, at, { ['else'] = true, endfor = true })
  local otherwise
  if word == 'else' then
    otherwise = block(state, at, { endfor = true })
  end
  return function(scope, out)
    local ok, list = pcall(entries_of, source(scope), names)
    if not ok then
      fail(state, at, 'for: %s', tostring(list))
    end
    for i, entry in ipairs(list) do
      local loop = { index = i, index0 = i - 1, first = i == 1, last = i == #list, length = #list }
      local inner = setmetatable({ loop = loop, [names[1]] = entry[1] }, { __index = scope })
      if names[2] then
        inner[names[2]] = entry[2]
      end
      body(inner, out)
    end
    if #list == 0 and otherwise then
      otherwise(scope, out)
    end
  end
end

local TAGS = { ['if'] = if_block, ['for'] = for_block }

-- Pieces up to one of the `ends` tags: returns the function that renders them, then word, rest and place of that tag.
function block(state, start, ends)
  local parts = {}
  state.depth = state.depth + 1
  if state.depth > DEPTH_MAX then
    fail(state, start, 'blocks nested deeper than %d', DEPTH_MAX)
  end
  local function render(scope, out)
    for i = 1, #parts do
      local part = parts[i]
      if type(part) == 'string' then
        out[#out + 1] = part
      else
        part(scope, out)
      end
    end
  end
  while true do
    local piece = state.pieces[state.i]
    state.i = state.i + 1
    if not piece then
      if ends then
        fail(state, start, "the block is not ended: '%s' is missing", ends.endif and 'endif' or 'endfor')
      end
      return render
    elseif piece.kind == 'text' then
      parts[#parts + 1] = piece.value
    elseif piece.kind == 'expr' then
      parts[#parts + 1] = emit(expression(state, piece.value, piece.at), state.autoescape)
    else
      local word, rest, at = tag_word(piece)
      if ends and ends[word] then
        if word ~= 'elif' and rest:find '%S' then
          fail(state, at, "'%s' takes nothing after it", word)
        end
        state.depth = state.depth - 1
        return render, word, rest, at
      elseif not TAGS[word] then
        fail(state, piece.at, "unknown tag '%s'", word)
      end
      parts[#parts + 1] = TAGS[word](state, rest, at)
    end
  end
end

-- --- the module ----------------------------------------------------------------------------------------------------

---@class tr.template.Compiled
local Compiled = {}
Compiled.__index = Compiled

--- Raises a text `NAME:LINE: what` for a value that does not fit, e.g. a number compared with a text.
---@param context table<string, any>
---@return string
function Compiled:render(context)
  local out = {}
  self._render(context, out)
  return table.concat(out)
end

---@class (exact) tr.template.Options
---@field name? string        for error texts; default "template"
---@field autoescape? boolean|'json' true: values are escaped for HTML; 'json': written as JSON; unless marked `| safe`

--- Raises a text `NAME:LINE: what` when the template is not right.
---@param text string
---@param options? tr.template.Options
---@return tr.template.Compiled
function template.compile(text, options)
  options = options or {}
  local state =
    { text = text, name = options.name or 'template', autoescape = options.autoescape or false, i = 1, depth = 0 }
  state.pieces = scan(state)
  return setmetatable({ _render = block(state, 1, nil) }, Compiled)
end

return template
