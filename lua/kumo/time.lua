-- kumo.time: moments, spans, timers. All of it reads the runtime's clock.
local host = require 'tr.host'
local c = host.c

local time = {}

local NS = 1000000000
local MAX_S = 9.2e9 -- what 64 bits of nanoseconds hold

--- A span of time. Two can be added and subtracted; `tostring` gives its human form.
---@class kumo.TimeDelta
---@field seconds number
---@field milliseconds number
---@field microseconds number
---@field nanoseconds number
---@field human string          such as "1m 30s"; raises for a negative one
local delta_meta = { __name = 'kumo.TimeDelta' }

--- A moment, in UTC. A TimeDelta can be added and subtracted, another Time subtracted.
---@class kumo.Time
---@field year integer
---@field month integer   1 to 12
---@field day integer
---@field hour integer
---@field minute integer
---@field second integer
---@field unix_timestamp integer         seconds
---@field unix_timestamp_millis integer  milliseconds
---@field rfc3339 string
---@field rfc2822 string
---@field elapsed kumo.TimeDelta         since this moment
---@field format fun(self: kumo.Time, spec: string): string  by the forms of strftime, with %f, %.3f, %:z and %s
local time_meta = { __name = 'kumo.Time' }

-- Both are { _s = whole seconds, _ns = 0..999999999 }.
local function make(meta, s, ns)
  s, ns = s + math.floor(ns / NS), ns % NS
  if not (s > -MAX_S and s < MAX_S) then
    error('time would overflow', 3)
  end
  return setmetatable({ _s = s, _ns = ns }, meta)
end

local function is_delta(value)
  return type(value) == 'table' and getmetatable(value) == delta_meta
end
local function is_time(value)
  return type(value) == 'table' and getmetatable(value) == time_meta
end

local function human(delta)
  local s, ns = rawget(delta, '_s'), rawget(delta, '_ns')
  if s < 0 then
    error('a negative span has no human form', 3)
  end
  return c.human(s, ns)
end

local DELTA_FIELDS = {
  seconds = function(s, ns)
    return s + ns / NS
  end,
  milliseconds = function(s, ns)
    return s * 1000 + math.floor(ns / 1000000)
  end,
  microseconds = function(s, ns)
    return s * 1000000 + math.floor(ns / 1000)
  end,
  nanoseconds = function(s, ns)
    return s * NS + ns
  end,
}
function delta_meta:__index(field)
  if field == 'human' then
    return human(self)
  end
  local fn = DELTA_FIELDS[field]
  return fn and fn(rawget(self, '_s'), rawget(self, '_ns')) or nil
end
function delta_meta:__tostring()
  return human(self)
end
function delta_meta.__eq(a, b)
  return a._s == b._s and a._ns == b._ns
end
function delta_meta.__add(a, b)
  if is_delta(a) and is_delta(b) then
    return make(delta_meta, a._s + b._s, a._ns + b._ns)
  elseif is_time(b) then
    return make(time_meta, a._s + b._s, a._ns + b._ns)
  end
  error('a TimeDelta can be added to a TimeDelta or a Time', 2)
end
function delta_meta.__sub(a, b)
  if not (is_delta(a) and is_delta(b)) then
    error('a TimeDelta can be taken from a TimeDelta or a Time', 2)
  end
  return make(delta_meta, a._s - b._s, a._ns - b._ns)
end
function delta_meta.__freeze(self)
  return 'timedelta', { self._s, self._ns }
end
function host.thaw.timedelta(data)
  return make(delta_meta, data[1], data[2])
end

local TIME_FIELDS = {
  year = '!%Y',
  month = '!%m',
  day = '!%d',
  hour = '!%H',
  minute = '!%M',
  second = '!%S',
}

