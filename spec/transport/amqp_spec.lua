-- kumo.amqp against a real RabbitMQ. Source: contract amqp.md.
local helper = require 'helper'
local kumo = require 'kumo'
local rabbitmq = require 'rabbitmq'

local raised = helper.raised

describe('kumo.amqp', function()
  local broker

  setup(function()
    broker = rabbitmq.start('max_message_size = 100000\nlog.console.level = info')
    broker:declare 'events'
  end)

  teardown(function()
    broker:stop()
    helper.cleanup()
  end)

  local function connection(more)
    local out = { host = '127.0.0.1', port = broker.port }
    for name, value in pairs(more or {}) do
      out[name] = value
    end
    return out
  end

  local function message(more)
    local out = { connection = connection(), routing_key = 'events', payload = 'hello' }
    for name, value in pairs(more or {}) do
      out[name] = value
    end
    return out
  end

  it('publishes and returns nothing once it is confirmed', function()
    assert.are.equal(0, select('#', kumo.amqp.basic_publish(message {
      payload = 'first\0\255',
      content_type = 'application/json',
      message_id = 'e1',
      delivery_mode = 2,
      priority = 1,
      timestamp = 1700000000,
      headers = { attempt = 1, ratio = 0.5, yes = true, name = 'x', list = { 1, 'two' }, nested = { a = 'b' } },
    })))
    assert.are.equal('first\0\255', broker:get 'events')
    local msg = kumo.make_message('a@example.com', 'b@example.com', 'Subject: x\r\n\r\nbody\r\n')
    kumo.amqp.basic_publish(message { payload = msg })
    assert.are.equal(msg:get_data(), broker:get 'events')
  end)

  it('raises when a mandatory message cannot be routed', function()
    assert.matches('^returned by the broker: 312 NO_ROUTE',
      raised(kumo.amqp.basic_publish, message { routing_key = 'nowhere', mandatory = true }))
    kumo.amqp.basic_publish(message { routing_key = 'nowhere' }) -- confirmed, and gone
  end)

  it('tells which of a batch failed, in one window', function()
    local list = {}
    for i = 1, 300 do
      list[i] = { routing_key = i % 100 == 0 and 'nowhere' or 'events', payload = tostring(i), mandatory = true }
    end
    local failed = kumo.amqp.publish_batch(connection(), list)
    local indexes = {}
    for i, failure in ipairs(failed) do
      indexes[i] = failure.index
      assert.are.equal('Returned', failure.status)
      assert.are.equal(312, failure.reply_code)
    end
    assert.are.same({ 100, 200, 300 }, indexes)
    local got = broker:take('events', 297)
    assert.are.equal('1', got[1])
    assert.are.equal('299', got[297])
    assert.are.same({}, kumo.amqp.publish_batch(connection(), {}))
  end)

  it('finds the message that the broker refuses, and others flow', function()
    local list = {}
    for i = 1, 5 do
      list[i] = { routing_key = 'events', payload = i == 3 and ('x'):rep(200000) or tostring(i) }
    end
    local failed = kumo.amqp.publish_batch(connection(), list)
    assert.are.equal(1, #failed)
    assert.are.equal(3, failed[1].index)
    assert.is_true(failed[1].permanent)
    assert.matches('406 PRECONDITION_FAILED', failed[1].text)
    local seen = {}
    for body in function() return broker:get 'events' end do -- those before the refusal may be there twice
      seen[body] = true
    end
    assert.are.same({ ['1'] = true, ['2'] = true, ['4'] = true, ['5'] = true }, seen)
  end)

  it('raises for an exchange that is not there, and the next call works', function()
    assert.matches("404 NOT_FOUND.*no exchange 'missing'",
      raised(kumo.amqp.basic_publish, message { exchange = 'missing' }))
    kumo.amqp.basic_publish(message { payload = 'after' })
    assert.are.equal('after', broker:get 'events')
  end)

  it('raises for what cannot be connected', function()
    assert.matches('connection refused',
      raised(kumo.amqp.basic_publish, message { connection = { host = '127.0.0.1', port = 1 } }))
    assert.matches('403 ACCESS_REFUSED',
      raised(kumo.amqp.basic_publish, message { connection = connection { password = 'wrong' } }))
    assert.matches('login to 127.0.0.1:%d+: .*not_there',
      raised(kumo.amqp.basic_publish, message { connection = connection { vhost = 'not_there' } }))
    assert.matches('login to', raised(kumo.amqp.basic_publish,
      message { connection = connection { enable_tls = true, connect_timeout = '5s' } }):gsub('connect to', 'login to'))
  end)

  it('talks TLS, and checks who it talks to', function()
    local tls = { host = 'localhost', port = broker.tls_port, enable_tls = true, root_ca_cert = broker.ca_file }
    kumo.amqp.basic_publish(message { payload = 'in secret', connection = tls })
    assert.are.equal('in secret', broker:get 'events')
    local list = {}
    for i = 1, 200 do
      list[i] = { routing_key = 'events', payload = ('x'):rep(10000) .. i }
    end
    assert.are.same({}, kumo.amqp.publish_batch(tls, list))
    assert.are.equal(200, #broker:take('events', 200))
    local function refused(change)
      local other = {}
      for name, value in pairs(tls) do
        other[name] = value
      end
      for name, value in pairs(change) do
        other[name] = value
      end
      return raised(kumo.amqp.basic_publish, message { connection = other })
    end
    assert.matches('SSL peer cert verification failed', refused { root_ca_cert = '/etc/ssl/certs/ca-certificates.crt' })
    assert.matches('SSL hostname verification failed', refused { host = '127.0.0.1' })
    assert.matches("root_ca_cert '/nowhere' cannot be used", refused { root_ca_cert = '/nowhere' })
  end)

  it('fails over to the next host', function()
    kumo.amqp.basic_publish(message { payload = 'over',
      connection = { hosts = { '127.0.0.1:1', '127.0.0.1:' .. broker.port } } })
    assert.are.equal('over', broker:get 'events')
  end)

  it('takes credentials from key sources', function()
    kumo.amqp.basic_publish(message { connection = connection {
      username = { key_data = 'guest' }, password = { key_data = 'guest\n' } } })
    assert.are.equal('hello', broker:get 'events')
  end)

  it('checks what it is given', function()
    for expected, params in pairs {
      ["unknown field 'routing'.*routing_key"] = message { routing = 'x' },
      ['routing_key: string expected'] = { connection = connection(), payload = 'x' },
      ['payload: string expected, got nothing'] = { connection = connection(), routing_key = 'x' },
      ['payload: string expected, got boolean'] = message { payload = true },
      ['host expected'] = { connection = {}, routing_key = 'x', payload = 'x' },
      ["unknown field 'hostname'.*host"] = { connection = { hostname = 'x' }, routing_key = 'x', payload = 'x' },
      ['connection: table expected, got string'] = { connection = 'amqp://x', routing_key = 'x', payload = 'x' },
      ['Either both client_cert and client_private_key must be specified, or neither'] = message {
        connection = connection { enable_tls = true, client_cert = '/x' },
      },
      ['message_id: at most 255 bytes, got 300'] = message { message_id = ('x'):rep(300) },
      ['delivery_mode: 0 to 255'] = message { delivery_mode = 256 },
      ['headers: strings, numbers, booleans and tables of them expected, got function'] = message { headers = { a = print } },
      ['port from 1 to 65535'] = message { connection = connection { port = 70000 } },
    } do
      assert.matches(expected, raised(kumo.amqp.basic_publish, params))
    end
  end)

  it('has the deprecated client', function()
    local client = kumo.amqp.build_client(('amqp://guest:guest@127.0.0.1:%d/%%2f?heartbeat=10'):format(broker.port))
    local confirm = client:publish { routing_key = 'events', payload = 'old', properties = { message_id = 'm' } }
    assert.are.same({ status = 'Ack' }, confirm:wait())
    assert.matches('confirmation already taken!?', raised(confirm.wait, confirm), 1, true)
    local result = client:publish_with_timeout({ routing_key = 'nowhere', payload = 'x', options = { mandatory = true } }, 120000)
    assert.are.equal(312, result.reply_code)
    client:close()
    assert.matches('was closed', raised(client.close, client))
    assert.are.equal('old', broker:get 'events')
    assert.matches('connection refused', raised(kumo.amqp.build_client, 'amqp://127.0.0.1:1'))
    assert.matches('amqp:// or amqps:// expected', raised(kumo.amqp.build_client, 'http://127.0.0.1'))
  end)

  --- Connections of this program to the broker, by the kernel's table.
  local function connections()
    local count, wanted = 0, (':%04X 01$'):format(broker.port)
    for line in io.lines '/proc/net/tcp' do
      if ((line:match '^%s*%d+: %x+:%x+ (%x+:%x+ %x%x)') or ''):match(wanted) then
        count = count + 1
      end
    end
    return count
  end

  it('has one pool for calls that differ in their deadlines only', function()
    local client = kumo.amqp.build_client(('amqp://127.0.0.1:%d/%%2f?heartbeat=11'):format(broker.port))
    local before = connections()
    assert.is_true(before > 0)
    for millis = 120000, 120020 do
      assert.are.same({ status = 'Ack' },
        client:publish_with_timeout({ routing_key = 'nowhere', payload = 'x' }, millis))
    end
    assert.is_true(connections() <= before) -- of others one may have ended meanwhile
    client:close()
  end)

  it('asks once for an exchange that is not there, and not for each message', function()
    local list, before = {}, broker:accepted()
    for i = 1, 1000 do
      list[i] = { exchange = 'missing', routing_key = 'events', payload = tostring(i) }
    end
    local failed = kumo.amqp.publish_batch(connection(), list)
    assert.are.equal(1000, #failed)
    assert.matches("404 NOT_FOUND.*no exchange 'missing'", failed[1000].text)
    assert.are.equal(404, failed[1000].reply_code)
    assert.is_false(failed[1000].permanent)
    assert.is_true(broker:accepted() - before < 5)
  end)

  it('tells apart whose exchange is not there', function()
    local failed = kumo.amqp.publish_batch(connection(), {
      { exchange = 'missing', routing_key = 'events', payload = 'a' },
      { routing_key = 'events', payload = 'good' },
      { exchange = 'missing', routing_key = 'events', payload = 'b' },
    })
    assert.are.equal(2, #failed)
    assert.are.equal(1, failed[1].index)
    assert.are.equal(3, failed[2].index)
    assert.are.equal('good', broker:get 'events')
    while broker:get 'events' do end
  end)

  it('finds the message that cannot be put into a frame, and others flow', function()
    local failed = kumo.amqp.publish_batch(connection(), {
      { routing_key = 'events', payload = '1' },
      { routing_key = 'events', payload = '2', headers = { long = ('x'):rep(200000) } },
      { routing_key = 'events', payload = '3' },
    })
    assert.are.equal(1, #failed)
    assert.are.equal(2, failed[1].index)
    assert.is_true(failed[1].permanent)
    local seen = {}
    for body in function() return broker:get 'events' end do
      seen[body] = true
    end
    assert.are.same({ ['1'] = true, ['3'] = true }, seen)
  end)

  it('knows which of two alike was returned by their exchanges', function()
    local failed = kumo.amqp.publish_batch(connection(), {
      { routing_key = 'events', payload = 'same', mandatory = true },
      { exchange = 'amq.direct', routing_key = 'events', payload = 'same', mandatory = true },
    })
    assert.are.equal(1, #failed)
    assert.are.equal(2, failed[1].index)
    assert.are.equal('same', broker:get 'events')
  end)

  it('gives up on a broker that hangs, and goes on when it is back', function()
    local hung = connection { publish_timeout = '500ms', connect_timeout = '2s' }
    helper.wait_for('a connection, and a broker that answers in time', function()
      return (pcall(kumo.amqp.basic_publish, message { connection = hung, payload = 'before' }))
    end)
    broker:hang(true)
    local err = raised(kumo.amqp.basic_publish, message { connection = hung, payload = 'meanwhile' })
    broker:hang(false)
    assert.matches('deadline has elapsed', err)
    helper.wait_for('the broker', function()
      return (pcall(kumo.amqp.basic_publish, message { connection = hung, payload = 'again' }))
    end)
    local seen = {}
    helper.wait_for('the message', function()
      local got = broker:get 'events'
      seen[got or ''] = true
      return got == 'again'
    end)
    assert.is_true(seen.before)
  end)

  it('says so when a killed broker takes a connection with it, and connects again', function()
    kumo.amqp.basic_publish(message { delivery_mode = 2, payload = 'kept' })
    broker:kill()
    assert.matches('connect', raised(kumo.amqp.basic_publish, message()))
    broker:restart()
    helper.wait_for('a publish', function()
      return (pcall(kumo.amqp.basic_publish, message { payload = 'new' }))
    end)
    assert.are.equal('kept', broker:get 'events') -- it was confirmed, so the broker has it on its disk
  end)
end)
