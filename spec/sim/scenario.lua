--- One run: a seed, simulated days of it, and the model's word on each step.
local host = require 'tr.host'
local disk = require 'tr.sim_disk'
local memory = require 'tr.sim_memory'
local acts = require 'acts'
local model = require 'model'
local plan = require 'plan'
local random = require 'random'
local sim = require 'tr.sim'
local testing = require 'tr.testing'
local world = require 'world'
local client = host.internal 'test.client'
local c = host.c

local scenario = {}
scenario.__index = scenario

local DAY_S = 86400
local HEALING_S = 40 * DAY_S -- at the end, at most
local STOP_S = 20
local HURT_S = 60 -- a pause while the disk fails: the engine tries once a second, which costs
local SEGMENTS_OVER = 8 -- what the log may have beyond twice what lives
local SLICE_S, GHOST_S = 900, 0.1 -- so that a ghost does not go on for long
local KERNEL_S = 35 -- so long it keeps what nobody has synced
local PATIENCE = 4 -- starts that a failing disk may spoil, in a row

---@param options { seed: integer, days: number, print: fun(line: string)?, policy: string, policy_text: string }
function scenario.new(options)
  local chance = random.new(options.seed)
  local self = setmetatable({
    options = options,
    random = chance,
    counts = { kills = 0, cuts = 0, restarts = 0, faults = 0, mails = 0, steps = 0, starts = 0 },
    begun = c.mono(),
    failing = {}, -- operations that were made to fail since the disk was mended
    clients = 0, -- under way
  }, scenario)
  function self.trace(text, ...)
    local line = ('%.3f '):format(self:now()) .. text:format(...)
    sim.digest_add(line)
    sim.digest_add '\n'
    if options.print then
      options.print(line)
    end
  end
  sim.digest_reset()
  self.plan = plan.new(chance:fork(), random.new(options.seed * 3 + 1))
  self.trace('plan %s', plan.text(self.plan))
  self.model = model.new(self.plan, function()
    return self:now()
  end, c.wall(), function()
    local list = {}
    if self.rt then
      self.rt:take_records(list)
    end
    return list
  end, self.trace)
  disk.reset(options.seed)
  if self.plan.memory then
    memory.use()
  end
  self.world = world.new(self.plan, self.model, chance:fork(), self.trace)
  return self
end

--- Seconds that have passed since the start of the run, whatever the clock was set to.
function scenario:now()
  return c.mono() - self.begun
end

function scenario:wrong(...)
  self.model:wrong(...)
end

-- --- life of the engine -----------------------------------------------------------------------------------------------

function scenario:write_policy()
  local file = assert(io.open(self.options.policy, 'w'))
  file:write('local PLAN = ', plan.text(self.plan), '\n', (self.options.policy_text:gsub('^[^\n]*\n', '')))
  file:close()
end

function scenario:start()
  local failures = 0
  self:write_policy()
  while true do
    self.counts.starts = self.counts.starts + 1
    local ok, rt = pcall(testing.start, {
      policy = self.options.policy,
      seed = self.options.seed * 1000 + self.counts.starts,
      scripted = true,
      log = 'warn',
      spool_sizes = self.plan.sizes,
    })
    if ok then
      self.rt = rt
      self.model:life_begins(not self.plan.flush, disk.is_ghost())
      self.written_at = self:now()
      self.started = self:now()
      self.trace('start')
      return
    end
    self.trace('no start: %s', tostring(rt):match '^[^\n]*')
    failures = failures + 1
    memory.calm()
    if disk.is_ghost() then
      self:revive()
    elseif failures >= PATIENCE then
      if failures > PATIENCE then
        error('the engine does not start: ' .. tostring(rt), 0)
      end
      self:mend_disk()
    end
    c.sleep(1)
  end
end

function scenario:revive()
  disk.revive()
  self.trace('revive %s', disk.digest())
end

