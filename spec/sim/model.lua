--- What must come of it, in simple tables: an item for each recipient of a mail (by address, which no other mail has) and for
--- each event of a hook (by event id). An item is `maybe` until it is known to be on disk: a mail by its answer, an event when
--- the engine has come to rest on a disk that works. What the engine says of an item is `fresh` until such a rest, then sealed;
--- what a kill finds fresh is loose: it may have happened, or not.
---
--- Without flush an answer proves nothing: what was acknowledged is on disk from the next rest on, or when the pace is over. And
--- what is on disk is `young` until the kernel has written it: a power cut makes it loose again.
---
--- While allocations fail (starved), what the engine tells may come to nothing: it is loose, too.
---
--- Moments are seconds of the time that passes (T), whatever the wall clock is set to.
local checks = require 'checks'
local sums = require 'sums'
local told = require 'told'

local model = {}
model.__index = model

local BACKOFF_S = 2 -- a disk that works again is tried so much later
local PACE_S = 0.05 -- so long what nobody waits for is held back, and a little more

---@param now fun(): number seconds that have passed
---@param wall number unix seconds at the start
---@param pull fun(): string[] records since the last call
function model.new(plan, now, wall, pull, trace)
  local self = setmetatable({
    wall = wall,
    plan = plan,
    now = now,
    pull = pull,
    trace = trace,
    accounts = {},
    fresh = {},
    failed = {}, -- attempts that failed since the last rest
    wrongs = {},
    life = 0,
    stepped = 0, -- seconds that the wall clock was set forward, in sum
    steps = 0, -- the same without signs
    suspended = {}, -- by domain, while a process lives
    duplicates = { crash = 0, answer = 0 },
    messages = 0,
    attempts = 0,
    lax = false, -- this life is without flush
    young = {}, -- what a power cut undoes, the latest last
    acknowledged = {}, -- without flush: items whose answer is younger than the last rest
    troubled_at = -1, -- the disk has failed until then
    unrevoked = false, -- syncs and writes have failed: a group that was refused may still be whole in the page cache
    starved = false,
    has_starved = false, -- in this life
    ever_starved = false,
    damaged = false, -- a power cut without flush may have left holes
    counted = {}, -- the ledger of the last rest
    counted_and_written = {}, -- as far as no power cut can take it
  }, model)
  self:add_account('mail', { max_age = 0 })
  for _, hook in ipairs(plan.hooks) do
    local account = self:add_account(hook.name, hook)
    account.hook = hook
    account.wants = {}
    for _, kind in ipairs(hook.types) do
      account.wants[kind] = true
    end
    account.keys = hook.keys and {} or nil
  end
  return self
end

