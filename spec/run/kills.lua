-- kill -9 a thousand times, over all cases of killing.lua. Prints a line for each case and round, the last one is the sum.
--
--   build/release/tailrace lua spec/run/kills.lua [KILLS] [SEED] [CASE]      default: 1000 kills, a fresh seed, all cases
--
-- 1,000 kills take about half an hour. The seed repeats the moments, not the machine's timing.
package.path = 'spec/?.lua;' .. package.path
local helper = require 'helper'
local killing = require 'run.killing'

local KILLS, SEED, CASE = tonumber(arg[1] or 1000), tonumber(arg[2] or os.time()), tonumber(arg[3] or '')
local ROUND = 20 -- kills of one spool: then the next case has its turn, and a failure comes with less to look at

local sum, start, failed = { kills = 0 }, os.time(), false
local function say(fmt, ...)
  print(('%5d s  %s'):format(os.time() - start, fmt:format(...)))
  io.stdout:flush()
end

local round = 0
while sum.kills < KILLS and not failed do
  local number = CASE or round % #killing.CASES + 1
  local case, count = killing.CASES[number], math.min(ROUND, KILLS - sum.kills)
  local seed = SEED + round
  math.randomseed(seed)
  local ok, result = pcall(killing.run, case, count)
  if ok then
    for name, value in pairs(result) do
      sum[name] = (sum[name] or 0) + value
    end
    say('case %d (%s): %s', number, killing.title(case), killing.figures_line(result))
  else
    say('case %d (%s): %s', number, killing.title(case), tostring(result))
    say('again: %s lua spec/run/kills.lua %d %d %d', helper.TAILRACE, count, seed, number)
    failed = true
  end
  helper.cleanup()
  round = round + 1
end
if not failed then
  say('%s; seed %d', killing.figures_line(sum), SEED)
end
os.exit(failed and 1 or 0)
