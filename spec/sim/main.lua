-- One run of tailrace-sim: main.lua SEED DAYS POLICY_FILE [trace]. The last line that it writes is of the form
-- "result name=value ...", for spec/sim/runs.c.
local here = arg[0]:match '^(.*)/'
package.path = here .. '/?.lua;' .. package.path

local scenario = require 'scenario'
local sim = require 'tr.sim'
local memory = require 'tr.sim_memory'

local seed, days = tonumber(arg[1]), tonumber(arg[2])
local file = assert(io.open(here .. '/policy.lua'))
local policy_text = file:read '*a'
file:close()

local run = scenario.new {
  seed = seed,
  days = days,
  policy = arg[3],
  policy_text = policy_text,
  print = arg[4] == 'trace' and function(line)
    io.stdout:write(line, '\n')
  end or nil,
}
local ok, err = xpcall(run.run, debug.traceback, run)
if not ok then
  run:wrong('the simulation ended: %s', tostring(err))
end
local wrongs = run.model.wrongs
for _, line in ipairs(wrongs) do
  io.stdout:write('WRONG ', line, '\n')
end
local counts, model = run.counts, run.model
local numbers = {
  ('days=%.3f'):format(run.days or run:now() / 86400),
  ('steps=%d starts=%d kills=%d cuts=%d faults=%d memory=%d'):format(counts.steps, counts.starts, counts.kills, counts.cuts, counts.faults,
    memory.failures()),
  ('messages=%d attempts=%d'):format(model.messages, model.attempts),
  ('crash=%d answer=%d wrong=%d digest=%s'):format(model.duplicates.crash, model.duplicates.answer, #wrongs, sim.digest()),
}
io.stdout:write('result ', table.concat(numbers, ' '), '\n')
io.stdout:flush()
if #wrongs > 0 then
  error() -- sets the exit status
end
