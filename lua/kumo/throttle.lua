--- kumo.make_throttle: rate limits for policies. Contract egress-path.md section 5.
local core = require 'tr.shaping'
local c = require('tr.host').c

local PREFIX = 'lua-user-throttle-' -- what the reference calls them in Redis
local LONGEST_SLEEP_S = 1 -- a sleeper sees at least that often that the runtime stops

---@class kumo.Throttle
local methods = core.methods

--- Takes a token if there is one. Waits for the answer where the throttle is shared with other nodes; raises if they
--- cannot be asked.
---@async
---@return kumo.ThrottleResult
function methods.throttle(throttle)
  return core.check(throttle)
end

--- Takes a token; without one the message becomes due when there will be one.
---@async
---@param msg Message
---@return boolean delayed
function methods.delay_message_if_throttled(throttle, msg)
  local retry_after = core.check(throttle).retry_after
  if not retry_after then
    return false
  end
  msg:set_due(core.moment(retry_after))
  return true
end

local function take(throttle, quantity)
  local slept = false
  while true do
    local retry_after = core.check(throttle, quantity).retry_after
    if not retry_after then
      return slept
    end
    slept = true
    local left = retry_after.secs + retry_after.nanos / 1e9
    while left > 0 do
      if core.closing() then
        error(('%s: the runtime is stopping'):format(tostring(throttle)), 3)
      end
      local step = math.min(left, LONGEST_SLEEP_S)
      c.sleep(step)
      left = left - step
    end
  end
end

--- Takes a token, waiting for it. Raises while the runtime stops.
---@async
---@return boolean slept
function methods.sleep_if_throttled(throttle)
  return (take(throttle, 1))
end

--- A number with at most three digits after the point, and `,` between thousands.
local function human(number)
  local text = ('%.3f'):format(number):gsub('%.?0+$', '')
  if number >= 100 then
    text = ('%.0f'):format(number)
  end
  local sign, digits, rest = text:match '^(%-?)(%d+)(.*)$'
  digits = digits:reverse():gsub('(%d%d%d)', '%1,'):reverse():gsub('^,', '')
  return sign .. digits .. rest
end

local UNITS = { { 's', 1 }, { 'm', 60 }, { 'h', 3600 }, { 'd', 86400 } }

--- "0.028/s, 2/m, 100/h, 2,400/d"
local function rates(per_second)
  local list = {}
  for i, unit in ipairs(UNITS) do
    list[i] = human(per_second * unit[2]) .. '/' .. unit[1]
  end
  return table.concat(list, ', ')
end

local function interval(seconds)
  if seconds >= 1 then
    return human(seconds) .. 's'
  elseif seconds >= 1e-3 then
    return human(seconds * 1e3) .. 'ms'
  end
  return human(seconds * 1e6) .. 'us'
end

--- What the throttle allows, for people.
---@return string
function methods.explain(throttle)
  local spec = core.spec(throttle)
  local per_second = spec.quantity / spec.period
  return table.concat({
    spec.text .. (spec.is_local and ' (this node alone)' or spec.shared and ' (shared through Redis)' or ''),
    ('%s burst of %s at once, then one every %s'):format(
      spec.has_burst and 'explicit' or 'implied',
      human(spec.burst),
      interval(spec.period / spec.quantity)
    ),
    'overall rate ' .. rates(per_second),
  }, '\n')
end

---@class kumo
local kumo = {}

--- A rate limit of this process by its name, or of all nodes where kumo.configure_redis_throttles was called: objects of
--- one name and spec share their tokens.
---@param name string
---@param spec string "[local:]100/min[,max_burst=10]"
---@return kumo.Throttle
function kumo.make_throttle(name, spec)
  if type(name) ~= 'string' then
    error('kumo.make_throttle: name: string expected, got ' .. type(name), 2)
  elseif type(spec) ~= 'string' then
    error(('kumo.make_throttle: spec: a text such as "100/min" is expected, got %s'):format(type(spec)), 2)
  end
  local ok, throttle = pcall(core.throttle, PREFIX .. name, spec)
  if not ok then
    error('kumo.make_throttle: ' .. throttle, 2)
  end
  return throttle
end

-- --- of injection by HTTP, for all workers ------------------------------------------------------------------------

local LIMIT = 'httpinject_recipient_rate_limit' -- the name on the board; '' there: none
local seen_version, limit

--- Limits how many recipients injection by HTTP takes, of all clients together: a request waits until there is room for all
--- of its recipients.
---@param spec string?  "[local:]1000/s[,max_burst=5000]"; nil: no limit
function kumo.set_httpinject_recipient_rate_limit(spec)
  if spec ~= nil then
    local ok, err = pcall(core.throttle, LIMIT, type(spec) == 'string' and spec or tostring(spec))
    if not ok then
      error('kumo.set_httpinject_recipient_rate_limit: ' .. tostring(err), 2)
    end
  end
  repeat
    local _, version = c.board_get(LIMIT)
  until c.board_swap(LIMIT, version, spec or '')
end

--- For lua/inject.lua: waits until so many recipients may be taken. Raises while the runtime stops.
---@async
---@param count integer
require('tr.host').take_recipients = function(count)
  local version = c.board_version()
  if version ~= seen_version then
    local spec = c.board_get(LIMIT)
    seen_version = version
    limit = spec and spec ~= '' and core.throttle(LIMIT, spec) or nil
  end
  if limit and count > 0 then
    take(limit, count)
  end
end

return kumo
