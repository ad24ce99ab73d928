local helper = require 'helper'
local kumo = require 'kumo'
local testing = require 'tr.testing'

describe('kumo.make_throttle', function()
  local runtime

  local function start(code)
    local dir = helper.dir()
    local policy = helper.write(dir .. '/policy.lua', ([[
      kumo = require 'kumo'
      kumo.on('init', function()
        kumo.define_spool { name = 'meta', path = '%s/meta' }
        kumo.define_spool { name = 'data', path = '%s/data' }
      end)
    ]]):format(dir, dir) .. code)
    runtime = testing.start { policy = policy }
  end

  after_each(function()
    if runtime then
      assert.is_true((runtime:stop(1)))
      runtime = nil
    end
    helper.cleanup()
  end)

  it('takes the burst and tells how long to wait', function()
    start [[
      local throttle = kumo.make_throttle('t', '10/s,max_burst=3')
      function take() return throttle:throttle() end
    ]]
    for i = 1, 3 do
      local result = runtime:eval 'return take()'
      assert.are.same({
        throttled = false,
        limit = 3,
        remaining = 3 - i,
        reset_after = { secs = 0, nanos = i * 100000000 },
      }, result)
    end
    assert.are.same({
      throttled = true,
      limit = 3,
      remaining = 0,
      reset_after = { secs = 0, nanos = 300000000 },
      retry_after = { secs = 0, nanos = 100000000 },
    }, runtime:eval 'return take()')
    runtime:advance(0.1)
    assert.is_false(runtime:eval('return take()').throttled)
    assert.is_true(runtime:eval('return take()').throttled)
    runtime:advance(0.3)
    assert.are.equal(2, runtime:eval('return take()').remaining)
  end)

  it('shares tokens between objects of one name and spec, and only those', function()
    start ''
    local code = "return kumo.make_throttle('%s', '%s'):throttle().throttled"
    assert.is_false(runtime:eval(code:format('a', '1/s')))
    assert.is_true(runtime:eval(code:format('a', '1/s')))
    assert.is_false(runtime:eval(code:format('b', '1/s')))
    assert.is_false(runtime:eval(code:format('a', '2/s')))
    assert.is_true(runtime:eval(code:format('a', '1/s')))
  end)

  it('follows no step of the wall clock', function()
    start ''
    local code = "return kumo.make_throttle('a', '1/min'):throttle().throttled"
    assert.is_false(runtime:eval(code))
    runtime:step_clock(-86400)
    runtime:advance(59)
    assert.is_true(runtime:eval(code))
    runtime:advance(1)
    assert.is_false(runtime:eval(code))
  end)

  it('puts a message off until there is a token', function()
    start [[
      local throttle = kumo.make_throttle('late', '1/min')
      function delay()
        local due
        local msg = { set_due = function(_, when) due = when end }
        return { delayed = throttle:delay_message_if_throttled(msg), due = due }
      end
    ]]
    assert.is_false(runtime:eval('return delay()').delayed)
    runtime:advance(12.3456)
    local second = runtime:eval 'return delay()'
    assert.is_true(second.delayed)
    -- 2026-07-25T17:20:00Z + 12.3456 s + 47.6544 s
    assert.are.equal('2026-07-25T17:21:00Z', second.due)
  end)

  it('sleeps until there is a token', function()
    start [[
      local log_hooks = require 'policy-extras.log_hooks'
      local throttle = kumo.make_throttle('sleepy', '2/min,max_burst=1')
      list = {}
      log_hooks:new {
        name = 'h',
        log_parameters = { per_record = { Reception = { enable = true }, Any = { enable = false } } },
        constructor = function()
          local conn = {}
          function conn:send(msg)
            local slept = throttle:sleep_if_throttled()
            list[#list + 1] = { at = os.time(), slept = slept }
            return 'ok'
          end
          function conn:close() end
          return conn
        end,
      }
    ]]
    for i = 1, 3 do
      assert.is_string((runtime:receive { to = ('x%d@example.org'):format(i) }))
    end
    runtime:advance(90)
    local list = runtime:eval 'return list'
    assert.are.equal(3, #list)
    assert.are.same({ false, true, true }, { list[1].slept, list[2].slept, list[3].slept })
    assert.are.same({ 30, 30 }, { list[2].at - list[1].at, list[3].at - list[2].at })
  end)

  it('ends a long sleep when the runtime stops', function()
    local woke = helper.dir() .. '/woke'
    start(([[
      local log_hooks = require 'policy-extras.log_hooks'
      local throttle = kumo.make_throttle('slow', '1/day')
      throttle:throttle()
      log_hooks:new {
        name = 'h',
        log_parameters = { per_record = { Reception = { enable = true }, Any = { enable = false } } },
        constructor = function()
          local conn = {}
          function conn:send(msg)
            local ok, message = pcall(throttle.sleep_if_throttled, throttle)
            local file = io.open('%s', 'w')
            file:write(tostring(message))
            file:close()
            kumo.reject(451, 'later')
          end
          function conn:close() end
          return conn
        end,
      }
    ]]):format(woke))
    assert.is_string((runtime:receive { to = 'x@example.org' }))
    runtime:advance(10)
    assert.is_nil(helper.read(woke))
    assert.is_true((runtime:stop(20)))
    runtime = nil
    assert.matches('lua%-user%-throttle%-slow:1:1:86400: the runtime is stopping', helper.read(woke))
  end)

  it('explains itself', function()
    local cases = {
      ['100/h'] = '100/h\nimplied burst of 100 at once, then one every 36s\noverall rate 0.028/s, 1.667/m, 100/h, 2,400/d',
      ['local:1,000/s,max_burst=1'] = 'local:1000/s,max_burst=1 (this node alone)\nexplicit burst of 1 at once, then one every 1ms\n'
        .. 'overall rate 1,000/s, 60,000/m, 3,600,000/h, 86,400,000/d',
      ['20/30min'] = '20/1800s\nimplied burst of 20 at once, then one every 90s\noverall rate 0.011/s, 0.667/m, 40/h, 960/d',
    }
    for spec, text in pairs(cases) do
      assert.are.equal(text, kumo.make_throttle('x', spec):explain())
    end
  end)

  for spec, message in pairs {
    ['10'] = "'10' is not a throttle: '/' and a period are expected after the quantity, as in \"100/min\"",
    ['0/s'] = "'0/s' is not a throttle: a quantity of at least 1 is expected before the '/'",
    ['1/seconds'] = 'no plural',
    ['1/0s'] = 'the number before the unit must be at least 1',
    ['1/s,burst=2'] = "only ',max_burst=NUMBER' may follow the period",
  } do
    it(('refuses %q'):format(spec), function()
      assert.error_matches(function()
        kumo.make_throttle('x', spec)
      end, message)
    end)
  end

  it('refuses what is not a text, naming it', function()
    assert.error_matches(function()
      kumo.make_throttle('x', 10)
    end, 'spec: a text such as "100/min" is expected, got number')
    assert.error_matches(function()
      kumo.make_throttle(nil, '1/s')
    end, 'name: string expected, got nil')
  end)
end)
