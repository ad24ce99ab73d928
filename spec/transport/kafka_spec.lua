-- kumo.kafka against librdkafka's mock cluster, which lives in the producer itself. Source: contract kafka.md.
local kumo = require 'kumo'

local function build(more)
  local config = { ['test.mock.num.brokers'] = 1, ['linger.ms'] = 1, ['message.timeout.ms'] = 120000 }
  for name, value in pairs(more or {}) do
    config[name] = value
  end
  return kumo.kafka.build_producer(config)
end

local raised = require('helper').raised

describe('kumo.kafka', function()
  it('sends a record and tells partition and offset', function()
    local producer = build()
    local partition, offset = producer:send { topic = 'one', payload = 'first\0\255', partition = 0 }
    assert.are.equal(0, partition)
    assert.are.equal(0, offset)
    partition, offset = producer:send { topic = 'one', payload = 'second', partition = 0,
      key = 'k', headers = { event_id = 'e1' }, timeout = '120s' }
    assert.are.same({ 0, 1 }, { partition, offset })
    producer:close()
  end)

  it('sends a message by its bytes', function()
    local producer = build()
    local msg = kumo.make_message('a@example.com', 'b@example.com', 'Subject: x\r\n\r\nbody\r\n')
    local partition = producer:send { topic = 'mail', payload = msg }
    assert.is_number(partition)
    producer:close()
  end)

  it('tells which records of a batch failed', function()
    local producer = build { ['message.max.bytes'] = 2000 }
    local failed, errors, permanent = producer:send_batch {
      { topic = 'batch', payload = 'a' },
      { topic = 'batch', payload = ('x'):rep(5000) },
      { topic = 'batch', payload = 'c' },
    }
    assert.are.same({ 2 }, failed)
    assert.are.equal(1, #errors)
    assert.matches('^Message production error: MessageSizeTooLarge %(.+%)$', errors[1])
    assert.are.same({ true }, permanent)
    failed, errors = producer:send_batch {}
    assert.are.same({}, failed)
    assert.are.same({}, errors)
    producer:close()
  end)

  it('raises the error of a single record', function()
    local producer = build { ['message.max.bytes'] = 2000 }
    assert.matches('Message production error: MessageSizeTooLarge',
      raised(producer.send, producer, { topic = 'one', payload = ('x'):rep(5000) }))
    producer:close()
  end)

  it('checks its configuration', function()
    assert.matches("'enable.idempotence': string expected, got a boolean: write 'true'",
      raised(kumo.kafka.build_producer, { ['enable.idempotence'] = true }))
    assert.matches("property 'acks': string expected, got table", raised(kumo.kafka.build_producer, { acks = {} }))
    assert.matches("property 'bootstrap.server'", raised(build, { ['bootstrap.server'] = 'localhost' }))
    assert.matches('linger.ms', raised(build, { ['linger.ms'] = 'soon' }))
    assert.matches('table expected', raised(kumo.kafka.build_producer, 'kafka://localhost'))
    build({ acks = 1 }):close() -- goes without idempotence
  end)

  it('checks its records before any is sent', function()
    local producer = build()
    local _, before = producer:send { topic = 'checked', payload = '', partition = 0 }
    for expected, record in pairs {
      ['topic: string expected, got nothing'] = { payload = 'x' },
      ['payload: string expected, got nothing'] = { topic = 'checked' },
      ['key: string expected, got table'] = { topic = 'checked', payload = 'x', key = {} },
      ['partition: 32%-bit integer expected'] = { topic = 'checked', payload = 'x', partition = 1.5 },
      ['headers: table of strings expected, got string'] = { topic = 'checked', payload = 'x', headers = 'a: b' },
      ['headers: strings by name expected, got number by string'] = { topic = 'checked', payload = 'x', headers = { a = 1 } },
      ['topic: must not be empty'] = { topic = '', payload = 'x' },
      ['timeout'] = { topic = 'checked', payload = 'x', timeout = 'soon' },
    } do
      assert.matches(expected, raised(producer.send, producer, record))
      assert.matches(expected,
        raised(producer.send_batch, producer, { { topic = 'checked', payload = 'x', partition = 0 }, record }))
    end
    local _, after = producer:send { topic = 'checked', payload = '', partition = 0 }
    assert.are.equal(before + 1, after) -- the good ones beside the bad ones were not sent
    producer:close()
  end)

  it('ends with close', function()
    local producer = build()
    producer:close()
    assert.matches('client was closed', raised(producer.send, producer, { topic = 'x', payload = 'x' }))
    assert.matches('client was closed', raised(producer.send_batch, producer, {}))
    producer:close()
  end)
end)
