--- `tailrace plan`: the load that is planned for, from the options of the command. Pure.
local host = require 'tr.host'
local c = host.c

local load = {}

local UNITS = { s = 1, sec = 1, m = 60, min = 60, h = 3600, hr = 3600, hour = 3600, d = 86400, day = 86400 }
local TYPES = {
  'Reception', 'Delivery', 'TransientFailure', 'Bounce', 'Expiration', 'Rejection', 'Delayed', 'AdminBounce', 'OOB',
  'Feedback', 'AdminRebind',
} -- stylua: ignore
local KNOWN = {}
for _, name in ipairs(TYPES) do
  KNOWN[name] = true
end

local DEFAULT_EVENTS = { Reception = 1, Delivery = 1 }
local HOOK_LATENCY_S, MAIL_LATENCY_S = 0.02, 0.2

---@class tr.plan.Load
---@field mails_s number               mails a second
---@field events table<string, number> by type: events for each mail
---@field latency table<string, number> by hook, and `mail`: seconds
---@field domains { name: string, share: number }[]
---@field mail_size integer bytes
---@field event_size integer bytes
---@field outage_s number
---@field duration_s number of the simulation
---@field seed integer

local function rate(text)
  local number, unit = text:gsub('[,_]', ''):match '^([%d.]+)/(%a+)$'
  number = tonumber(number)
  if not number or not UNITS[unit] or number <= 0 then
    error(("--mails %s: a rate such as 1000000/h or 300/s expected"):format(text), 0)
  end
  return number / UNITS[unit]
end

local function seconds(option, text)
  local ok, s, ns = pcall(c.duration, text, option, 'value')
  if not ok or s + (ns or 0) / 1e9 <= 0 then
    error(("--%s %s: a time such as 20ms or 5m expected"):format(option, text), 0)
  end
  return s + (ns or 0) / 1e9
end

local function pairs_of(option, list, what)
  local out = {}
  for _, text in ipairs(list) do
    local name, value = text:match '^([^=]+)=(.+)$'
    if not name then
      error(('--%s %s: %s expected'):format(option, text, what), 0)
    end
    out[#out + 1] = { name, value }
  end
  return out
end

local function events_of(list)
  if #list == 0 then
    return DEFAULT_EVENTS
  end
  local events = {}
  for _, one in ipairs(pairs_of('events', list, 'TYPE=N')) do
    local name, count = one[1], tonumber(one[2])
    if not KNOWN[name] then
      local near = c.nearest(name, TYPES)
      error(("--events %s: no type of record%s"):format(name, near and (" (did you mean '%s'?)"):format(near) or ''), 0)
    elseif not count or count < 0 or count > 1000 then
      error(('--events %s=%s: a number from 0 to 1000 expected'):format(name, one[2]), 0)
    end
    events[name] = count
  end
  return events
end

local function domains_of(list)
  if #list == 0 then
    list = { 'example.com' }
  end
  local domains, sum = {}, 0
  for i, text in ipairs(list) do
    local name, weight = text:match '^([^:]+):?(.*)$'
    weight = weight == '' and 1 or tonumber(weight)
    if not name or not weight or weight <= 0 then
      error(('--domain %s: DOMAIN or DOMAIN:WEIGHT expected'):format(text), 0)
    end
    domains[i] = { name = name, share = weight }
    sum = sum + weight
  end
  for _, one in ipairs(domains) do
    one.share = one.share / sum
  end
  return domains
end

--- Raises what is wrong with the options, naming them.
---@param options table as runtime/cli/plan.c gives them
---@return tr.plan.Load
function load.of(options)
  local latency = {}
  for _, one in ipairs(pairs_of('latency', options.latencies, 'NAME=TIME')) do
    latency[one[1]] = seconds('latency', one[2])
  end
  return {
    mails_s = rate(options.mails),
    events = events_of(options.events),
    latency = latency,
    domains = domains_of(options.domains),
    mail_size = options.mail_size,
    event_size = options.event_size,
    outage_s = seconds('outage', options.outage),
    duration_s = seconds('duration', options.duration),
    seed = options.seed,
  }
end

function load.latency_of(of, name, is_hook)
  return of.latency[name] or (is_hook and HOOK_LATENCY_S or MAIL_LATENCY_S)
end

return load
