--- Types that are checked while the policy runs: for option tables of helpers, where a slip of a key should be an error
--- and not silence.
---
---     local typing = require 'policy-extras.typing'
---     local Options = typing.record('Options', {
---       name = typing.string,
---       size = typing.default(typing.number, 10),
---       tags = typing.option(typing.list(typing.string)),
---     })
---     local options = Options { name = 'x' } -- options.size is 10
---
--- A type is called with a value and gives the checked value (with defaults filled in; records are new tables), or raises
--- a text that says what is wrong and ends with `, while processing {the value}`. `type:check(value)` gives the value, or
--- nil and the text.
---@class typing
local typing = {}

local TEXT_MAX = 400 -- of the value in an error text

-- --- texts ------------------------------------------------------------------------------------------

-- Values that are not to be seen in logs, by their keys.
local function is_secret(key)
  return type(key) == 'string'
    and (key:find 'password' or key:find 'secret' or key:find 'token' or key:find 'key_data') ~= nil
end

local function show(value, depth)
  local kind = type(value)
  if kind == 'string' then
    return ('%q'):format(value)
  elseif kind ~= 'table' then
    return tostring(value)
  elseif depth > 3 then
    return '{...}'
  end
  local keys, out = {}, {}
  for key in pairs(value) do
    keys[#keys + 1] = key
  end
  table.sort(keys, function(a, b)
    return tostring(a) < tostring(b)
  end)
  for i, key in ipairs(keys) do
    local name = type(key) == 'string' and key or '[' .. tostring(key) .. ']'
    out[i] = name .. ' = ' .. (is_secret(key) and '...' or show(rawget(value, key), depth + 1))
  end
  return '{' .. table.concat(out, ', ') .. '}'
end

local function processing(text, value)
  local shown = show(value, 1)
  if #shown > TEXT_MAX then
    shown = shown:sub(1, TEXT_MAX) .. '...'
  end
  return text .. ', while processing ' .. shown
end

--- The part of an error text that says what is wrong, without the value that was processed and without the place.
---@param err any
---@return string
function typing.extract_deserialize_error(err)
  local text = tostring(err)
  text = text:match '^(.-), while processing ' or text
  text = text:match '^(.-)\nstack traceback:' or text
  return (text:gsub('^[^\n]-:%d+: ', ''))
end

-- Edit distance of two short names, for "did you mean".
local function distance(a, b)
  local row = {}
  for j = 0, #b do
    row[j] = j
  end
  for i = 1, #a do
    local diagonal = row[0]
    row[0] = i
    for j = 1, #b do
      local cost = a:byte(i) == b:byte(j) and 0 or 1
      diagonal, row[j] = row[j], math.min(row[j] + 1, row[j - 1] + 1, diagonal + cost)
    end
  end
  return row[#b]
end

local function nearest(name, names)
  local best, best_distance
  for _, candidate in ipairs(names) do
    local d = distance(name, candidate)
    if d <= 1 + #name / 4 and (not best or d < best_distance) then
      best, best_distance = candidate, d
    end
  end
  return best
end

-- --- types ------------------------------------------------------------------------------------------------

---@class typing.Type
---@field name string
local Type = {}
Type.__index = Type

--- The checked value, or nil and what is wrong. A checked value may be nil (option): test the second result.
---@param value any
---@return any checked
---@return string? message
function Type:check(value)
  return self._check(value)
end

function Type.__call(self, value)
  local checked, err = self._check(value)
  if err then
    error(processing(err, value), 2)
  end
  return checked
end

function Type.__tostring(self)
  return self.name
end

local function new_type(name, check)
  return setmetatable({ name = name, _check = check }, Type)
end

local function is_type(value)
  return getmetatable(value) == Type
end

local function want_type(value, where)
  if not is_type(value) then
    error(('%s: a type of this module expected, got %s'):format(where, type(value)), 3)
  end
  return value
end

local function basic(kind)
  return new_type(kind, function(value)
    if type(value) ~= kind then
      return nil, ('%s expected, got %s'):format(kind, type(value))
    end
    return value
  end)
end

typing.string = basic 'string'
typing.number = basic 'number'
typing.boolean = basic 'boolean'
typing.Function = basic 'function'
typing.any = new_type('any', function(value)
  return value
end)

--- The type or nil.
---@param inner typing.Type
---@return typing.Type
function typing.option(inner)
  want_type(inner, 'option')
  return new_type('option<' .. inner.name .. '>', function(value)
    if value == nil then
      return nil
    end
    return inner._check(value)
  end)
end

--- The type; nil gives `value` (a table is copied for each use).
---@param inner typing.Type
---@param value any
---@return typing.Type
function typing.default(inner, value)
  want_type(inner, 'default')
  local _, err = inner._check(value)
  if err then
    error(('default: the value does not fit: %s'):format(err), 2)
  end
  return new_type(inner.name, function(given)
    if given == nil then
      return (inner._check(value))
    end
    return inner._check(given)
  end)
end

--- An array whose elements have the type.
---@param inner typing.Type
---@return typing.Type
function typing.list(inner)
  want_type(inner, 'list')
  return new_type('list<' .. inner.name .. '>', function(value)
    if type(value) ~= 'table' then
      return nil, 'list expected, got ' .. type(value)
    end
    local out, count = {}, 0
    for _ in pairs(value) do
      count = count + 1
    end
    for i = 1, count do
      if value[i] == nil then
        return nil, 'list expected, got a table with other keys than 1 to ' .. count
      end
      local checked, err = inner._check(value[i])
      if err then
        return nil, ('element %d: %s'):format(i, err)
      end
      out[i] = checked
    end
    return out
  end)
end

--- A table whose keys and values have the types.
---@param key_type typing.Type
---@param value_type typing.Type
---@return typing.Type
function typing.map(key_type, value_type)
  want_type(key_type, 'map')
  want_type(value_type, 'map')
  return new_type(('map<%s, %s>'):format(key_type.name, value_type.name), function(value)
    if type(value) ~= 'table' then
      return nil, 'map expected, got ' .. type(value)
    end
    local out = {}
    for k, v in pairs(value) do
      local key, key_err = key_type._check(k)
      if key_err then
        return nil, ('key %s: %s'):format(show(k, 1), key_err)
      end
      local item, err = value_type._check(v)
      if err then
        return nil, ('[%s]: %s'):format(show(k, 1), err)
      end
      out[key] = item
    end
    return out
  end)
end

--- One of the texts.
---@param name string
---@param ... string
---@return typing.Type
function typing.enum(name, ...)
  local list, known = { ... }, {}
  for _, item in ipairs(list) do
    known[item] = true
  end
  return new_type(name, function(value)
    if known[value] then
      return value
    end
    local near = type(value) == 'string' and nearest(value, list)
    return nil,
      ("%s: one of '%s' expected, got %s%s"):format(
        name,
        table.concat(list, "', '"),
        show(value, 1),
        near and (" (did you mean '%s'?)"):format(near) or ''
      )
  end)
end

--- The first of the types that fits.
---@param ... typing.Type  a name may stand before them
---@return typing.Type
function typing.variant(...)
  local types, names = { ... }, {}
  if is_type(types[1]) == false and type(types[1]) == 'string' then
    table.remove(types, 1) -- a name may come first
  end
  for i, inner in ipairs(types) do
    names[i] = want_type(inner, 'variant').name
  end
  local name = table.concat(names, ' or ')
  return new_type(name, function(value)
    local last
    for _, inner in ipairs(types) do
      local checked, err = inner._check(value)
      if not err then
        return checked
      end
      last = err
    end
    return nil, #types == 1 and last or ('%s expected, got %s'):format(name, type(value))
  end)
end

local function unknown(name, key, names)
  local near = type(key) == 'string' and nearest(key, names)
  return ("%s: unknown field '%s', expected one of '%s'%s"):format(
    name,
    tostring(key),
    table.concat(names, "', '"),
    near and (" (did you mean '%s'?)"):format(near) or ''
  )
end

--- A table with these fields and no others; `_dynamic = function(key, value) -> ok, text` may judge other keys: true keeps
--- them. The result refuses new fields that the type does not know.
---@param name string
---@param fields table<string, typing.Type>
---@return typing.Type
function typing.record(name, fields)
  local dynamic, names = fields._dynamic, {}
  for key, inner in pairs(fields) do
    if key ~= '_dynamic' then
      want_type(inner, ('record %s: %s'):format(name, tostring(key)))
      names[#names + 1] = key
    end
  end
  table.sort(names)

  local function check_field(key, value)
    local inner = key ~= '_dynamic' and fields[key]
    if inner then
      local checked, err = inner._check(value)
      if err then
        err = value == nil and ("%s: missing field '%s' (%s)"):format(name, key, inner.name)
          or ("%s: field '%s': %s"):format(name, key, err)
      end
      return checked, err
    elseif dynamic then
      local ok, text = dynamic(key, value)
      if ok then
        return value
      end
      return nil, ("%s: field '%s': %s"):format(name, tostring(key), tostring(text or 'it is not known'))
    end
    return nil, unknown(name, key, names)
  end

  local meta = { __name = name }
  function meta.__newindex(record, key, value)
    local checked, err = check_field(key, value)
    if err then
      error(err, 2)
    end
    rawset(record, key, checked)
  end

  return new_type(name, function(value)
    if type(value) ~= 'table' then
      return nil, ('%s: table expected, got %s'):format(name, type(value))
    end
    local out = {}
    for key, item in pairs(value) do
      local checked, err = check_field(key, item)
      if err then
        return nil, err
      end
      out[key] = checked
    end
    for _, key in ipairs(names) do
      if value[key] == nil then
        local checked, err = check_field(key, nil)
        if err then
          return nil, err
        end
        out[key] = checked
      end
    end
    return setmetatable(out, meta)
  end)
end

return typing
