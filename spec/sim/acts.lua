--- What may happen in a step: each act takes the run (scenario.lua), draws from its chance, and says so in its trace.
local disk = require 'tr.sim_disk'
local memory = require 'tr.sim_memory'
local plan = require 'plan'
local world = require 'world'

local acts = {}

function acts.mail(run)
  for _ = 1, run.random:log(1, run.plan.busy * 4) do
    run:send_mail()
  end
end

--- So many at once that as many connections are wanted as there may be, to peers that take their time.
function acts.burst(run)
  local domain = run:any_domain()
  for _, place in ipairs(run.world.list) do
    if place.hook and run.random:chance(0.3) or place.domain == run.plan.domains[domain] then
      run.world:set_weather(place, 'sluggish')
    end
  end
  for _ = 1, run.random:int(30, 100) do
    run:send_mail(domain)
  end
end

function acts.weather(run)
  run.world:set_weather(run.random:of(run.world.list), run.random:weighted(world.WEATHERS))
end

function acts.restart(run)
  run.counts.restarts = run.counts.restarts + 1
  run:restart(run.random:of { 0, 1, 60, 3600 })
end

-- --- crashes ---------------------------------------------------------------------------------------------------------

function acts.kill(run)
  run.counts.kills = run.counts.kills + 1
  run.trace 'kill'
  disk.kill()
end

function acts.cut(run)
  run.counts.cuts = run.counts.cuts + 1
  run.trace 'cut'
  disk.cut(run.random:int(1, 2 ^ 31))
end

--- Killed, or without power, within one of the next file operations, maybe of the stop or the start.
function acts.armed(run)
  local cut = run.random:chance(0.5)
  local after = run.random:log(1, 300) - 1
  local op = run.random:of { 'any', 'changes', 'write', 'sync' }
  run.counts[cut and 'cuts' or 'kills'] = run.counts[cut and 'cuts' or 'kills'] + 1
  run.trace('armed %s at %s %d', cut and 'cut' or 'kill', op, after)
  disk.fail { op = op, after = after, times = 1, kill = not cut, cut = cut }
  if run.random:chance(0.3) then
    run:restart(1)
  end
end

-- --- disks -----------------------------------------------------------------------------------------------------------

function acts.fault(run)
  local random = run.random
  local op = random:weighted {
    { 5, 'write' }, { 5, 'sync' }, { 2, 'allocate' }, { 2, 'open' }, { 1, 'truncate' }, { 1, 'rename' }, { 1, 'unlink' },
    { 1, 'sync_dir' }, { 2, 'read' }, { 2, 'changes' },
  } -- stylua: ignore
  local errno = random:of { 'EIO', 'EIO', 'ENOSPC' }
  local times = random:of { 1, 1, 3, 20, false }
  local after = random:log(1, 100) - 1
  run:hurt_disk(op)
  run.trace('fault %s %s after %d, %s times', op, errno, after, tostring(times))
  disk.fail { op = op, errno = errno, after = after, times = times or nil }
end

--- Reads and writes come short, which is no failure.
function acts.short(run)
  local op = run.random:of { 'read', 'write' }
  run.trace('short %s', op)
  disk.fail { op = op, short = true, after = run.random:log(1, 30) - 1, times = run.random:log(1, 50) }
end

function acts.full(run)
  local more = run.random:log(1, 200000)
  run:hurt_disk 'full'
  run.trace('full in %d bytes', more)
  disk.capacity(disk.used() + more)
end

function acts.mend(run)
  run:mend_disk()
end

--- Some allocations of the engine fail, ours or Lua's, of what comes now or of what comes later.
function acts.starve(run)
  if not run.plan.memory then
    return acts.mail(run)
  end
  local kind, after, times = run.random:of { 'malloc', 'malloc', 'lua' }, run.random:log(1, 3000), run.random:of { 1, 1, 1, 3, 10, 30 }
  run.model.starved, run.model.has_starved, run.model.ever_starved = true, true, true
  run.trace('starve %s after %d, %d times', kind, after, times)
  memory.fail(kind, after, times)
  if run.random:chance(0.7) then
    acts.mail(run)
  end
end

-- --- clocks ------------------------------------------------------------------------------------------------------------

function acts.clock(run)
  local seconds = run.random:of { 3600, -3600, 5, -5 }
  run.trace('clock %d', seconds)
  run.model:clock_set(seconds)
  run.rt:step_clock(seconds)
end

-- --- administrators ------------------------------------------------------------------------------------------------------

--- A queue's domain, and its account.
local function any_queue(run)
  if run.random:chance(0.5) then
    local hook = run.random:of(run.plan.hooks)
    return hook.name .. '.log_hook', hook.name
  end
  return run:any_domain(), 'mail'
end

local function ask(run, text, ...)
  local code = text:format(...)
  local ok, value = pcall(run.rt.eval, run.rt, code)
  run.trace('ask %s: %s', code, ok and 'done ' .. plan.text(value) or tostring(value):match '^[^\n]*')
  if not ok and not disk.is_ghost() and not run.hurt and not run.model.starved then
    run:wrong('%s: %s', code, tostring(value))
  end
  return ok, value
