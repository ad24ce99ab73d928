--- Small helpers that policies share: comparing, merging, lists, files, assertions for tests of policies.
---@class policy_utils
local utils = {}

--- Deep equality: tables are equal when they hold equal values under the same keys.
---@param a any
---@param b any
---@return boolean
function utils.equals(a, b)
  if rawequal(a, b) then
    return true
  end
  if type(a) ~= type(b) then
    return false
  end
  if type(a) ~= 'table' then
    return a == b
  end
  for key, value in pairs(a) do
    if not utils.equals(value, b[key]) then
      return false
    end
  end
  for key in pairs(b) do
    if a[key] == nil then
      return false
    end
  end
  return true
end

local function dump(value, indent, seen)
  local kind = type(value)
  if kind == 'string' then
    return ('%q'):format(value)
  elseif kind ~= 'table' then
    return tostring(value)
  elseif seen[value] then
    return '{ ... }' -- a table inside itself
  elseif next(value) == nil then
    return '{}'
  end
  seen[value] = true
  local keys, lines, inner = {}, {}, indent .. '  '
  for key in pairs(value) do
    keys[#keys + 1] = key
  end
  table.sort(keys, function(a, b)
    if type(a) == type(b) and (type(a) == 'number' or type(a) == 'string') then
      return a < b
    end
    return type(a) .. tostring(a) < type(b) .. tostring(b)
  end)
  for i, key in ipairs(keys) do
    local name = type(key) == 'string' and key:match '^[%a_][%w_]*$' or '[' .. dump(key, inner, seen) .. ']'
    lines[i] = ('%s%s = %s,\n'):format(inner, name, dump(value[key], inner, seen))
  end
  seen[value] = nil
  return '{\n' .. table.concat(lines) .. indent .. '}'
end

--- A value as text for people, keys sorted.
---@param value any
---@return string
function utils.dumps(value)
  return dump(value, '', {})
end

local function fail(message, text)
  error(message and ('%s: %s'):format(tostring(message), text) or text, 3)
end

--- Raises unless the values are deeply equal.
---@param a any
---@param b any
---@param message? string
function utils.assert_eq(a, b, message)
  if not utils.equals(a, b) then
    fail(message, ('expected equal values, got %s and %s'):format(utils.dumps(a), utils.dumps(b)))
  end
end

--- Raises if the values are deeply equal.
---@param a any
---@param b any
---@param message? string
function utils.assert_ne(a, b, message)
  if utils.equals(a, b) then
    fail(message, ('expected different values, got %s twice'):format(utils.dumps(a)))
  end
end

--- Raises unless the text matches the regular expression.
---@param text string
---@param regex string
---@param message? string
function utils.assert_matches(text, regex, message)
  if not require('kumo').regex.compile(regex):is_match(text) then
    fail(message, ('expected %q to match %q'):format(tostring(text), regex))
  end
end

--- Sets each key of `src` in `dest`, over what was there.
---@param src table
---@param dest table
---@return table dest
function utils.merge_into(src, dest)
  for key, value in pairs(src) do
    dest[key] = value
  end
  return dest
end

--- As merge_into, but tables on both sides are merged and not replaced.
---@param src table
---@param dest table
---@return table dest
function utils.recursive_merge_into(src, dest)
  for key, value in pairs(src) do
    if type(value) == 'table' and type(dest[key]) == 'table' then
      utils.recursive_merge_into(value, dest[key])
    else
      dest[key] = value
    end
  end
  return dest
end

---@param list any[]
---@param value any
---@return boolean
function utils.table_contains(list, value)
  for _, item in ipairs(list) do
    if item == value then
      return true
    end
  end
  return false
end

--- The keys of a table, in no order.
---@param t table
---@return any[]
function utils.table_keys(t)
  local keys = {}
  for key in pairs(t) do
    keys[#keys + 1] = key
  end
  return keys
end

---@param t table
---@return boolean
function utils.table_is_empty(t)
  return next(t) == nil
end

---@param text string
---@param prefix string
---@return boolean
function utils.starts_with(text, prefix)
  return text:sub(1, #prefix) == prefix
end

---@param text string
---@param suffix string
---@return boolean
function utils.ends_with(text, suffix)
  return suffix == '' or text:sub(-#suffix) == suffix
end

--- Splits `127.0.0.1:25`, `[::1]:25` or `::1:25` at the last colon.
---@param text string
---@return string? ip    nil if there is no port
---@return integer? port
function utils.split_ip_port(text)
  local ip, port = text:match '^%[(.-)%]:(%d+)$'
  if not ip then
    ip, port = text:match '^(.*):(%d+)$'
  end
  if not ip then
    return nil
  end
  return ip, tonumber(port)
end

--- Reads a file by its suffix: .json or .toml.
---@param path string
---@return any value
function utils.load_json_or_toml_file(path)
  local serde = require('kumo').serde
  if utils.ends_with(path, '.toml') then
    return serde.toml_load(path)
  elseif utils.ends_with(path, '.json') then
    return serde.json_load(path)
  end
  error(("load_json_or_toml_file: '%s' ends neither with .json nor with .toml"):format(path), 2)
end

return utils
