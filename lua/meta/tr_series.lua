---@meta
-- Types of runtime/policy/series_lua.c, for lua/kumo/counter_series.lua. Internal.

---@class tr.series
local series = {}

--- Metatable: tr.series
---@class tr.series.Series
local Series = {}

---@param n number
function Series:add(n) end

---@param n number
function Series:set(n) end

---@param seconds? number
---@return number
function Series:sum(seconds) end

---@param name string
---@param buckets integer  1 to 255
---@param seconds integer  >= 1
---@param initial? number
---@return tr.series.Series
function series.open(name, buckets, seconds, initial) end

return series
