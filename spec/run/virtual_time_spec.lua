-- Days of retries through the whole runtime, policy included, in milliseconds: the virtual clock on the real engine.
local helper = require 'helper'
local testing = require 'tr.testing'

--- A policy whose hook `h` answers from the global `answers` (a function of the attempt number) and notes what it got.
local POLICY = [[
local kumo = require 'kumo'
local log_hooks = require 'policy-extras.log_hooks'
sent, sessions = {}, 0
function answer(msg) return 'ok' end
log_hooks:new {
  name = 'h',
  queue_config = { max_age = '2 days' },
  log_parameters = { per_record = { Reception = { enable = true }, Any = { enable = false } } },
  constructor = function(domain, tenant, campaign)
    sessions = sessions + 1
    local conn = {}
    function conn:send(msg)
      sent[#sent + 1] = { at = os.time(), attempts = msg:num_attempts(), event_id = msg:get_meta('log_record').event_id,
        subject = msg:get_meta('log_record').headers.Subject }
      return answer(msg)
    end
    function conn:close() end
    return conn
  end,
}
kumo.on('init', function()
  kumo.define_spool { name = 'data', path = DIR .. '/data' }
  kumo.define_spool { name = 'meta', path = DIR .. '/meta' }
end)
kumo.on('get_queue_config', function(domain)
  return kumo.make_queue_config { protocol = { smtp = { mx_list = { '127.0.0.1:1' } } } }
end)
]]

