--- Texts of error values, as they go into log records.
local error_text = {}

local MAX_TEXT = 1024 -- bytes of an error text that go into a record

error_text.INTERNAL = 'KumoMTA internal: ' -- policies match on this prefix: contract log-record.md section 1

--- The text of an error value, which may be an object of the policy whose __tostring raises.
---@return string
function error_text.of(err)
  local ok, text = pcall(tostring, err)
  return ok and text or 'an error object that cannot be shown'
end

--- One line, no control bytes, bounded.
---@return string
function error_text.one_line(err)
  local text = error_text.of(err):sub(1, 2 * MAX_TEXT):gsub('%s+', ' ')
  if #text > MAX_TEXT then
    text = text:sub(1, MAX_TEXT) .. '...'
  end
  return text
end

--- True if it tells of a refused connection: such a peer is down for all sessions, and the gate need not wait for more
--- proof.
---@return boolean
function error_text.is_refused(err)
  return error_text.of(err):sub(1, MAX_TEXT):lower():find('connection refused', 1, true) ~= nil
end

error_text.MAX_TEXT = MAX_TEXT

return error_text
