-- The gate of a ready queue against scripted endpoints, on the real engine under the virtual clock.
local helper = require 'helper'
local testing = require 'tr.testing'

--- ENDPOINT(now) -> true: accepted; else what it answers. Every call is counted, every success noted.
local POLICY = [[
local kumo = require 'kumo'
calls, good, bad, under_way, most = 0, {}, 0, 0, 0
local start = kumo.time.now()
function seconds() return (kumo.time.now() - start).seconds end
kumo.on('init', function()
  kumo.define_spool { name = 'data', path = DIR .. '/data' }
  kumo.define_spool { name = 'meta', path = DIR .. '/meta' }
end)
kumo.on('get_queue_config', function()
  return kumo.make_queue_config { retry_interval = '15s', max_retry_interval = '15s', protocol = { custom_lua = { constructor = 'make.it' } } }
end)
kumo.on('get_egress_path_config', function() return kumo.make_egress_path(PATH) end)
kumo.on('make.it', function()
  return {
    send = function()
      calls, under_way = calls + 1, under_way + 1
      most = math.max(most, under_way)
      local now = seconds()
      if LATENCY then kumo.sleep(LATENCY) end
      under_way = under_way - 1
      local answer = ENDPOINT(now)
      if answer == true then
        good[#good + 1] = now
        return 'ok'
      end
      bad = bad + 1
      kumo.reject(450, answer)
    end,
  }
end)
-- A bucket of `burst` that gets `rate` tokens a second, as proxies limit their clients.
function limiter(rate, burst)
  local tokens, at = burst, 0
  return function(now)
    tokens, at = math.min(burst, tokens + (now - at) * rate), now
    if tokens >= 1 then
      tokens = tokens - 1
      return true
    end
    return '429 Too Many Requests: slow down'
  end
end
function between(from, to)
  local count = 0
  for _, at in ipairs(good) do
    if at >= from and at < to then count = count + 1 end
  end
  return count
end
]]

describe('the gate', function()
  local dir, rt

  local function start(endpoint, extra)
    dir = helper.dir()
    local path = 'PATH = { connection_limit = 10, gate_failures = 5, max_ready = 10000 }'
    helper.write(dir .. '/policy.lua', ('DIR = %q\n%s\n%s\n%s\nENDPOINT = %s\n'):format(dir, path, POLICY, extra or '', endpoint))
    rt = testing.start { policy = dir .. '/policy.lua' }
  end

  local function send(count)
    for _ = 1, count do
      assert(rt:receive { to = 'a@example.org' })
    end
  end

  local function eval(code)
    return rt:eval('return ' .. code)
  end

  after_each(function()
    if rt then
      local balances, text = rt:stop(1)
      rt = nil
      assert.is_true(balances, text)
    end
    helper.cleanup()
  end)

  for _, case in ipairs {
    { rate = 20, burst = 1 },
    { rate = 60, burst = 1 },
    { rate = 60, burst = 5, latency = 0.02 },
    { rate = 60, burst = 60 },
  } do
    it(('gets what an endpoint allows that limits to %d/s with a burst of %d and answers after %s s'):format(case.rate, case.burst,
      case.latency or 0), function()
      start(('limiter(%d, %d)'):format(case.rate, case.burst), case.latency and 'LATENCY = ' .. case.latency)
      send(case.rate * 18)
      rt:advance(14)
      local got, allowed = eval 'between(4, 14)', 10 * case.rate
      if os.getenv 'SHOW' then
        print(case.rate, case.burst, case.latency, got, allowed, eval 'calls', eval 'bad', eval 'most')
      end
      assert.is_true(got >= 0.7 * allowed, ('%d of %d'):format(got, allowed))
      assert.is_true(eval 'bad' <= 0.35 * eval 'calls', ('%d of %d calls refused'):format(eval 'bad', eval 'calls'))
    end)
  end

  it('lets an endpoint that fails one request in seven keep its full rate', function()
    start('function() return calls % 7 ~= 0 or "503 Service Unavailable" end', 'LATENCY = 0.05')
    send(1000)
    rt:advance(5)
    assert.is_true(eval '#good' >= 0.95 * 5 * 200 * 6 / 7, eval '#good' .. ' of 857') -- ten connections, 50 ms each
  end)

  it('opens bit by bit after an outage, and is wide open again within seconds', function()
    start('function(now) return now > 10 or "503 Service Unavailable" end', 'LATENCY = 0.05')
    send(1000)
    rt:advance(10)
    local calls = eval 'calls'
    assert.is_true(calls <= 20, calls .. ' calls in an outage of ten seconds')
    rt:advance(15)
    local first = eval 'good[1]'
    assert.is_true(eval(('between(%f, %f)'):format(first, first + 0.2)) <= 4) -- no burst on an endpoint that just came back
    assert.is_true(eval(('between(%f, %f)'):format(first + 2.5, first + 4.5)) >= 0.9 * 2 * 200)
  end)

  for failures, calls in pairs { [3] = 3, [8] = 8 } do
    it(('closes after gate_failures = %d in a row, for gate_backoff'):format(failures), function()
      start('function() return "500 oops" end',
        ("PATH.gate_failures, PATH.gate_backoff, PATH.connection_limit = %d, '5s', 1"):format(failures))
      send(50)
      rt:advance(3.9)
      assert.are.equal(calls, eval 'calls')
      rt:advance(2.2) -- with a fifth of jitter to both sides
      assert.are.equal(calls + 1, eval 'calls')
    end)
  end

  it('never closes with gate_failures = 0', function()
    start('function() return "500 oops" end', 'PATH.gate_failures = 0')
    send(50)
    rt:advance(1)
    assert.are.equal(50, eval 'calls')
  end)
end)
