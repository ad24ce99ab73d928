-- The HTTP listener of a running process: injection is durable when it is answered, rules act, the ledger balances.
local helper = require 'helper'
local kumo = require 'kumo'

local POLICY = [[
local kumo = require 'kumo'
local DIR = os.getenv 'TAILRACE_DIR'
kumo.on('init', function()
  kumo.define_spool { name = 'data', path = DIR .. '/spool' }
  kumo.define_spool { name = 'meta', path = DIR .. '/spool' }
  kumo.start_http_listener { listen = '127.0.0.1:0', request_body_limit = 100000 }
end)
kumo.on('http_message_generated', function(msg)
  if msg:recipient().domain == 'void.example' then
    msg:set_meta('queue', 'null')
  end
end)
kumo.on('get_queue_config', function(domain)
  if domain == 'broken.example' then
    error 'no configuration for this one'
  end
  return kumo.make_queue_config { protocol = { custom_lua = { constructor = 'make.keep' } }, retry_interval = '1h' }
end)
kumo.on('make.keep', function()
  return {
    send = function(_, msg)
      if msg:recipient().domain == 'later.example' then
        kumo.reject(400, 'later')
      end
      return 'kept'
    end,
  }
end)
]]

local function start(dir)
  local policy = helper.write(dir .. '/policy.lua', POLICY)
  return helper.run(policy, '', { TAILRACE_DIR = dir })
end

local client

local function call(run, method, path, body)
  local request = client[method](client, 'http://' .. run.http .. path)
  if body then
    request:header('Content-Type', 'application/json'):body(kumo.serde.json_encode(body))
  end
  local response = request:send()
  local status, text = response:status_code(), response:text()
  local ok, value = pcall(kumo.serde.json_parse, text)
  return status, ok and value or text
end

local function inject(run, ...)
  local rcpts = {}
  for i = 1, select('#', ...) do
    rcpts[i] = { email = (select(i, ...)) }
  end
  return call(run, 'post', '/api/inject/v1', {
    envelope_sender = 'a@example.com',
    recipients = rcpts,
    content = 'Subject: hi\r\n\r\nbody\r\n',
  })
end

local function mail(run)
  return select(2, call(run, 'get', '/api/tailrace/ledger')).mail
end

describe('the HTTP listener of tailrace run', function()
  before_each(function()
    client = kumo.http.build_client { timeout = '120s' }
  end)
  after_each(helper.cleanup)

  it('takes mail in and counts what became of it', function()
    local run = start(helper.dir())
    local status, result = inject(run, 'a@good.example', 'b@void.example', 'c@broken.example', 'd@later.example')
    assert.are.equal(200, status)
    assert.are.equal(3, result.success_count)
    assert.are.same({ 'c@broken.example' }, result.failed_recipients)
    assert.is_truthy(result.errors[1]:find 'no configuration for this one')
    helper.wait_for('the deliveries', function()
      local now = mail(run)
      return now.delivered == 1 and now.waiting == 1
    end)
    local now = mail(run)
    assert.are.equal(3, now.accepted)
    assert.are.equal(1, now.dropped_by.null_queue)
    assert.are.equal('OK', select(2, call(run, 'get', '/api/check-liveness/v1')))
    assert.are.equal(0, run:stop())
    assert.is_nil(run:log():find 'does not balance')
  end)

  it('has what it answered for after a kill', function()
    local dir = helper.dir()
    local run = start(dir)
    assert.are.equal(200, (inject(run, 'a@later.example', 'b@later.example')))
    run:stop 'KILL'
    run = start(dir)
    assert.are.equal(2, mail(run).waiting)
    assert.are.equal(0, run:stop())
  end)

  it('bounces what waits when a rule is added, and what comes later', function()
    local run = start(helper.dir())
    inject(run, 'a@later.example')
    helper.wait_for('the first attempt', function()
      local _, queue = call(run, 'get', '/api/admin/inspect-sched-q/v1?queue_name=later.example&limit=5')
      return type(queue) == 'table' and queue.num_scheduled == 1
    end)
    local _, rule = call(run, 'post', '/api/admin/bounce/v1', { reason = 'spec', domain = 'later.example' })
    helper.wait_for('the bounce', function()
      return mail(run).bounced == 1
    end)
    inject(run, 'b@later.example')
    helper.wait_for('the second bounce', function()
      return mail(run).bounced == 2
    end)
    local _, list = call(run, 'get', '/api/admin/bounce/v1')
    assert.are.equal(rule.id, list[1].id)
    assert.are.equal(0, run:stop())
  end)

  it('refuses what is too large or not known', function()
    local run = start(helper.dir())
    assert.are.equal(413, (call(run, 'post', '/api/inject/v1', { content = ('x'):rep(100001) })))
    assert.are.equal(404, (call(run, 'get', '/api/admin/inspect-sched-q/v1?queue_name=none.example')))
    assert.are.equal(404, (call(run, 'get', '/api/nothing')))
    assert.are.equal(0, run:stop())
  end)
end)
