-- `tailrace plan`: the arithmetic of queues, and the command on policies.
local helper = require 'helper'
local kumo = require 'kumo'
local host = require 'tr.host'
local arithmetic = host.internal 'plan.arithmetic'
local load = host.internal 'plan.load'
local plot = host.internal 'plan.plot'

describe('the arithmetic of a plan', function()
  local function path(more)
    local one = { connections = 10, batch = 1, latency_s = 0.02, can_batch = true, deliveries = 1000 }
    for key, value in pairs(more or {}) do
      one[key] = value
    end
    return one
  end
  local function limit_of(one)
    return arithmetic.limit { { share = 1, path = one, terms = arithmetic.terms(one) } }
  end

  it('connections times batch by latency', function()
    assert.are.equal(500, (limit_of(path())))
    assert.are.equal(50000, (limit_of(path { batch = 100 })))
    local limit, term = limit_of(path { connections = 1, latency_s = 2 })
    assert.are.equal(0.5, limit)
    assert.are.equal('1 connection / 2 s', term.text)
  end)

  it('the lowest term decides', function()
    local limit, term = limit_of(path { message_rate = 400, message_rate_text = 'max_message_rate 400/s' })
    assert.are.same({ 400, 'rate' }, { limit, term.kind })
    limit, term = limit_of(path { message_rate = 400, queue_rate = 5, reconnect_rate = 7 })
    assert.are.same({ 5, 'queue' }, { limit, term.kind })
    limit, term = limit_of(path { reconnect_rate = 7, reconnect_text = 'x' })
    assert.are.same({ 7, 'reconnects' }, { limit, term.kind })
    assert.is_nil((arithmetic.limit { { share = 1, terms = arithmetic.terms { batch = 1, latency_s = 1 } } }))
  end)

  it('the source that is full first limits all of a pool', function()
    local a, b = path { connections = 10 }, path { connections = 1 }
    local limit, _, share = arithmetic.limit {
      { share = 0.75, path = a, terms = arithmetic.terms(a) },
      { share = 0.25, path = b, terms = arithmetic.terms(b) },
    }
    assert.are.equal(200, limit) -- 50/s of the small one are a quarter of it
    assert.are.equal(b, share.path)
  end)

  it('what an outage leaves, and when it is gone', function()
    assert.are.same({ load = 0.5, grows = 0, after_outage = 1000, drains_s = 10 }, arithmetic.outlook(100, 200, 10))
    assert.are.same({ load = 2, grows = 100, after_outage = 2000 }, arithmetic.outlook(200, 100, 10))
  end)

  it('the advice lets the load through with a fifth to spare', function()
    local one = path()
    local terms = arithmetic.terms(one)
    local text = arithmetic.advice(terms[1], one, 1000)
    local batch, connections = text:match 'batch_size = (%d+), or connection_limit = (%d+)'
    assert.is_true((limit_of(path { batch = tonumber(batch) })) >= 1200)
    assert.is_true((limit_of(path { connections = tonumber(connections) })) >= 1200)
    one = path { can_batch = false }
    assert.are.equal('connection_limit = 24', arithmetic.advice(terms[1], one, 1000))
    assert.are.equal("max_message_rate = '120/s'", arithmetic.advice({ kind = 'rate', limit = 5 }, one, 100))
  end)

  it('numbers and times for people', function()
    assert.are.same({ '0', '1,234,567', '1.5', '139', '20 ms', '1.5 s', '12 min', '3 h', '2 days' }, {
      arithmetic.number(0), arithmetic.number(1234567), arithmetic.number(1.5), arithmetic.number(138.9),
      arithmetic.time(0.02), arithmetic.time(1.5), arithmetic.time(720), arithmetic.time(10800), arithmetic.time(172800),
    })
  end)
end)

