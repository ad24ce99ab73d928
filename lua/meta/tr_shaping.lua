---@meta
-- Types of runtime/shaping/throttle_lua.c, for lua/kumo/throttle.lua, and of what that makes for policies.

---@class tr.shaping
---@field methods table of all throttles; lua/kumo/throttle.lua fills it
local shaping = {}

---@param key string      the whole name
---@param spec string     raises for a bad one
---@return kumo.Throttle
function shaping.throttle(key, spec) end

--- Takes a token if there is one. Waits where the throttle is shared; raises if it cannot be asked.
---@async
---@param throttle kumo.Throttle
---@param quantity? integer  tokens, default 1
---@return kumo.ThrottleResult
function shaping.check(throttle, quantity) end

---@param throttle kumo.Throttle
---@return { text: string, quantity: integer, burst: integer, period: integer, has_burst: boolean, is_local: boolean, shared: boolean, key: string } spec period in seconds
function shaping.spec(throttle) end

--- The first millisecond that is not before now + duration, as RFC 3339.
---@param duration kumo.Duration
---@return string
function shaping.moment(duration) end

--- The runtime stops.
---@return boolean
function shaping.closing() end

---@class kumo.Duration
---@field secs integer
---@field nanos integer 0 to 999999999

---@class kumo.ThrottleResult
---@field throttled boolean
---@field limit integer               tokens of a full bucket
---@field remaining integer           tokens left
---@field reset_after kumo.Duration   until the bucket is full
---@field retry_after? kumo.Duration  until there is a token; nil: one was taken

--- Metatable: tr.shaping.throttle
---@class kumo.Throttle
local Throttle = {}

--- Takes a token if there is one.
---@async
---@return kumo.ThrottleResult
function Throttle:throttle() end

--- Takes a token; without one the message becomes due when there will be one.
---@async
---@param msg Message
---@return boolean delayed
function Throttle:delay_message_if_throttled(msg) end

--- Takes a token, waiting for it.
---@async
---@return boolean slept
function Throttle:sleep_if_throttled() end

--- What it allows, for people.
---@return string
function Throttle:explain() end

return shaping
