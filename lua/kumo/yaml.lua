--- YAML of kumo.serde: reading by libyaml, writing here. Scalars are those of YAML 1.2's core schema: `yes` and `no` are
--- texts. Contract lua-modules.md section 3.
local host = require 'tr.host'
local core = require 'tr.yaml'
local c = host.c

local yaml = {}

local TEXT_MAX_BYTES = 64 * 1024 * 1024 -- reading it stalls the worker
local DEPTH_MAX = 128

---@param text string
---@param what string     what the error begins with: the function, the file
---@param level integer   of the caller
---@return any value  null is nil
function yaml.parse(text, what, level)
  if #text > TEXT_MAX_BYTES then
    error(('%s: the text has %d bytes, at most %d are allowed'):format(what, #text, TEXT_MAX_BYTES), level + 1)
  end
  local ok, value = pcall(core.parse, text)
  if not ok then
    error(('%s: invalid YAML: %s'):format(what, value), level + 1)
  end
  return value
end

-- --- writing -----------------------------------------------------------------------------------------------

local ESCAPES = { ['"'] = '\\"', ['\\'] = '\\\\', ['\n'] = '\\n', ['\r'] = '\\r', ['\t'] = '\\t' }

-- Line ends of YAML beyond ASCII, and the byte order mark.
local BREAKS = { ['\194\133'] = '\\N', ['\226\128\168'] = '\\L', ['\226\128\169'] = '\\P', ['\239\187\191'] = '\\uFEFF' }

local function has_break(text)
  return text:find '\194\133' or text:find '\226\128[\168\169]' or text:find '\239\187\191'
end

local function quoted(text)
  text = text:gsub('[%c"\\\127]', function(char)
    return ESCAPES[char] or ('\\x%02X'):format(char:byte())
  end)
  for bytes, escape in pairs(BREAKS) do
    text = text:gsub(bytes, escape)
  end
  return '"' .. text .. '"'
end

-- What readers of YAML 1.1 or 1.2 take for something else than a text.
local WORDS = {}
for word in ('null true false yes no on off y n'):gmatch '%S+' do
  WORDS[word] = true
end

local function is_plain(text)
  return text:find '^[%w_/.]' ~= nil
    and not text:find '[%c\127]'
    and not has_break(text)
    and not text:find '[ :]$'
    and not text:find(': ', 1, true)
    and not text:find(' #', 1, true)
    and not WORDS[text:lower()]
    and not text:find '^%.?[%d]' -- a number, a date, or near enough
    and not text:find '^%.[ni]'
    and not text:find '^%.[NI]'
    and text:sub(1, 3) ~= '...'
    and #text <= 1024 -- a longer one cannot be a key
end

local function string_text(text)
  if is_plain(text) then
    return text
  elseif text:find '[%c\127]' or has_break(text) then
    return quoted(text)
  end
  return "'" .. text:gsub("'", "''") .. "'"
end

local function number_text(value)
  if value ~= value then -- luacheck: ignore
    return '.nan'
  elseif value == math.huge or value == -math.huge then
    return value > 0 and '.inf' or '-.inf'
  elseif value == math.floor(value) and math.abs(value) < 2 ^ 63 then
    return ('%.0f'):format(value == 0 and 0 or value) -- no -0
  end
  for digits = 15, 17 do
    local text = ('%%.%dg'):format(digits):format(value)
    if tonumber(text) == value then
      return text:find '[.e]' and text or text .. '.0'
    end
  end
end

local function scalar(value, path)
  local kind = type(value)
  if kind == 'string' then
    if not c.utf8_valid(value) then
      error(('%s: the text is not valid UTF-8'):format(path), 0)
    end
    return string_text(value)
  elseif kind == 'number' then
    return number_text(value)
  elseif kind == 'boolean' then
    return tostring(value)
  elseif value == nil or value == c.NULL then
    return 'null'
  end
  error(('%s: a %s cannot be written as YAML'):format(path, kind), 0)
end

local function is_array(value)
  return getmetatable(value) == host.array_meta or value[1] ~= nil
end

-- Lines of a text as they stand, under `|`; nil if it has to be quoted.
local function block_text(text, indent)
  local odd = text:find '^[ \n]' or text:find '[%z\1-\9\11-\31\127]' or text:find ' \n' or has_break(text)
  if not text:find '\n.' or odd or not c.utf8_valid(text) then
    return nil
  end
  local body, tail = text:match '^(.-)(\n*)$'
  local mark = tail == '' and '|-' or tail == '\n' and '|' or '|+'
  local out = { mark }
  for line in (body .. '\n'):gmatch '(.-)\n' do
    out[#out + 1] = line == '' and '' or indent .. '  ' .. line
  end
  return table.concat(out, '\n') .. tail:sub(2)
end

local write

-- What stands behind `key:` or `-`, with the blank or newline before it.
local function behind(out, value, indent, depth, path, in_list)
  if type(value) ~= 'table' then
    local block = type(value) == 'string' and block_text(value, indent)
    out[#out + 1] = ' ' .. (block or scalar(value, path)) .. '\n'
  elseif next(value) == nil then
    out[#out + 1] = is_array(value) and ' []\n' or ' {}\n'
  elseif in_list then -- on the line of the dash
    out[#out + 1] = ' '
    write(out, value, indent .. '  ', depth + 1, path, true)
  else
    out[#out + 1] = '\n'
    write(out, value, is_array(value) and indent or indent .. '  ', depth + 1, path)
  end
end

-- A table that holds something. `started`: the first line is indented already.
function write(out, value, indent, depth, path, started)
  if depth > DEPTH_MAX then
    error('a table nested deeper than ' .. DEPTH_MAX .. ' (or in itself)', 0)
  end
  if is_array(value) then
    for i = 1, #value do
      out[#out + 1] = (started and i == 1 and '' or indent) .. '-'
      behind(out, value[i], indent, depth, ('%s[%d]'):format(path, i), true)
    end
    return
  end
  local keys = {}
  for key in pairs(value) do
    if type(key) ~= 'string' and type(key) ~= 'number' and type(key) ~= 'boolean' then
      error(('%s: the key %s is a %s'):format(path, tostring(key), type(key)), 0)
    end
    keys[#keys + 1] = key
  end
  table.sort(keys, function(a, b)
    if type(a) == type(b) and type(a) ~= 'boolean' then
      return a < b
    end
    return tostring(a) < tostring(b)
  end)
  for i, key in ipairs(keys) do
    local name = path .. '.' .. tostring(key)
    local text = scalar(key, name)
    out[#out + 1] = (started and i == 1 and '' or indent) .. (#text > 1000 and '? ' .. text .. '\n' .. indent or text) .. ':'
    behind(out, value[key], indent, depth, name, false)
  end
end

--- Keys come sorted; lists stand under their key without further indent; texts of several lines stand as blocks.
---@param value any
---@return string
function yaml.encode(value)
  if type(value) ~= 'table' then
    return (type(value) == 'string' and block_text(value, '') or scalar(value, 'the value')) .. '\n'
  elseif next(value) == nil then
    return is_array(value) and '[]\n' or '{}\n'
  end
  local out = {}
  write(out, value, '', 1, 'the value')
  return table.concat(out)
end

return yaml
