--- MX look-ups of domains for shaping: many at once while loading. kumo.dns caches.
local host = require 'tr.host'
local c = host.c

local mx = {}

local AT_ONCE = 32 -- look-ups under way; the resolver has limits of its own
local LIMIT_S = 10 -- for all of a list: a resolver that does not answer must not keep the queues waiting

---@class kumo.shaping.Mx
---@field site? string      nil: the look-up failed
---@field hosts string[]    without the trailing dot
---@field null boolean      null MX: the domain takes no mail
---@field error? string

--- True if the name can stand in the DNS: labels of letters, digits, `-` and `_`.
---@param name string
function mx.is_name(name)
  if #name > 253 or not name:find '^[%w_.-]+$' or name:find('..', 1, true) then
    return false
  end
  for label in name:gmatch '[^.]+' do
    if #label > 63 or label:find '^%-' or label:find '%-$' then
      return false
    end
  end
  return name ~= '' and name ~= '.'
end

---@async
---@param domain string
---@return kumo.shaping.Mx
function mx.lookup(domain)
  local dns = rawget(require 'kumo', 'dns')
  if not mx.is_name(domain) then
    return { error = 'it is not a name of the DNS', hosts = {}, null = false }
  elseif type(dns) ~= 'table' or not rawget(dns, 'lookup_mx') then
    return { error = 'this program has no DNS', hosts = {}, null = false }
  end
  local ok, answer = pcall(dns.lookup_mx, domain)
  if not ok then
    return { error = (tostring(answer):gsub('\n.*$', '')), hosts = {}, null = false }
  end
  local hosts = {}
  for i, name in ipairs(answer.hosts) do
    hosts[i] = name:lower():gsub('%.$', '')
  end
  local null = #hosts == 0 or #hosts == 1 and hosts[1] == ''
  return { site = answer.site_name, hosts = hosts, null = null }
end

--- Looks up all of a list, several at a time. What has no answer after 10 s counts as failed.
---@async
---@param domains string[]
---@return table<string, kumo.shaping.Mx>
function mx.lookup_all(domains)
  local answers, at, running, all_done = {}, 0, 0, c.latch()
  if #domains == 0 then
    return answers
  end
  local until_mono = c.mono() + LIMIT_S
  local function work()
    while at < #domains and c.mono() < until_mono do
      at = at + 1
      local domain = domains[at]
      answers[domain] = mx.lookup(domain)
    end
  end
  for _ = 1, math.min(AT_ONCE, #domains) do
    running = running + 1
    c.spawn(function()
      local ok, err = host.try(work)
      running = running - 1
      if running == 0 then
        all_done:open()
      end
      if not ok then
        error(err, 0)
      end
    end, 'shaping MX look-ups')
  end
  if running > 0 then
    all_done:wait(LIMIT_S)
  end
  local out = {} -- what comes later is not for this list
  for _, domain in ipairs(domains) do
    out[domain] = answers[domain] or { error = 'no answer in time', hosts = {}, null = false }
  end
  return out
end

return mx
