--- The options of an egress path in shaping files: which there are, what is wrong with a value, what a good one looks like.
--- kumo.make_egress_path is the judge; here its answers become findings.
local host = require 'tr.host'
local c = host.c
local make_egress_path = require('tr.queue').kumo.make_egress_path

local values = {}

--- Options that are merged key by key, and what each of their elements is checked as.
values.ELEMENT = {
  additional_connection_limits = 'connection_limit',
  additional_message_rate_throttles = 'max_message_rate',
  additional_source_selection_rates = 'source_selection_rate',
}
values.ADDITIVE = {}
for name in pairs(values.ELEMENT) do
  values.ADDITIVE[name] = true
end

local NAMES = {} -- list
---@type table<string, boolean>
values.KNOWN = {}
do -- a key that nobody knows is answered with the list of those that are known
  local _, err = pcall(make_egress_path, { [' '] = true })
  for name in tostring(err):gsub(', while processing.*$', ''):gsub('^.-expected one of', ''):gmatch "'([%w_]+)'" do
    values.KNOWN[name] = true
    NAMES[#NAMES + 1] = name
  end
end

--- The name that was most likely meant.
---@param key string
---@param more table<string, boolean>  names beside the path options
---@param only? boolean                no path options
function values.nearest(key, more, only)
  local names = {}
  for name in pairs(more) do
    names[#names + 1] = name
  end
  table.sort(names)
  for _, name in ipairs(only and {} or NAMES) do
    names[#names + 1] = name
  end
  return c.nearest(key, names)
end

--- A value as it would be written.
---@return string
function values.show(value)
  if type(value) == 'string' then
    return '"' .. value .. '"'
  elseif type(value) == 'table' then
    return value[1] ~= nil and 'a list' or 'a table'
  end
  return tostring(value)
end

local MAX_GOOD = 10000
local good, good_count = {}, 0 -- key -> value -> true: what was right before; files say the same again and again

-- Options that are judged together are always asked about.
local function is_known_good(key, value)
  return good[key] ~= nil and good[key][value] ~= nil and not key:find '^gate_'
end

local function remember(plain)
  for key, value in pairs(plain) do
    if type(value) ~= 'table' and not is_known_good(key, value) then
      if good_count >= MAX_GOOD then
        good, good_count = {}, 0
      end
      good[key] = good[key] or {}
      good[key][value] = true
      good_count = good_count + 1
    end
  end
end

---@param plain table<string, any>
---@return boolean ok
---@return string? message
function values.check(plain)
  local known = true
  for key, value in pairs(plain) do
    if not is_known_good(key, value) then
      known = false
      break
    end
  end
  if known then
    return true
  end
  local ok, err = pcall(make_egress_path, plain)
  if ok then
    remember(plain)
    return true
  end
  local text = tostring(err):gsub(', while processing .*$', ''):gsub('^.-kumo%.make_egress_path: ', '')
  return false, text
end

--- Why the option cannot have the value; nil: it can.
---@return string? why
function values.why_not(key, value)
  local ok, text = values.check { [key] = value }
  if ok then
    return nil
  end
  -- the key is named by the finding itself
  text = text:gsub("^field '" .. key .. "': ", ''):gsub('^' .. key .. ' = ', ''):gsub('^' .. key .. ':? ', '')
  text = text:gsub(', got %a+$', '')
  local plain = tostring(value)
  local said = text:find("'" .. plain .. "'", 1, true) or type(value) == 'number' and text:find(plain, 1, true)
  if type(value) ~= 'table' and not said then
    text = text .. ', got ' .. values.show(value)
  end
  return text
end

-- --- remedies ---------------------------------------------------------------------------------------

local REMEDY = {
  duration = 'write seconds or a text with units, as in 30, "30s" or "1m 30s"',
  rate = 'write a number and a period, as in "100/s", "20/30min" or "local:1000/s,max_burst=50"',
  limit = 'leave the line out to have the limit of a weaker section',
  integer = 'write a whole number',
  map = 'write names and values, as in { "shared" = "100/s" }',
}

local KIND = {
  connection_limit = 'limit',
  max_ready = 'integer',
  max_deliveries_per_connection = 'integer',
  max_recipients_per_batch = 'integer',
  consecutive_connection_failures_before_delay = 'integer',
  smtp_port = 'integer',
  remember_broken_tls = 'duration',
}

local function kind_of(key)
  if values.ADDITIVE[key] then
    return 'map'
  elseif KIND[key] then
    return KIND[key]
  elseif key:find '_timeout$' or key:find '_interval$' then
    return 'duration'
  elseif key:find '_rate$' then
    return 'rate'
  end
end

--- What a good value looks like; nil: the message says it.
---@return string? remedy
function values.remedy(key)
  return REMEDY[kind_of(key)]
end

-- --- numbers that nobody means ----------------------------------------------------------------------------

local MAX_DURATION_S = 31 * 86400 -- remember_broken_tls is days; a timeout is minutes
local MAX_PER_S = 1e6
local MAX_COUNT = { limit = 1e5, integer = 1e7 }
local UNITS = { s = 1, m = 60, h = 3600, d = 86400 } -- by the first letter of what a rate may say
local UNIT_NAMES = {}
for name in ('s sec second m min minute h hr hour d day'):gmatch '%a+' do
  UNIT_NAMES[name] = UNITS[name:sub(1, 1)]
end

--- Number and period of `[local:]N/[n]UNIT`; nil: it is not like that.
---@return number? count
---@return number? seconds
function values.rate(text)
  local quantity, n, unit = text:gsub('^local:', ''):match '^([%d_,]+)/(%d*)(%a+)'
  local count = quantity and tonumber((quantity:gsub('[_,]', '')))
  if not count or not UNIT_NAMES[unit] then
    return nil
  end
  return count, (tonumber(n) or 1) * UNIT_NAMES[unit]
end

--- Why a value that is allowed is most likely a mistake; nil: it is not.
---@return string? doubt
function values.doubt(key, value)
  local kind = kind_of(key)
  if kind == 'duration' then
    local ok, seconds = pcall(c.duration, value, 'shaping', key)
    if ok and seconds > MAX_DURATION_S then
      return ('%s is more than a month'):format(values.show(value))
    end
  elseif kind == 'rate' and type(value) == 'string' then
    local quantity, seconds = values.rate(value)
    if quantity and seconds > 0 and quantity / seconds > MAX_PER_S then
      return ('%s is more than %d a second: it limits nothing'):format(values.show(value), MAX_PER_S)
    end
  elseif MAX_COUNT[kind] then
    local count = type(value) == 'string' and tonumber((value:gsub('^local:', ''):gsub('[_,]', ''))) or value
    if type(count) == 'number' and count > MAX_COUNT[kind] then
      return ('%s is more than %d: it limits nothing'):format(values.show(value), MAX_COUNT[kind])
    end
  end
end

return values
