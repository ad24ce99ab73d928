-- kumo.test: an unchanged production policy on the real engine, with a virtual clock and a scripted network.
local helper = require 'helper'
local kumo = require 'kumo'
local test = require 'kumo.test'

--- What runs in production, with paths and ports that this process may not have.
local POLICY = [[
local kumo = require 'kumo'
local log_hooks = require 'policy-extras.log_hooks'
kumo.on('init', function()
  kumo.define_spool { name = 'data', path = '/nowhere/spool/data' }
  kumo.define_spool { name = 'meta', path = '/nowhere/spool/meta' }
  kumo.configure_local_logs { log_dir = '/nowhere/logs' }
  kumo.start_esmtp_listener { listen = '0.0.0.0:25', relay_hosts = { '0.0.0.0/0' } }
  kumo.start_http_listener { listen = '127.0.0.1:8000' }
end)
kumo.on('smtp_server_mail_from', function(from)
  if from.domain == 'spam.test' then kumo.reject(550, '5.7.1 no') end
end)
kumo.on('smtp_server_message_received', function(msg) msg:set_meta('tenant', msg:get_first_named_header_value 'X-Tenant') end)
kumo.on('get_queue_config', function(domain)
  if domain == 'example.org' then
    return kumo.make_queue_config { protocol = { smtp = { mx_list = { 'mx.example.org' } } }, retry_interval = '20m' }
  end
end)
kumo.on('get_egress_path_config', function() return kumo.make_egress_path { enable_tls = 'Disabled' } end)
log_hooks:new_json {
  name = 'webhook', url = 'https://hooks.example.com/log',
  log_parameters = { meta = { 'tenant' }, per_record = { Reception = { enable = true }, Delivery = { enable = true }, Any = { enable = false } } },
}
]]

