-- What tailrace-sim has found, each on its own: a seed means another run as soon as the generator changes.
local helper = require 'helper'
local testing = require 'tr.testing'

local POLICY = [[
local kumo = require 'kumo'
local log_hooks = require 'policy-extras.log_hooks'
sent = 0
log_hooks:new {
  name = 'h',
  log_parameters = { per_record = { Any = { enable = false }, Expiration = { enable = true }, AdminBounce = { enable = true },
    TransientFailure = { enable = true } } },
  constructor = function() return { send = function() sent = sent + 1 return 'ok' end } end,
}
kumo.on('init', function()
  for _, name in ipairs { 'data', 'meta' } do kumo.define_spool { name = name, path = '/nowhere/' .. name } end
end)
kumo.on('get_queue_config', function()
  return kumo.make_queue_config { max_age = '5m', protocol = { custom_lua = { constructor = 'make.mail' } } }
end)
kumo.on('get_egress_path_config', function() return kumo.make_egress_path { connection_limit = 1, max_ready = 200 } end)
kumo.on('make.mail', function() return { send = function() kumo.sleep(400) return 'ok' end } end)
]]

describe('the simulation found that', function()
  local rt

  after_each(function()
    if rt then
      rt:stop(1)
      rt = nil
    end
    helper.cleanup()
  end)

  local function start()
    local policy = helper.write(helper.dir() .. '/policy.lua', POLICY)
    rt = testing.start {
      policy = policy,
      seed = 7,
      offline = 'temporary',
      spool_sizes = { segment_bytes = 32768 }, -- so a change has 16 KiB
    }
    for i = 1, 60 do
      assert(rt:receive { to = ('r%d@example.org'):format(i) })
    end
  end

  it('records of mails that expire at once were lost as one change was too small for all', function()
    start()
    rt:advance(500) -- one is under way, the others have been in its ready queue for max_age
    assert.are.equal(59, rt:ledger().mail.expired)
    assert.are.equal(59, rt:ledger().h.offered)
    assert.are.equal(59, rt:eval 'return sent')
  end)

  it('records of mails that are put off at once were lost, too', function()
    start()
    rt:eval "require('tr.host').internal('admin').add('suspend', { domain = 'example.org', reason = 'x', duration = 450 }, true)"
    rt:advance(500)
    assert.is_true(rt:ledger().h.offered >= 59)
    assert.are.equal(rt:ledger().h.offered, rt:eval 'return sent')
  end)

  it('a mail that came due in a suspended queue, right after a start, was judged by the delays of no policy, and expired', function()
    local dir = helper.dir()
    local policy = helper.write(
      dir .. '/policy.lua',
      ([[
local kumo = require 'kumo'
kumo.on('init', function()
  for _, name in ipairs { 'data', 'meta' } do kumo.define_spool { name = name, path = '%s/' .. name } end
end)
kumo.on('get_queue_config', function()
  return kumo.make_queue_config { retry_interval = '20s', max_retry_interval = '5m', max_age = '2 days',
    protocol = { custom_lua = { constructor = 'make.mail' } } }
end)
kumo.on('make.mail', function() return { send = function() kumo.reject(450, 'not now') end } end)
]]):format(dir)
    )
    rt = testing.start { policy = policy, seed = 7, wall = 1785000000 }
    assert(rt:receive { to = 'r1@example.org' })
    rt:advance(7200) -- some twenty attempts
    rt:stop()
    rt = testing.start { policy = policy, seed = 8, wall = 1785000000 + 7201 }
    rt:eval "require('tr.host').internal('admin').add('suspend', { domain = 'example.org', reason = 'x', duration = 900 })"
    rt:advance(1800)
    assert.are.equal(0, rt:ledger().mail.expired)
    assert.are.equal(1, rt:ledger().mail.waiting)
  end)
end)
