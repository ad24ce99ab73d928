-- What the options of kumo.make_egress_path do, on the real engine under the virtual clock. The site of a message is its
-- domain; each call of a connection object is noted.
local helper = require 'helper'
local testing = require 'tr.testing'

local POLICY = [[
local kumo = require 'kumo'
calls, made, live, peak, closed = {}, {}, 0, 0, 0
local start = kumo.time.now()
function seconds() return (kumo.time.now() - start).seconds end
SEND = function() return 'ok' end
kumo.on('init', function()
  kumo.define_spool { name = 'data', path = DIR .. '/data' }
  kumo.define_spool { name = 'meta', path = DIR .. '/meta' }
end)
kumo.on('get_queue_config', function()
  return kumo.make_queue_config { protocol = { custom_lua = { constructor = 'make.it', batch_size = BATCH } } }
end)
kumo.on('get_egress_path_config', function(domain) return kumo.make_egress_path(PATHS[domain] or PATHS['*']) end)
kumo.on('make.it', function(domain)
  live = live + 1
  peak = math.max(peak, live)
  made[#made + 1] = { at = seconds(), domain = domain }
  if CONNECT then CONNECT(domain) end
  local function note(msg, count)
    calls[#calls + 1] = { at = seconds(), count = count, domain = domain }
    return SEND(msg, domain)
  end
  return {
    send = function(_, msg) return note(msg, 1) end,
    send_batch = function(_, messages) return note(messages[1], #messages) end,
    close = function() live, closed = live - 1, closed + 1 end,
  }
end)
-- How many of `list` are in each window of `width` seconds: the most of them, by a sliding window.
function most_in(list, width)
  local most, first = 0, 1
  for last = 1, #list do
    while list[last].at - list[first].at >= width do first = first + 1 end
    most = math.max(most, last - first + 1)
  end
  return most
end
function between(list, from, to)
  local count = 0
  for _, call in ipairs(list) do
    if call.at >= from and call.at < to then count = count + 1 end
  end
  return count
end
]]

describe('an egress path', function()
  local dir, rt

  --- Starts with the text of a path, or of a table of them by domain; extra code comes last.
  local function start(path, extra)
    dir = dir or helper.dir()
    local paths = path:find '^{ %[' and path or ('{ ["*"] = %s }'):format(path)
    helper.write(dir .. '/policy.lua', ('DIR = %q\nPATHS = %s\n%s\n%s\n'):format(dir, paths, POLICY, extra or ''))
    rt = testing.start { policy = dir .. '/policy.lua' }
  end

  local function send(count, domain)
    for _ = 1, count do
      assert(rt:receive { to = 'a@' .. (domain or 'example.org') })
    end
  end

  local function eval(code)
    return rt:eval('return ' .. code)
  end

  local function near(expected, got, tolerance)
    assert.is_true(math.abs(got - expected) <= tolerance, ('%s expected, got %s'):format(expected, got))
  end

  after_each(function()
    if rt then
      local balances, text = rt:stop(1)
      rt = nil
      assert.is_true(balances, text)
    end
    dir = nil
    helper.cleanup()
  end)

  describe('with max_message_rate', function()
    it('sends that many, evenly, within a percent', function()
      start "{ connection_limit = 4, max_message_rate = '100/s,max_burst=10' }"
      send(1100)
      rt:advance(10)
      local first = eval 'calls[1].at'
      near(1000, eval(('between(calls, %f, %f)'):format(first, first + 10)), 10) -- the burst is ten of them
      near(500, eval(('between(calls, %f, %f)'):format(first + 2, first + 7)), 5)
      assert.is_true(eval 'most_in(calls, 0.1)' <= 20)
      local later = rt:eval 'local list = {} for i = 201, #calls do list[#list + 1] = calls[i] end return most_in(list, 0.1)'
      assert.is_true(later <= 11, later .. ' in 100 ms') -- once the burst is used
    end)

    it('lets no more than the burst go at once', function()
      start "{ connection_limit = 32, max_message_rate = '10/s,max_burst=1' }"
      send(30)
      rt:advance(2)
      near(20, eval '#calls', 1)
      assert.are.equal(1, eval 'most_in(calls, 0.099)')
    end)

    it('charges one for a batch', function()
      start("{ connection_limit = 1, max_message_rate = '1/s,max_burst=1', idle_timeout = '60s' }", 'BATCH = 50')
      send(175)
      rt:advance(2.5)
      assert.is_true(eval '#calls' <= 4)
      assert.is_true(rt:ledger().mail.delivered >= 100)
      rt:advance(5)
      assert.are.equal(175, rt:ledger().mail.delivered)
    end)

    it('keeps the order of the queue', function()
      start("{ connection_limit = 1, max_message_rate = '5/s,max_burst=1' }",
        "order = {} SEND = function(msg) order[#order + 1] = tonumber(msg:get_first_named_header_value 'Subject') return 'ok' end")
      for i = 1, 12 do
        assert(rt:receive { to = 'a@example.org', data = ('Subject: %d\r\n\r\nx'):format(i) })
      end
      rt:advance(10)
      assert.are.same({ 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12 }, eval 'order')
    end)

    it('closes the queue for a long wait: no attempt, no record, no session that waits', function()
      start "{ connection_limit = 8, max_message_rate = '1/min,max_burst=1', idle_timeout = '5s' }"
      send(5)
      rt:advance(30)
      assert.are.equal(1, eval '#calls')
      assert.are.equal(0, rt:figures().sessions)
      assert.are.equal(0, rt:figures().timers) -- none has a retry time of its own
      rt:advance(31)
      assert.are.equal(2, eval '#calls')
      near(60, eval 'calls[2].at - calls[1].at', 0.1)
      rt:advance(181)
      assert.are.equal(5, eval '#calls')
    end)

    it('gives back what a sleeping session holds when the process stops', function()
      start "{ connection_limit = 8, max_message_rate = '1/s,max_burst=1', idle_timeout = '60s' }"
      send(5)
      rt:advance(0.5)
      assert.is_true(rt:figures().in_flight >= 1)
      local policy = dir .. '/policy.lua'
      assert.is_true((rt:stop(1)))
      rt = testing.start { policy = policy, wall = 1785000100 }
      rt:advance(10)
      assert.are.equal(5, rt:ledger().mail.delivered)
      assert.are.equal(0, eval '#calls > 4 and 1 or 0')
    end)

    it('gives it back when the ready queue is suspended, too', function()
      start "{ connection_limit = 8, max_message_rate = '1/s,max_burst=1', idle_timeout = '60s' }"
      send(5)
      rt:advance(0.5)
      rt:eval [[require('kumo').api.admin.suspend_ready_q.suspend {
        name = 'unspecified->example.org@lua:make.it', reason = 'test', duration = '1m' }]]
      rt:advance(1)
      assert.are.equal(0, rt:figures().in_flight)
      rt:advance(30)
      assert.are.equal(1, eval '#calls')
      rt:advance(100)
      assert.are.equal(5, eval '#calls')
    end)

    it('obeys additional ones, which queues of other sites share', function()
      start [[{ connection_limit = 4, additional_message_rate_throttles = { ['both'] = '20/s,max_burst=1' } }]]
      send(60, 'a.example')
      send(60, 'b.example')
      rt:advance(4)
      near(80, eval '#calls', 2)
      assert.is_true(eval "between(calls, 0, 100) > 70 and made[1].domain ~= made[#made].domain")
    end)

    it('takes a new value at the next refresh, in sessions that run', function()
      start "{ connection_limit = 2, max_message_rate = '1/s,max_burst=1', idle_timeout = '60s', refresh_interval = '10s' }"
      send(100)
      rt:advance(5)
      assert.is_true(eval '#calls' <= 6)
      rt:eval "PATHS['*'].max_message_rate = '50/s'"
      rt:advance(25)
      assert.are.equal(100, eval '#calls')
    end)
  end)

  describe('with limits of connections', function()
    local SLOW = "SEND = function() require('kumo').sleep(1) return 'ok' end"

    it('opens connection_limit of them', function()
      start('{ connection_limit = 3 }', SLOW)
      send(300)
      rt:advance(5)
      assert.are.equal(3, eval 'peak')
      near(15, eval '#calls', 3)
    end)

    it('shares additional_connection_limits by name, and opens the next within milliseconds', function()
      start([[{ connection_limit = 10, max_deliveries_per_connection = 5, additional_connection_limits = { shared = 4 } }]], SLOW)
      send(100, 'a.example')
      send(100, 'b.example')
      rt:advance(20)
      assert.are.equal(4, eval 'peak')
      near(80, eval '#calls', 6) -- four at a time, one second each: no pause between two connections
      assert.is_true(eval "between(calls, 0, 20) > 0 and #made > 10")
      local a = eval "(function() local n = 0 for _, c in ipairs(calls) do if c.domain == 'a.example' then n = n + 1 end end return n end)()"
      assert.is_true(a >= 20 and a <= 60, a .. ' of one site') -- neither starves
    end)

    it('heeds the smallest of several, and a set of its own with "local:"', function()
      start([[{ ['a.example'] = { additional_connection_limits = { x = 5, y = 2 } },
        ['b.example'] = { additional_connection_limits = { x = 5, y = 'local:3' } } }]], SLOW)
      send(100, 'a.example')
      rt:advance(3)
      assert.are.equal(2, eval 'peak')
      send(100, 'b.example')
      rt:advance(3)
      assert.are.equal(5, eval 'peak') -- 2 and 3 of x = 5
    end)

    it('charges max_connection_rate for each one', function()
      start("{ connection_limit = 32, max_deliveries_per_connection = 1, max_connection_rate = '10/s,max_burst=2' }")
      send(100)
      rt:advance(5)
      near(51, eval '#made', 2)
      assert.is_true(eval 'most_in(made, 0.099)' <= 3)
    end)

    it('ends a session after max_deliveries_per_connection', function()
      start '{ connection_limit = 1, max_deliveries_per_connection = 7 }'
      send(21)
      rt:advance(1)
      assert.are.equal(3, eval '#made')
      assert.are.equal(3, eval 'closed')
    end)

    it('ends a session without work after idle_timeout', function()
      start "{ idle_timeout = '7s' }"
      send(1)
      rt:advance(6.5)
      assert.are.equal(0, eval 'closed')
      rt:advance(1)
      assert.are.equal(1, eval 'closed')
    end)
  end)

  it('holds max_ready messages in memory, the others in the line', function()
    start("{ connection_limit = 1, max_ready = 10 }", "SEND = function() require('kumo').sleep(1000) return 'ok' end")
    send(50)
    rt:advance(1)
    assert.are.equal(10, rt:figures().ready)
    assert.are.equal(39, rt:figures().line)
  end)

  it('aborts a session without progress after dispatcher_progress_watchdog_timeout', function()
    start("{ dispatcher_progress_watchdog_timeout = '20s' }", "SEND = function() require('kumo').sleep(1000) return 'ok' end")
    send(1)
    rt:advance(19)
    assert.are.equal(1, rt:figures().in_flight)
    rt:advance(2)
    assert.are.equal(1, rt:figures().timers)
  end)

  it('delays the whole queue from failure N+2 in a row on', function()
    start("{ connection_limit = 1, consecutive_connection_failures_before_delay = 3 }",
      "CONNECT = function() require('kumo').sleep(1) error('no', 0) end")
    send(20)
    rt:advance(30)
    -- failures 1 to 5 cost a message each; the fifth finds the counter above 3 and takes all that is ready along
    assert.are.equal(5, eval '#made')
    assert.are.equal(20, rt:figures().timers)
  end)

  describe('is refused', function()
    for options, message in pairs {
      ["connection_limit = 0"] = "connection_limit = '0': a whole number of at least 1",
      ["connection_limit = -1"] = "connection_limit = '-1'",
      ["connection_limit = 1.5"] = "connection_limit = '1.5'",
      ["connection_limit = { limit = 3, other = 1 }"] = "unknown field 'other'",
      ["additional_connection_limits = { a = 'x' }"] = "additional_connection_limits['a'] = 'x'",
      ["additional_connection_limits = { ['kumomta.x'] = 1 }"] = "names that begin with 'kumomta.' are reserved",
      ["additional_connection_limits = { 3 }"] = "its keys are names",
      ["max_message_rate = 100"] = "max_message_rate: a text such as",
      ["max_message_rate = '100/seconds'"] = "the unit must be one of",
      ["max_connection_rate = '0/s'"] = "max_connection_rate = '0/s': a quantity of at least 1",
      ["additional_message_rate_throttles = { a = '5' }"] = "additional_message_rate_throttles['a'] = '5'",
      ["source_selection_rate = 'x'"] = "source_selection_rate = 'x'",
      ["idle_timeout = 'soon'"] = "idle_timeout",
      ["max_ready = 0"] = "max_ready",
      ["gate_failures = -1"] = "gate_failures",
      ["gate_backoff = '2m'"] = "gate_max_backoff must not be less than gate_backoff",
      ["reconnect_strategy = 'Never'"] = "reconnect_strategy = 'Never': expected one of ConnectNextHost",
      ["dispatcher_wakeup_strategy = 'x'"] = "expected one of Aggressive, Relaxed",
      ["max_message_rat = '1/s'"] = "did you mean 'max_message_rate'",
      ["max_ready = -1"] = "field 'max_ready': integer >= 0 expected, got -1",
      ["max_ready = 1.5"] = "got 1.5",
      ["max_ready = 'x'"] = "got string",
      ["openssl_options = 'FOO'"] = "openssl_options: there is no 'FOO', expected one of ALL",
      ["openssl_options = 'NO_TLSV1|NO_TLSV1_4'"] = "openssl_options: there is no 'NO_TLSV1_4' (did you mean 'NO_TLSV1_",
      ["openssl_options = 'NO_TLSV1||ALL'"] = "there is no ''",
      ["openssl_cipher_list = 'ROT13'"] = "openssl_cipher_list = 'ROT13': no cipher that OpenSSL knows",
      ["openssl_cipher_suites = 'TLS_ROT13'"] = "openssl_cipher_suites = 'TLS_ROT13': not a list of TLS 1.3 suites",
      ["rustls_cipher_suites = { 'TLS13_AES_256_GCM_SHA385' }"] = "did you mean 'TLS13_AES_256_GCM_SHA384'",
      ["rustls_cipher_suites = { a = 'b' }"] = "rustls_cipher_suites: a list of names is expected",
      ["rustls_cipher_suites = { 1 }"] = "rustls_cipher_suites[1]: a name is expected, got number",
      ["tls_certificate = 7"] = "tls_certificate: the name of a file or { key_data = TEXT } is expected, got number",
      ["tls_private_key = {}"] = "tls_private_key: the name of a file or { key_data = TEXT } is expected, got an empty table",
      ["tls_private_key = { key_dat = 'x' }"] = "did you mean 'key_data'",
      ["smtp_auth_plain_password = ''"] = "smtp_auth_plain_password: the name of a file",
      ["enable_tls = 'Required'"] = "cannot be honoured: TLS towards next hops is not supported yet",
      ["enable_dane = 'yes'"] = "field 'enable_dane': boolean expected, got string",
      ["remember_broken_tls = 'soon'"] = "field 'remember_broken_tls': duration",
    } do
      it(('with %s'):format(options), function()
        local kumo = require 'kumo'
        local ok, err = pcall(load('return function(kumo) local path = kumo.make_egress_path { ' .. options .. ' } return path end')(), kumo)
        assert.is_false(ok)
        assert.is_truthy(tostring(err):find(message, 1, true), tostring(err))
        assert.is_truthy(tostring(err):find(':1: kumo.make_egress_path', 1, true), tostring(err)) -- the place
      end)
    end
  end)

  it('of TLS and AUTH are named, and so is what tunes nothing here', function()
    local function say(text)
      local file = helper.write(helper.dir() .. '/p.lua', ("require('kumo').make_egress_path { %s }"):format(text))
      local said, status = helper.sh(helper.quote(helper.TAILRACE) .. ' lua ' .. file)
      assert.are.equal(0, status, said)
      return said
    end
    local cases = {
      ["openssl_options = 'NO_TLSV1 | no_tlsv1_1'"] = 'it is checked but not acted on yet',
      ["rustls_cipher_suites = { 'tls13_aes_128_gcm_sha256' }"] = 'it has no effect',
      ["openssl_cipher_list = 'HIGH'"] = 'it is checked',
      ["openssl_cipher_suites = 'TLS_AES_128_GCM_SHA256'"] = 'it is checked',
      ["tls_certificate = '/etc/c.pem'"] = 'it is checked',
      ["tls_private_key = { key_data = 'x' }"] = 'it is checked',
      ["smtp_auth_plain_username = 'u'"] = 'it is checked',
      ["smtp_auth_plain_password = { key_data = 'p' }"] = 'it is checked',
      ["enable_tls = 'OpportunisticInsecure'"] = 'there is no TLS towards next hops yet: mail goes in clear text',
      ["maintainer_wakeup_strategy = 'Relaxed'"] = 'it has no effect',
      ["low_memory_reduction_policy = 'NoShrink'"] = 'it has no effect',
      ['aggressive_connection_opening = true'] = 'it has no effect',
      ["readyq_pool_name = 'x'"] = 'it has no effect',
    }
    local options = {}
    for option in pairs(cases) do
      options[#options + 1] = option
    end
    local said = say(table.concat(options, ', '))
    for option, message in pairs(cases) do
      assert.is_truthy(said:find(("option '%s': %s"):format(option:match '^[%w_]+', message), 1, true), said)
    end
    assert.are.equal('', say "enable_tls = 'Disabled'") -- that is what happens
    helper.cleanup()
  end)

  it('are given in a table', function()
    local kumo = require 'kumo'
    for name, fn in pairs { make_egress_path = kumo.make_egress_path, make_queue_config = kumo.make_queue_config,
      make_egress_source = kumo.make_egress_source, make_egress_pool = kumo.make_egress_pool } do -- stylua: ignore
      local ok, err = pcall(fn, 'x')
      assert.is_false(ok)
      assert.is_truthy(tostring(err):find(('kumo.%s: table of options expected, got string'):format(name), 1, true), tostring(err))
    end
  end)

  it('of a queue that tune nothing here are checked and named', function()
    local function say(options)
      local file = helper.write(helper.dir() .. '/p.lua', ("require('kumo').make_queue_config { %s }"):format(options))
      return (helper.sh(helper.quote(helper.TAILRACE) .. ' lua ' .. file))
    end
    local said = say "strategy = 'TimerWheel', timerwheel_tick_interval = '3s', shrink_policy = { { interval = '1m', policy = 'NoShrink' } }"
    for _, name in ipairs { 'strategy', 'timerwheel_tick_interval', 'shrink_policy' } do
      assert.is_truthy(said:find(("'%s': it has no effect"):format(name), 1, true), said)
    end
    assert.is_truthy(say("shrink_policy = { { interval = '1m', policy = 'Some' } }"):find("policy = 'Some': expected one of", 1, true))
    assert.is_truthy(say("shrink_policy = { { policy = 'NoShrink' } }"):find("shrink_policy[1]: missing field 'interval'", 1, true))
    assert.is_truthy(say("strategy = 'Bucket'"):find("strategy = 'Bucket': expected one of", 1, true))
    helper.cleanup()
  end)
end)
