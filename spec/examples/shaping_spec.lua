-- examples/shaping as it is: events of a burst, with the section of the file and with mail's defaults, in virtual time.
local helper = require 'helper'
local kumo = require 'kumo'

local COUNT = 600

-- In a process of its own, since the example reads its settings from the environment.
local SCRIPT = [[
local kumo, test = require 'kumo', require 'kumo.test'
local rt = test.start { policy = 'examples/shaping/policy.lua' }
rt:http('http://127.0.0.1:4242/log', { status = 200, delay = '5ms' })
rt:smtp('127.0.0.1:2526', 250)
for i = 1, %d do
  assert(rt:receive { to = ('user%%d@example.org'):format(i) })
  rt:advance '1ms'
end
local waiting, began = rt:ledger('webhook').waiting, rt:now()
rt:run_until(function() return rt:ledger('webhook').waiting == 0 end)
print(kumo.serde.json_encode { waiting = waiting, after_s = rt:now() - began, delivered = rt:ledger('webhook').delivered })
pcall(rt.stop, rt) -- it tells of the example's automation, which sleeps until its next look
]]

describe('examples/shaping', function()
  after_each(helper.cleanup)

  --- How many events wait when the last mail is in; seconds until none waits, from then on.
  local function burst(mail_defaults)
    local dir = helper.dir()
    local script = helper.write(dir .. '/burst.lua', SCRIPT:format(COUNT))
    local run = helper.start(('%s lua %s'):format(helper.quote(helper.TAILRACE), script), {
      TAILRACE_DIR = dir,
      MAIL_DEFAULTS = mail_defaults and '1' or '0',
    })
    assert.are.equal(0, run:wait(), run:log())
    local seen = kumo.serde.json_parse(run:output():match '{.*}')
    assert.are.equal(COUNT, seen.delivered)
    return seen.waiting, seen.after_s
  end

  it('has no backlog with its section, and one with the defaults of mail', function()
    local with, with_s = burst(false)
    local without, without_s = burst(true)
    -- 100 at once, then 100 a second, however fast the endpoint is: 0.6 s of mail
    assert.is_true(without > COUNT - 100 - 100, ('%d events waited'):format(without))
    assert.is_true(without_s > 4 and without_s < 5, ('%g s for the rest'):format(without_s))
    assert.is_true(with < 20, ('%d events waited'):format(with))
    assert.is_true(with_s < 0.1, ('%g s for the rest'):format(with_s))
  end)
end)