end

function acts.suspend(run)
  local domain, account = any_queue(run)
  local seconds = run.random:log(1, 40000)
  if ask(run, 'sim.suspend(%q, %d)', domain, seconds) then
    run.model:suspend(account, domain, seconds)
  end
end

function acts.unsuspend(run)
  ask(run, 'sim.unsuspend()')
  run.model:unsuspend()
end

function acts.bounce(run)
  local domain = any_queue(run)
  ask(run, 'sim.bounce(%q, %d, %s)', domain, run.random:log(1, 300), tostring(run.random:chance(0.5)))
end

function acts.rebind(run)
  local flush = run.random:chance(0.3)
  local from, to = run:any_domain(), run:any_domain()
  run.model:rebind(flush)
  ask(run, 'sim.rebind(%q, %q, %s)', from, to, tostring(flush))
end

--- A new configuration epoch: the same answers, or other ones for a domain or a hook.
function acts.epoch(run)
  local name = run:any_domain()
  local of = run.plan.domains[name]
  if run.random:chance(0.4) then
    of = run.random:of(run.plan.hooks)
    name = of.name
  end
  if run.random:chance(0.3) or of.former then
    ask(run, 'sim.epoch()')
    return
  end
  local values = plan.retune(of, run.random, run:now())
  if not ask(run, 'sim.retune(%q, %s)', name, plan.text(values)) then
    of.former.at = math.huge -- who knows
  end
end

local function replay(run, name)
  run.model:replay(name)
  ask(run, 'return sim.replay(%q, %d)', name, run.random:log(1, 50))
end

function acts.replay(run)
  replay(run, run.random:of(run.plan.hooks).name)
  if run.random:chance(0.3) then
    acts.kill(run)
  end
end

function acts.purge(run)
  local name = run.random:of(run.plan.hooks).name
  ask(run, 'return sim.purge(%q, %d)', name, run.random:log(1, 50))
end

-- --- several things that must come together to be worth something ----------------------------------------------------------

--- The process ends, in one way or another.
local function ends(run)
  acts[run.random:weighted { { 4, 'kill' }, { 2, 'cut' }, { 1, 'restart' } }](run)
end

--- Mail is refused as the disk fails, and the process ends before that works again: what was refused must not come back.
function acts.refused(run)
  local random = run.random
  local op = random:of { 'write', 'sync', 'sync', 'changes' }
  local after = random:log(1, 10) - 1
  run:hurt_disk(op)
  run.trace('refused by %s after %d', op, after)
  disk.fail { op = op, errno = random:of { 'EIO', 'ENOSPC' }, after = after }
  if op == 'sync' and random:chance(0.6) then -- nor is there another segment whose header says that the group is none
    disk.fail { op = random:of { 'rename', 'sync_dir' }, errno = 'EIO' }
  end
  for _ = 1, random:int(1, 8) do
    run:send_mail()
    run:pass(random:of { 0, 0.02, 1 })
  end
  ends(run)
end

local function letters_of(run, hook)
  local row = run.rt:ledger()['dead:' .. hook.name]
  return row and row.waiting or 0
end

--- Dead letters are replayed to an endpoint that does not take them, and the process ends: they must not be letters again.
function acts.letters(run)
  local hook = run.random:of(run.plan.hooks)
  local place = run.world.places[hook.address]
  local weather = place.weather
  if letters_of(run, hook) == 0 then -- the endpoint makes some
    run.world:set_weather(place, 'refusing')
    acts.mail(run)
    run:pass(20)
  end
  if letters_of(run, hook) > 0 then
    run.world:set_weather(place, run.random:of { 'busy', 'refused', 'hung' })
    replay(run, hook.name)
    run:pass(0.1)
    run:compare()
    ends(run)
  end
  run.world:set_weather(place, weather)
end

--- Much comes and goes in a few seconds, so that segments go and what stays is copied forward; often the power goes before
--- the kernel has written what nobody has synced.
function acts.churn(run)
  local random = run.random
  for _ = 1, random:int(2, 8) do
    for _ = 1, random:int(2, 10) do
      run:send_mail()
    end
    run:pass(random:of { 0.02, 0.5, 3 })
  end
  if random:chance(0.7) then
    acts[random:weighted { { 4, 'cut' }, { 1, 'kill' }, { 1, 'armed' } }](run)
  end
end

--- { weight, name }; `mend` is worth something while a disk is hurt only
acts.WEIGHTS = {
  { 56, 'mail' }, { 3, 'burst' }, { 20, 'weather' }, { 2, 'restart' }, { 2, 'kill' }, { 2, 'cut' }, { 6, 'armed' }, { 4, 'fault' }, { 2, 'short' },
  { 2, 'full' }, { 16, 'starve' }, { 2, 'clock' }, { 6, 'suspend' }, { 1, 'unsuspend' }, { 1, 'bounce' }, { 1, 'rebind' }, { 2, 'epoch' },
  { 2, 'replay' }, { 1, 'purge' }, { 8, 'refused' }, { 12, 'letters' }, { 6, 'churn' },
} -- stylua: ignore
acts.MEND_CHANCE = 0.35 -- a step

return acts
