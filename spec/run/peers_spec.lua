-- Mistakes that other shippers of events have made, one test each, on the real engine with scripted endpoints. Which test covers
-- which of them, these and those in other files: docs/reliability.md.
local helper = require 'helper'
local kumo = require 'kumo'
local test = require 'kumo.test'

local POLICY = [[
local kumo = require 'kumo'
local log_hooks = require 'policy-extras.log_hooks'
local DELIVERIES = { per_record = { Any = { enable = false }, Delivery = { enable = true } } }
kumo.on('init', function()
  kumo.define_spool { name = 'data', path = '/nowhere/data' }
  kumo.define_spool { name = 'meta', path = '/nowhere/meta' }
  kumo.start_esmtp_listener { listen = '0.0.0.0:25', relay_hosts = { '0.0.0.0/0' } }
end)
%s
kumo.on('get_queue_config', function()
  return kumo.make_queue_config { retry_interval = '20s', max_retry_interval = '1m', protocol = { smtp = { mx_list = { '10.0.0.2' } } } }
end)
]]

local URL = 'http://hooks.test/log'
local HOOK = [[
log_hooks:new_json { name = 'w', url = 'http://hooks.test/log', log_parameters = DELIVERIES, %s }
]]

--- How often each event id came in a list of requests, and how many different ones there are.
local function by_event(requests)
  local counts, distinct = {}, 0
  for _, request in ipairs(requests) do
    local records = request:json()
    for _, record in ipairs(records.type and { records } or records) do
      distinct = distinct + (counts[record.event_id] and 0 or 1)
      counts[record.event_id] = (counts[record.event_id] or 0) + 1
    end
  end
  return counts, distinct
end

