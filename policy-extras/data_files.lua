--- What helpers that answer from files have in common: reading them, and data that are read again while the last good ones stay.
local kumo = require 'kumo'

local data_files = {}

local CACHE_TTL = '5 minutes'

--- The content of an entry of a list of files; nil, and what is wrong with it.
---@param file any       a path of TOML or JSON, or a table
---@param number integer of the entry, for messages
---@return table? content
---@return string name   of the file, or what is wrong
---@return table? places see kumo.serde.load_with_places
function data_files.read(file, number)
  if type(file) == 'string' then
    local ok, content, places = pcall(kumo.serde.load_with_places, file)
    if not ok then
      return nil, tostring(content)
    end
    return content, file, places
  elseif type(file) == 'table' then
    return file, ('table %d of setup'):format(number), {}
  end
  return nil, ('entry %d of setup: a path or a table is expected, got %s'):format(number, type(file))
end

--- What an error of kumo.make_* says, without what it was called by.
---@param err any
---@param maker string   pattern of the function's name
---@return string
function data_files.reason(err, maker)
  local text = tostring(err):match '^(.-), while processing ' or tostring(err)
  return (text:gsub('^.-kumo%.' .. maker .. ': ', ''))
end

--- What comes from the cache is read-only and no table: a copy that is one.
function data_files.plain(value)
  if type(value) ~= 'table' and type(value) ~= 'userdata' then
    return value
  end
  local copy = {}
  for key, member in pairs(value) do
    copy[key] = data_files.plain(member)
  end
  return copy
end

--- The data of files, for all workers: read again every 5 minutes and with a new epoch. Ones that are wrong by then change
--- nothing, which the log says once.
---@generic T
---@param name string    of the helper
---@param files (string|table)[]
---@param first T        read already
---@param load fun(files: (string|table)[]): T, string[]   the data, and what is wrong
---@return fun(): T current
function data_files.live(name, files, first, load)
  local last_good, told = first, nil
  local cache_key = kumo.serde.json_encode(files) -- the cache is shared by all states of the process
  local get = kumo.memoize(function()
    local fresh, errors = load(files)
    if #errors > 0 then
      error(table.concat(errors, '\n'), 0)
    end
    return fresh
  end, { name = 'tailrace.' .. name, ttl = CACHE_TTL, capacity = 4, invalidate_with_epoch = true })

  return function()
    local ok, data = pcall(get, cache_key)
    if ok then
      last_good, told = data, nil
    elseif told ~= tostring(data) then
      told = tostring(data)
      kumo.log_error(name .. ': the files cannot be used, the last good ones stay: ' .. told)
    end
    return last_good
  end
end

return data_files
