--- Acts on the automation rules of shaping files, inside of the process. Contract shaping.md section 7.
local host = require 'tr.host'
local data = host.internal 'kumo.shaping.data'
local overlay = host.internal 'kumo.shaping.overlay'
local rules = host.internal 'kumo.shaping.rules'
local c = host.c

local automation = {}

local SLACK = 0.05 -- an action in force is prolonged when this part of its time has passed

--- SOURCE->SITE@PROTOCOL without source and protocol.
local function site_of(ready_queue)
  local site = ready_queue:gsub('^.-%->', '')
  return (site:gsub('@smtp_client$', ''):gsub('@lua:.*$', ''))
end

local function first_recipient(record)
  local rcpt = record.recipient
  if type(rcpt) == 'table' then
    rcpt = rcpt[1]
  end
  return type(rcpt) == 'string' and rcpt:match '@([^@]*)$' or nil
end

-- campaign:tenant@domain
local function parts_of(queue)
  local before = queue:match '^(.*)@[^@]*$'
  if not before then
    return nil, nil
  end
  local campaign, tenant = before:match '^([^:]*):(.*)$'
  tenant = campaign and tenant or before
  return tenant ~= '' and tenant or nil, campaign ~= '' and campaign or nil
end

--- The rules that a record meets.
---@async
---@param shaping kumo.shaping.Data
---@param record table   of a log hook
---@return kumo.shaping.Rule[]
function automation.match(shaping, record)
  local domain, site = first_recipient(record), site_of(tostring(record.site or ''))
  local line, out = rules.response_line(record), {}
  if line == '' then
    return out
  end
  local function try(scope)
    for _, rule in ipairs(scope and scope.automation or {}) do
      if rules.matches(rule, record, line) then
        out[#out + 1] = rule
      end
    end
  end
  try(shaping.default)
  if domain then
    for _, provider in ipairs(data.providers_of(shaping, domain)) do
      try(provider)
    end
  end
  try(shaping.by_site[site])
  if domain then
    try(shaping.by_domain[domain])
  end
  return out
end

--- True if there is a rule at all.
---@param shaping kumo.shaping.Data
function automation.has_rules(shaping)
  local function any(scopes)
    for _, scope in pairs(scopes) do
      if #scope.automation > 0 then
        return true
      end
    end
    return false
  end
  return any { shaping.default } or any(shaping.providers) or any(shaping.by_site) or any(shaping.by_domain)
end

-- --- actions -------------------------------------------------------------------------------------------

local function reason_of(one)
  return ('automation rule %s:%d: %s (rule_hash=%s)'):format(one.file, one.line, one.response, one.rule_hash)
end

-- The same rule of the admin API again, until later.
local function admin(kind, one, rule)
  local api = host.internal 'admin'
  local before = overlay.find(one)
  rule.reason = reason_of(one)
  rule.duration = one.expires - c.wall()
  one.id = api.add(kind, rule, kind == 'suspend_ready')
  if before and before.id then
    api.delete(kind, before.id)
  end
end

local ACT = {}

function ACT.Suspend(one)
  admin('suspend_ready', one, { name = one.ready_queue })
end

function ACT.SuspendTenant(one)
  admin('suspend', one, { domain = one.domain, tenant = one.tenant })
end

function ACT.SuspendCampaign(one)
  admin('suspend', one, { domain = one.domain, tenant = one.tenant, campaign = one.campaign })
end

function ACT.Bounce(one)
  admin('bounce', one, { domain = one.domain })
end

function ACT.BounceTenant(one)
  admin('bounce', one, { domain = one.domain, tenant = one.tenant })
end

function ACT.BounceCampaign(one)
  admin('bounce', one, { domain = one.domain, tenant = one.tenant, campaign = one.campaign })
end

local NEEDS_TENANT = { SuspendTenant = true, SuspendCampaign = true, BounceTenant = true, BounceCampaign = true }

-- The epoch moves when a setting begins and when it ends, so that the paths read their configuration again.
local function refresh_paths(expires)
  local kumo = require 'kumo'
  kumo.bump_config_epoch()
  c.spawn(function()
    c.sleep(math.max(0, expires - c.wall()) + 0.001)
    kumo.bump_config_epoch()
  end, 'shaping automation expires')
end

local function describe(one)
  if one.name then
    return ('%s %s = %s'):format(one.action, one.name, tostring(one.value))
  end
  return one.action
end

local function perform(one)
  if NEEDS_TENANT[one.action] and not one.tenant then
    return
  end
  local before = overlay.find(one)
  if before and one.expires - before.expires < (one.expires - c.wall()) * SLACK then
    return -- it is in force, and not much longer with this record
  end
  if ACT[one.action] then
    if not package.preload['tr.http_server'] or not c.has_engine() then
      return
    end
    ACT[one.action](one)
  end
  if not overlay.add(one) then
    c.log('error', 'shaping: automation: 10000 actions are in force, no more are taken')
    return
  end
  c.log(
    before and 'info' or 'warn',
    ('shaping: %s: %s until %s: rule %s:%d, the answer was: %s'):format(
      one.name and (one.rollup and one.site or one.domain) or one.ready_queue,
      describe(one),
      os.date('!%Y-%m-%dT%H:%M:%SZ', math.floor(one.expires)),
      one.file,
      one.line,
      one.response
    )
  )
  if one.name then
    refresh_paths(one.expires)
  end
end

local function fires(rule, record, now)
  if rule.trigger == 'Immediate' then
    return true
  end
  local key = rule.hash .. '\0' .. tostring(record.site)
  return c.tally(key, rule.trigger.count, rule.trigger.window_s, now) >= rule.trigger.count
end

--- Does what the rules say about a record. Errors of one action do not keep the others from being done.
---@async
---@param shaping kumo.shaping.Data
---@param record table   TransientFailure or Bounce
function automation.act(shaping, record)
  local now = c.wall()
  for _, rule in ipairs(automation.match(shaping, record)) do
    local expires = (tonumber(record.timestamp) or now) + rule.duration_s
    if expires > now and fires(rule, record, now) then
      for _, action in ipairs(rule.action) do
        local queue, ready_queue = tostring(record.queue or ''), tostring(record.site or '')
        local tenant, campaign = parts_of(queue)
        local ok, err = pcall(perform, {
          action = action.kind,
          name = action.name,
          value = action.value,
          rollup = rule.rollup and action.kind ~= 'SetDomainConfig',
          domain = first_recipient(record) or site_of(ready_queue),
          site = site_of(ready_queue),
          source = type(record.egress_source) == 'string' and record.egress_source or 'unspecified',
          queue = queue,
          ready_queue = ready_queue,
          tenant = tenant,
          campaign = campaign,
          expires = expires,
          file = rule.file,
          line = rule.line,
          rule_hash = rule.hash,
          response = rules.response_line(record),
        })
        if not ok then
          local text = type(err) == 'table' and err.text or tostring(err)
          c.log('error', ('shaping: rule %s:%d: %s: %s'):format(rule.file, rule.line, action.kind, text))
        end
      end
    end
  end
end

return automation
