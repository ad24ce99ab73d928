--- Reads shaping files: TOML or JSON, local or by HTTP, with the line of each value. Contract shaping.md section 2.
local host = require 'tr.host'
local core = require 'tr.toml'
local serde = host.internal('kumo.serde').serde
local c = host.c

local files = {}

local MAX_BYTES = 64 * 1024 * 1024

---@class kumo.shaping.File
---@field name string
---@field data table           empty if the file could not be read
---@field places tr.toml.Places
---@field text string          as read

local function is_remote(path)
  return path:find '^https?://' ~= nil
end
files.is_remote = is_remote

local function read_local(path)
  local file, err = io.open(path, 'rb')
  if not file then
    return nil, err
  end
  local text, read_err = file:read '*a'
  file:close()
  if not text then
    return nil, read_err or 'it cannot be read'
  elseif #text > MAX_BYTES then
    return nil, 'it is larger than 64 MiB'
  end
  return text
end

---@async
local function read_remote(url, options)
  if not package.preload['tr.http'] then
    return nil, 'this program has no HTTP client'
  end
  local client = host.internal('kumo.http').build_client { timeout = options.http_timeout, max_response_bytes = MAX_BYTES }
  local answer, message = client:get(url):try_send()
  client:close()
  if not answer then
    return nil, message
  end
  local status = answer:status_code()
  if status < 200 or status > 299 then
    return nil, ('the answer was %d'):format(status)
  end
  return answer:text()
end

--- The text of a file.
---@async
---@return string? text
---@return string? message
function files.text(path, options)
  if is_remote(path) then
    return read_remote(path, options)
  end
  return read_local(path)
end

-- --- parsing ----------------------------------------------------------------------------------------

local function parse_toml(text)
  local good, value, places, column = core.parse(text, true)
  if good then
    return value, places
  end
  return nil, nil, places, ('%s%s'):format(value, column > 0 and (', column %d'):format(column) or '')
end

-- A key that is there twice: the reader takes the last one, which nobody wants.
local function find_twice(places, out)
  local seen = {}
  for _, key in ipairs(places[-1] or {}) do
    local place = places[key]
    if seen[key] then
      out[#out + 1] = { key = key, line = type(place) == 'table' and place[0] or place }
    end
    seen[key] = true
  end
  for _, place in pairs(places) do
    if type(place) == 'table' and place[0] then
      find_twice(place, out)
    end
  end
end

local function parse_json(text)
  local plain = serde._without_comments(text)
  local good, value = c.json_parse(plain, false)
  if not good then
    local line, column = serde._place(text, value):match 'line (%d+) column (%d+)'
    return nil, nil, tonumber(line), ('invalid JSON, column %s'):format(column)
  elseif type(value) ~= 'table' or getmetatable(value) == host.array_meta then
    return nil, nil, 1, 'an object with sections is expected'
  end
  return value, core.json_places(plain)
end

local HALF = 'is the file written to the end? Write a new file beside it and rename it, so that nobody reads half of one'

-- The remedy for a file that cannot be parsed.
local function remedy(why)
  if why:find 'redefine' then
    return 'each section and each key may stand once in a file: put what belongs together into one'
  elseif why:find 'end%-of%-file' or why:find 'JSON' then
    return HALF
  end
  return 'texts are quoted, and so are names of sections with dots, as in ["example.com"]'
end

--- Reads a file. What is wrong is added to the findings; then the file counts as empty.
---@async
---@param path string
---@param options kumo.shaping.Options  complete
---@param found kumo.shaping.Findings
---@param text? string   of the file, if it has been read already
---@return kumo.shaping.File
function files.read(path, options, found, text)
  local file = { name = path, data = {}, places = { [0] = 1, [-1] = {} }, text = '' }
  local remote = is_remote(path)
  local level = remote and options.remote_load or options.local_load
  local place = { file = path, line = 0 }
  local message

  if remote and options.skip_remote then
    found:warn(place, 'it is not read: skip_remote is set')
    return file
  end
  if not text then
    text, message = files.text(path, options)
  end
  if not text then
    if remote then
      c.log('warn', ('shaping: %s: %s'):format(path, tostring(message)))
    end
    local why = tostring(message)
    if why:sub(1, #path + 2) == path .. ': ' then
      why = why:sub(#path + 3)
    end
    found:at_level(level, place, why, 'make the file readable, or take it out of the list of files')
    return file
  end
  file.text = text
  if text:find '^%s*$' then
    if path:find '%.json$' then
      found:fatal(place, 'the file is empty', HALF)
    else
      found:warn(place, 'the file is empty', HALF)
    end
    return file
  end

  local is_toml, is_json = path:find '%.toml$', path:find '%.json$'
  local value, places, line, why
  if is_json then
    value, places, line, why = parse_json(text)
  else
    value, places, line, why = parse_toml(text)
    if not value and not is_toml then
      value, places = parse_json(text)
    end
  end
  if not value then
    place.line = line or 0
    if is_toml or is_json then
      found:fatal(place, why, remedy(why))
    else
      found:at_level(level, place, why, 'neither TOML nor JSON: ' .. HALF)
    end
    return file
  end
  file.data, file.places = value, places
  if not is_toml then
    local twice = {}
    find_twice(places, twice)
    for _, one in ipairs(twice) do
      found:fatal({ file = path, line = one.line, key = one.key }, 'the key is there twice in one object', 'keep one of them')
    end
  end
  return file
end

return files