describe('the load of a plan', function()
  local function of(more)
    local options = {
      mails = '3600/h', outage = '1m', duration = '1m', events = {}, latencies = {}, domains = {}, mail_size = 1, event_size = 1,
    } -- stylua: ignore
    for key, value in pairs(more or {}) do
      options[key] = value
    end
    return load.of(options)
  end

  it('reads rates, events, latencies and domains', function()
    assert.are.equal(1, of().mails_s)
    assert.are.equal(1000, of({ mails = '3,600,000/h' }).mails_s)
    assert.are.same({ Delivery = 0.9, Bounce = 0.1 }, of({ events = { 'Delivery=0.9', 'Bounce=0.1' } }).events)
    assert.are.equal(0.05, of({ latencies = { 'webhook=50ms' } }).latency.webhook)
    assert.are.same({ { name = 'a.example', share = 0.75 }, { name = 'b.example', share = 0.25 } },
      of({ domains = { 'a.example:3', 'b.example' } }).domains)
  end)

  for option, case in pairs {
    mails = { '10/fortnight', 'a rate such as' },
    outage = { 'long', 'a time such as' },
    events = { { 'Delivry=1' }, "did you mean 'Delivery'?" },
    latencies = { { 'webhook' }, 'NAME=TIME expected' },
    domains = { { 'a.example:-1' }, 'DOMAIN:WEIGHT expected' },
  } do
    it('refuses a bad ' .. option, function()
      assert.error_matches(function()
        of { [option] = case[1] }
      end, case[2], 1, true)
    end)
  end
end)

