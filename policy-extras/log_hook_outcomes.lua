--- What an HTTP answer means for the record that was posted: the one table of it. Each hook may say otherwise for some
--- statuses (`outcomes` of log_hooks:new_json). See docs/log-hooks.md.
local log_hook_outcomes = {}

local KINDS = { delivered = true, transient = true, permanent = true }

-- By status, else by class. Transient is what the endpoint may recover from, be repaired of, or be let in again after.
local DEFAULT = {
  ['1xx'] = 'transient',
  ['2xx'] = 'delivered',
  ['3xx'] = 'transient', -- not followed: an event is not to be sent where an answer points to
  ['4xx'] = 'permanent',
  ['5xx'] = 'transient',
  [401] = 'transient',
  [403] = 'transient',
  [404] = 'transient',
  [408] = 'transient',
  [425] = 'transient',
  [429] = 'transient',
  private = 'transient', -- the name leads to an address that deny_private_addresses refuses: it may be repaired
}

-- Exactly the contract: what is not 2xx ends the record.
local REFERENCE = {
  ['1xx'] = 'permanent',
  ['2xx'] = 'delivered',
  ['3xx'] = 'permanent',
  ['4xx'] = 'permanent',
  ['5xx'] = 'permanent',
  private = 'transient', -- there: an error of the network
}

local PRESETS = { default = DEFAULT, reference = REFERENCE }

--- A table of outcomes from the option: nil, the name of a preset, or what differs from the default. Raises for others.
---@param option nil|string|table<integer|string, string>
---@return table<integer|string, string>
function log_hook_outcomes.read(option)
  if option == nil then
    return DEFAULT
  elseif type(option) == 'string' then
    return PRESETS[option] or error(("field 'outcomes': 'default', 'reference' or a table expected, got %q"):format(option), 0)
  elseif type(option) ~= 'table' then
    error("field 'outcomes': 'default', 'reference' or a table expected, got " .. type(option), 0)
  end
  local out = {}
  for status, kind in pairs(DEFAULT) do
    out[status] = kind
  end
  for status, kind in pairs(option) do
    local known = type(status) == 'number' and status >= 100 and status <= 599 and status % 1 == 0 or DEFAULT[status] ~= nil
    if not known then
      error(("field 'outcomes': a status from 100 to 599 or a class such as '4xx' expected, got %s"):format(
        tostring(status)), 0)
    elseif not KINDS[kind] then
      error(("field 'outcomes': [%s]: 'delivered', 'transient' or 'permanent' expected, got %s"):format(tostring(status),
        tostring(kind)), 0)
    elseif status == 'private' and kind == 'delivered' then
      error("field 'outcomes': [private]: 'transient' or 'permanent' expected, got delivered", 0)
    end
    out[status] = kind
  end
  return out
end

--- The outcome of a status.
---@param outcomes table<integer|string, string> of read()
---@param status integer
---@return 'delivered'|'transient'|'permanent'
function log_hook_outcomes.of(outcomes, status)
  return outcomes[status] or outcomes[('%dxx'):format(math.floor(status / 100))] or 'transient'
end

return log_hook_outcomes
