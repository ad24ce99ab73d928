-- What the hooks of brokers refuse when the policy is loaded: no broker is there, and none is asked.
local kumo = require 'kumo'
local log_hooks = require 'policy-extras.log_hooks'

local function merged(base, more)
  local out = {}
  for _, from in ipairs { base, more } do
    for key, value in pairs(from) do
      out[key] = value
    end
  end
  return out
end

local GOOD = {
  new_kafka = { name = 'x', brokers = 'k1:9092', topic = 't' },
  new_amqp = { name = 'x', connection = { host = 'mq1' }, routing_key = 'q' },
  new_nats = { name = 'x', servers = 'n1', subject = 's' },
}

describe('at load', function()
  local cases = {
    { 'new_kafka', { brokers = ' ,' }, "field 'brokers': it is empty" },
    { 'new_kafka', { brokers = 'k1:9092,k2:99999' }, "'host' or 'host:port' expected, got 'k2:99999'" },
    { 'new_kafka', { brokers = 'k1:' }, "'host' or 'host:port' expected, got 'k1:'" },
    { 'new_kafka', { brokers = ':9092' }, "'host' or 'host:port' expected, got ':9092'" },
    { 'new_kafka', { brokers = 'k1:port' }, "'host' or 'host:port' expected, got 'k1:port'" },
    { 'new_kafka', { topic = '' }, "field 'topic': 1 to 249 letters" },
    { 'new_kafka', { topic = 'mail events' }, "got 'mail events'" },
    { 'new_kafka', { topics = 't' }, "unknown field 'topics'" },
    { 'new_kafka', { topics = 't' }, "did you mean 'topic'?" },
    { 'new_kafka', { key = 'k' }, "field 'key': function expected" },
    { 'new_kafka', { headers = { attempt = '1' } }, "field 'headers': 'attempt' is the runtime's own" },
    { 'new_kafka', { config = { ['compresion.type'] = 'lz4' } },
      "field 'config': property 'compresion.type': librdkafka knows none of that name (did you mean 'compression.type'?)" },
    { 'new_kafka', { config = { ['compression.type'] = 'lz5' } }, "property 'compression.type': Invalid value \"lz5\"" },
    { 'new_kafka', { config = { ['enable.idempotence'] = 'true', acks = 1 } }, '`acks` must be set to `all`' },
    { 'new_kafka', { config = { ['enable.idempotence'] = true } }, "string expected, got a boolean: write 'true'" },
    { 'new_kafka', { config = { ['security.protocol'] = 'ssl', ['ssl.ca.location'] = '/nowhere' } }, 'ssl.ca.location failed' },
    { 'new_amqp', { routing_key = '' }, "field 'routing_key': it is empty; without an exchange it is the name of a queue" },
    { 'new_amqp', { routing_key = ('k'):rep(256) }, "field 'routing_key': at most 255 bytes, got 256" },
    { 'new_amqp', { queue = 'q' }, "unknown field 'queue'" },
    { 'new_amqp', { persistent = 'yes' }, "field 'persistent': boolean expected, got string" },
    { 'new_amqp', { headers = { f = print } }, "field 'headers': ['f']: a function cannot be sent" },
    { 'new_amqp', { connection = {} }, "field 'connection': host expected" },
    { 'new_amqp', { connection = { hots = 'mq1' } }, "field 'connection': unknown field 'hots'" },
    { 'new_amqp', { connection = { hots = 'mq1' } }, "did you mean 'host'?" },
    { 'new_amqp', { connection = { host = 'mq1', port = 70000 } }, 'a port from 1 to 65535 expected' },
    { 'new_amqp', { connection = { host = 'mq1', pool_size = 0 } }, 'pool_size: 1 to 1000 expected' },
    { 'new_amqp', { connection = { host = 'mq1', wait_timeout = 'soon' } }, "field 'wait_timeout': duration" },
    { 'new_nats', { servers = {} }, 'servers: at least one expected' },
    { 'new_nats', { servers = 'http://n1' }, "servers: 'http://n1': nats:// or tls:// expected" },
    { 'new_nats', { subject = '' }, "field 'subject': " },
    { 'new_nats', { subject = 'a b' }, "field 'subject': must not have spaces" },
    { 'new_nats', { subject = 'mail.*' }, "field 'subject': 'mail.*' has a wildcard" },
    { 'new_nats', { subjects = 's' }, "did you mean 'subject'?" },
    { 'new_nats', { auth = { user = 'x' } }, "auth: unknown field 'user'" },
    { 'new_nats', { auth = { username = 'x' } }, 'either specify both of username and password or neither' },
    { 'new_nats', { headers = { ['Nats-Msg-Id'] = 'x' } }, "'Nats-Msg-Id' is the runtime's own" },
    { 'new_nats', { config = { request_timout = '5s' } }, "did you mean 'request_timeout'?" },
    { 'new_nats', { config = { servers = { 'n2' } } }, "field 'config': 'servers' is a field of its own" },
    { 'new_kafka', { batch_size = 0 }, 'batch_size = 0: a number from 1' },
    { 'new_nats', { max_batch_latency = 'soon' }, "field 'max_batch_latency': duration" },
  }
  for _, case in ipairs(cases) do
    it(('%s is refused: %s'):format(case[1], case[3]), function()
      local ok, err = pcall(function()
        log_hooks[case[1]](log_hooks, merged(GOOD[case[1]], case[2]))
      end)
      assert.is_false(ok)
      assert.truthy(err:find(case[3], 1, true), err)
      assert.truthy(err:find '^[^\n]*log_hook_brokers_spec.lua:%d+: log_hooks', err)
    end)
  end

  it('a secret is not shown in what is refused', function()
    local secret = 'TOP' .. 'SECRET'
    local login = { host = 'mq1', password = secret, hots = 'x' }
    for _, wrong in ipairs {
      function() kumo.amqp.check(login) end,
      function() kumo.amqp.basic_publish { connection = login, routing_key = 'q', payload = 'x' } end,
      function() log_hooks:new_amqp { name = 'x', connection = login, routing_key = 'q', rout = 1 } end,
      function() log_hooks:new_json { name = 'x', url = 'http://a', secrets = { secret }, ulr = 1 } end,
      function() log_hooks:new_nats { name = 'x', servers = 'n', subject = 's', auth = { token = { key_data = secret } }, sub = 1 } end,
      function() kumo.nats.check { servers = 'n', auth = { token = { key_data = secret }, x = 1 } } end,
    } do
      local ok, err = pcall(wrong)
      assert.is_false(ok)
      assert.is_nil(tostring(err):find(secret, 1, true), err)
    end
  end)

  it('good options are taken, and no file with a secret is read', function()
    local amqp = {
      name = 'brokers-a',
      connection = { hosts = { 'mq1', '[::1]:5673' }, username = 'u', password = '/nowhere' },
      exchange = 'mail',
      routing_key = '',
      headers = { a = 1, b = { c = true } },
    }
    log_hooks:new_amqp(amqp)
    log_hooks:new_kafka {
      name = 'brokers-k',
      brokers = 'k1, SASL_SSL://k2:9093,[::1]:9092',
      topic = 'mail.events_1-x',
      config = { acks = 1, ['linger.ms'] = 20 },
    }
    log_hooks:new_nats {
      name = 'brokers-n',
      servers = { 'n1:4222', 'tls://n2' },
      subject = 'events.mail',
      auth = { username = '/nowhere', password = '/nowhere/too' },
      config = { ping_interval = '10s' },
      batch_size = 100,
    }
  end)
end)
