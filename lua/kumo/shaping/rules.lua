--- Automation rules of shaping files: what to do when a peer answers something. Contract shaping.md section 7. Here they are
--- read and matched; lua/kumo/shaping/automation.lua acts.
local host = require 'tr.host'
local regex = host.internal 'kumo.regex'
local values = host.internal 'kumo.shaping.values'
local c = host.c

local rules = {}

---@class kumo.shaping.Action
---@field kind string     "Suspend", "SetConfig" ...
---@field name? string    SetConfig, SetDomainConfig: the path option
---@field value? any

---@class kumo.shaping.Rule
---@field regex string[]
---@field action kumo.shaping.Action[]
---@field trigger 'Immediate'|{ count: integer, window_s: number }
---@field duration_s number
---@field match_internal boolean
---@field rollup boolean    from `default` or a section that is kept by MX site
---@field file string
---@field line integer
---@field hash string       of what the rule says, 16 hex digits: the same in every process

local FIELDS = { regex = true, action = true, trigger = true, duration = true, match_internal = true }
local ACTIONS = {
  Suspend = true,
  SuspendTenant = true,
  SuspendCampaign = true,
  Bounce = true,
  BounceTenant = true,
  BounceCampaign = true,
}
local SETTERS = { SetConfig = true, SetDomainConfig = true }
local ACTION_REMEDY = 'write "Suspend", "SuspendTenant", "SuspendCampaign", "Bounce", "BounceTenant", "BounceCampaign", '
  .. '{SetConfig = {name = "...", value = ...}} or {SetDomainConfig = {...}}'
local TRIGGER_REMEDY = 'write "Immediate" or {Threshold = "10/hr"}'
local MAX_COUNT = 10000 -- events that are remembered for one rule and queue
local INTERNAL = 'KumoMTA internal: '

local function line_of(place)
  return type(place) == 'table' and place[0] or place or 0
end

local reader = {} -- reads one rule: { found, origin, places, line }
reader.__index = reader

function reader:fatal(key, message, remedy)
  local line = self.places[key] and line_of(self.places[key]) or self.line
  self.good = false
  self.found:fatal({
    file = self.origin.file,
    line = line,
    section = self.origin.title,
    key = key and 'automation.' .. key or 'automation',
  }, message, remedy)
end

