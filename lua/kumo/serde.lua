-- kumo.serde: JSON and TOML, texts and files. Numbers are doubles: integers are exact up to 2^53.
local host = require 'tr.host'
local c = host.c

local serde = {}

-- Blanks out comments (`//`, `#`, `/* */`), which configuration files may have; positions stay the same.
local function without_comments(text)
  if not text:find '[/#]' then
    return text
  end
  local out, at = {}, 1
  while true do
    local start = text:find('["/#]', at)
    if not start then
      break
    end
    local kind = text:sub(start, start + 1)
    local stop
    if kind:sub(1, 1) == '"' then
      stop = start + 1
      while true do
        local found = text:find('["\\]', stop)
        if not found then
          stop = #text + 1
          break
        end
        stop = found + 1
        if text:sub(found, found) == '"' then
          break
        end
        stop = stop + 1
      end
      out[#out + 1] = text:sub(at, stop - 1)
    elseif kind == '/*' then
      local _, last = text:find('*/', start + 2, true)
      stop = (last or #text) + 1
      out[#out + 1] = text:sub(at, start - 1)
      out[#out + 1] = text:sub(start, stop - 1):gsub('[^\n]', ' ')
    elseif kind == '//' or kind:sub(1, 1) == '#' then
      stop = text:find('\n', start, true) or #text + 1
      out[#out + 1] = text:sub(at, start - 1)
      out[#out + 1] = (' '):rep(stop - start)
    else
      stop = start + 1
      out[#out + 1] = text:sub(at, start)
    end
    at = stop
  end
  out[#out + 1] = text:sub(at)
  return table.concat(out)
end

local function place(text, at)
  local line, last = 1, 0
  for newline in text:sub(1, at - 1):gmatch '()\n' do
    line, last = line + 1, newline
  end
  return ('line %d column %d'):format(line, at - last)
end

local function parse(text, what, level)
  local good, value = c.json_parse(without_comments(text), false)
  if not good then
    error(('%s: invalid JSON at %s'):format(what, place(text, value)), level + 1)
  end
  return value
end

--- Parses JSON with comments. null becomes nil; arrays keep being arrays when they are encoded again.
---@param text string
function serde.json_parse(text)
  if type(text) ~= 'string' then
    error('json_parse: text: string expected, got ' .. type(text), 2)
  end
  return parse(text, 'json_parse', 2)
end

local function read(path, name)
  if type(path) ~= 'string' then
    error(('%s: path: string expected, got %s'):format(name, type(path)), 3)
  end
  local text, err = host.read_file(path)
  if not text then
    error(('%s: %s'):format(name, err), 3)
  end
  return text
end
serde._read = read

---@param path string
function serde.json_load(path)
  return parse(read(path, 'json_load'), 'json_load: ' .. path, 2)
end

-- Userdata with __pairs (memoized tables, configuration objects) as plain tables.
local function plain(value, depth)
  local kind = type(value)
  if kind ~= 'table' and kind ~= 'userdata' or value == c.NULL then
    return value
  end
  local meta = debug.getmetatable(value)
  if kind == 'userdata' and not (meta and meta.__pairs) then
    return value
  end
  if depth > 128 then
    error('a table nested deeper than 128 (or in itself)', 0)
  end
  local copy = {}
  for k, v in pairs(value) do
    copy[k] = plain(v, depth + 1)
  end
  if kind == 'table' and meta == host.array_meta or meta and meta.__is_array and meta.__is_array(value) then
    c.array(copy)
  end
  return copy
end
serde._plain = plain

local function encode(value, pretty, name)
  local text, what = c.json_encode(value, pretty)
  if not text then
    local ok, copy = pcall(plain, value, 1)
    if ok then
      text, what = c.json_encode(copy, pretty)
    else
      what = copy
    end
  end
  if not text then
    error(('%s: cannot encode %s'):format(name, what), 3)
  end
  return text
end

---@return string
---@param value any
function serde.json_encode(value)
  return encode(value, false, 'json_encode')
end

--- Keys sorted, 2 blanks a level.
---@return string
---@param value any
function serde.json_encode_pretty(value)
  return encode(value, true, 'json_encode_pretty')
end

host.array_meta = debug.getmetatable(c.array {})

-- --- TOML ------------------------------------------------------------------------------------------

local has_toml = package.preload['tr.toml'] ~= nil
local toml = has_toml and host.internal 'kumo.toml'

if has_toml then
  --- Parses TOML. Dates and times become text.
  ---@param text string
  ---@return table
  function serde.toml_parse(text)
    if type(text) ~= 'string' then
      error('toml_parse: text: string expected, got ' .. type(text), 2)
    end
    return toml.parse(text, 'toml_parse', 2)
  end

  ---@param path string
  ---@return table
  function serde.toml_load(path)
    return toml.parse(read(path, 'toml_load'), 'toml_load: ' .. path, 2)
  end

  --- Ours: reads TOML or JSON with the line of each value, for errors that name it. `.toml` and `.json` decide; another name
  --- is tried as both. Raises with FILE:LINE.
  ---@param path string
  ---@return table value
  ---@return tr.toml.Places places   by key: the line of a plain value, or the places of a table; [0] is its own line
  function serde.load_with_places(path)
    if type(path) ~= 'string' then
      error('load_with_places: path: string expected, got ' .. type(path), 2)
    end
    local findings = host.internal 'kumo.shaping.findings'
    local found = findings.new()
    local file = host.internal('kumo.shaping.files').read(path, { local_load = 'Error', remote_load = 'Error' }, found)
    local errors = found:texts 'Error'
    if #errors > 0 then
      error(table.concat(errors, '\n'), 2)
    end
    return file.data, file.places
  end

  local STYLES = {
    toml_encode = {},
    toml_encode_pretty = { pretty = true },
    toml_encode_pretty_compact = { pretty = true, compact = true },
  }
  for name, style in pairs(STYLES) do
    serde[name] = function(value)
      local ok, text = pcall(function()
        return toml.encode(plain(value, 1), style)
      end)
      if not ok then
        error(('%s: %s'):format(name, text), 2)
      end
      return text
    end
  end
end

-- --- YAML ------------------------------------------------------------------------------------------

local yaml = package.preload['tr.yaml'] and host.internal 'kumo.yaml'

if yaml then
  --- Parses one document of YAML, with the scalars of YAML 1.2 (`yes` is a text). null becomes nil. Refused: a second
  --- document, a key that is there twice, tags but those of the core schema, more than a million values.
  ---@param text string  UTF-8, at most 64 MiB
  ---@return any value
  function serde.yaml_parse(text)
    if type(text) ~= 'string' then
      error('yaml_parse: text: string expected, got ' .. type(text), 2)
    end
    return (yaml.parse(text, 'yaml_parse', 2))
  end

  --- Parses a file of YAML.
  ---@async
  ---@param path string
  ---@return any value
  function serde.yaml_load(path)
    return (yaml.parse(read(path, 'yaml_load'), 'yaml_load: ' .. path, 2))
  end

  --- Keys sorted. Raises for what YAML cannot hold: functions, cycles, texts that are not UTF-8.
  ---@param value any
  ---@return string
  function serde.yaml_encode(value)
    local ok, text = pcall(function()
      return yaml.encode(plain(value, 1))
    end)
    if not ok then
      error('yaml_encode: ' .. text, 2)
    end
    return text
  end
end

serde._without_comments = without_comments
serde._place = place

local extension = { serde = serde }
for name in
  ([[json_load json_parse json_encode json_encode_pretty toml_load toml_parse toml_encode toml_encode_pretty]]):gmatch '%S+'
do
  extension[name] = serde[name] -- deprecated names
end
return extension
