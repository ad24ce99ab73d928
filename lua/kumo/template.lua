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
local scanner = host.internal 'kumo.template.scan'
local expression = host.internal 'kumo.template.expression'
local values = host.internal 'kumo.template.values'

local fail = scanner.fail
local plain, to_text, escaped, truthy = values.plain, values.to_text, values.escaped, values.truthy
local is_list, get = values.is_list, values.get

---@class tr.template
local template = { keep_json = values.keep_json }

local DEPTH_MAX = 64 -- of blocks: a template may come from outside

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
  local condition = expression.compile(state, rest, at)
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
      condition = expression.compile(state, more, more_at)
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
  local names, source = expression.each(state, rest, at)
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
      parts[#parts + 1] = emit(expression.compile(state, piece.value, piece.at), state.autoescape)
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
  state.pieces = scanner.pieces(state)
  return setmetatable({ _render = block(state, 1, nil) }, Compiled)
end

return template
