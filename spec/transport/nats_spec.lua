-- kumo.nats against a real nats-server. Source: contract nats-redis-sqlite.md section 1.
local helper = require 'helper'
local kumo = require 'kumo'
local nats = require 'nats'

local raised = helper.raised

describe('kumo.nats', function()
  local server

  setup(function()
    server = nats.start 'max_payload: 100000'
    server:declare('EVENTS', 'events.>', { duplicate_window = 60e9 })
  end)

  teardown(function()
    server:stop()
    helper.cleanup()
  end)

  local function config(more)
    local out = { servers = { '127.0.0.1:' .. server.port } }
    for name, value in pairs(more or {}) do
      out[name] = value
    end
    return out
  end

  local function connect(more)
    return kumo.nats.connect(config(more))
  end

  it('publishes and tells where the stream has it', function()
    local client = connect()
    local first = client:publish { subject = 'events.one', payload = 'first\0\255' }
    assert.are.equal('EVENTS', first.stream)
    assert.are.same({ '', '', false }, { first.domain, first.value, first.duplicate })
    assert.are.equal('first\0\255', (server:get('EVENTS', first.sequence)))
    local msg = kumo.make_message('a@example.com', 'b@example.com', 'Subject: x\r\n\r\nbody\r\n')
    local second = client:publish { subject = 'events.two', payload = msg, headers = { ['X-One'] = 'eins', two = 'zwei drei' } }
    assert.are.equal(first.sequence + 1, second.sequence)
    local payload, headers = server:get('EVENTS', second.sequence)
    assert.are.equal(msg:get_data(), payload)
    assert.matches('X-One: ?eins\r\n', headers)
    assert.matches('two: ?zwei drei\r\n', headers)
    client:close()
  end)

  it('tells a message that the stream had already', function()
    local client = connect()
    local message = { subject = 'events.dup', payload = 'once', headers = { ['Nats-Msg-Id'] = 'e1' } }
    local first, second = client:publish(message), client:publish(message)
    assert.is_false(first.duplicate)
    assert.is_true(second.duplicate)
    assert.are.equal(first.sequence, second.sequence)
  end)

  it('hands over without an acknowledgement', function()
    local client, before = connect(), server:count 'EVENTS'
    assert.are.same({}, client:publish { subject = 'events.loose', payload = 'x', await_ack = false })
    assert.are.same({}, client:publish { subject = 'nobody.listens', payload = 'x', await_ack = false })
    helper.wait_for('the message', function()
      return server:count 'EVENTS' == before + 1
    end)
  end)

  it('tells which of a batch failed', function()
    local client, before, list = connect(), server:count 'EVENTS', {}
    for i = 1, 500 do
      list[i] = { subject = i % 100 == 0 and 'nowhere' or 'events.batch', payload = tostring(i) }
    end
    list[250].payload = ('x'):rep(99990)
    list[250].headers = { long = ('y'):rep(100) } -- together too large
    local indexes = {}
    for i, failure in ipairs(client:publish_batch(list)) do
      indexes[i] = failure.index
      if failure.index == 250 then
        assert.is_true(failure.permanent)
        assert.are.equal('ETOOBIG', failure.code)
        assert.matches('larger than the server', failure.text)
      else
        assert.is_false(failure.permanent)
        assert.are.equal('ENOENT', failure.code)
        assert.matches('no responders', failure.text)
      end
    end
    assert.are.same({ 100, 200, 250, 300, 400, 500 }, indexes)
    assert.are.equal(before + 494, server:count 'EVENTS')
    assert.are.equal('1', (server:get('EVENTS', before + 1)))
    assert.are.equal('499', (server:get('EVENTS', before + 494))) -- in order
    assert.are.same({}, client:publish_batch {})
  end)

  it('refuses a subject that a server does not take, alone', function()
    local client, before, list = connect(), server:count 'EVENTS', {}
    for i, bytes in ipairs { 1, 3900, 4090, 1, 100000 } do
      list[i] = { subject = 'events.' .. ('s'):rep(bytes), payload = 'x' }
    end
    local failures = client:publish_batch(list) -- the server would end the connection
    assert.are.same({ 3, 5 }, { failures[1].index, failures[2] and failures[2].index })
    assert.is_true(failures[1].permanent)
    assert.are.equal('ETOOBIG', failures[1].code)
    assert.matches('^the subject is too long', failures[1].text)
    assert.are.equal(before + 3, server:count 'EVENTS')
  end)

  it('holds back what would be too much on the way', function()
    local client, before, list = connect { client_capacity = 3 }, server:count 'EVENTS', {}
    for i = 1, 100 do
      list[i] = { subject = 'events.narrow', payload = tostring(i) }
    end
    assert.are.same({}, client:publish_batch(list))
    assert.are.equal(before + 100, server:count 'EVENTS')
    assert.are.equal('100', (server:get('EVENTS', before + 100)))
  end)

  it("has the stream's own errors", function()
    server:declare('SMALL', 'small', { max_msg_size = 10 })
    local failure = connect():publish_batch({ { subject = 'small', payload = ('x'):rep(100) } })[1]
    assert.are.equal(10054, failure.err_code)
    assert.is_true(failure.permanent)
    assert.matches('^10054 message size exceeds maximum', failure.text)
    server:declare('FULL', 'full', { max_msgs = 1, discard = 'new' })
    local client = connect()
    client:publish { subject = 'full', payload = 'x' }
    failure = client:publish_batch({ { subject = 'full', payload = 'x' } })[1]
    assert.is_false(failure.permanent)
    assert.matches('maximum messages exceeded', failure.text)
    assert.matches('maximum messages exceeded', raised(client.publish, client, { subject = 'full', payload = 'x' }))
  end)

  it('raises for what cannot be connected', function()
    assert.matches('cannot connect to nats://127.0.0.1:1:', raised(kumo.nats.connect, { servers = { '127.0.0.1:1' } }))
    assert.matches('cannot connect to nats://127.0.0.1:1:', -- no user, no password
      raised(kumo.nats.connect, { servers = { 'nats://events:s3cret@127.0.0.1:1' } }))
    assert.matches('cannot connect', raised(connect, { tls_required = true, connection_timeout = '2s' }))
    assert.matches('cannot connect', raised(connect, { servers = { 'tls://127.0.0.1:' .. server.port } }))
    assert.matches('cannot connect', raised(connect, { auth = { credentials = '/not/there.creds' } }))
    assert.matches('cannot connect', raised(connect, { certificate = '/not/there.pem', tls_required = true }))
  end)

  it('goes on to the next server', function()
    local client = connect { servers = { '127.0.0.1:1', server.url }, retain_servers_order = true }
    assert.are.equal('EVENTS', client:publish({ subject = 'events.over', payload = 'x' }).stream)
  end)

  it('has the other options', function()
    local client = connect { name = 'spec', no_echo = true, ping_interval = '10s', inbox_prefix = '_SPECBOX',
      sender_capacity = 10, request_timeout = 120, ignore_discovered_servers = true, max_reconnects = 5 }
    assert.are.equal('EVENTS', client:publish({ subject = 'events.options', payload = 'x' }).stream)
    connect { ping_interval = { secs = 10, nanos = 5e8 } }:close()
  end)

  it('checks its configuration', function()
    for expected, more in pairs {
      ["unknown field 'server_names'.*servers"] = { server_names = {} },
      ["unknown field 'conection_timeout'.*did you mean 'connection_timeout'"] = { conection_timeout = 1 },
      ['servers: at least one expected'] = { servers = {} },
      ['servers: a list of at most 32 strings expected'] = { servers = { {} } },
      ["'http://x': nats:// or tls:// expected"] = { servers = { 'http://x' } },
      ['either specify both of username and password or neither'] = { auth = { username = { key_data = 'u' } } },
      ["auth: unknown field 'user', expected one of 'username'"] = { auth = { user = 'u' } },
      ['auth: table expected, got string'] = { auth = 'u' },
      ['secrets.load: .*/not/there'] = { auth = { token = '/not/there' } }, -- a string is a path
      ['must be UTF%-8'] = { auth = { token = { key_data = '\255' } } },
      ['both of client_cert and client_key or neither'] = { client_cert = '/x' },
      ['client_capacity: 1 to 1000000 expected'] = { client_capacity = 0 },
      ['tls_first: TLS from the first byte on is not supported'] = { tls_first = true },
      ['inbox_prefix: a subject'] = { inbox_prefix = 'a b' },
    } do
      assert.matches(expected, raised(connect, more))
    end
    assert.matches('table expected, got string', raised(kumo.nats.connect, server.url))
    local err = raised(connect, { auth = { token = { key_data = 'geheim' } }, nam = 'x' })
    assert.matches("unknown field 'nam'", err)
    assert.is_nil(err:find 'geheim')
  end)

  it('checks its messages before any is sent', function()
    local client, before = connect(), server:count 'EVENTS'
    for expected, message in pairs {
      ["unknown field 'topic'"] = { topic = 'x', subject = 'events.x', payload = 'x' },
      ['subject'] = { payload = 'x' },
      ['payload'] = { subject = 'events.x' },
      ['subject: must not be empty'] = { subject = '', payload = 'x' },
      ['subject: must not have spaces'] = { subject = 'events x', payload = 'x' },
      ['subject: must not have empty tokens'] = { subject = 'events..x', payload = 'x' },
      ['payload: string expected, got boolean'] = { subject = 'events.x', payload = true },
      ["headers: 'a b': a name of printable ASCII"] = { subject = 'events.x', payload = 'x', headers = { ['a b'] = 'c' } },
      ["headers: 'a': a value without line ends"] = { subject = 'events.x', payload = 'x', headers = { a = 'b\r\nc' } },
      ['headers: strings by name expected, got number by string'] = { subject = 'events.x', payload = 'x', headers = { a = 1 } },
    } do
      assert.matches(expected, raised(client.publish, client, message))
      assert.matches(expected,
        raised(client.publish_batch, client, { { subject = 'events.x', payload = 'good' }, message }))
    end
    assert.matches("'Nats%-Msg%-Id' is each message's own", -- one for all: the stream would keep the first alone
      raised(client.publish_messages, client, 'events.x', {}, { ['Nats-Msg-Id'] = 'x' }))
    assert.are.equal(before, server:count 'EVENTS')
  end)

  it('ends with close', function()
    local client = connect()
    client:close()
    assert.matches('client was closed', raised(client.publish, client, { subject = 'events.x', payload = 'x' }))
    assert.matches('client was closed', raised(client.publish_batch, client, {}))
    client:close()
  end)

  it('gives up on a server that hangs, and goes on when it is back', function()
    local client = connect { request_timeout = '500ms' }
    server:hang(true)
    local ok, err = true, nil
    for _ = 1, 100 do -- it may take a moment until all its threads stand still
      ok, err = pcall(client.publish, client, { subject = 'events.hung', payload = 'meanwhile' })
      if not ok then
        break
      end
    end
    server:hang(false)
    assert.is_false(ok)
    assert.matches('deadline has elapsed: no acknowledgement within 0.5 s', err)
    helper.wait_for('a publish', function()
      return (pcall(client.publish, client, { subject = 'events.hung', payload = 'again' }))
    end)
  end)

  it('outlives a server that is killed again and again', function()
    local client = connect { request_timeout = '120s' }
    server:declare('KILLED', 'killed')
    local sent, acked, killed = 0, {}, 0
    for round = 1, 3 do
      for _ = 1, 20 do
        local list = {}
        for i = 1, 50 do
          sent = sent + 1
          list[i] = { subject = 'killed', payload = tostring(sent), headers = { ['Nats-Msg-Id'] = tostring(sent) } }
        end
        if _ == 10 then
          -- a kill while a batch is on its way; the next waits until the server is back
          killed = killed + 1
          os.execute(('(sleep 0.0%d; kill -KILL %s) >/dev/null 2>&1 &'):format(round, server.process.pid))
        end
        local failed = {}
        for _, failure in ipairs(client:publish_batch(list)) do
          assert.is_false(failure.permanent, failure.text)
          failed[failure.index] = true
        end
        for i, message in ipairs(list) do
          acked[message.payload] = not failed[i] or nil
        end
        if _ == 10 then
          server.process:wait()
          server:restart()
        end
      end
    end
    assert.are.equal(3, killed)
    local there = {}
    for i = 1, server:count 'KILLED' do
      there[(server:get('KILLED', i))] = true
    end
    local count = 0
    for payload in pairs(acked) do
      count = count + 1
      assert.is_true(there[payload], payload .. ' was acknowledged and is lost')
    end
    assert.is_true(count >= 2000, ('%d of %d'):format(count, sent))
  end)

  it('says so while the server is away', function()
    local client = connect { request_timeout = '300ms' }
    helper.wait_for('an answer in time', function()
      return (pcall(client.publish, client, { subject = 'events.kept', payload = 'kept' }))
    end)
    server:kill()
    helper.wait_for('the loss', function()
      return raised(client.publish, client, { subject = 'events.x', payload = 'x' }):find 'not connected'
    end)
    assert.matches('cannot connect', raised(connect, { name = 'another' }))
    local early = connect { name = 'early', retry_on_initial_connect = true, request_timeout = '120s' }
    server:restart()
    assert.are.equal('EVENTS', early:publish({ subject = 'events.early', payload = 'x' }).stream)
    helper.wait_for('a publish', function()
      return (pcall(client.publish, client, { subject = 'events.x', payload = 'x' }))
    end)
  end)

  it('ends for good after max_reconnects', function()
    local other = nats.start()
    other:declare('E', 'e')
    local client = kumo.nats.connect { servers = { other.url }, max_reconnects = 1, request_timeout = '120s' }
    client:publish { subject = 'e', payload = 'x' }
    other:kill()
    helper.wait_for('the end', function()
      return raised(client.publish, client, { subject = 'e', payload = 'x' }):find 'the connection was closed'
    end)
    other:restart()
    assert.matches('the connection was closed', raised(client.publish, client, { subject = 'e', payload = 'x' }))
    client = kumo.nats.connect { servers = { other.url }, max_reconnects = 1 } -- a new one
    helper.wait_for('JetStream', function()
      return (pcall(client.publish, client, { subject = 'e', payload = 'x' }))
    end)
    other:stop()
  end)
end)

