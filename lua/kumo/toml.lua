--- TOML of kumo.serde: reading by tomlplusplus, writing here. Contract lua-modules.md section 3.
local host = require 'tr.host'
local core = require 'tr.toml'
local c = host.c

local toml = {}

local MAX_DEPTH = 64 -- as the reader's

---@param text string
---@param what string     what the error begins with: the function, the file
---@param level integer   of the caller
---@return table
function toml.parse(text, what, level)
  local good, value, line, column = core.parse(text, false)
  if good then
    return value
  elseif line > 0 then
    error(('%s: invalid TOML at line %d column %d: %s'):format(what, line, column, value), level + 1)
  end
  error(('%s: invalid TOML: %s'):format(what, value), level + 1)
end

-- --- writing --------------------------------------------------------------------------------------

local ESCAPES = { ['"'] = '\\"', ['\\'] = '\\\\', ['\n'] = '\\n', ['\r'] = '\\r', ['\t'] = '\\t' }

local function quoted(text)
  return '"' .. text:gsub('[%c"\\\127]', function(char)
    return ESCAPES[char] or ('\\u%04X'):format(char:byte())
  end) .. '"'
end

local function key_text(key)
  return key:find '^[%w_-]+$' and key or quoted(key)
end

local function fail(path, text)
  error(('%s: %s'):format(#path > 0 and table.concat(path, '.') or 'the value', text), 0)
end

local function scalar(value, path)
  local kind = type(value)
  if kind == 'string' then
    if not c.utf8_valid(value) then
      fail(path, 'the text is not valid UTF-8')
    end
    return quoted(value)
  elseif kind == 'boolean' then
    return tostring(value)
  elseif kind == 'number' then
    if value ~= value then -- luacheck: ignore
      return 'nan'
    elseif value == math.huge or value == -math.huge then
      return value > 0 and 'inf' or '-inf'
    elseif value == math.floor(value) and math.abs(value) <= 2 ^ 53 then
      return ('%.0f'):format(value == 0 and 0 or value) -- no -0
    end
    for digits = 15, 17 do -- the shortest that reads back the same
      local text = ('%%.%dg'):format(digits):format(value)
      if tonumber(text) == value then
        return text:find '[.e]' and text or text .. '.0'
      end
    end
  elseif value == c.NULL then
    fail(path, 'TOML has no null')
  end
  fail(path, 'a ' .. kind .. ' cannot be written as TOML')
end

local function is_array(value)
  return getmetatable(value) == host.array_meta or value[1] ~= nil
end

local function sorted_keys(value, path)
  local keys = {}
  for key in pairs(value) do
    if type(key) ~= 'string' then
      fail(path, ('the key %s is a %s, a string is expected'):format(tostring(key), type(key)))
    end
    keys[#keys + 1] = key
  end
  table.sort(keys)
  return keys
end

local function deeper(path, key)
  if #path >= MAX_DEPTH then
    error('a table nested deeper than ' .. MAX_DEPTH .. ' (or in itself)', 0)
  end
  path[#path + 1] = key
end

-- A value after `=` or inside of an array. Tables in there are inline.
local function inline(value, path, style, indent)
  if type(value) ~= 'table' then
    return scalar(value, path)
  end
  local parts = {}
  if is_array(value) then
    for i = 1, #value do
      deeper(path, tostring(i))
      parts[i] = inline(value[i], path, style, indent .. '    ')
      path[#path] = nil
    end
    if style.pretty and #parts > 1 then
      local separator = ',\n' .. indent .. '    '
      return ('[\n%s    %s,\n%s]'):format(indent, table.concat(parts, separator), indent)
    end
    return '[' .. table.concat(parts, ', ') .. ']'
  end
  for i, key in ipairs(sorted_keys(value, path)) do
    deeper(path, key)
    parts[i] = key_text(key) .. ' = ' .. inline(value[key], path, { pretty = false }, '')
    path[#path] = nil
  end
  return #parts > 0 and '{ ' .. table.concat(parts, ', ') .. ' }' or '{}'
end

-- A list of tables, none of them empty, is written as [[headers]].
local function is_table_list(value)
  if not is_array(value) or #value == 0 then
    return false
  end
  for i = 1, #value do
    if type(value[i]) ~= 'table' or is_array(value[i]) or next(value[i]) == nil then
      return false
    end
  end
  return true
end

local write_table

local function write_section(out, header, value, path, style)
  if #out > 0 then
    out[#out + 1] = ''
  end
  out[#out + 1] = header
  write_table(out, value, path, style)
end

local function header_of(path, names)
  local parts = {}
  for i = 1, #path do
    parts[i] = key_text(names and names[i] or path[i])
  end
  return table.concat(parts, '.')
end

-- Plain values first: they would belong to the last table otherwise.
function write_table(out, value, path, style)
  local later = {}
  for _, key in ipairs(sorted_keys(value, path)) do
    local member = value[key]
    local as_table = type(member) == 'table' and not is_array(member) and not (style.compact and next(member) == nil)
    if as_table or type(member) == 'table' and is_table_list(member) then
      later[#later + 1] = key
    else
      deeper(path, key)
      out[#out + 1] = key_text(key) .. ' = ' .. inline(member, path, style, '')
      path[#path] = nil
    end
  end
  for _, key in ipairs(later) do
    local member = value[key]
    deeper(path, key)
    if is_array(member) then
      for i = 1, #member do
        write_section(out, '[[' .. header_of(path) .. ']]', member[i], path, style)
      end
    else
      write_section(out, '[' .. header_of(path) .. ']', member, path, style)
    end
    path[#path] = nil
  end
end

--- Keys come sorted, whatever the style.
---@param value table
---@param style { pretty?: boolean, compact?: boolean }  pretty: a line for each element of an array; compact: `a = {}` for
---  an empty table
---@return string
function toml.encode(value, style)
  if type(value) ~= 'table' or is_array(value) and next(value) ~= nil then
    error('a table with keys is expected at the top', 0)
  end
  local out = {}
  write_table(out, value, {}, style)
  return #out > 0 and table.concat(out, '\n') .. '\n' or ''
end

return toml
