--- `tailrace plan --simulate`: the planned load through the real engine, under the virtual clock, in this process. What sessions
--- connect to only takes time (lua/plan/simulated.lua). Nothing of the policy's spool, logs, listeners or network is touched.
local host = require 'tr.host'

local simulation = {}

local STEP_S = 0.1 -- mails come in bunches of so long
local SAMPLE_S = 1
local WARM_UP = 0.4 -- of the time, before rates are measured: bursts of throttles, the first connections
local LEAST_S = 20
local MOST_MESSAGES = 150000 -- a longer load is cut: the engine needs some 50 us of real time for each

local OWN = { Reception = true, Delivery = true, Delayed = true } -- events that the engine makes of a mail by itself

---@class tr.plan.Simulated
---@field name string         of a hook, or "mail"
---@field planned number      delivered a second, by the arithmetic
---@field simulated number    delivered a second
---@field off number          (simulated - planned) / planned

---@class tr.plan.Simulation
---@field duration_s number
---@field cut boolean         it was shortened
---@field messages integer    that were queued
---@field queues tr.plan.Simulated[]
---@field series tr.plan.Series[]

--- A domain for each mail, in the shares planned: whoever is most behind comes next.
local function domain_chooser(domains)
  local owed = {}
  return function()
    local best
    for _, one in ipairs(domains) do
      owed[one] = (owed[one] or 0) + one.share
      if not best or owed[one] > owed[best] then
        best = one
      end
    end
    owed[best] = owed[best] - 1
    return best.name
  end
end

--- What the load feeds in up to a moment.
local function feeder(rt, wanted)
  local domain_of = domain_chooser(wanted.domains)
  local data = 'Subject: plan\r\n\r\n' .. ('x'):rep(70) .. '\r\n'
  local done = {}
  local function up_to(kind, count, feed)
    for _ = (done[kind] or 0) + 1, math.floor(count + 1e-9) do
      feed()
    end
    done[kind] = math.max(done[kind] or 0, math.floor(count + 1e-9))
  end
  return function(at_s)
    up_to('mail', wanted.mails_s * at_s, function()
      assert(rt:receive { from = 'sender@plan.example', to = 'user@' .. domain_of(), data = data })
    end)
    for kind, each in pairs(wanted.events) do
      if not OWN[kind] then
        up_to(kind, wanted.mails_s * each * at_s, function()
          assert(rt:event { type = kind, from = 'sender@plan.example', to = 'user@' .. domain_of() })
        end)
      end
    end
  end
end

--- What the arithmetic expects of an account: hooks have one queue each, the mail all of its own.
local function planned_of(result)
  local planned, names = {}, {}
  for _, queue in ipairs(result.queues) do
    if not planned[queue.name] then
      names[#names + 1] = queue.name
    end
    planned[queue.name] = (planned[queue.name] or 0) + math.min(queue.demand, queue.limit or math.huge)
  end
  return planned, names
end

--- What comes to a hook in the simulation, whatever --events says: the engine makes a Reception of each mail, a Delivery of each
--- that gets through, and a Delayed of each that finds no room in its ready queue.
local function follow_mail(result, planned)
  local mails_s, crowded_s = result.load.mails_s, 0
  for _, queue in ipairs(result.queues) do
    if not queue.is_hook and queue.limit and queue.demand > queue.limit then
      crowded_s = crowded_s + queue.demand
    end
  end
  for _, queue in ipairs(result.queues) do
    if queue.is_hook then
      local demand = (queue.takes.Reception and mails_s or 0)
        + (queue.takes.Delivery and planned.mail or 0)
        + (queue.takes.Delayed and crowded_s or 0)
      for _, kind in ipairs(queue.types) do
        demand = demand + (OWN[kind] and 0 or result.load.events[kind] * mails_s)
      end
      planned[queue.name] = math.min(demand, queue.limit or math.huge)
    end
  end
end

local function run(rt, result, duration_s)
  local feed, planned, names = feeder(rt, result.load), planned_of(result)
  local series, queues, warm = {}, {}, nil
  follow_mail(result, planned)
  for i, name in ipairs(names) do
    series[i] = { queue = name, step_s = SAMPLE_S, depth = {} }
  end
  local ledger
  for step = 1, math.floor(duration_s / STEP_S + 0.5) do
    local at_s = step * STEP_S
    feed(at_s)
    rt:advance(STEP_S)
    if step % (SAMPLE_S / STEP_S) == 0 then
      ledger = rt:ledger()
      for i, name in ipairs(names) do
        series[i].depth[step / (SAMPLE_S / STEP_S)] = ledger[name] and ledger[name].waiting or 0
      end
      if not warm and at_s >= duration_s * WARM_UP then
        warm = { ledger = ledger, at_s = at_s }
      end
      duration_s = math.max(duration_s, at_s)
    end
  end
  local messages = 0
  for i, name in ipairs(names) do
    local last, first = ledger[name] or { delivered = 0, accepted = 0 }, warm.ledger[name] or { delivered = 0 }
    local simulated = (last.delivered - first.delivered) / (duration_s - warm.at_s)
    messages = messages + last.accepted
    queues[i] = { name = name, planned = planned[name], simulated = simulated, off = simulated / planned[name] - 1 }
  end
  return { duration_s = duration_s, messages = messages, queues = queues, series = series }
end

local function make_dir()
  local pipe = assert(io.popen 'mktemp -d "${TMPDIR:-/tmp}/tailrace-plan.XXXXXX"')
  local dir = pipe:read '*l'
  pipe:close()
  return assert(dir, 'no temporary directory can be made')
end

--- Raises what went wrong.
---@async
---@param policy string
---@param result table of lua/plan.lua
---@return tr.plan.Simulation
function simulation.run(policy, result)
  local wanted = result.load
  local duration_s = math.max(wanted.duration_s, LEAST_S)
  local most_s = math.max(LEAST_S, MOST_MESSAGES / result.messages_s)
  local cut = duration_s > most_s
  duration_s = math.floor(math.min(duration_s, most_s))

  local dir = make_dir()
  local latency, mail_s = {}, nil
  for _, queue in ipairs(result.queues) do
    if queue.is_hook then
      latency[#latency + 1] = ('[%q] = %.17g'):format(queue.queue, queue.latency_s)
    else
      mail_s = queue.latency_s
    end
  end
  local network = host.internal('scripted').new()
  network:answer_all {} -- each name has an address: where mail goes is looked up, and nothing is connected to
  local ok, answer = pcall(function()
    local rt = require('tr.testing').start { policy = policy, seed = wanted.seed, offline = dir, log = 'error', scripted = true }
    local worked, simulated = pcall(function()
      rt:eval(("require('tr.host').internal('plan.simulated').install({ %s }, %.17g)"):format(table.concat(latency, ', '),
        mail_s))
      return run(rt, result, duration_s)
    end)
    rt:stop(0)
    return worked and simulated or error(simulated, 0)
  end)
  network:close()
  os.execute(("rm -rf '%s'"):format(dir))
  if not ok then
    error(answer, 0)
  end
  answer.cut = cut
  return answer
end

return simulation