describe('kumo.nats with a login', function()
  it('takes user and password, and obeys permissions', function()
    local server = nats.start([[authorization { users: [
      { user: "u", password: "p" }
      { user: "weak", password: "w", permissions: { publish: ["e"], subscribe: ["_INBOX.>"] } } ] }]],
      { user = 'u', pass = 'p' })
    server:declare('E', '*')
    local function login(user, password, more)
      local out = { servers = { server.url }, auth = { username = { key_data = user },
        password = { key_data = password .. '\n' } } }
      for name, value in pairs(more or {}) do
        out[name] = value
      end
      return kumo.nats.connect(out)
    end
    assert.are.equal('E', login('u', 'p'):publish({ subject = 'e', payload = 'x' }).stream)
    local path = helper.write(helper.dir() .. '/password', 'p\n')
    assert.are.equal('E', kumo.nats.connect({ servers = { server.url },
      auth = { username = { key_data = 'u' }, password = path } }):publish({ subject = 'e', payload = 'x' }).stream)
    assert.matches('[Aa]uthorization', raised(login, 'u', 'wrong'))
    assert.matches('[Aa]uthorization', raised(kumo.nats.connect, { servers = { server.url } }))
    local weak = login('weak', 'w')
    local failed = weak:publish_batch { { subject = 'e', payload = 'x' }, { subject = 'other', payload = 'x' } }
    assert.are.equal(1, #failed)
    assert.are.equal(2, failed[1].index)
    assert.matches('not permitted: .*other', failed[1].text)
    assert.is_false(failed[1].permanent)
    server:stop()
    helper.cleanup()
  end)

  it('takes a token', function()
    local server = nats.start('authorization { token: "t0k" }', { auth_token = 't0k' })
    server:declare('E', 'e')
    local client = kumo.nats.connect { servers = { server.url }, auth = { token = { key_data = 't0k' } } }
    assert.are.equal('E', client:publish({ subject = 'e', payload = 'x' }).stream)
    assert.matches('[Aa]uthorization', raised(kumo.nats.connect,
      { servers = { server.url }, auth = { token = { key_data = 'no' } } }))
    server:stop()
    helper.cleanup()
  end)

  it('takes a credentials file', function()
    local config, path = require 'nats_credentials'()
    local _, others = require 'nats_credentials'()
    local server = nats.start(config, nil, true)
    local client = kumo.nats.connect { servers = { server.url }, auth = { credentials = path } }
    assert.are.same({}, client:publish { subject = 'e', payload = 'x', await_ack = false })
    assert.matches('cannot connect', raised(kumo.nats.connect, { servers = { server.url } }))
    assert.matches('cannot connect', raised(kumo.nats.connect, { servers = { server.url }, auth = { credentials = others } }))
    server:stop()
    helper.cleanup()
  end)

  it('speaks TLS and checks the server', function()
    local dir = helper.dir()
    local text, status = helper.sh(([[cd %s && openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem \
      -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost 2>&1]]):format(dir))
    assert.are.equal(0, status, text)
    local server = nats.new(([[
tls { cert_file: "%s/cert.pem", key_file: "%s/key.pem" }
authorization { user: "events", password: "s3cret" }]]):format(dir, dir))
    server:restart()
    local place = 'tls://events:s3cret@localhost:' .. server.port
    local client = kumo.nats.connect { servers = { place }, certificate = dir .. '/cert.pem' }
    assert.are.same({}, client:publish { subject = 'e', payload = 'x', await_ack = false })
    assert.matches('no responders', raised(client.publish, client, { subject = 'e', payload = 'x' }))
    assert.matches('cannot connect', raised(kumo.nats.connect, { servers = { place } })) -- nobody vouches for it
    assert.matches('cannot connect', raised(kumo.nats.connect, -- another name
      { servers = { 'tls://127.0.0.1:' .. server.port }, certificate = dir .. '/cert.pem' }))
    kumo.nats.connect { servers = { (place:gsub('tls', 'nats')) }, certificate = dir .. '/cert.pem' } -- the server asks for it
    assert.matches('not accepted', raised(kumo.nats.connect, { servers = { (place:gsub('tls', 'nats')) } }))
    assert.matches('Authorization Violation', raised(kumo.nats.connect, -- said before it says that this was the end
      { servers = { 'tls://events:other@localhost:' .. server.port }, certificate = dir .. '/cert.pem' }))
    server:stop()
    helper.cleanup()
  end)
end)
