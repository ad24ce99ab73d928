--- What automation has done and is still in force: shared by all workers, expiring on the clock.
local host = require 'tr.host'
local c = host.c

local overlay = {}

local NOTE = 'shaping.actions'
local MAX_ACTIONS = 10000 -- in force at once; more is a rule that fires for everything

---@class kumo.shaping.Active
---@field action string       "Suspend", "SetConfig" ...
---@field domain string       of the record's first recipient
---@field site string         MX site, or the domain itself
---@field source string
---@field queue string        scheduled queue of the record
---@field ready_queue string
---@field tenant? string
---@field campaign? string
---@field name? string        SetConfig, SetDomainConfig
---@field value? any
---@field rollup boolean
---@field expires number      unix seconds
---@field file string         of the rule
---@field line integer
---@field rule_hash string
---@field response string     what the peer said
---@field id? string          of the admin rule

local seen_board, seen_version = nil, -1
local list = {} ---@type kumo.shaping.Active[]

-- The list of this moment, expired ones included.
local function refresh()
  local board = c.board_version()
  if board == seen_board then
    return
  end
  local text, version = c.board_get(NOTE)
  seen_board = board
  if version ~= seen_version then
    seen_version = version
    list = {}
    if text then
      local good, value = c.json_parse(text, false)
      list = good and value or {}
    end
  end
end

--- Changes when an action is added or removed.
---@return number
function overlay.version()
  refresh()
  return seen_version
end

--- Those in force.
---@return kumo.shaping.Active[]
function overlay.active()
  refresh()
  local now, out = c.wall(), {}
  for _, one in ipairs(list) do
    if one.expires > now then
      out[#out + 1] = one
    end
  end
  return out
end

local function same(a, b)
  return a.action == b.action
    and a.rule_hash == b.rule_hash
    and a.name == b.name
    and a.domain == b.domain
    and a.source == b.source
    and a.ready_queue == b.ready_queue
    and a.tenant == b.tenant
    and a.campaign == b.campaign
end

--- The one that does the same already; nil: none is in force.
---@param one kumo.shaping.Active
---@return kumo.shaping.Active?
function overlay.find(one)
  for _, other in ipairs(overlay.active()) do
    if same(one, other) then
      return other
    end
  end
end

--- Adds an action, in place of one that does the same.
---@param one kumo.shaping.Active
---@return boolean added  false: there are too many
function overlay.add(one)
  while true do
    local text, version = c.board_get(NOTE)
    local good, old = c.json_parse(text or '[]', false)
    local now, kept = c.wall(), c.array {}
    for _, other in ipairs(good and old or {}) do
      if other.expires > now and not same(one, other) then
        kept[#kept + 1] = other
      end
    end
    if #kept >= MAX_ACTIONS then
      return false
    end
    kept[#kept + 1] = one
    if c.board_swap(NOTE, version, assert(c.json_encode(kept))) then
      return true
    end
  end
end

--- For specs: nothing is in force.
function overlay.clear()
  repeat
    local _, version = c.board_get(NOTE)
  until c.board_swap(NOTE, version, '[]')
end

local function put(params, one)
  params = params or { params = {} }
  local origin = {
    file = one.file,
    line = one.line,
    title = ('automation (until %s)'):format(os.date('!%Y-%m-%dT%H:%M:%SZ', math.floor(one.expires))),
  }
  params.params[one.name] = { one.value, one.line, origin, params.params[one.name] }
  return params
end

--- What automation sets for a path.
---@param domain string
---@param source string
---@param site string
---@return { site: kumo.shaping.Params?, domain: kumo.shaping.Params? }? steps
---@return number until_s   when one of them expires; math.huge: nothing will
function overlay.for_path(domain, source, site)
  refresh()
  local now, until_s, out = c.wall(), math.huge, nil
  for _, one in ipairs(list) do
    if one.name and one.expires > now and one.source == source then
      local where = one.rollup and one.site == site and 'site' or not one.rollup and one.domain == domain and 'domain'
      if where then
        out = out or {}
        out[where] = put(out[where], one)
        until_s = math.min(until_s, one.expires)
      end
    end
  end
  return out, until_s
end

return overlay
