-- kumo.configure_redis_throttles with a real redis-server, on a port of its own and never the service of the machine.
local helper = require 'helper'
local kumo = require 'kumo'
local testing = require 'tr.testing'

local INSTALLED = select(2, helper.sh 'command -v redis-server') == 0

local POLICY = [[
kumo = require 'kumo'
local log_hooks = require 'policy-extras.log_hooks'
kumo.on('init', function()
  kumo.define_spool { name = 'meta', path = DIR .. '/meta' }
  kumo.define_spool { name = 'data', path = DIR .. '/data' }
  configure()
end)
seen = {}
log_hooks:new {
  name = 'h',
  log_parameters = { per_record = { Reception = { enable = true }, Any = { enable = false } } },
  constructor = function()
    local conn = {}
    function conn:send(msg)
      local ok, result = pcall(use)
      seen[#seen + 1] = ok and result or { error = tostring(result) }
      return 'ok'
    end
    function conn:close() end
    return conn
  end,
}
]]

describe('kumo.configure_redis_throttles', function()
  if not INSTALLED then
    pending 'redis-server is not installed'
    return
  end
  local runtime, dir, port

  --- Starts a server; `port` is kept for the next start.
  local function server(options)
    port = port or helper.free_port()
    local more = (options or ''):gsub('%$PORT', port)
    local redis = helper.start(("redis-server --port %d --bind 127.0.0.1 --save '' --dir %s %s"):format(port, dir, more))
    redis:line '(Ready to accept connections)'
    return redis
  end

  local function cli(command)
    return (helper.sh(('redis-cli -p %d %s'):format(port, command)):gsub('%s+$', ''))
  end

  local function policy(configure, code)
    return helper.write(
      dir .. '/policy.lua',
      ('DIR = %q\nlocal URL = %q\nfunction configure() local kumo = require "kumo" %s end\n'):format(
        dir,
        'redis://127.0.0.1:' .. port,
        configure
      )
        .. POLICY
        .. (code or 'function use() end')
    )
  end

  --- clock: 'real' where time has to pass in Redis, too.
  local function start(configure, code, clock)
    runtime = testing.start { policy = policy(configure, code), clock = clock }
  end

  --- What `use` gave for `count` events.
  local function events(count)
    local before = runtime:eval 'return #seen'
    for _ = 1, count do
      assert.is_string((runtime:receive { to = 'x@example.org' }))
    end
    local seen
    helper.wait_for('the events', function()
      runtime:advance(0.02)
      seen = runtime:eval 'return seen'
      return #seen >= before + count
    end)
    assert.are.equal(before + count, #seen)
    local list = {}
    for i = before + 1, #seen do
      list[#list + 1] = seen[i]
    end
    return list
  end

  before_each(function()
    dir, port = helper.dir(), nil
  end)

  after_each(function()
    if runtime then
      assert.is_true((runtime:stop(1)))
      runtime = nil
    end
    helper.cleanup()
  end)

  it('shares throttles, and leaves local ones alone', function()
    server()
    start(
      'kumo.configure_redis_throttles { node = URL .. "/1", response_timeout = "10s" }',
      [[
        local shared, own = kumo.make_throttle('s', '2/hour'), kumo.make_throttle('s', 'local:2/hour')
        function use() return { shared = shared:throttle(), own = own:throttle(), text = shared:explain() } end
      ]]
    )
    local list = events(3)
    for i, name in ipairs { 'shared', 'own' } do
      assert.are.same({ false, false, true }, { list[1][name].throttled, list[2][name].throttled, list[3][name].throttled }, i)
      assert.are.same({ 2, 2, 2 }, { list[1][name].limit, list[2][name].limit, list[3][name].limit })
      assert.are.same({ 1, 0, 0 }, { list[1][name].remaining, list[2][name].remaining, list[3][name].remaining })
      assert.is_nil(list[2][name].retry_after)
      assert.is_true(list[3][name].retry_after.secs >= 1600 and list[3][name].retry_after.secs <= 1800)
    end
    assert.matches('^2/h %(shared through Redis%)', list[1].text)
    assert.are.equal('lua-user-throttle-s:2:2:3600', cli '-n 1 keys "*"')
    assert.is_true(tonumber(cli '-n 1 pttl lua-user-throttle-s:2:2:3600') > 3300000)
  end)

  it('waits for a shared token', function()
    server()
    start(
      'kumo.configure_redis_throttles { node = { URL } }',
      [[
        local throttle = kumo.make_throttle('w', '20/s,max_burst=1')
        function use() return { slept = throttle:sleep_if_throttled(), at = kumo.time.now().unix_timestamp_millis } end
      ]],
      'real'
    )
    helper.wait_for('events that sleep', function()
      local began_ms = kumo.time.now().unix_timestamp_millis
      local list, slept = events(10), 0
      for i = 2, 10 do
        slept = slept + (list[i].slept and 1 or 0)
      end
      local took_ms = list[10].at - began_ms
      assert.is_true(took_ms >= 449, took_ms) -- nine tokens, 50 ms each
      return slept >= 5 -- all, but where a busy machine came late for a token
    end)
  end)

  it('logs in with a user and a password of the URL or of the options', function()
    server '--requirepass secret --user bob on ">open" "~*" "+@all"'
    for _, options in ipairs {
      'node = URL:gsub("//", "//:secret@")',
      'node = URL, password = "secret"',
      'node = URL, username = "bob", password = "open"',
      'node = URL:gsub("//", "//eve:wrong@"), username = "bob", password = "open"',
    } do
      start('kumo.configure_redis_throttles { ' .. options .. ' }', [[
        function use() return kumo.make_throttle('a', '100/s'):throttle() end
      ]])
      assert.is_false(events(1)[1].throttled)
      runtime:stop(1)
      runtime = nil
    end
  end)

  describe('ends the start', function()
    local function refused(configure, message, before)
      server(before)
      assert.error_matches(function()
        start(configure)
      end, message)
    end

    it('with a wrong password', function()
      refused(
        'kumo.configure_redis_throttles { node = URL, password = "guess" }',
        'kumo.configure_redis_throttles: 127.0.0.1:%d+: WRONGPASS',
        '--requirepass secret'
      )
    end)

    it('without the password', function()
      refused('kumo.configure_redis_throttles { node = URL }', '127.0.0.1:%d+: NOAUTH', '--requirepass secret')
    end)

    it('with a database that is not there', function()
      refused('kumo.configure_redis_throttles { node = URL .. "/99" }', 'DB index is out of range')
    end)

    it('when nobody listens', function()
      server():stop()
      assert.error_matches(function()
        start 'kumo.configure_redis_throttles { node = URL }'
      end, 'kumo.configure_redis_throttles: 127.0.0.1:%d+: Connection refused')
    end)

    it('when the peer is no Redis', function()
      local sink = helper.sink '--smtp 127.0.0.1:0'
      port = tonumber(sink.smtp:match ':(%d+)$')
      assert.error_matches(function()
        start 'kumo.configure_redis_throttles { node = URL }'
      end, 'this is not a Redis server')
    end)

    it('when it is called twice', function()
      refused(
        'kumo.configure_redis_throttles { node = URL } kumo.configure_redis_throttles { node = URL }',
        'redis already configured for throttles'
      )
    end)

    for options, message in pairs {
      ['node = 17'] = 'node: a URL such as .* is expected, got number',
      ['nodes = URL'] = "missing field 'node'",
      ['node = URL, cluster = true'] = 'a Redis cluster is not supported',
      ['node = { URL, URL }'] = 'a Redis cluster is not supported',
      ['node = "127.0.0.1:6379"'] = "'redis://%[user%]%[:password@%]host",
      ['node = URL, fallback = "none"'] = "fallback = 'none': 'hold' .* or 'local'",
      ['node = URL, response_timeout = "x"'] = "field 'response_timeout': duration",
      ['node = URL, response_timeout = 0'] = 'response_timeout must be at least a millisecond',
      ['node = URL, pool_size = 0'] = 'pool_size must be at least 1',
      ['node = URL, password = {}'] = "field 'password': string expected",
    } do
      it('with ' .. options, function()
        port = 1
        assert.error_matches(function()
          start('kumo.configure_redis_throttles { ' .. options .. ' }')
        end, message)
      end)
    end
  end)

  describe('over TLS', function()
    local function certificate(name)
      local said, status = helper.sh(
        ('cd %s && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -keyout key.pem -out cert.pem '
          .. '-subj /CN=%s -addext subjectAltName=%s'):format(dir, name, name:find '^%d' and 'IP:' .. name or 'DNS:' .. name)
      )
      assert.are.equal(0, status, said)
    end

    local function tls_server()
      local redis = server(('--tls-cert-file %s/cert.pem --tls-key-file %s/key.pem --tls-auth-clients no --requirepass "p@ss" '
        .. '--port 0 --tls-port $PORT'):format(dir, dir)) -- stylua: ignore
      return redis
    end

    local THROTTLE = "local throttle = kumo.make_throttle('t', '2/hour') function use() return throttle:throttle() end"

    it('shares throttles; #insecure takes any certificate', function()
      certificate 'elsewhere.test'
      tls_server()
      start(('kumo.configure_redis_throttles { node = "rediss://:p%%40ss@localhost:%d/2#insecure" }'):format(port), THROTTLE)
      local list = events(3)
      assert.are.same({ false, false, true }, { list[1].throttled, list[2].throttled, list[3].throttled })
    end)

    it('does not start with a certificate that nobody vouches for', function()
      certificate 'localhost'
      tls_server()
      assert.error_matches(function()
        start(('kumo.configure_redis_throttles { node = "rediss://:x@localhost:%d" }'):format(port))
      end, 'localhost:%d+: its certificate is not accepted: self%-signed certificate')
    end)

    for name, expected in pairs { ['127.0.0.1'] = true, ['127.0.0.2'] = false } do
      it(('checks the certificate by SSL_CERT_FILE, and its address %s'):format(name), function()
        certificate(name)
        tls_server()
        local run, said = pcall(
          helper.run,
          policy(('kumo.configure_redis_throttles { node = "rediss://127.0.0.1:%d", password = "p@ss" }'):format(port)),
          '',
          { SSL_CERT_FILE = dir .. '/cert.pem' }
        )
        assert.are.equal(expected, run, tostring(said))
        if expected then
          assert.are.equal(0, said:stop())
        else
          assert.is_truthy(tostring(said):find('certificate is not accepted: IP address mismatch', 1, true), tostring(said))
        end
      end)
    end

    it('says so where there is no TLS', function() -- a server without it waits for the end of a line
      server()
      helper.wait_for('the reason', function() -- a busy machine may not get so far in that time
        local _, err = pcall(start, ('kumo.configure_redis_throttles { node = "rediss://localhost:%d#insecure", connect_timeout = "300ms" }')
          :format(port), nil, 'real')
        return tostring(err):find 'localhost:%d+: no end of the TLS handshake within 0.3 s'
      end)
    end)
  end)

  it('is refused once the runtime runs', function()
    server()
    start('', 'function use() kumo.configure_redis_throttles { node = "redis://127.0.0.1" } end')
    assert.matches("may only be called while the event 'init' runs", events(1)[1].error)
  end)

  it('raises while Redis is down, and goes on after it', function()
    local redis = server()
    start(
      'kumo.configure_redis_throttles { node = URL }',
      [[
        local throttle = kumo.make_throttle('d', '100/s')
        function use() return throttle:throttle() end
      ]],
      'real'
    )
    assert.is_false(events(1)[1].throttled)
    redis:stop 'KILL'
    assert.matches("^throttle 'lua%-user%-throttle%-d:100:100:1': 127.0.0.1:%d+: ", events(1)[1].error)
    assert.matches('Connection refused', events(2)[2].error)
    server()
    helper.wait_for('an answer', function()
      return events(1)[1].throttled == false
    end)
  end)

  it("decides by itself with fallback = 'local'", function()
    local redis = server()
    start(
      'kumo.configure_redis_throttles { node = URL, fallback = "local" }',
      [[
        local throttle = kumo.make_throttle('f', '2/hour')
        function use() return throttle:throttle() end
      ]],
      'real'
    )
    assert.is_false(events(1)[1].throttled)
    redis:stop 'KILL'
    local list = events(3)
    assert.are.same({ false, false, true }, { list[1].throttled, list[2].throttled, list[3].throttled })
    server()
    helper.wait_for('Redis to be asked again', function()
      events(1)
      return cli 'dbsize' == '1'
    end)
  end)

  it('names unknown fields', function()
    server()
    local run = helper.run(policy 'kumo.configure_redis_throttles { node = URL, passwort = "x", zzz = 1, pool_size = 4 }')
    local log = run:log()
    run:stop()
    assert.matches("unknown field 'passwort' is ignored: did you mean 'password'%?", log)
    assert.matches("unknown field 'zzz' is ignored\n", log)
    assert.matches('pool_size has no effect', log)
  end)
end)
