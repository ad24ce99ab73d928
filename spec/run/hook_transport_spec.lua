-- What the one-call hooks put on the wire, and what becomes of a record: new_json with its options against a server that
-- keeps requests, new_kafka against the mock cluster, new_amqp against RabbitMQ.
local helper = require 'helper'
local kumo = require 'kumo'
local rabbitmq = require 'rabbitmq'
local socket = require 'socket'

local POLICY = [[
local kumo = require 'kumo'
local log_hooks = require 'policy-extras.log_hooks'
%s
kumo.on('init', function()
  kumo.define_spool { name = 'data', path = '%s/data' }
  kumo.define_spool { name = 'meta', path = '%s/meta' }
  kumo.start_esmtp_listener { listen = '127.0.0.1:0', relay_hosts = { '127.0.0.0/8' } }
  kumo.start_http_listener { listen = '127.0.0.1:0' }
end)
kumo.on('get_queue_config', function()
  return kumo.make_queue_config { protocol = { custom_lua = { constructor = 'make.mail' } } }
end)
kumo.on('make.mail', function() return { send = function() return 'ok' end } end)
]]

describe('a hook of one call', function()
  local run

  after_each(function()
    if run and not run:status() then
      run:stop 'KILL'
    end
    run = nil
    helper.cleanup()
  end)

  local function start(hook)
    local dir = helper.dir()
    helper.write(dir .. '/policy.lua', POLICY:format(hook, dir, dir))
    run = helper.run(dir .. '/policy.lua')
    return dir
  end

  local function send(count)
    helper.inject(('--smtp %s --count %d'):format(run.smtp, count))
  end

  local function ledger()
    return helper.sh(('curl -s http://%s/api/tailrace/ledger'):format(run.http))
  end

  local function await(what)
    helper.wait_for(what, function()
      return ledger():find(what)
    end)
  end

  describe('over HTTP', function()
    --- One request of the hook as { head, body }, answered with 200.
    local function one_request(listener)
      local peer = helper.wait_for('a request', function()
        return listener:accept()
      end)
      peer:settimeout(60)
      local head, line = {}
      repeat
        line = assert(peer:receive '*l')
        local name, value = line:match '^([^:]+): (.*)$'
        if name then
          head[name:lower()] = value
        end
      until line == ''
      local body = assert(peer:receive(tonumber(head['content-length'])))
      peer:send 'HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n'
      peer:close()
      return { head = head, body = body }
    end

    local function listen()
      local listener = assert(socket.bind('127.0.0.1', 0))
      listener:settimeout(0)
      local _, port = listener:getsockname()
      return listener, port
    end

    it('names the event and the attempt', function()
      local listener, port = listen()
      start(("log_hooks:new_json { name = 'w', url = 'http://127.0.0.1:%d/log', headers = { ['X-Key'] = 'k' } }"):format(port))
      send(1)
      local request = one_request(listener)
      local record = kumo.serde.json_parse(request.body)
      assert.are.equal(record.event_id, request.head['tailrace-event-id'])
      assert.are.equal('1', request.head['tailrace-attempt'])
      assert.are.equal('k', request.head['x-key'])
      assert.are.equal('application/json', request.head['content-type'])
      assert.is_nil(request.head['webhook-signature'])
      listener:close()
    end)

    it('signs, with two secrets', function()
      local listener, port = listen()
      start(([[log_hooks:new_json { name = 'w', url = 'http://127.0.0.1:%d/log', identify = false,
        secrets = { 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw', 'old key' } }]]):format(port))
      send(1)
      local request = one_request(listener)
      local head = request.head
      local content = ('%s.%s.%s'):format(head['webhook-id'], head['webhook-timestamp'], request.body)
      local function signature(key)
        local hmac = kumo.digest.hmac_sha256({ key_data = key }, content)
        return 'v1,' .. kumo.encode.base64_encode(hmac.bytes)
      end
      assert.are.equal(signature(kumo.encode.base64_decode 'MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw') .. ' ' .. signature 'old key',
        head['webhook-signature'])
      assert.are.equal(kumo.serde.json_parse(request.body).event_id, head['webhook-id'])
      assert.is_nil(head['tailrace-event-id'])
      listener:close()
    end)

    for name, tool in pairs { gzip = 'gzip -dc', zstd = 'zstd -dc' } do
      it('compresses batches with ' .. name, function()
        local listener, port = listen()
        local dir = start(([[log_hooks:new_json { name = 'w', url = 'http://127.0.0.1:%d/log', compression = %q,
          batch_size = 6, min_batch_size = 6, max_batch_latency = '100s' }]]):format(port, name))
        send(3)
        local request = one_request(listener)
        assert.are.equal(name, request.head['content-encoding'])
        assert.are.equal('6', request.head['tailrace-batch-size'])
        assert.are.equal(32, #request.head['tailrace-batch-id'])
        helper.write(dir .. '/body', request.body)
        local records = kumo.serde.json_parse((helper.sh(('%s <%s/body'):format(tool, dir))))
        assert.are.equal(6, #records)
        listener:close()
      end)
    end
  end)

  it('connects to no private address if told so', function()
    local sink = helper.sink '--http 127.0.0.1:0'
    local port = sink.http:match ':(%d+)$'
    start(([[
      local url = 'http://localhost:%d/log'
      log_hooks:new_json { name = 'denied', url = url, deny_private_addresses = true, outcomes = { private = 'permanent' } }
      log_hooks:new_json { name = 'waiting', url = url, deny_private_addresses = true }
      log_hooks:new_json { name = 'allowed', url = url, deny_private_addresses = true, allow_addresses = { '127.0.0.1', '::1' } }
    ]]):format(port))
    send(1) -- two records
    local function hook(name)
      return kumo.serde.json_parse(ledger())[name]
    end
    helper.wait_for('their ends', function()
      return hook('denied').dead == 2 and hook('allowed').delivered == 2
    end)
    assert.are.equal(2, hook('waiting').waiting)
    local letters = helper.sh(('%s dead list --admin http://%s'):format(helper.quote(helper.TAILRACE), run.http))
    assert.matches('denied  rejected  1 attempt  500 error sending request for url %(http://localhost:%d+/log%): not allowed to connect to ',
      letters)
    assert.are.equal(2, helper.summary(sink).http.requests)
  end)

  it('parts a batch that is too large for the endpoint', function()
    local listener = assert(socket.bind('127.0.0.1', 0))
    listener:settimeout(0)
    local _, port = listener:getsockname()
    start(([[log_hooks:new_json { name = 'w', url = 'http://127.0.0.1:%d/log', batch_size = 8, min_batch_size = 8,
      max_batch_latency = '100s' }]]):format(port))
    send(4)
    local sizes, seen = {}, {}
    while #seen < 8 do
      local peer = helper.wait_for('a request', function()
        return listener:accept()
      end)
      peer:settimeout(60)
      local length
      repeat
        local line = assert(peer:receive '*l')
        length = length or line:match '^[Cc]ontent%-[Ll]ength: (%d+)'
      until line == ''
      local records = kumo.serde.json_parse((assert(peer:receive(tonumber(length)))))
      local status = #records > 2 and '413 Payload Too Large' or '200 OK'
      sizes[#sizes + 1] = #records
      if #records <= 2 then
        for _, record in ipairs(records) do
          seen[#seen + 1] = record.event_id
        end
      end
      peer:send(('HTTP/1.1 %s\r\nContent-Length: 0\r\nConnection: close\r\n\r\n'):format(status))
      peer:close()
    end
    assert.are.same({ 8, 4, 2, 2, 4, 2, 2 }, sizes)
    await '"delivered":8'
    listener:close()
  end)

  it('over Kafka', function()
    start [[log_hooks:new_kafka { name = 'k', brokers = 'ignored:9092', topic = 'events', batch_size = 100,
      key = function(msg) return msg:recipient().domain end,
      config = { ['test.mock.num.brokers'] = 1, ['message.max.bytes'] = 100000 } }]]
    send(50)
    await '"delivered":100'
    assert.are.equal(0, run:stop())
  end)

  it('over Kafka takes the key of order_by for the record\'s', function()
    start [[
      local build = kumo.kafka.build_producer
      kumo.kafka.build_producer = function(config)
        local producer = build(config)
        return {
          send_messages = function(_, topic, messages, keys, headers)
            for i in ipairs(messages) do kumo.log_info('key', tostring(keys and keys[i])) end
            return producer:send_messages(topic, messages, keys, headers)
          end,
          close = function() producer:close() end,
        }
      end
      log_hooks:new_kafka { name = 'k', brokers = 'ignored:9092', topic = 'events', batch_size = 100,
        order_by = function(record) return record.type == 'Reception' and record.type .. '-' .. record.id or nil end,
        config = { ['test.mock.num.brokers'] = 1 } }]]
    send(3)
    await '"delivered":6'
    assert.are.equal(0, run:stop())
    local _, keys = run:log():gsub('key Reception%-%x+', '')
    local _, none = run:log():gsub('key false', '')
    assert.are.same({ 3, 3 }, { keys, none })
  end)

  it('over Kafka, where some records have no key', function()
    start [[
      log_hooks:new_kafka { name = 'k', brokers = 'ignored:9092', topic = 'events', batch_size = 100,
        queue_config = { retry_interval = '1s' },
        key = function(msg)
          if msg:get_meta('log_record').type == 'Delivery' then error 'no key' end
          return 'k'
        end,
        config = { ['test.mock.num.brokers'] = 1 } }]]
    send(10)
    helper.wait_for('the others, which do not wait for them', function()
      local k = kumo.serde.json_parse(ledger()).k
      return k.delivered == 10 and k.waiting == 10
    end)
    assert.are.equal(0, run:stop())
  end)

  it('over AMQP', function()
    local broker = rabbitmq.start 'max_message_size = 20000'
    broker:declare 'events'
    start(([[log_hooks:new_amqp { name = 'a', connection = { host = '127.0.0.1', port = %d }, routing_key = 'events',
      batch_size = 100, queue_config = { retry_interval = '1s' }, log_parameters = { headers = { 'X-Large' } } }]]):format(
      broker.port))
    local response = kumo.http.build_client({}):post(('http://%s/api/inject/v1'):format(run.http))
      :header('Content-Type', 'application/json')
      :body(kumo.serde.json_encode {
        envelope_sender = 'a@example.com',
        recipients = { { email = 'b@example.com' } },
        content = 'X-Large: ' .. ('x'):rep(900) .. ('\r\n ' .. ('x'):rep(900)):rep(29) .. '\r\n\r\nhello\r\n',
      })
      :send()
    assert.are.equal(200, response:status_code())
    send(50)
    await '"delivered":100'
    await '"dead":2' -- too large for the broker, alone
    local ids, count = {}, 0
    helper.wait_for('one hundred events', function() -- those sent with a refused one may be there twice
      local line = broker:get 'events'
      if line then
        local id = kumo.serde.json_parse(line).event_id
        count = count + (ids[id] and 0 or 1)
        ids[id] = true
      end
      return count == 100
    end)
    while broker:get 'events' do -- the doubles behind them
    end
    broker:kill() -- and mail goes on
    send(20)
    broker:restart()
    await '"delivered":140'
    assert.are.equal(0, run:stop())
    count = 0
    helper.wait_for('the rest', function()
      local line = broker:get 'events'
      if line then
        local id = kumo.serde.json_parse(line).event_id
        count = count + (ids[id] and 0 or 1)
        ids[id] = true
      end
      return count == 40
    end)

    -- The alarm lasts longer than any of these times, which do not run meanwhile: to cut a broker that has not read what
    -- it was sent, and to send it again, would double all of it.
    start(([[
      log_hooks:new_amqp { name = 'a', connection = { host = '127.0.0.1', port = %d, publish_timeout = 2 },
        routing_key = 'events', batch_size = 10, queue_config = { retry_interval = '1s' } }
      log_hooks:new { name = 'other', constructor = function() return { send = function() return 'ok' end } end }
      kumo.on('get_egress_path_config', function()
        return kumo.make_egress_path { dispatcher_progress_watchdog_timeout = '1s' }
      end)]]):format(broker.port))
    local function hook(name)
      return kumo.serde.json_parse(ledger())[name]
    end
    broker:alarm(true)
    send(30)
    helper.wait_for('the other hook, which does not wait', function()
      return hook('other').delivered == 60
    end)
    run:line 'takes no messages for now: (low on disk)'
    socket.sleep(3)
    local why = helper.sh(('%s why a.log_hook --admin http://%s'):format(helper.quote(helper.TAILRACE), run.http))
    assert.matches('peer: %d connections? waits?: 127.0.0.1:%d+ takes no messages for now: low on disk', why)
    assert.is_true(hook('a').waiting > 0)
    broker:alarm(false)
    helper.wait_for('all', function()
      return hook('a').delivered == 60
    end)
    assert.matches('nothing holds it',
      (helper.sh(('%s why a.log_hook --admin http://%s'):format(helper.quote(helper.TAILRACE), run.http))))
    assert.is_nil(run:log():find 'gate closed')
    assert.are.equal(0, run:stop())
    ids = {}
    for _, line in ipairs(broker:take('events', 60)) do
      local record = kumo.serde.json_parse(line)
      assert.is_nil(ids[record.event_id])
      ids[record.event_id] = true
    end
    assert.is_nil(broker:get 'events') -- none twice
    broker:stop()
  end)
end)
