--- Outcomes that `send` and `send_batch` of a connection may return: one for all messages that they were given, or, from
--- send_batch, a list with one for each. Beyond the contract, where a batch has one outcome: docs/log-hooks.md.
local utf8_valid = require('tr.host').c.utf8_valid

local Outcome = {}
Outcome.__index = Outcome
Outcome.__tostring = function(self)
  return ('%s %d %s'):format(self.kind, self.code, self.text)
end

local outcome = {}

local function make(kind, name, code, low, text, retry_after)
  if type(code) ~= 'number' or code < low or code > low + 99 or code % 1 ~= 0 then
    error(('kumo.%s: code: %d to %d expected, got %s'):format(name, low, low + 99, tostring(code)), 3)
  elseif type(text) ~= 'string' then
    error(('kumo.%s: text: string expected, got %s'):format(name, type(text)), 3)
  elseif not utf8_valid(text) then
    error(('kumo.%s: text: it is not UTF-8'):format(name), 3)
  end
  return setmetatable({ kind = kind, code = code, text = text, retry_after = retry_after }, Outcome)
end

--- The receiver has it.
---@param text string what it said
---@return kumo.Outcome
function outcome.delivered(text)
  return make('delivered', 'delivered', 200, 200, text)
end

--- To be tried again. retry_after, in seconds, is what the receiver asked for: the queue heeds it, with a cap.
---@param code integer 400 to 499
---@param text string
---@param retry_after? number
---@return kumo.Outcome
function outcome.transient(code, text, retry_after)
  if retry_after ~= nil and not (type(retry_after) == 'number' and retry_after >= 0) then
    error('kumo.transient: retry_after: seconds >= 0 expected, got ' .. tostring(retry_after), 2)
  end
  return make('transient', 'transient', code, 400, text, retry_after)
end

--- Refused for good. For a whole batch: its halves are tried by themselves, until the message that is to blame is alone.
---@param code integer 500 to 599
---@param text string
---@return kumo.Outcome
function outcome.permanent(code, text)
  return make('permanent', 'permanent', code, 500, text)
end

--- Whether a value is one of these.
---@return boolean
function outcome.is(value)
  return getmetatable(value) == Outcome
end

return outcome
