---@meta
-- Types of lua/outcome.lua: what `send` and `send_batch` of a connection may return beside a string.

---@class kumo
local kumo = {}

---@class kumo.Outcome
---@field kind 'delivered'|'transient'|'permanent'
---@field code integer
---@field text string
---@field retry_after? number seconds

--- The receiver has it.
---@param text string what it said
---@return kumo.Outcome
function kumo.delivered(text) end

--- To be tried again. retry_after, in seconds, is what the receiver asked for: the queue heeds it, with a cap.
---@param code integer 400 to 499
---@param text string
---@param retry_after? number
---@return kumo.Outcome
function kumo.transient(code, text, retry_after) end

--- Refused for good. For a whole batch: its halves are tried by themselves, until the message that is to blame is alone.
---@param code integer 500 to 599
---@param text string
---@return kumo.Outcome
function kumo.permanent(code, text) end

return kumo
