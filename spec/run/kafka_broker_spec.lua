-- Kafka hooks and producers against Apache's broker: killed under load, without its topic, without a disk, refusing what is
-- too large, asking for a password.
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
  key = %s,
  batch_size = 100,
  queue_config = { retry_interval = '1s', max_retry_interval = '2s' },
  config = { ['message.timeout.ms'] = %d, ['batch.num.messages'] = 10, ['reconnect.backoff.max.ms'] = 500 },
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

local ONE_PARTITION = [[function(msg) return 'one partition' end]]
local ALL_PARTITIONS = [[function(msg) return msg:id() end]]

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

  --- A run whose hook sends to that topic. key: an expression. timeout_ms: how long a record is tried before it waits for its
  --- retry; a broker that is slow for so long gets it twice.
  local function start(topic, key, timeout_ms)
    local dir = helper.dir()
    helper.write(dir .. '/policy.lua', POLICY:format(broker.brokers, topic, key or ONE_PARTITION, timeout_ms or 3000, dir, dir))
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
    end)
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
    start('large', ONE_PARTITION, 120000)
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

  it('no event is lost when its topic is deleted under load, and comes into being again', function()
    broker:be_there()
    broker:create_topic('passing', 3)
    start('passing', ALL_PARTITIONS)
    inject(200)
    await('delivered', 400)
    local injecting = helper.start(('%s inject --quiet --smtp %s --count 300'):format(helper.quote(helper.TAILRACE), run.smtp))
    broker:delete_topic 'passing'
    assert.are.equal(0, injecting:wait())
    await('delivered', 1000)
    assert.are.equal(0, ledger().dead)
    assert.are.equal(0, run:stop())
    local _, different = broker:event_ids 'passing' -- in the files of the one and of the other
    assert.are.equal(1000, different)
  end)

  it('what is for a partition that has failed waits for it, and no other is tried twice', function()
    broker:be_there()
    broker:create_topic('parts', 6, { ['segment.bytes'] = '12000' })
    start('parts', ALL_PARTITIONS, 8000)
    inject(50)
    await('delivered', 100)
    os.rename(broker.dir .. '/data2', broker.dir .. '/gone') -- the next segment there finds no place
    inject(150)
    local before = { delivered = 0 }
    helper.wait_for('nothing but failures', function()
      local now = ledger()
      now.failed = tonumber(helper.sh(('curl -s http://%s/metrics'):format(run.http)):match 'kafka_records{result="failed"} (%d+)')
      if now.delivered ~= before.delivered then
        before = now
      end
      return now.waiting > 0 and now.failed - before.failed > now.waiting
    end)
    assert.are.equal(400, before.delivered + before.waiting)
    broker:kill()
    local tries = helper.sh(([[cat %s/data/parts-*/*.log | grep -aoP 'attempt[\x00-\x20][0-9]+' | sort | uniq -c]]):format(broker.dir))
    assert.matches('^%s*%d+ attempt.1\n$', tries)
    assert.is_true(os.rename(broker.dir .. '/gone', broker.dir .. '/data2'))
    broker:restart()
    await('delivered', 400)
    assert.are.equal(0, run:stop())
    local _, different = broker:event_ids 'parts'
    assert.are.equal(400, different)
  end)

  describe('a producer', function()
    before_each(function()
      broker:be_there()
    end)

    local function producer(more)
      local config = { ['bootstrap.servers'] = broker.brokers, ['message.timeout.ms'] = 120000 }
      for name, value in pairs(more or {}) do
        config[name] = value
      end
      return kumo.kafka.build_producer(config)
    end

    local function login(password, timeout_ms)
      return producer {
        ['message.timeout.ms'] = timeout_ms,
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
      local failed, errors, permanent = login('wrong', 1500):send_batch { { topic = 'login', payload = 'x' } }
      assert.are.same({ { 1 }, { false } }, { failed, permanent })
      assert.matches('Message production error: ', errors[1])
    end)
  end)
end)