--- From now on, or soon, these operations fail.
function scenario:hurt_disk(op)
  self.counts.faults = self.counts.faults + 1
  self.hurt = true
  self.failing[op] = true
  local all = self.failing.changes or self.failing.any
  self.model.unrevoked = all or self.failing.write and self.failing.sync or false
end

function scenario:mend_disk()
  disk.heal()
  disk.capacity(nil)
  self.failing = {}
  self.hurt, self.was_hurt = false, true
  self.model:disk_troubled()
  self.trace 'disk mended'
end

local HARMLESS = {
  'cannot write to', 'can be written again', 'the filter of the simulation raises', 'the constructor of the simulation raises',
  'more lines like this', 'the endpoint refuses everything', 'closed with %d+ changes', 'asked again', 'still busy', 'task:',
} -- stylua: ignore
local OF_MEMORY = { 'memory', 'its line cannot be made' } -- once allocations have failed; what could not be configured is remembered for a while
local OF_DAMAGE = { -- after a power cut without flush
  'damaged', 'damage has hit', 'lost its header', 'should be waiting', 'makes no sense', 'segments of the log are missing', 'offered is set right',
} -- stylua: ignore
local OF_DISKS = { -- while one fails, or has
  'cannot be read', 'cannot be stored', 'could not be stored', 'could not be moved', 'no space', 'No space',
} -- stylua: ignore

function scenario:check_log(rt, ghost)
  local lines = {}
  rt:take_log(lines)
  for _, line in ipairs(lines) do
    local fine = line:match '^%S+ (%u+)' ~= 'ERROR' or ghost
    for _, pattern in ipairs(HARMLESS) do
      fine = fine or line:find(pattern) ~= nil
    end
    for _, pattern in ipairs(OF_DISKS) do
      fine = fine or (self.hurt or self.was_hurt) and line:find(pattern) ~= nil
    end
    for _, pattern in ipairs(OF_MEMORY) do
      fine = fine or self.model.has_starved and line:find(pattern) ~= nil
    end
    for _, pattern in ipairs(OF_DAMAGE) do
      fine = fine or (self.model.damaged or disk.is_ghost()) and line:find(pattern) ~= nil
    end
    -- the same in another checkout, with another temporary directory, at other addresses
    self.trace('log %s', (line:gsub('0x%x+', '0x'):gsub('/[%w._/-]*/', ''):sub(1, 300)))
    if not fine then
      self:wrong('the log has: %s', line:sub(1, 600))
    end
  end
end

--- Ends the engine in order, or as a ghost, of which nothing counts.
function scenario:stop(deadline_s)
  local rt = self.rt
  local balances, text = rt:stop(deadline_s)
  if self.hurt then
    self.model:disk_troubled()
  end
  local ghost = disk.is_ghost()
  local died_at, cut = disk.death()
  self:check_log(rt, ghost)
  if not balances and not ghost and not self.model.starved then
    self:wrong('at the stop the ledger does not balance:\n%s', text)
  end
  memory.calm()
  self.model:life_ends(not ghost and not self.hurt, died_at and died_at - self.begun)
  if cut then
    self.model:power_cut()
  end
  self.world:life_ends()
  self.rt = nil
  self.trace('stopped%s', ghost and ', killed' or '')
end

function scenario:restart(after_s)
  self:stop(disk.is_ghost() and 0 or STOP_S)
  if disk.is_ghost() then
    self:revive()
  end
  if self.model.lax then -- which syncs have failed before no process can know
    disk.forgive()
  end
  if after_s > 0 then
    c.sleep(after_s)
  end
  if not self.healing and self.random:chance(0.3) then
    plan.change(self.plan, self.random)
    self.trace('plan %s', plan.text(self.plan))
  end
  if self.trouble and not self.healing then -- the disk fails in the start after a crash
    acts.fault(self)
  end
  self.trouble = false
  self:start()
end

-- --- mail --------------------------------------------------------------------------------------------------------------