function reader:patterns(value)
  local list, compiled = value, {}
  if type(value) ~= 'table' then
    list = { value }
  end
  if list[1] == nil then
    self:fatal('regex', 'a pattern is expected, got ' .. values.show(value), 'write regex = "..." or a list of patterns')
    return {}, {}
  end
  for i, pattern in ipairs(list) do
    if type(pattern) ~= 'string' then
      self:fatal('regex', 'a pattern is expected, got ' .. values.show(pattern), 'write regex = "..." or a list of patterns')
    else
      local ok, made = pcall(regex.compile, pattern)
      if ok then
        compiled[#compiled + 1] = made
      else
        local why = tostring(made):gsub('^.-regex%.compile: ', '')
        self:fatal(
          'regex',
          (#list > 1 and ('pattern %d does not compile: '):format(i) or 'it does not compile: ') .. why,
          "in TOML, '...' keeps backslashes as they are, \"...\" needs two"
        )
      end
    end
  end
  return list, compiled
end

function reader:setter(kind, value)
  if type(value) ~= 'table' or type(value.name) ~= 'string' or value.value == nil then
    self:fatal('action', kind .. ' needs name and value', '{' .. kind .. ' = {name = "max_message_rate", value = "1/min"}}')
    return nil
  end
  if not values.KNOWN[value.name] or values.ADDITIVE[value.name] then
    local near = values.nearest(value.name, {})
    self:fatal(
      'action',
      ("%s: there is no option '%s'"):format(kind, value.name),
      near and ("did you mean '%s'?"):format(near) or 'the options are those of kumo.make_egress_path'
    )
    return nil
  end
  local why = values.why_not(value.name, value.value)
  if why then
    self:fatal('action', ('%s: %s: %s'):format(kind, value.name, why), values.remedy(value.name))
    return nil
  end
  return { kind = kind, name = value.name, value = value.value }
end

function reader:actions(value)
  local list, out = value, {}
  if type(value) ~= 'table' or value[1] == nil then
    list = { value }
  end
  for _, action in ipairs(list) do
    local kind = type(action) == 'table' and next(action) or action
    if type(action) == 'string' and ACTIONS[action] then
      out[#out + 1] = { kind = action }
    elseif type(action) == 'table' and SETTERS[kind] and next(action, kind) == nil then
      out[#out + 1] = self:setter(kind, action[kind])
    else
      local names = {}
      for name in pairs(ACTIONS) do
        names[name] = true
      end
      names.SetConfig, names.SetDomainConfig = true, true
      local near = type(kind) == 'string' and values.nearest(kind, names, true)
      local shown = type(kind) == 'string' and values.show(kind) or values.show(action)
      self:fatal('action', 'there is no action ' .. shown, near and ("did you mean '%s'?"):format(near) or ACTION_REMEDY)
    end
  end
  if #list == 0 then
    self:fatal('action', 'an action is expected', ACTION_REMEDY)
  end
  return out
end

function reader:trigger(value)
  if value == nil or value == 'Immediate' then
    return 'Immediate'
  end
  local text = type(value) == 'table' and value.Threshold
  if type(text) ~= 'string' or next(value, 'Threshold') ~= nil and next(value) ~= 'Threshold' then
    self:fatal('trigger', 'a trigger is expected, got ' .. values.show(value), TRIGGER_REMEDY)
    return nil
  end
  local count, window_s = values.rate(text)
  if not count or count < 1 or window_s < 1 then
    self:fatal('trigger', ('Threshold = "%s" is no number and period'):format(text), TRIGGER_REMEDY)
    return nil
  elseif count > MAX_COUNT then
    self:fatal('trigger', ('Threshold: at most %d events can be counted'):format(MAX_COUNT), 'take a shorter period')
    return nil
  end
  return { count = count, window_s = window_s }
end

function reader:duration(value)
  if value == nil then
    self:fatal('duration', 'it is missing: how long the action is to last', 'write e.g. duration = "1 hour"')
    return nil
  end
  local ok, seconds, ns = pcall(c.duration, value, 'automation', 'duration')
  if not ok then
    local remedy = 'write seconds or a text with units, as in "1 hour"'
    self:fatal('duration', 'a duration is expected, got ' .. values.show(value), remedy)
    return nil
  end
  seconds = seconds + ns / 1e9
  if seconds <= 0 then
    self:fatal('duration', 'it must be longer than nothing', 'write e.g. duration = "1 hour"')
  end
  return seconds
end

function reader:unknown(value)
  for key in pairs(value) do
    if not FIELDS[key] then
      local near = values.nearest(tostring(key), FIELDS, true)
      self.found:warn({
        file = self.origin.file,
        line = line_of(self.places[key]),
        section = self.origin.title,
        key = 'automation.' .. tostring(key),
      }, 'a rule has no such key: it is ignored', near and ("did you mean '%s'?"):format(near) or nil)
    end
  end
end

-- What a rule says, as text that does not depend on where it stands.
local function digest_of(rule)
  local text = host.internal('kumo.serde').serde.json_encode_pretty {
    rule.regex, rule.action, rule.trigger, rule.duration_s, rule.match_internal,
  }
  return host.internal('kumo.digest').sha256(text).hex:sub(1, 16)
end

--- Reads the rules of a section into `out`.
---@param found kumo.shaping.Findings
---@param origin kumo.shaping.Origin
---@param list any              as in the file
---@param places any
---@param out kumo.shaping.Rule[]
function rules.read(found, origin, list, places, out)
  if type(list) ~= 'table' or (next(list) ~= nil and list[1] == nil) then
    found:fatal(
      { file = origin.file, line = line_of(places), section = origin.title, key = 'automation' },
      'a list of rules is expected, got ' .. values.show(list),
      ('write [[%s.automation]] above each rule'):format(origin.title:sub(2, -2))
    )
    return
  end
  for i, value in ipairs(list) do
    local one = { found = found, origin = origin, places = {}, line = line_of(places[i]), good = true }
    setmetatable(one, reader)
    if type(value) ~= 'table' then
      one:fatal(nil, 'a rule is a table, got ' .. values.show(value))
    else
      one.places = places[i]
      local rule = { file = origin.file, line = one.line, section = origin.title }
      rule.regex, rule.compiled = one:patterns(value.regex)
      rule.action = one:actions(value.action)
      rule.trigger = one:trigger(value.trigger)
      rule.duration_s = one:duration(value.duration)
      rule.match_internal = value.match_internal or false
      if type(rule.match_internal) ~= 'boolean' then
        one:fatal('match_internal', 'true or false is expected', 'write true or false')
      end
      one:unknown(value)
      if one.good then
        rule.hash = digest_of(rule)
        out[#out + 1] = rule
      end
    end
  end
end

-- --- matching ------------------------------------------------------------------------------------------------

--- The response of a record in one line: `code [x.y.z ]text`.
---@param record table
---@return string
function rules.response_line(record)
  local response = record.response
  if type(response) ~= 'table' then
    return ''
  end
  local enhanced = response.enhanced_code
  local prefix = ''
  if type(enhanced) == 'table' and enhanced.class then
    prefix = ('%d.%d.%d '):format(enhanced.class, enhanced.subject, enhanced.detail)
  end
  return ('%s %s%s'):format(tostring(response.code), prefix, (tostring(response.content or ''):gsub('[\r\n]+', ' ')))
end

--- True if one of the rule's patterns is found in the line.
---@param rule kumo.shaping.Rule
---@param record table
---@param line string
function rules.matches(rule, record, line)
  local content = type(record.response) == 'table' and tostring(record.response.content or '') or ''
  if not rule.match_internal and content:sub(1, #INTERNAL) == INTERNAL then
    return false
  end
  for _, pattern in ipairs(rule.compiled) do
    local ok, hit = pcall(pattern.is_match, pattern, line)
    if ok and hit then
      return true
    elseif not ok then -- not UTF-8, or a pattern that backtracks for ever
      c.log('warn', ('shaping: %s:%d: automation: %s'):format(rule.file, rule.line, tostring(hit)))
    end
  end
  return false
end

return rules
