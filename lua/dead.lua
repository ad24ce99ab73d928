--- Dead letters: log records that were refused for good or have expired, and those that are parked as the policy failed.
--- Looking at them, replaying and purging them, for the admin API (lua/http_server.lua, lua/api.lua). Mechanism:
--- runtime/queue/dead.c. See docs/dead-letters.md.
local host = require 'tr.host'
local core = require 'tr.dead'
local http_error = host.internal 'http_error'

---@class tr.dead_letters
local dead = {}

local LIST_MAX, LIST_DEFAULT = 10000, 100

local FILTER = { hook = 's', ids = 't', since = 's', until_ = 's', reason = 's', kind = 's', limit = 'n' }
local REASONS = { rejected = 'letters', expired = 'letters', policy_error = 'parked' }
local KINDS = { all = true, letters = true, parked = true }

local function moment_s(filter, key)
  local text = filter[key]
  if text == nil then
    return nil
  end
  local left_s = require('tr.http_server').until_s(text)
  if not left_s then
    http_error.raise(422, '`%s` must be a moment such as 2026-11-25T18:00:00Z, got %s', (key:gsub('_$', '')), text)
  end
  return os.time() + left_s
end

--- The filter of a request as runtime/queue/dead_lua.c takes it.
local function checked(filter, more)
  local copy, fields = {}, {}
  for name, value in pairs(filter) do
    copy[name == 'until' and 'until_' or name] = value
  end
  for name, kind in pairs(FILTER) do
    fields[name] = kind
  end
  for name, kind in pairs(more) do
    fields[name] = kind
  end
  http_error.check_object(copy, '', fields)
  for i, id in ipairs(copy.ids or {}) do
    if type(id) ~= 'string' or not id:gsub('-', ''):match '^%x+$' or #id:gsub('-', '') ~= 32 then
      http_error.raise(422, 'ids[%d]: the id of a letter is 32 hexadecimal digits', i)
    end
  end
  if copy.reason and not REASONS[copy.reason] then
    http_error.raise(422, '`reason` must be "rejected", "expired" or "policy_error", got %s', copy.reason)
  end
  if copy.kind and not KINDS[copy.kind] then
    http_error.raise(422, '`kind` must be "all", "letters" or "parked", got %s', copy.kind)
  end
  local limit = copy.limit
  if limit and (limit < 1 or limit % 1 ~= 0 or limit > 2 ^ 53) then
    http_error.raise(422, '`limit` must be a whole number of at least 1')
  end
  return {
    hook = copy.hook,
    ids = copy.ids,
    since_s = moment_s(copy, 'since'),
    until_s = moment_s(copy, 'until_'),
    reason = copy.reason,
    kind = copy.kind or REASONS[copy.reason],
    limit = limit,
    after_seq = copy.after_seq,
    payload = copy.payload,
  }
end

--- As core.run(), but what it says no to raises.
local function run(job, store)
  local matched, unreadable, parked, more, last = core.run(job, store)
  if not matched then
    http_error.raise(503, unreadable)
  end
  return matched, unreadable, parked, more, last
end

--- Letters, the oldest of each hook first, as JSON { letters = [...], shown, unreadable }; with `hooks` alone
--- { hooks = [names] } of those that have letters.
---@async
---@param filter table hook, ids, since, until, reason, kind, limit (default 100, at most 10,000), payload, after_seq; or hooks
---@param store? userdata of tr.dead.open; nil: this node's
---@return string json
function dead.list_json(filter, store)
  local job = checked(filter, { payload = 'b', after_seq = 'n', hooks = 'b' })
  if filter.hooks then
    return ('{"hooks":%s}'):format(core.hooks(store))
  end
  job.action = 'look'
  job.limit = math.min(job.limit or LIST_DEFAULT, LIST_MAX)
  local _, unreadable, _, json, shown = run(job, store)
  return ('{"letters":%s,"shown":%d,"unreadable":%d}'):format(json, shown, unreadable)
end

---@async
---@return table[] letters { id, seq, size, letter = { hook, queue, reason, answer, attempts, at }, payload }
function dead.list(filter)
  local _, list = host.c.json_parse(dead.list_json(filter), false)
  return list.letters
end

local function move(action, filter, store)
  local job = checked(filter, { all = 'b' })
  if not (job.hook or job.ids or job.since_s or job.until_s or job.reason or filter.all) then -- `kind` alone is much
    http_error.raise(422, 'say which letters: `hook`, `ids`, `since`, `until` or `reason`; `all`: true for all of them')
  end
  job.action = action
  local matched, unreadable, parked, refused, why = run(job, store)
  if refused and matched == 0 then
    http_error.raise(503, 'the disk takes no more: %s; all stay', why)
  end
  return { matched = matched, unreadable = unreadable, parked = parked > 0 and parked or nil, refused = refused, why = why }
end

--- Puts letters back into the queues that they came from, as new as on the first day; parked records are decided again.
---@async
---@param filter table hook, ids, since, until, reason, kind, limit, all
---@return { matched: integer, unreadable: integer, parked: integer?, refused: integer?, why: string? }  parked: of the matched
function dead.replay(filter, store)
  return move('replay', filter, store)
end

--- Drops letters; the ledger counts them as dropped, reason removed.
---@async
---@param filter table hook, ids, since, until, reason, kind, limit, all
---@return { matched: integer, unreadable: integer, parked: integer?, refused: integer?, why: string? }
function dead.purge(filter, store)
  return move('purge', filter, store)
end

return dead
