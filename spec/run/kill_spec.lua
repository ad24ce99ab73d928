-- kill -9 at any moment under load (killing.lua), once in each case. A thousand times: build/release/tailrace lua spec/run/kills.lua
local helper = require 'helper'
local killing = require 'run.killing'

local SEED = tonumber(os.getenv 'TAILRACE_SEED' or '') or os.time()

describe('kill -9 under load', function()
  after_each(helper.cleanup)

  for i, case in ipairs(killing.CASES) do
    it(('loses and invents nothing: %d, %s'):format(i, killing.title(case)), function()
      math.randomseed(SEED + i)
      local ok, result = pcall(killing.run, case, 1)
      assert(ok, ('%s\nagain: TAILRACE_SEED=%d busted --filter=": %d," spec/run/kill_spec.lua'):format(tostring(result), SEED, i))
      print('\n' .. killing.figures_line(result))
    end)
  end
end)