function model:add_account(name, config)
  local account = { name = name, config = config, items = {}, sealed = {}, loose = {}, certain = 0, filtered = { 0, 0 }, maybe = 0 }
  for _, column in ipairs(sums.COLUMNS) do
    account.sealed[column], account.loose[column] = 0, 0
  end
  account.active = {}
  self.accounts[name] = account
  self.accounts[#self.accounts + 1] = account
  return account
end

function model:wrong(text, ...)
  local line = text:format(...)
  if #self.wrongs < 20 then
    self.wrongs[#self.wrongs + 1] = line
  end
  self.trace('WRONG %s', line)
end

-- --- items ----------------------------------------------------------------------------------------------------------

local function make_certain(self, account, item)
  if item.state == 'maybe' then
    item.state = 'certain'
    account.certain = account.certain + 1
    account.maybe = account.maybe - 1
    self:is_young { account = account, certain = item }
  end
end

--- A fact that is on disk, if the kernel has written it.
function model:is_young(fact)
  if self.lax then
    self.young[#self.young + 1] = fact
  end
end

function model:new_item(account, key, at)
  local item = { key = key, state = 'maybe', born = at or self.now(), life = self.life, steps = self.steps, account = account }
  item.doubtful = self.starved or nil -- it may be parked, or come to nothing: others of its key do not wait for it
  account.items[key] = item
  account.maybe = account.maybe + 1
  return item
end

--- A client begins to hand over a mail.
---@param data string what is sent, which must come out again behind what is put before it
function model:mail_sent(addresses, domain, data)
  for _, address in ipairs(addresses) do
    local item = self:new_item(self.accounts.mail, address)
    item.data, item.config = data, self.plan.domains[domain]
    self.messages = self.messages + 1
  end
end

--- answer: 'accepted', 'refused', or nil: none came
function model:mail_answered(addresses, answer)
  local account = self.accounts.mail
  for _, address in ipairs(addresses) do
    local item = account.items[address]
    if answer == 'accepted' then
      item.acknowledged = true
      if self.lax then
        self.acknowledged[#self.acknowledged + 1] = { item = item, at = self.now() }
      else
        make_certain(self, account, item)
      end
    elseif answer == 'refused' and self.unrevoked then
      item.doubtful = true -- it comes back if the process ends now
    elseif answer == 'refused' then
      if item.state == 'certain' then
        self:wrong('%s was refused, and there is a trace of it', address)
      else
        item.state = 'refused'
        account.maybe = account.maybe - 1
      end
    end
    item.answered = true
  end
end

--- Takes what the engine has told since the last call.
function model:listen()
  told.listen(self)
end

-- --- attempts --------------------------------------------------------------------------------------------------------

local function find(self, name, key)
  local account = self.accounts[name]
  if not account.items[key] then
    self:listen()
  end
  return account.items[key]
end

--- A peer has got these. keys: addresses, or { id =, kind =, address = } each
function model:attempt(name, keys, info)
  local account = self.accounts[name]
  local attempt = { account = account, items = {}, at = self.now(), life = self.life, tries = info.tries }
  self.attempts = self.attempts + 1
  local seen = {}
  for i, key in ipairs(keys) do
    local id = type(key) == 'table' and key.id or key
    local item = find(self, name, id)
    if not item then
      self:wrong('%s got %s, which was never made', name, id)
      item = self:new_item(account, id)
      item.config, item.number, item.at = account.hook or self.plan.domains['d1.test'], 0, 0
    elseif type(key) == 'table' and item.kind and (key.kind ~= item.kind or key.address ~= item.address) then
      self:wrong('%s got %s as a %s of %s, it is a %s of %s', name, id, key.kind, key.address, item.kind, item.address)
    end
    attempt.items[i] = item
    checks.again(self, name, item)
    checks.due(self, account, item)
    checks.age(self, account, item)
    checks.suspended(self, account, item)
    if account.keys then
      if seen[checks.key_of(account.hook, item.number)] then
        self:wrong('%s: two of one key in a batch', name)
      end
      seen[checks.key_of(account.hook, item.number)] = true
      checks.order(self, account, item)
    end
    if item.state == 'maybe' and item.life ~= self.life then
      make_certain(self, account, item) -- it has outlived a crash
    end
    item.seen, item.doubtful = true, nil
  end
  if account.hook and not self.starved then
    checks.limits(self, account, attempt)
  end
  return attempt
end

--- verdict: 'ok', 'lost', 'no', 'hung', 'refused', 'parted'; i: of that item alone
function model:answered(attempt, verdict, i)
  if attempt.life ~= self.life then -- nobody hears that answer any more
    if verdict ~= 'ok' and verdict ~= 'lost' then
      return
    end
    verdict = 'lost'
  elseif verdict == 'ok' and self.starved then
    verdict = 'lost' -- whoever reads it may find no memory for what follows
  end
  for n = i or 1, i or #attempt.items do
    local item = attempt.items[n]
    if verdict == 'ok' or verdict == 'lost' then
      item.accepted, item.accepted_life, item.accepted_sealed = verdict, self.life, false
    elseif self.starved then
      item.fail = nil
    elseif verdict == 'no' or verdict == 'hung' then
      local config, tries = item.config, attempt.tries or 1
      local retry, max_retry = checks.least(config, 'retry', self.now()), checks.least(config, 'max_retry', self.now())
      local jitter = math.min(checks.most(config, 'retry', self.now()) / 20, 60) / 2
      local delay = math.min(retry * 2 ^ (tries - 1), max_retry) - jitter
      if attempt.account.rebound then
        for _, of in pairs(self.plan.domains) do
          delay = math.min(delay, checks.least(of, 'retry', self.now()) * 0.9)
        end
      end
      item.fail = { at = self.now(), delay = delay, tries = attempt.tries, life = self.life, steps = self.steps }
      if verdict == 'no' then
        self.failed[#self.failed + 1] = item.fail
      end -- else a stop may find it under way still
    end
  end
end

--- The peer is done with it.
function model:ended(attempt)
  attempt.over = true
  attempt.account.active[attempt] = nil
end

--- A mail server has got a message for an address.
function model:content(address, data)
  local item = self.accounts.mail.items[address]
  if item and item.data and data:sub(-#item.data) ~= item.data then
    self:wrong('%s got another text than was sent', address)
  end
end

--- A mail server is asked for its count-th transaction on a connection, while `open` are under way.
function model:transaction(domain, number, count, open)
  if open > checks.most(domain, 'limit', self.now()) then
    self:wrong('%s: %d transactions at once, the limit is %d', domain.ip, open, domain.limit)
  end
  if domain.per_connection and count > checks.most(domain, 'per_connection', self.now()) then
    self:wrong('%s: %d transactions on connection #%d', domain.ip, count, number)
  end
end

-- --- rest and end of a life -------------------------------------------------------------------------------------------

local function put_away(self, sealed)
  local keep = {}
  for _, entry in ipairs(self.fresh) do
    local account, item, mail = entry.account, entry.item, entry.mail
    -- with a reception goes what the client was told
    local fate = sealed
    if mail and not mail.acknowledged then
      fate = nil -- not known to be there
      if mail.state == 'refused' then
        fate = 'refused'
      elseif sealed and not mail.answered and mail.life == self.life then
        keep[#keep + 1] = entry
        fate = 'later'
      end
    end
    if fate == 'later' then -- luacheck: ignore 542
    elseif entry.filtered then
      if fate ~= 'refused' then
        account.filtered[fate and 1 or 2] = account.filtered[fate and 1 or 2] + 1
        if fate then
          self:is_young { account = account, filtered = true }
        end
      end
    elseif entry.column then
      local counts = fate and account.sealed or account.loose
      counts[entry.column] = counts[entry.column] + 1
      if fate then
        self:is_young { account = account, ended = item, column = entry.column }
      end
      if fate or not item.terminal then
        item.terminal = { column = entry.column, kind = entry.kind, sealed = fate and true or false, life = self.life }
      end
      if fate then
        make_certain(self, account, item)
      end
      if item.accepted then
        item.accepted_sealed = fate and true or false
      end
    elseif fate == 'refused' then
      if item.state == 'certain' then
        self:wrong('%s: an event of %s, which was refused', account.name, item.address)
      elseif item.state == 'maybe' then
        item.state = 'refused'
        account.maybe = account.maybe - 1
      end
    elseif fate then
      make_certain(self, account, item)
    else
      item.doubtful = true
    end
  end
  self.fresh = keep
  for _, fail in ipairs(self.failed) do
    fail.sealed = sealed
    if sealed then
      self:is_young { fail = fail }
    end
  end
  self.failed = {}
end

--- What was answered up to that moment is on disk: nothing is held back for longer.
local function take_acknowledged(self, until_)
  for _, entry in ipairs(self.acknowledged) do
    if entry.at < until_ and (until_ == math.huge or entry.at > self.troubled_at + BACKOFF_S) then
      make_certain(self, self.accounts.mail, entry.item)
    end
  end
  self.acknowledged = {}
end

--- The engine rests, and all that it has done is on disk.
function model:rest()
  self:listen()
  take_acknowledged(self, math.huge)
  put_away(self, not self.starved)
end

--- The process has ended. in_order: all that was told is on disk. died_at: when it was killed
---@param died_at number?
function model:life_ends(in_order, died_at)
  self:listen()
  if in_order then
    take_acknowledged(self, math.huge)
  else
    take_acknowledged(self, (died_at or self.now()) - PACE_S)
  end
  self.acknowledged = {}
  self.has_starved = false
  put_away(self, in_order and not self.starved)
  if #self.fresh > 0 then
    put_away(self, false)
  end
  self.starved = false
end

---@param lax boolean without flush
---@param dead boolean it has died in its start
function model:life_begins(lax, dead)
  self.suspended = {}
  self.life = self.life + 1
  for _, of in pairs(self.plan.domains) do
    of.former = nil
  end
  for _, hook in ipairs(self.plan.hooks) do
    hook.former = nil
  end
  self.lax = lax
  if not lax and not dead then
    self:written() -- a start syncs what it finds
  end
end

--- The kernel has written all that was on disk.
function model:written()
  self.young = {}
  self.counted_and_written = self.counted
end

--- The power has gone: what the kernel had in hand may be there or not, and with holes.
function model:power_cut()
  for i = #self.young, 1, -1 do
    local fact = self.young[i]
    local account = fact.account
    if fact.fail then
      fact.fail.sealed = false
    elseif fact.filtered then
      account.filtered[1], account.filtered[2] = account.filtered[1] - 1, account.filtered[2] + 1
    elseif fact.ended then
      account.sealed[fact.column], account.loose[fact.column] = account.sealed[fact.column] - 1, account.loose[fact.column] + 1
      fact.ended.terminal.sealed, fact.ended.accepted_sealed = false, false
    else
      fact.certain.state, fact.certain.doubtful = 'maybe', true
      account.certain, account.maybe = account.certain - 1, account.maybe + 1
    end
  end
  self.damaged = self.damaged or self.lax or #self.young > 0
  self.young = {}
  self.counted = self.counted_and_written
end

--- The disk fails now, or has failed until now.
function model:disk_troubled()
  self.troubled_at = self.now()
end

function model:clock_set(seconds)
  self:listen()
  self.stepped = self.stepped + seconds
  self.steps = self.steps + math.abs(seconds)
end

--- Mail may be moved to the queue of another domain from now on, and what is moved is due at once.
function model:rebind()
  local account = self.accounts.mail
  account.rebound, account.flushed_at = true, self.now() + 10
end

--- Dead letters may come back, as new as on the first day.
function model:replay(name)
  self:listen()
  for _, item in pairs(self.accounts[name].items) do
    if item.ended then
      item.again = true
    end
  end
end

function model:suspend(name, domain, seconds)
  -- of the same queue: it replaces what was there
  self.suspended[domain] = { name = name, from = self.now(), to = self.now() + seconds }
end

function model:unsuspend()
  self.suspended = {}
end

-- --- comparing ----------------------------------------------------------------------------------------------------------

function model:compare(ledger, figures, begins)
  sums.compare(self, ledger, figures, begins)
end

function model:finish(ledger)
  sums.finish(self, ledger)
end

return model