describe('kumo.test', function()
  local dir

  local function policy(text)
    return helper.write(helper.dir() .. '/policy.lua', text or POLICY)
  end

  local function start(options)
    options = options or {}
    options.policy = options.policy or policy()
    return test.start(options)
  end

  --- The text of an error, which must come.
  local function fails(fn, ...)
    local ok, err = pcall(fn, ...)
    assert.is_false(ok)
    return tostring(type(err) == 'table' and err.message or err)
  end

  before_each(function()
    dir = helper.dir()
  end)
  after_each(function()
    test.stop_all()
    helper.cleanup()
  end)

  it('is kumo.test, too', function()
    assert.are.equal(test, kumo.test)
  end)

  it('runs a production policy from its listener to its endpoints, through days of retries', function()
    local rt = start()
    rt:smtp('mx.example.org', { { code = 451, text = '4.2.0 later' }, { delay = '90s', reset = true }, 250 })
    rt:http('https://hooks.example.com/log', function(request)
      return request:json().type == 'Reception' and { status = 503, headers = { ['Retry-After'] = '600' } } or 200
    end)
    local id = assert(rt:receive { from = 'me@example.com', to = 'a@example.org', headers = { ['X-Tenant'] = 'acme' }, body = '.dot\n' })
    rt:advance '2h'
    assert.delivered(rt, 'mail', 1)
    assert.delivered(rt, 'webhook', 1)
    assert.requeued(rt, 'mail', 2)
    assert.waiting(rt, 'webhook', 1)
    assert.ledger_balances(rt)
    local mails = rt:requests 'smtp mx.example.org'
    assert.are.equal(3, #mails)
    assert.are.equal('acme', mails[3]:header 'x-tenant')
    assert.are.equal('.dot\r\n', mails[3].body)
    assert.are.same({ 'a@example.org' }, mails[3].to)
    local delivery = rt:records({ type = 'Delivery', queue = 'acme@example.org' })[1]
    assert.are.equal(id, delivery.id)
    assert.are.equal(2, delivery.num_attempts)
    assert.are.equal('acme', rt:requests('http')[1]:json().meta.tenant)
    -- the first retry comes after 20 minutes, the second after 40 more, with some jitter and the peer's 90 seconds
    assert.is_near(1200, mails[2].at - mails[1].at, 60)
    assert.is_near(2400, mails[3].at - mails[2].at, 200)
    local queue = rt:queue 'webhook.log_hook'
    assert.are.equal(1, queue.num_scheduled)
    assert.is_true(queue.messages[1].num_attempts > 3)
    rt:stop()
  end)

  it('refuses mail as the policy does', function()
    local rt = start()
    local id, reply = rt:receive { from = 'x@spam.test' }
    assert.is_nil(id)
    assert.are.equal('550 5.7.1 no', reply)
    rt:stop()
  end)

  it('takes messages past the listener', function()
    local rt = start { policy = policy(POLICY) }
    rt:http('https://hooks.example.com/log', 200)
    rt:smtp 'mx.example.org'
    rt:receive { via = 'queue', from = 'x@spam.test', to = 'a@example.org', meta = { tenant = 't' } }
    rt:settle()
    assert.are.equal('t', rt:requests('http')[1]:json().meta.tenant)
    assert.delivered(rt, 'mail', 1)
    rt:stop()
  end)

  it('makes records as real traffic does', function()
    local rt = start()
    rt:http('https://hooks.example.com/log', 200)
    rt:event { type = 'Delivery', recipient = 'b@x.test', meta = { tenant = 'acme' }, num_attempts = 3 }
    rt:event { type = 'Bounce' } -- the hook does not want those
    rt:settle()
    local record = rt:requests('http')[1]:json()
    assert.are.equal('Delivery', record.type)
    assert.are.equal('b@x.test', record.recipient)
    assert.are.equal('acme', record.meta.tenant)
    assert.are.equal(250, record.response.code)
    assert.are.equal(3, record.num_attempts)
    assert.requested(rt, 'http', 1)
    assert.matches('record type', fails(rt.event, rt, { type = 'Delivered' }))
    rt:stop()
  end)

  it('runs until something is so', function()
    local rt = start()
    rt:http('https://hooks.example.com/log', { 503, 503, 200 })
    rt:event { type = 'Delivery' }
    local began = rt:now()
    rt:run_until(function()
      return rt:ledger('webhook').delivered == 1
    end)
    assert.is_near(190, rt:now() - began, 60)
    assert.matches('not true after 60 s.*webhook: offered 1, accepted 1, delivered 1', fails(rt.run_until, rt, function() end, '1m'))
    rt:stop()
  end)

  it('is the same run with the same seed, byte for byte', function()
    local path = policy()
    local function run(seed)
      local rt = start { policy = path, seed = seed, log = 'info' }
      rt:smtp('mx.example.org', { '451 4.2.0 later', { delay = '3s', reset = true }, '452 4.5.3 full', 250 })
      rt:http('https://hooks.example.com/log', { 503, { hang = true }, { delay = '1s', status = 200 }, 500, 200 })
      for i = 1, 20 do
        rt:receive { to = ('user%d@example.org'):format(i) }
        rt:event { type = 'Delivery', recipient = ('user%d@x.test'):format(i) }
      end
      rt:advance '1 day'
      local text = rt:transcript()
      rt:stop()
      return text
    end
    local first, second, other = run(7), run(7), run(8)
    assert.is_true(#first > 50000, #first)
    assert.is_true(first == second)
    assert.is_false(first == other)
  end)

  it('routes by MX, as a zone says', function()
    local rt = start()
    rt:http('https://hooks.example.com/log', 200)
    rt:dns '$ORIGIN example.net.\n@ MX 10 mx1\n@ MX 20 mx2\nmx2 A 10.0.0.2\n'
    rt:smtp('mx1.example.net', { connect = 'refused' })
    rt:smtp '10.0.0.2'
    rt:receive { to = 'a@example.net' }
    rt:advance(1)
    assert.delivered(rt, 'mail', 1)
    assert.requested(rt, 'smtp 10.0.0.2', 1)
    assert.matches('zone: .*line 1', fails(rt.dns, rt, 'x.test. MX'))
    rt:stop()
  end)

  it('keeps queues over a restart', function()
    local rt = start { spool = dir }
    local endpoint = rt:http('https://hooks.example.com/log', 503)
    rt:event { type = 'Delivery' }
    rt:advance '10m'
    local before = rt:queue 'webhook.log_hook'
    rt:restart '1h'
    assert.are.same(before.messages[1].id, rt:queue('webhook.log_hook').messages[1].id)
    endpoint:set(200)
    rt:advance '30m'
    assert.delivered(rt, 'webhook', 1)
    rt:stop()
  end)

  it('lets code of the test, and answers, wait in virtual time', function()
    local rt = start()
    local began = rt:now()
    rt:http('https://hooks.example.com/log', function()
      kumo.sleep(7)
      return 200
    end)
    rt:event { type = 'Delivery' }
    kumo.sleep(10)
    assert.are.equal(10, rt:now() - began)
    assert.delivered(rt, 'webhook', 1)
    rt:stop()
  end)

  it('plays brokers', function()
    local rt = start {
      policy = policy [[
        local kumo = require 'kumo'
        local log_hooks = require 'policy-extras.log_hooks'
        local only = { per_record = { Delivery = { enable = true }, Any = { enable = false } } }
        log_hooks:new_kafka { name = 'k', topic = 'events', brokers = 'k1.test:9092,k2.test', log_parameters = only }
        log_hooks:new_amqp { name = 'a', routing_key = 'events', connection = { host = '10.0.0.5' }, log_parameters = only }
        log_hooks:new_nats { name = 'n', subject = 'events', servers = { '10.0.0.6' }, log_parameters = only }
      ]],
    }
    rt:kafka('k1.test', { 'broker is down', true })
    rt:amqp('10.0.0.5', function(message)
      return message.target == '/events' and { delay = '2s' }
    end)
    rt:nats('10.0.0.6', { { reset = true }, true })
    rt:event { type = 'Delivery' }
    rt:advance '10m'
    for _, hook in ipairs { 'k', 'a', 'n' } do
      assert.delivered(rt, hook, 1)
    end
    assert.requeued(rt, 'k', 1)
    assert.are.equal('Delivery', rt:requests('kafka')[2]:json().type)
    assert.are.equal('events', rt:requests('nats')[2].target)
    rt:stop()
  end)

  describe('fails a test that', function()
    local function left(prepare)
      local rt = start()
      prepare(rt)
      return fails(rt.stop, rt)
    end

    it('reaches what is not scripted', function()
      local text = left(function(rt)
        rt:receive { to = 'a@example.org' }
        rt:advance(1)
      end)
      assert.matches('test_spec.lua:%d+: what was started here left something behind', text)
      assert.matches('not scripted: name mx.example.org', text)
      assert.matches('not scripted: name hooks.example.com', text)
    end)

    it('sends to another host where the policy itself listens', function()
      assert.matches('not scripted: 192.0.2.1:25', left(function(rt)
        rt:http('https://hooks.example.com/log', 200)
        rt:dns { ['mx.example.org'] = '192.0.2.1' }
        rt:receive { to = 'a@example.org' }
        rt:advance(1)
      end))
    end)

    it('ends before an answer', function()
      local text = left(function(rt)
        rt:http('https://hooks.example.com/log', { delay = '10s' })
        rt:event { type = 'Delivery' }
        rt:advance(1)
      end)
      assert.matches('https://hooks.example.com/log: 1 requests without an answer yet', text)
      assert.matches('a handler has not ended: waiting event=make.webhook.log_hook .* for http POST https://hooks', text)
    end)

    it('has an answer that raises', function()
      local text = left(function(rt)
        rt:http('https://hooks.example.com/log', function()
          error 'a mistake'
        end)
        rt:event { type = 'Delivery' }
        rt:advance(1)
      end)
      assert.matches('the answer of https://hooks.example.com/log failed: .*test_spec.lua:%d+: a mistake', text)
    end)

    it('expects something else, and shows what is there', function()
      local rt = start()
      rt:http('https://hooks.example.com/log', { body = '\27[31mred' })
      rt:event { type = 'Delivery', body = '\27[31m' }
      rt:settle()
      local text = fails(assert.delivered, rt, 'webhook', 2)
      assert.matches('webhook delivered: expected 2, got 1', text)
      assert.matches('webhook: offered 1, accepted 1, delivered 1', text)
      assert.matches('POST https://hooks.example.com/log %-> 200: {"type":"Delivery"', text)
      assert.is_nil(text:find('\27', 1, true))
      assert.matches('there is no account "wbhook"', fails(assert.delivered, rt, 'wbhook', 2))
      rt:stop()
    end)
  end)

  describe('says what is wrong with', function()
    for what, case in pairs {
      ['a misspelt option'] = { { sede = 1 }, "unknown field 'sede', expected one of .*did you mean 'seed'" },
      ['a file that is not there'] = { { policy = '/nowhere.lua' }, '/nowhere.lua: No such file' },
      ['a syntax error'] = { { text = 'local x = = 1' }, "policy.lua:1: unexpected symbol near '='" },
      ['a policy that raises'] = {
        { text = 'local kumo = require "kumo"\nkumo.on("init", function() local x = nil; x() end)' },
        'policy.lua:2: attempt to call',
      },
      ['a policy that ends the process'] = { { text = 'os.exit(3)' }, 'policy.lua:1: os.exit%(3%) in a policy under test' },
    } do
      it(what, function()
        local options = case[1]
        options.policy = options.policy or policy(options.text)
        options.text = nil
        assert.matches(case[2], fails(test.start, options))
        assert.is_string(test.start({ policy = policy() }):transcript()) -- and the next one starts
      end)
    end
  end)
end)