describe('an event', function()
  local rt

  local function start(code, options)
    options = options or {}
    options.policy = helper.write(helper.dir() .. '/policy.lua', POLICY:format(code))
    rt = test.start(options)
  end

  local function events(count)
    for i = 1, count do
      rt:event { type = 'Delivery', recipient = ('user%d@example.org'):format(i) }
    end
  end

  after_each(function()
    test.stop_all()
    helper.cleanup()
  end)

  it('that met 429 is tried again though others of its time met 200', function()
    start(HOOK:format '')
    local seen, taken, number = {}, {}, 0
    rt:http(URL, function(request)
      local id = request:json().event_id
      if not seen[id] then
        seen[id], number = true, number + 1
        if number % 2 == 1 then
          return { status = 429, delay = '20ms' }
        end
      end
      taken[id] = (taken[id] or 0) + 1
      return { status = 200, delay = '10ms' }
    end)
    events(40)
    rt:advance '1h'
    assert.delivered(rt, 'w', 40)
    for id, times in pairs(taken) do
      assert.are.equal(1, times, id)
    end
    assert.requested(rt, URL, 60)
    rt:stop()
  end)

  it('goes out without a restart when an endpoint that answered 403 for a day is mended', function()
    start(HOOK:format '')
    local endpoint = rt:http(URL, 403)
    events(10)
    rt:advance '1 day'
    assert.waiting(rt, 'w', 10)
    endpoint:set(200)
    rt:advance '30m'
    assert.delivered(rt, 'w', 10)
    rt:stop()
  end)

  it('waits for a name that is not there, for an address that refuses, and for one that is silent', function()
    local dir, wall = helper.dir(), nil
    for _, world in ipairs {
      function(net) net:dns { ['hooks.test'] = false } end,
      function(net) net:http(URL, { connect = 'refused' }) end,
      function(net) net:http(URL, { connect = 'silent' }) end,
    } do
      start(HOOK:format "timeout = '5s', queue_config = { max_retry_interval = '1m' }", { spool = dir, wall = wall, before = world })
      events(2)
      rt:advance '20m'
      assert.is_true(rt:queue('w.log_hook').messages[1].num_attempts > 3)
      wall = rt:now() + 1
      assert.delivered(rt, 'w', 0)
      assert.dead(rt, 'w', 0)
      rt:stop()
    end
    start(HOOK:format "timeout = '5s'", { spool = dir, wall = wall, before = function(net) net:http(URL, 200) end })
    rt:advance '10m'
    assert.delivered(rt, 'w', 6)
    rt:stop()
  end)

  it('is delivered each time when its endpoint is away for 30 s again and again', function()
    start(HOOK:format "queue_config = { retry_interval = '5s', max_retry_interval = '5s' }")
    local endpoint = rt:http(URL, 200)
    for round = 1, 10 do
      endpoint:set(round % 2 == 1 and 503 or { reset = true })
      events(20)
      rt:advance '30s'
      assert.are.equal(20 * (round - 1), rt:ledger('w').delivered)
      endpoint:set(200)
      rt:advance '1m'
      assert.are.equal(20 * round, rt:ledger('w').delivered)
    end
    rt:stop()
  end)

  it('that is alone does not wait longer than max_batch_latency for others', function()
    start(HOOK:format "batch_size = 100, min_batch_size = 100, max_batch_latency = '1s'")
    rt:http(URL, 200)
    for i = 1, 500 do
      local began = rt:now()
      events(1)
      rt:advance '1100ms'
      local requests = rt:requests(URL)
      assert.are.equal(i, #requests)
      assert.is_true(requests[i].at - began <= 1.05, ('run %d: after %f s'):format(i, requests[i].at - began))
      rt:advance(i % 7)
    end
    rt:stop()
  end)

  it('of a batch that a stop finds half full is sent once, after the start', function()
    start(HOOK:format "batch_size = 10, min_batch_size = 10, max_batch_latency = '20s'", { spool = helper.dir() })
    rt:http(URL, 200)
    for count = 1, 10 do -- at each step of the batch
      events(count)
      rt:advance '1s'
      rt:restart()
      rt:advance '1m'
      assert.are.equal(count * (count + 1) / 2, rt:ledger('w').delivered)
    end
    local times, distinct = by_event(rt:requests(URL))
    assert.are.equal(55, distinct)
    for id, number in pairs(times) do
      assert.are.equal(1, number, id)
    end
    rt:stop()
  end)

  it('is not tried before the time that a policy has set, also over a restart', function()
    start(HOOK:format "filter = function(msg) msg:set_due(kumo.time.from_unix_timestamp(os.time() + 3600):format '%Y-%m-%dT%H:%M:%SZ') end"
      .. [[ kumo.on('smtp_server_message_received', function(msg)
        msg:set_due(kumo.time.from_unix_timestamp(os.time() + 3600):format '%Y-%m-%dT%H:%M:%SZ')
      end)]], { spool = helper.dir() })
    rt:http(URL, 200)
    rt:smtp('10.0.0.2:25', 250)
    events(5)
    assert(rt:receive { to = 'a@example.org' })
    rt:advance '30m'
    rt:restart()
    rt:advance '29m'
    assert.are.equal(0, #rt:requests())
    rt:advance '2m'
    assert.delivered(rt, 'w', 5)
    assert.delivered(rt, 'mail', 1)
    rt:stop()
  end)

  it('makes progress at back_pressure = 1 and max_ready = 1 while what fails makes more of them', function()
    start [[
      log_hooks:new_json {
        name = 'w', url = 'http://hooks.test/log',
        filter = function() kumo.sleep(0.01) end,
        log_parameters = { back_pressure = 1 },
        queue_config = { retry_interval = '10s', max_retry_interval = '10s' },
      }
      kumo.on('get_egress_path_config', function()
        return kumo.make_egress_path { max_ready = 1, connection_limit = 1, enable_tls = 'Disabled', gate_failures = 0 }
      end)
    ]]
    local endpoint = rt:http(URL, 503)
    local hop = rt:smtp('10.0.0.2:25', 451)
    for i = 1, 10 do
      assert(rt:receive { to = ('user%d@example.org'):format(i) })
    end
    rt:advance '2m'
    assert.requeued(rt, 'mail')
    assert.is_true(rt:ledger('w').waiting > 30)
    endpoint:set(200)
    local before = rt:ledger('w').delivered
    rt:advance(11)
    assert.is_true(rt:ledger('w').delivered > before + 30)
    hop:set(250)
    rt:advance '5m'
    assert.delivered(rt, 'mail', 10)
    assert.waiting(rt, 'w', 0)
    assert.ledger_balances(rt)
    rt:stop()
  end)

  it('is not touched by a thousand new configuration epochs while its endpoint is dead', function()
    start(HOOK:format "queue_config = { refresh_strategy = 'Epoch', retry_interval = '10s', max_retry_interval = '10s' }" .. [[
      kumo.on('get_egress_path_config', function() return kumo.make_egress_path { refresh_strategy = 'Epoch' } end)
    ]])
    local endpoint = rt:http(URL, 503)
    for _ = 1, 50 do
      events(2)
      rt:eval "for _ = 1, 20 do require('kumo').bump_config_epoch() end"
      rt:advance(0.5)
    end
    assert.waiting(rt, 'w', 100)
    endpoint:set(200)
    rt:advance '10m'
    assert.delivered(rt, 'w', 100)
    rt:stop()
  end)
end)

describe('a broker that refuses some of a batch', function()
  after_each(function()
    test.stop_all()
    helper.cleanup()
  end)

  for name, hook in pairs {
    kafka = "log_hooks:new_kafka { topic = 'events', brokers = '10.0.0.5', %s }",
    amqp = "log_hooks:new_amqp { routing_key = 'events', connection = { host = '10.0.0.5' }, %s }",
    nats = "log_hooks:new_nats { subject = 'events', servers = { '10.0.0.5' }, %s }",
  } do
    it('gets those again, and no others: ' .. name, function()
      local code = hook:format "name = 'w', batch_size = 20, max_batch_latency = '1s', min_batch_size = 20, log_parameters = DELIVERIES"
      local rt = test.start { policy = helper.write(helper.dir() .. '/policy.lua', POLICY:format(code)) }
      local tries = {}
      rt[name](rt, '10.0.0.5', function(message)
        local record = message:json()
        local number = tonumber(record.recipient:match '%d+')
        tries[number] = (tries[number] or 0) + 1
        if number % 5 == 0 then
          return { error = 'too large', permanent = true }
        end
        return number % 3 == 0 and tries[number] < 3 and 'not now' or true
      end)
      for i = 1, 100 do
        rt:event { type = 'Delivery', recipient = ('user%d@example.org'):format(i) }
      end
      rt:advance '1h'
      assert.delivered(rt, 'w', 80)
      assert.dead(rt, 'w', 20)
      for number = 1, 100 do
        assert.are.equal(number % 5 ~= 0 and number % 3 == 0 and 3 or 1, tries[number], 'of ' .. number)
      end
      rt:stop()
    end)
  end
end)

describe('a kill', function()
  after_each(helper.cleanup)

  local PROCESS = [[
local kumo = require 'kumo'
local log_hooks = require 'policy-extras.log_hooks'
log_hooks:new_json {
  name = 'w', url = 'http://127.0.0.1:1/',
  log_parameters = { per_record = { Any = { enable = false }, Reception = { enable = true } } },
}
kumo.on('init', function()
  for _, name in ipairs { 'data', 'meta' } do kumo.define_spool { name = name, path = os.getenv 'DIR' .. '/' .. name } end
  kumo.start_http_listener { listen = '127.0.0.1:0' }
end)
kumo.on('get_queue_config', function()
  return kumo.make_queue_config { retry_interval = '1h', protocol = { custom_lua = { constructor = 'make.mail' } } }
end)
kumo.on('make.mail', function() return { send = function() kumo.reject(450, 'later') end } end)
kumo.on('requeue_message', function(msg)
  if msg:get_meta 'changed' or msg:get_meta 'reception_protocol' == 'LogRecord' or msg:recipient().domain == 'last.example' then
    return
  end
  msg:set_meta('changed', { list = { 1, 'two' }, yes = true })
  msg:set_meta('queue', 'moved.example')
  msg:set_sender 'other@example.net'
  msg:set_recipient 'someone@else.example'
  msg:append_header('X-Later', 'ä')
  msg:set_data(msg:get_data() .. 'one more line')
end)
]]

  it('changes no field of what waits, no gauge and not the ledger', function()
    local dir = helper.dir()
    local policy = helper.write(dir .. '/policy.lua', PROCESS)
    local client = kumo.http.build_client {}
    local run

    local function get(path)
      return client:get(('http://%s%s'):format(run.http, path)):send():text()
    end

    local function inject(domain)
      local response = client:post(('http://%s/api/inject/v1'):format(run.http)):header('Content-Type', 'application/json')
        :body(kumo.serde.json_encode {
          envelope_sender = 'a@example.com', recipients = { { email = 'b@' .. domain } }, content = 'Subject: x\r\n\r\nbody\r\n',
        }):send()
      assert.are.equal(200, response:status_code())
    end

    --- What is known of the two messages that were changed: by id, and their gauge.
    local function state()
      local text = get '/api/admin/inspect-sched-q/v1?queue_name=moved.example&want_body=true&limit=10'
      local queue = text:find '^{' and kumo.serde.json_parse(text) or {}
      local messages = {}
      for _, one in ipairs(queue.messages or {}) do
        messages[one.id] = one
      end
      return messages, queue.num_scheduled, get('/metrics'):match '\nscheduled_count{queue="moved.example"} %d+'
    end

    local function settled(messages)
      local count = 0
      for _, one in pairs(messages) do
        count = count + (one.num_attempts == 2 and 1 or 0)
      end
      return count == 2
    end

    run = helper.run(policy, '', { DIR = dir })
    inject 'one.example'
    inject 'two.example'
    local before, scheduled, gauge
    helper.wait_for('the changes', function() -- each was tried in its old queue, and at once in its new one
      before, scheduled, gauge = state()
      return settled(before)
    end)
    inject 'last.example' -- it is answered after the commit of all that was before it
    local ledger = get '/api/tailrace/ledger'
    run:stop 'KILL'
    run = helper.run(policy, '', { DIR = dir })
    local after, scheduled_after, gauge_after = state()
    assert.are.same(before, after)
    assert.are.equal(2, scheduled)
    assert.are.equal(scheduled, scheduled_after)
    assert.is_string(gauge)
    assert.are.equal(gauge, gauge_after)
    assert.are.equal(ledger, get '/api/tailrace/ledger')
    for _, one in pairs(after) do
      assert.are.equal('other@example.net', one.message.sender)
      assert.are.equal('someone@else.example', one.message.recipient)
      assert.are.same({ list = { 1, 'two' }, yes = true }, one.message.meta.changed)
      assert.matches('\r\nX%-Later: ä\r\n\r\nbody\r\none more line$', one.message.data)
    end
    assert.are.equal(0, run:stop())
  end)
end)
