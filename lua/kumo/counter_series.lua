--- kumo.counter_series: counts over a sliding window, process-wide by name, not kept over a restart. Contract
--- lua-modules.md section 2.4.
local host = require 'tr.host'
local core = require 'tr.series'
local options = host.internal 'kumo.options'
local c = host.c

---@class kumo.counter_series
local counter_series = {}

---@class kumo.CounterSeries
local Series = {}
local meta = { __index = Series, __name = 'kumo.CounterSeries' }

local function of(self, name)
  if getmetatable(self) ~= meta then
    error(('counter_series:%s: called without a series: use the colon'):format(name), 3)
  end
  return self._core
end

local function integer(name, value, least)
  if type(value) ~= 'number' or value ~= math.floor(value) or value < least or value > 2 ^ 53 then
    local range = least >= 0 and 'integer >= 0' or 'integer'
    error(('counter_series:%s: %s expected, got %s'):format(name, range, tostring(value)), 3)
  end
  return value
end

--- Adds to the bucket of now.
---@param n integer  >= 0
function Series:increment(n)
  of(self, 'increment'):add(integer('increment', n, 0))
end

--- Adds or takes away; the bucket of now does not fall below 0.
---@param n integer
function Series:delta(n)
  of(self, 'delta'):add(integer('delta', n, -2 ^ 53))
end

--- Sets the bucket of now.
---@param n integer  >= 0
function Series:observe(n)
  of(self, 'observe'):set(integer('observe', n, 0))
end

--- Of all buckets.
---@return integer
function Series:sum()
  return (of(self, 'sum'):sum())
end

--- Of as many whole buckets as cover the last `duration`, the one of now included.
---@param duration number|string  seconds or text
---@return integer
function Series:sum_over(duration)
  local core_series = of(self, 'sum_over')
  local s, ns = c.duration(duration, 'counter_series:sum_over', 'duration')
  return (core_series:sum(s + ns / 1e9))
end

---@class (exact) kumo.CounterSeriesOptions
---@field name string
---@field num_buckets integer        1 to 255
---@field bucket_size number|string  duration; whole seconds, rounded up, at least 1
---@field initial_value? integer     >= 0, of the first bucket of a new series; default 0

local KNOWN = {
  name = { 'string', required = true },
  num_buckets = { 'integer', required = true },
  bucket_size = { 'duration', required = true },
  initial_value = 'integer',
}

--- Finds or makes the series of a name. Another number or size of buckets under the same name begins a new one.
---@param params kumo.CounterSeriesOptions
---@return kumo.CounterSeries
function counter_series.define(params)
  local values = options.check(params, 'kumo.counter_series.define', KNOWN)
  if values.num_buckets < 1 or values.num_buckets > 255 then
    error('kumo.counter_series.define: num_buckets: 1 to 255 expected, got ' .. values.num_buckets, 2)
  end
  local width_s = math.max(1, math.ceil(values.bucket_size))
  return setmetatable({ _core = core.open(values.name, values.num_buckets, width_s, values.initial_value) }, meta)
end

return counter_series
