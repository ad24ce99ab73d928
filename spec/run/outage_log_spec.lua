-- What a person reads of an outage of an endpoint: few lines, with the reason.
local helper = require 'helper'

local SCRIPT = [[
local testing = require 'tr.testing'
local rt = testing.start { policy = %q }
for _ = 1, 50 do rt:receive { to = 'a@example.org' } end
rt:advance(3600)
rt:eval 'down = false'
rt:advance(3600)
print('DELIVERED', rt:ledger().h.delivered)
rt:stop(1)
]]

local POLICY = [[
DIR = %q
local kumo = require 'kumo'
down = true
require('policy-extras.log_hooks'):new {
  name = 'h',
  log_parameters = { per_record = { Reception = { enable = true }, Any = { enable = false } } },
  constructor = function()
    return { send = function() if down then kumo.reject(450, '503 Service Unavailable: come back later') end return 'ok' end }
  end,
}
kumo.on('init', function()
  kumo.define_spool { name = 'data', path = DIR .. '/data' }
  kumo.define_spool { name = 'meta', path = DIR .. '/meta' }
end)
kumo.on('make.mail', function() return { send = function() return 'ok' end } end)
kumo.on('get_queue_config', function()
  return kumo.make_queue_config { protocol = { custom_lua = { constructor = 'make.mail' } } }
end)
]]

describe('the log of an outage of an hour', function()
  after_each(helper.cleanup)

  it('says why the gate closed, at most once a minute, and once that it is open', function()
    local dir = helper.dir()
    local policy = helper.write(dir .. '/policy.lua', POLICY:format(dir))
    local script = helper.write(dir .. '/script.lua', SCRIPT:format(policy))
    local run = helper.start(('%s lua %s'):format(helper.quote(helper.TAILRACE), script), { TAILRACE_LOG = 'info' })
    assert.are.equal(0, run:wait())
    assert.are.equal('50', run:line 'DELIVERED%s+(%d+)')
    local log = run:log()
    local _, closed = log:gsub('gate closed for', '')
    local _, open = log:gsub('gate open again after', '')
    assert.is_truthy(log:find('gate closed for [%d.]+ s: 503 Service Unavailable: come back later'), log)
    assert.is_true(closed >= 1 and closed <= 61, closed .. ' lines')
    assert.are.equal(1, open, log)
    local last
    for minute, second in log:gmatch 'T%d%d:(%d%d):([%d.]+)Z WARN  queue: [^\n]*gate closed' do
      local at = minute * 60 + second
      assert.is_true(last == nil or at < last or at - last >= 47, log) -- a wait of a minute may be 48 s with its jitter
      last = at
    end
  end)
end)