-- strftime in UTC, with the few forms beyond C's that policies use: %f, %.f, %3f, %6f, %9f, %.3f ..., %:z, %s.
local function format(self, spec)
  local s, ns = rawget(self, '_s'), rawget(self, '_ns')
  local fraction = ('%09d'):format(ns)
  local out, at = {}, 1
  while at <= #spec do
    local first = spec:find('%', at, true)
    if not first then
      out[#out + 1] = spec:sub(at)
      break
    end
    out[#out + 1] = spec:sub(at, first - 1)
    local dot, digits = spec:match('^(%.?)([369]?)f', first + 1)
    if dot then
      at = first + 2 + #dot + #digits
      if digits ~= '' then
        out[#out + 1] = dot .. fraction:sub(1, tonumber(digits))
      elseif dot == '' then
        out[#out + 1] = fraction
      elseif ns > 0 then
        out[#out + 1] = '.' .. (ns % 1000000 == 0 and fraction:sub(1, 3) or ns % 1000 == 0 and fraction:sub(1, 6) or fraction)
      end
    elseif spec:sub(first + 1, first + 2) == ':z' then
      out[#out + 1], at = '+00:00', first + 3
    else
      local op = spec:sub(first + 1, first + 1)
      at = first + 2
      if op == 'z' then
        out[#out + 1] = '+0000'
      elseif op == 'Z' then
        out[#out + 1] = 'UTC'
      elseif op == 's' then
        out[#out + 1] = ('%.0f'):format(s)
      elseif op == '' then
        error("format: the text ends with '%'", 3)
      else
        out[#out + 1] = os.date('!%' .. op, s)
      end
    end
  end
  return table.concat(out)
end

local function format_method(self, spec)
  if not is_time(self) or type(spec) ~= 'string' then
    error('time:format: text with % forms expected', 2)
  end
  return format(self, spec)
end

function time_meta:__index(field)
  local s, ns = rawget(self, '_s'), rawget(self, '_ns')
  local spec = TIME_FIELDS[field]
  if spec then
    return tonumber(os.date(spec, s), 10)
  elseif field == 'unix_timestamp' then
    return s
  elseif field == 'unix_timestamp_millis' then
    return s * 1000 + math.floor(ns / 1000000)
  elseif field == 'rfc3339' then
    return c.rfc3339(s, ns)
  elseif field == 'rfc2822' then
    return c.rfc2822(s, ns)
  elseif field == 'elapsed' then
    return time.now() - self
  elseif field == 'format' then
    return format_method
  end
  return nil
end
function time_meta:__tostring()
  return format(self, '%Y-%m-%d %H:%M:%S%.f UTC')
end
time_meta.__eq = delta_meta.__eq
function time_meta.__sub(a, b)
  if is_time(a) and is_time(b) then
    return make(delta_meta, a._s - b._s, a._ns - b._ns)
  elseif is_time(a) and is_delta(b) then
    return make(time_meta, a._s - b._s, a._ns - b._ns)
  end
  error('a Time or a TimeDelta can be taken from a Time', 2)
end
function time_meta.__add(a, b)
  if is_time(a) and is_delta(b) or is_delta(a) and is_time(b) then
    return make(time_meta, a._s + b._s, a._ns + b._ns)
  end
  error('a TimeDelta can be added to a Time', 2)
end
function time_meta.__freeze(self)
  return 'time', { self._s, self._ns }
end
function host.thaw.time(data)
  return make(time_meta, data[1], data[2])
end

local function split(number)
  local s = math.floor(number)
  return s, math.floor((number - s) * NS + 0.5)
end

--- A moment from whole seconds and nanoseconds, for modules of the runtime.
function time._make(s, ns)
  return make(time_meta, s, ns)
end

--- The moment by the runtime's clock.
---@return kumo.Time
function time.now()
  local s, ns = c.now()
  return make(time_meta, s, ns)
end

--- The moment so many seconds after 1970-01-01, fractions included.
---@param seconds number
---@return kumo.Time
function time.from_unix_timestamp(seconds)
  if type(seconds) ~= 'number' then
    error('from_unix_timestamp: number expected, got ' .. type(seconds), 2)
  end
  local s, ns = split(seconds)
  return make(time_meta, s, ns)
end

local MONTH_DAYS = { 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31 }

local function from_civil(y, mo, d, h, mi, s)
  for _, value in ipairs { y, mo, d, h, mi, s } do
    if type(value) ~= 'number' or value ~= math.floor(value) then
      return nil
    end
  end
  local leap = y % 4 == 0 and (y % 100 ~= 0 or y % 400 == 0)
  local days = mo == 2 and leap and 29 or MONTH_DAYS[mo]
  if not days or d < 1 or d > days or h < 0 or h > 23 or mi < 0 or mi > 59 or s < 0 or s > 59 or y < 1700 or y > 2250 then
    return nil
  end
  -- days since 1970-01-01 of a calendar whose years begin in March
  local year = mo <= 2 and y - 1 or y
  local era = math.floor(year / 400)
  local yoe = year - era * 400
  local doy = math.floor((153 * (mo + (mo > 2 and -3 or 9)) + 2) / 5) + d - 1
  local doe = yoe * 365 + math.floor(yoe / 4) - math.floor(yoe / 100) + doy
  return (era * 146097 + doe - 719468) * 86400 + h * 3600 + mi * 60 + s
end

--- A moment in UTC. Raises for what is no date and time.
---@param y integer   1700 to 2250
---@param mo integer  1 to 12
---@param d integer
---@param h integer
---@param mi integer
---@param s integer
---@return kumo.Time
function time.with_ymd_hms(y, mo, d, h, mi, s)
  local seconds = from_civil(y, mo, d, h, mi, s)
  if not seconds then
    error('with_ymd_hms: not a valid date and time', 2)
  end
  return make(time_meta, seconds, 0)
end

--- Reads "2026-11-25T18:00:00Z". Raises for anything else.
---@param text string
---@return kumo.Time
function time.parse_rfc3339(text)
  local s, ns
  if type(text) == 'string' then
    s, ns = c.rfc3339_parse(text)
  end
  if not s then
    error(('parse_rfc3339: %q is not a date and time such as 2026-11-25T18:00:00Z'):format(tostring(text)), 2)
  end
  return make(time_meta, s, ns)
end

local MONTHS = { jan = 1, feb = 2, mar = 3, apr = 4, may = 5, jun = 6, jul = 7, aug = 8, sep = 9, oct = 10, nov = 11, dec = 12 }
local ZONES = { UT = 0, GMT = 0, UTC = 0, Z = 0, EST = -5, EDT = -4, CST = -6, CDT = -5, MST = -7, MDT = -6, PST = -8, PDT = -7 }

--- Reads the date of a mail header: RFC 5322 section 3.3, with the named zones of 4.3. Raises for anything else.
---@param text string
---@return kumo.Time
function time.parse_rfc2822(text)
  local seconds
  local rest = type(text) == 'string' and (text:gsub('%b()', ''):gsub('^%s*%a+,%s*', '')) or ''
  local d, month, y, h, mi, tail = rest:match '^%s*(%d%d?)%s+(%a%a%a)%s+(%d%d%d?%d?)%s+(%d%d):(%d%d)(.*)$'
  if d then
    local s, zone = tail:match '^:(%d%d)%s+(%S+)%s*$'
    zone = zone or tail:match '^%s+(%S+)%s*$'
    local sign, zh, zm = (zone or ''):match '^([+-])(%d%d)(%d%d)$'
    local offset = sign and (sign .. '1') * (zh * 3600 + zm * 60) or zone and ZONES[zone] and ZONES[zone] * 3600
    local year = tonumber(y) + (#y == 4 and 0 or (#y == 3 or tonumber(y) >= 50) and 1900 or 2000)
    local civil = from_civil(year, MONTHS[month:lower()], tonumber(d), tonumber(h), tonumber(mi), tonumber(s or 0))
    seconds = civil and offset and civil - offset
  end
  if not seconds then
    error(('parse_rfc2822: %q is not a date such as Wed, 25 Nov 2026 18:00:00 +0000'):format(tostring(text)), 2)
  end
  return make(time_meta, seconds, 0)
end

--- Seconds, or a text such as "1m 30s". Raises for anything else.
---@param value number|string|kumo.TimeDelta
---@return kumo.TimeDelta
function time.parse_duration(value)
  if is_delta(value) then
    return value
  end
  local s, ns = c.duration(value, 'parse_duration', 'value')
  return make(delta_meta, s, ns)
end

--- Suspends the calling task, as kumo.sleep.
---@async
---@param seconds number  >= 0
function time.sleep(seconds)
  if type(seconds) ~= 'number' or not (seconds >= 0) then -- luacheck: ignore (NaN)
    error('time.sleep: seconds >= 0 expected, got ' .. tostring(seconds), 2)
  end
  return c.sleep(seconds)
end

--- Measures how long something takes; goes to the histogram user_lua_latency.
---@class kumo.Timer
local timer = { __name = 'kumo.Timer' }
timer.__index = timer

--- Ends the timer.
---@return number? seconds  since the start; nil if it was ended before
function timer:done()
  if self._ended then
    return nil
  end
  self._ended = true
  local elapsed_s = c.mono() - self._started
  c.observe_latency(self._label, elapsed_s)
  return elapsed_s
end
timer.__close = timer.done

--- The end of the timer is observed in the histogram user_lua_latency{label}.
---@param label string
---@return kumo.Timer
function time.start_timer(label)
  if type(label) ~= 'string' then
    error('start_timer: label: string expected, got ' .. type(label), 2)
  end
  return setmetatable({ _label = label, _started = c.mono() }, timer)
end

return { time = time }
