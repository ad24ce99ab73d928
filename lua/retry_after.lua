--- When a peer says how long to wait, that belongs to the rejection that its answer becomes. Rejections are host objects
--- without fields of their own, so the seconds are kept beside them.
---@class tr.retry_after
local retry_after = {}

local seconds_of = setmetatable({}, { __mode = 'k' })

--- Notes that the peer behind this rejection asked to wait. The ready queue takes it as a floor, with a cap.
---@param rejection any     object raised by kumo.reject
---@param seconds number    >= 0
function retry_after.set(rejection, seconds)
  seconds_of[rejection] = seconds
end

---@param rejection any
---@return number? seconds
function retry_after.get(rejection)
  return seconds_of[rejection]
end

return retry_after
