-- Kafka hooks and producers against Apache's broker: killed under load, refusing what is too large, asking for a password.
-- The errors of brokers one by one are in spec/c/transport/kafka_test.c, on librdkafka's mock cluster.
local helper = require 'helper'
local kafka = require 'kafka'
local kumo = require 'kumo'

local POLICY = [[
local kumo = require 'kumo'
local log_hooks = require 'policy-extras.log_hooks'
log_hooks:new_kafka {
  name = 'k',
  brokers = '%s',
  topic = '%s',
  key = function(msg) return 'one partition' end,
  batch_size = 100,
  queue_config = { retry_interval = '1s', max_retry_interval = '2s' },
  config = { ['message.timeout.ms'] = 3000, ['reconnect.backoff.max.ms'] = 500 },
  log_parameters = { headers = { 'X-Large' } },
}
kumo.on('init', function()
  kumo.define_spool { name = 'data', path = '%s/data' }
  kumo.define_spool { name = 'meta', path = '%s/meta' }
  kumo.start_esmtp_listener { listen = '127.0.0.1:0', relay_hosts = { '127.0.0.0/8' } }
  kumo.start_http_listener { listen = '127.0.0.1:0' }
end)
kumo.on('get_queue_config', function()
  return kumo.make_queue_config { protocol = { custom_lua = { constructor = 'make.mail' } } }
end)
kumo.on('get_egress_path_config', function()
  return kumo.make_egress_path { gate_failures = 5, gate_backoff = '500ms', gate_max_backoff = '1s' }
end)
kumo.on('make.mail', function() return { send = function() return 'ok' end } end)
]]

local why = kafka.missing()

if why then
  describe('on a real Kafka broker', function()
    it('nothing is tested here', function()
      pending(why)
    end)
  end)
  return
end

describe('on a real Kafka broker', function()
  local broker, run

  setup(function()
    broker = kafka.new 'message.max.bytes=20000'
  end)

  before_each(function()
    run = nil
  end)

  after_each(function()
    if run and not run:status() then
      run:stop 'KILL'
    end
  end)

  teardown(function()
    broker:stop()
    helper.cleanup()
  end)

  local function start(topic)
    local dir = helper.dir()
    helper.write(dir .. '/policy.lua', POLICY:format(broker.brokers, topic, dir, dir))
    run = helper.run(dir .. '/policy.lua')
  end

  local function ledger()
    return kumo.serde.json_parse(helper.sh(('curl -s http://%s/api/tailrace/ledger'):format(run.http))).k
  end

  local function inject(count, more)
    local summary, status = helper.inject(('--smtp %s --count %d %s'):format(run.smtp, count, more or ''))
    assert.are.equal(0, status, summary)
  end

  local function await(field, number)
    helper.wait_for(('%s %d'):format(field, number), function()
      return ledger()[field] == number
    end, 120)
  end

  it('no event is lost while it is not there yet, and is killed and restarted under load', function()
    start 'events'
    inject(200)
    broker:restart()
    await('delivered', 400)
    inject(300) -- under way when it dies
    broker:kill()
    inject(200) -- while it is away
    broker:restart()
    inject(300)
    await('delivered', 2000)
    assert.are.equal(0, run:stop())
    local count, different = broker:event_ids 'events'
    assert.are.equal(2000, different)
    assert.is_true(count >= 2000)
  end)

  it('one that is too large for it becomes a dead letter, and the batch with it flows', function()
    broker:be_there()
    start 'large'
    inject(10)
    local content = 'X-Large: ' .. ('x'):rep(900) .. ('\r\n ' .. ('x'):rep(900)):rep(29) .. '\r\n\r\nhello\r\n'
    local response = kumo.http.build_client({}):post(('http://%s/api/inject/v1'):format(run.http))
      :header('Content-Type', 'application/json')
      :body(kumo.serde.json_encode {
        envelope_sender = 'a@example.com', recipients = { { email = 'b@example.com' } }, content = content,
      })
      :send()
    assert.are.equal(200, response:status_code())
    inject(10)
    await('delivered', 40)
    await('dead', 2)
    assert.are.equal(0, run:stop())
    assert.are.same({ 40, 40 }, { broker:event_ids 'large' })
  end)

  describe('a producer', function()
    before_each(function()
      broker:be_there()
    end)

    local function producer(more)
      local config = { ['bootstrap.servers'] = broker.brokers, ['message.timeout.ms'] = 1500 }
      for name, value in pairs(more or {}) do
        config[name] = value
      end
      return kumo.kafka.build_producer(config)
    end

    local function login(password)
      return producer {
        ['bootstrap.servers'] = broker.sasl,
        ['security.protocol'] = 'sasl_plaintext',
        ['sasl.mechanisms'] = 'PLAIN',
        ['sasl.username'] = 'events',
        ['sasl.password'] = password,
      }
    end

    it('is told of a topic that is not there, which may come', function()
      local failed, errors, permanent = producer({
        ['allow.auto.create.topics'] = 'false',
        ['topic.metadata.propagation.max.ms'] = 100,
      }):send_batch {
        { topic = 'nowhere', payload = 'x' },
      }
      assert.are.same({ { 1 }, { false } }, { failed, permanent })
      assert.matches('Message production error: UnknownTopicOrPartition', errors[1])
    end)

    it('logs in', function()
      local _, offset = login('secret'):send { topic = 'login', payload = 'x' }
      assert.are.equal(0, offset)
    end)

    it('with a wrong password delivers nothing and may try again', function()
      local failed, errors, permanent = login('wrong'):send_batch { { topic = 'login', payload = 'x' } }
      assert.are.same({ { 1 }, { false } }, { failed, permanent })
      assert.matches('Message production error: ', errors[1])
    end)
  end)
end)