function scenario:any_domain()
  local names = {}
  for name in pairs(self.plan.domains) do
    names[#names + 1] = name
  end
  table.sort(names)
  return self.random:of(names)
end

---@param domain string?
function scenario:send_mail(domain)
  local chance, model_ = self.random, self.model
  local addresses = {}
  domain = domain or self:any_domain()
  for i = 1, chance:int(1, self.plan.recipients) do
    self.counts.mails = self.counts.mails + 1
    addresses[i] = ('r%d@%s'):format(self.counts.mails, domain)
  end
  local body = 'mail ' .. self.counts.mails .. '\r\n' .. (('x'):rep(70) .. '\r\n'):rep(chance:log(1, 40))
  local inject, rt = chance:chance(0.3), self.rt
  self.clients = self.clients + 1
  c.spawn(function()
    local answer, text
    model_:mail_sent(addresses, domain, 'Subject: x\r\n\r\n' .. body)
    if inject then
      local list = "'" .. table.concat(addresses, "','") .. "'"
      local ok, result = pcall(rt.eval, rt, ('return sim.inject({%s}, %q)'):format(list, 'Subject: x\r\n\r\n' .. body))
      text = ok and 'injected' or tostring(result)
      answer = ok and type(result) == 'table' and result.success_count == #addresses and 'accepted'
        or text:find 'could not be stored' and 'refused' or nil
    else
      local id, reply = client.receive(rt, self.world, { to = addresses, data = 'Subject: x\r\n\r\n' .. body })
      text = id or reply
      answer = id and 'accepted' or tostring(reply):match '^[45]%d%d' and 'refused' or nil
    end
    self.clients = self.clients - 1
    if disk.is_ghost() then -- the answer of a process that was no more
      answer = nil
    end
    self.trace('mail %s %s: %s', table.concat(addresses, ' '), answer or 'unknown', text:match '^[^\n]*')
    model_:mail_answered(addresses, answer)
  end, 'a client')
end

-- --- what happens --------------------------------------------------------------------------------------------------------

local PAUSES = {
  { 10, 0 }, { 10, 0.02 }, { 12, 1 }, { 12, 20 }, { 12, 300 }, { 12, 1800 }, { 16, 7200 }, { 20, 20000 }, { 9, 60000 },
} -- stylua: ignore

--- Time passes; a process that is killed in it is started again.
function scenario:pass(seconds)
  repeat
    local slice = math.min(seconds, disk.is_ghost() and GHOST_S or SLICE_S)
    self.rt:advance(slice)
    seconds = seconds - slice
    if disk.is_ghost() then
      self:bury()
      seconds = self.hurt and math.min(seconds, HURT_S) or seconds
    elseif not self.plan.flush and self:now() > self.written_at + KERNEL_S and self.random:chance(0.5) then
      self:write_back()
    end
  until seconds <= 0
end

--- Without flush: the kernel writes what has been in its hand for a while.
function scenario:write_back()
  if self.rt:spool().pending_bytes == 0 then
    self.model:rest()
    disk.write_back()
    self.written_at = self:now()
    local lost = disk.lost() -- what a sync could not write the kernel does not write, either
    if lost == 0 then
      self.model:written()
    end
    self.trace('written, lost %d', lost)
  end
end

function scenario:bury()
  self.trouble = self.random:chance(0.1)
  self:restart(self.random:of { 0, 1, 30, 600 })
end

function scenario:compare()
  local rt = self.rt
  local figures = rt:spool()
  self:check_log(rt, false)
  self.model:listen()
  if figures.pending_bytes > 0 then
    self.trace('pending %d', figures.pending_bytes)
    return
  end
  self.model:rest()
  if not self.hurt then
    self.model.unrevoked = false
  end
  if self.model.starved and not memory.will_fail() then
    self.model.starved = false
  end
  local ledger, queues = rt:ledger(), rt:figures()
  local balances, differences = rt:balances()
  if not balances then
    self:wrong('the ledger does not balance: %s', differences)
  end
  if figures.damaged_frames > 0 and not self.model.damaged then
    self:wrong('%d damaged frames', figures.damaged_frames)
  end
  self.model:compare(ledger, queues, self:now() == self.started)
  local segment = self.plan.sizes.segment_bytes
  local most = 2 * figures.live_bytes + SEGMENTS_OVER * math.max(segment, 16384) -- a group may have one of its own size
  if not self.hurt and self:now() > self.started and figures.log_bytes > most then -- a start has not copied forward yet
    self:wrong('the log has %d bytes in segments of %d, %d bytes live', figures.log_bytes, segment, figures.live_bytes)
  end
  self.trace('rest line %d timers %d ready %d in_flight %d undecided %d parked %d sessions %d log %d', queues.line, queues.timers,
    queues.ready, queues.in_flight, queues.undecided, queues.parked, queues.sessions, figures.log_bytes)
end

--- The letters of each hook are those that the ledger has.
function scenario:count_letters(ledger)
  for _, hook in ipairs(self.plan.hooks) do
    local row = ledger['dead:' .. hook.name]
    if row then
      local ok, ids = pcall(self.rt.eval, self.rt, ('return sim.dead(%q)'):format(hook.name))
      if not ok then
        self:wrong('the list of dead letters: %s', tostring(ids))
      elseif ids and #ids ~= row.waiting then
        self:wrong('%s: %d dead letters, the ledger has %d', hook.name, #ids, row.waiting)
      end
    end
  end
end

function scenario.waiting_in(ledger)
  local sum = 0
  for name, row in pairs(ledger) do
    if not name:find '^dead:' then
      sum = sum + row.waiting
    end
  end
  return sum
end

--- Everything is well again, and time passes until nothing waits.
function scenario:heal()
  self.trace 'heal'
  self.healing = true
  disk.heal()
  disk.capacity(nil)
  memory.calm()
  self.hurt = false
  self.world:heal()
  self.plan.broken = false
  self.model:unsuspend()
  self:restart(1) -- with a policy that raises nothing
  local began, step = self:now(), 10
  self:pass(0)
  local waiting = self.waiting_in(self.rt:ledger())
  -- the longest delay, another hour, and a minute each: that is the lowest rate
  local limit = 2.1 * 7200 + 3600 + 60 * waiting
  repeat
    self:pass(step)
    self:compare()
    step = math.min(step * 2, 43200)
  until self.waiting_in(self.rt:ledger()) == 0 and self.clients == 0 or self:now() > began + HEALING_S or #self.model.wrongs > 0
  if self:now() > began + 2 * limit then -- the steps double
    self:wrong('%d messages took %.0f s to go when all was well again', waiting, self:now() - began)
  end
  self:restart(0)
  self:pass(1)
  self:compare()
  local ledger = self.rt:ledger()
  self:count_letters(ledger)
  self.model:finish(ledger)
  if self.clients > 0 then
    self:wrong('%d clients have no answer', self.clients)
  end
end

function scenario:run()
  self.plan.broken = self.random:chance(0.5)
  self:start()
  local until_ = self:now() + self.options.days * DAY_S
  while self:now() < until_ and #self.model.wrongs == 0 do
    self.counts.steps = self.counts.steps + 1
    acts[self.random:weighted(acts.WEIGHTS)](self)
    if self.hurt and self.random:chance(acts.MEND_CHANCE) then
      self:mend_disk()
    end
    local pause = self.random:weighted(PAUSES) * (0.5 + self.random:next())
    self:pass(self.hurt and math.min(pause, HURT_S) or pause)
    self:compare()
  end
  self.days = self:now() / DAY_S
  if #self.model.wrongs == 0 then
    self:heal()
  end
  self:stop(STOP_S)
  self.world:close()
  self.trace('end %s', disk.digest())
end

return scenario