describe('a plot', function()
  it('is as high as the deepest moment and as wide as time', function()
    local lines = plot.chart { queue = 'q', step_s = 60, depth = { 0, 10, 1000, 10, 0 } }
    assert.is_truthy(lines[1]:find '^1,000 │  █')
    assert.is_truthy(lines[6]:find '^    0 │ ▁█▁')
    assert.is_truthy(lines[8]:find '5 min$')
  end)

  it('is a line where nothing waits', function()
    local lines = {}
    plot.write({ simulation = { duration_s = 2, messages = 1, queues = {}, series = { { queue = 'q', step_s = 1, depth = { 0, 0 } } } } },
      {}, function(text, ...)
        lines[#lines + 1] = text:format(...)
      end)
    assert.are.equal('q: no message waits', lines[#lines])
  end)

  it('says what a rate that is passed may come from', function()
    local lines = {}
    local queues = { { name = 'mail', planned = 5, simulated = 8, off = 0.6 } }
    plot.write({ simulation = { duration_s = 2, messages = 1, series = {}, queues = queues } }, {}, function(text, ...)
      lines[#lines + 1] = text:format(...)
    end)
    assert.matches('a rate by the minute', lines[4])
  end)

  it('is a well-formed drawing that hides nothing in names', function()
    local text = plot.svg('a < b', { { queue = '"x"', step_s = 1, depth = { 1, 2 } } })
    assert.is_truthy(text:find('a &lt; b', 1, true))
    assert.is_truthy(text:find('&quot;x&quot;', 1, true))
    assert.is_truthy(text:find '^<svg .*</svg>\n$')
  end)
end)

describe('tailrace plan', function()
  after_each(helper.cleanup)

  local function plan(policy, args)
    return helper.sh(('%s plan --policy %s %s'):format(helper.quote(helper.TAILRACE), policy, args or ''))
  end

  local POLICY = [[
    local kumo = require 'kumo'
    local log_hooks = require 'policy-extras.log_hooks'
    log_hooks:new_json { name = 'webhook', url = 'http://127.0.0.1:1/', batch_size = 10,
      log_parameters = { per_record = { Reception = { enable = false } } } }
    kumo.on('init', function()
      kumo.define_spool { name = 'data', path = '/nonexistent/data' }
      kumo.define_spool { name = 'meta', path = '/nonexistent/meta' }
      kumo.start_esmtp_listener { listen = '127.0.0.1:25' }
    end)
    kumo.on('get_queue_config', function()
      return kumo.make_queue_config { protocol = { smtp = { mx_list = { '127.0.0.1:1' } } } }
    end)
    kumo.on('get_egress_path_config', function(domain)
      if domain == 'slow.example' then
        return kumo.make_egress_path { connection_limit = 2, max_message_rate = '1000/s' }
      end
      return kumo.make_egress_path {}
    end)
  ]]

  it('computes from what is in force, and names what gives way first', function()
    local policy = helper.write(helper.dir() .. '/policy.lua', POLICY)
    local text, status = plan(policy, '--mails 20/s --domain slow.example --latency mail=500ms --latency webhook=100ms --json')
    assert.are.equal(1, status, text)
    local result = kumo.serde.json_parse(text)
    assert.are.equal('slow.example', result.bottleneck)
    assert.is_false(result.keeps_up)
    local hook, mail = result.queues[1], result.queues[2]
    assert.are.same({ 'webhook.log_hook', 20, 1000, { 'Delivery' } }, { hook.queue, hook.demand, hook.limit, hook.types })
    assert.are.equal('default of log hooks', hook.origin)
    assert.are.same({ 4, 'set by the policy' }, { mail.limit, mail.origin })
    assert.are.equal(16, mail.grows)
    text, status = plan(policy, '--mails 3/s --domain slow.example --latency mail=500ms')
    assert.are.equal(0, status, text)
    assert.is_truthy(text:find('All queues keep up. The first to be full is slow.example, at 1.33 times this load.', 1, true), text)
  end)

  it('agrees with what the engine does of the same load, within 5 %', function()
    local dir = helper.dir()
    local policy = helper.write(dir .. '/policy.lua', [[
      local kumo = require 'kumo'
      local log_hooks = require 'policy-extras.log_hooks'
      log_hooks:new_json { name = 'full', url = 'http://127.0.0.1:1/', batch_size = 10 }
      log_hooks:new_json { name = 'cycling', url = 'http://127.0.0.1:1/' }
      log_hooks:new_json { name = 'idle', url = 'http://127.0.0.1:1/' }
      log_hooks:new_json { name = 'free', url = 'http://127.0.0.1:1/' }
      kumo.on('init', function()
        kumo.define_spool { name = 'data', path = '/nonexistent/data' }
        kumo.define_spool { name = 'meta', path = '/nonexistent/meta' }
        kumo.configure_local_logs { log_dir = '/nonexistent/logs' }
        kumo.start_esmtp_listener { listen = '127.0.0.1:25' }
      end)
      kumo.on('get_egress_path_config', function(domain)
        if domain == 'full.log_hook' then
          return kumo.make_egress_path { connection_limit = 2 }
        elseif domain == 'cycling.log_hook' then
          return kumo.make_egress_path { max_connection_rate = '2/s', max_deliveries_per_connection = 5 }
        end
        if domain == 'free.log_hook' then
          return kumo.make_egress_path {}
        end
        return kumo.make_egress_path { max_message_rate = '20/s', max_ready = 10 }
      end)
    ]])
    local text, status = plan(policy, ('--mails 40/s --latency full=500ms --duration 40s --svg %s/out.svg --json'):format(dir))
    assert.are.equal(1, status, text)
    local simulation = kumo.serde.json_parse(text).simulation
    local planned = {}
    for _, queue in ipairs(simulation.queues) do
      planned[queue.name] = queue.planned
      assert.is_true(math.abs(queue.off) < 0.05, text)
    end
    -- 40 Receptions, 20 Deliveries, and 40 Delayed: the mail does not keep up
    assert.are.same({ full = 40, cycling = 10, idle = 20, free = 100, mail = 20 }, planned)
    assert.is_truthy(helper.read(dir .. '/out.svg'):find('full, messages that wait</text>', 1, true))
    assert.are.equal(0, #helper.sh 'ls -d /nonexistent 2>/dev/null')
  end)

  it('tells mistakes in a line', function()
    local policy = helper.write(helper.dir() .. '/policy.lua', POLICY)
    for args, needle in pairs {
      ['--latency webhok=1s'] = "did you mean 'webhook'?",
      ['--mails many'] = '1000000/h',
      ['--mial 5/s'] = "did you mean '--mails'?",
    } do
      local text, status = plan(policy, args)
      assert.are.equal(64, status, text)
      assert.is_truthy(text:find(needle, 1, true), text)
      assert.is_nil(text:find 'traceback', text)
    end
    local text, status = plan(helper.write(helper.dir() .. '/bad.lua', 'nonsense('))
    assert.are.equal(78, status, text)
  end)
end)