describe('under the virtual clock', function()
  local dir, rt

  local function start(extra)
    dir = dir or helper.dir()
    helper.write(dir .. '/policy.lua', ('DIR = %q\n'):format(dir) .. POLICY .. (extra or ''))
    rt = testing.start { policy = dir .. '/policy.lua', seed = 7 }
    return rt
  end

  after_each(function()
    if rt then
      rt:stop(1)
      rt = nil
    end
    dir = nil
    helper.cleanup()
  end)

  -- one told the other that there was nothing to wait for: the worker never left its turn
  it('waits in a ready queue that is suspended while its path has an error', function()
    start [[
      broken = true
      kumo.on('get_egress_path_config', function() if broken then error 'no path' end return kumo.make_egress_path {} end)
      function suspend()
        kumo.api.admin.suspend_ready_q.suspend {
          name = 'unspecified->h.log_hook@lua:make.h.log_hook', reason = 'x', duration = '100s',
        }
      end
    ]]
    rt:receive { to = 'a@example.org' }
    rt:advance(1) -- the error is known
    rt:eval 'suspend()'
    rt:receive { to = 'b@example.org' }
    rt:advance(90) -- the path has been asked for again
    assert.are.equal(0, rt:eval 'return #sent')
    rt:eval 'broken = false'
    rt:advance(600)
    assert.are.equal(2, rt:eval 'return #sent')
    assert.are.equal(0, rt:ledger().h.waiting)
  end)

  it('delivers an event at once', function()
    start()
    assert.is_string(rt:receive { to = 'a@example.org' })
    rt:advance(1)
    assert.are.equal(1, rt:eval 'return #sent')
    local h = rt:ledger().h
    assert.are.equal(1, h.offered)
    assert.are.equal(1, h.delivered)
    assert.are.equal(0, h.waiting)
  end)

  it('keeps undecided records in the spool while handlers are slow, and their order', function()
    dir = helper.dir()
    helper.write(
      dir .. '/policy.lua',
      ('DIR = %q\n'):format(dir)
        .. POLICY:gsub("log_parameters = {", "filter = function() kumo.sleep(1) end, log_parameters = { back_pressure = 2,")
    )
    rt = testing.start { policy = dir .. '/policy.lua', seed = 7 }
    for i = 1, 1000 do
      rt:receive { to = 'a@example.org', content = ('Subject: %d\r\n\r\nx'):format(i) }
    end
    rt:advance(1)
    assert.is_true(rt:figures().undecided >= 600) -- the others are in memory
    rt:advance(1000)
    assert.are.equal(1000, rt:eval 'return #sent')
    assert.are.equal(0, rt:figures().undecided)
    assert.are.equal(1000, rt:ledger().h.delivered)
  end)

  it('charges no rate for what an administrator bounces', function()
    dir = helper.dir()
    local policy = POLICY:gsub("max_age = '2 days'", "max_age = '2 days', max_message_rate = '1/min'")
    helper.write(dir .. '/policy.lua', ('DIR = %q\n'):format(dir) .. policy .. [[
      kumo.on('ask', function() kumo.api.admin.bounce.bounce { domain = 'h.log_hook', reason = 'x' } end)
    ]])
    rt = testing.start { policy = dir .. '/policy.lua', seed = 7 }
    for _ = 1, 50 do
      rt:receive { to = 'a@example.org' }
    end
    rt:advance(1)
    assert.are.equal(1, rt:eval 'return #sent')
    rt:eval "require('kumo').spawn_task { event_name = 'ask', args = {} }"
    rt:advance(62) -- the next token is there, and comes back 49 times
    assert.are.equal(49, rt:ledger().h.bounced)
  end)

  for step, what in pairs { [3600] = 'an hour forward', [-3600] = 'an hour back' } do
    it(('keeps the delays of retries when the clock is set %s'):format(what), function()
      start "function answer() kumo = require 'kumo'; kumo.reject(450, 'not now') end"
      rt:receive { to = 'a@example.org' }
      rt:advance(100) -- tried at once and after a minute; the next time is after two more
      assert.are.equal(2, rt:eval 'return #sent')
      rt:step_clock(step)
      rt:advance(50)
      assert.are.equal(2, rt:eval 'return #sent')
      rt:advance(60)
      assert.are.equal(3, rt:eval 'return #sent')
      rt:step_clock(-step)
      rt:advance(1000) -- after four minutes, and eight
      assert.are.equal(5, rt:eval 'return #sent')
      assert.are.equal(1, rt:ledger().h.waiting)
    end)
  end

  it('retries with backoff until max_age, then is a dead letter, and the ledger balances', function()
    start "function answer() kumo = require 'kumo'; kumo.reject(450, 'not now') end"
    rt:receive { to = 'a@example.org' }
    rt:advance(3 * 86400)
    local sent = rt:eval 'return sent'
    local first = sent[1].at
    -- 1, 2, 4, 8, 16, 20, 20 ... minutes with up to a second and a half of jitter each
    local delays = { 60, 120, 240, 480, 960, 1200, 1200 }
    for i, delay in ipairs(delays) do
      local got = sent[i + 1].at - sent[i].at
      assert.is_true(math.abs(got - delay) <= 3, ('attempt %d after %d s'):format(i + 1, got))
      assert.are.equal(i, sent[i + 1].attempts)
    end
    assert.is_true(sent[#sent].at - first < 2 * 86400)
    assert.is_true(#sent > 140)
    local h = rt:ledger().h
    assert.are.equal(1, h.dead)
    assert.are.equal(0, h.waiting)
    assert.is_true((rt:stop()))
    rt = nil
  end)

  it('keeps due times and attempts over a restart', function()
    start "function answer() require('kumo').reject(450, 'not now') end"
    rt:receive { to = 'a@example.org' }
    rt:advance(60 + 120 + 30) -- two retries done, the third is due in 210 s or so
    assert.are.equal(3, rt:eval 'return #sent')
    rt:stop()
    local policy = dir .. '/policy.lua'
    rt = testing.start { policy = policy, seed = 8, wall = 1785000000 + 60 + 120 + 60 }
    rt:advance(60)
    assert.are.equal(0, rt:eval 'return #sent') -- no stampede
    rt:advance(240)
    assert.are.equal(1, rt:eval 'return #sent')
    assert.are.equal(3, rt:eval 'return sent[1].attempts')
  end)

  it('parks a record whose filter raises, and decides it again after the fix', function()
    start "require('kumo').on('smtp_server_data', function() end)"
    rt:stop()
    local broken = POLICY:gsub("name = 'h',", "name = 'h', filter = function() error('bug') end,")
    helper.write(dir .. '/policy.lua', ('DIR = %q\n'):format(dir) .. broken)
    rt = testing.start { policy = dir .. '/policy.lua' }
    rt:receive { to = 'a@example.org' }
    rt:advance(3600)
    assert.are.equal(1, rt:figures().parked)
    assert.are.equal(1, rt:ledger().h.waiting)
    rt:stop()
    start()
    rt:advance(1)
    assert.are.equal(1, rt:eval 'return #sent')
    assert.are.equal(0, rt:ledger().h.waiting)
  end)

  it('gives a dead endpoint a rest, and everything to it in order when it is back', function()
    start "down = true; function answer() if down then error('connection refused') end return 'ok' end"
    for i = 1, 100 do
      rt:receive { to = 'a@example.org', data = ('Subject: %d\r\n\r\nx\r\n'):format(i) }
    end
    rt:advance(1800)
    local tries = rt:eval 'return #sent'
    assert.is_true(tries < 100, tries .. ' attempts in half an hour')
    rt:eval 'down = false; sent = {}'
    rt:advance(7200)
    assert.are.equal(100, rt:eval 'return #sent')
    assert.are.equal(100, rt:ledger().h.delivered)
  end)

  it('is the same again with the same seed', function()
    local function run()
      start "function answer() require('kumo').reject(450, 'not now') end"
      for _ = 1, 20 do
        rt:receive { to = 'a@example.org' }
      end
      rt:advance(86400)
      local times = {}
      for i, one in ipairs(rt:eval 'return sent') do
        times[i] = one.at
      end
      rt:stop()
      rt, dir = nil, nil
      return times
    end
    assert.are.same(run(), run())
  end)
end)
