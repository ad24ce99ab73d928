-- The examples of hooks as they are, with real mail.
local helper = require 'helper'
local nats = require 'nats'
local rabbitmq = require 'rabbitmq'
local kumo = require 'kumo'

describe('an example', function()
  after_each(helper.cleanup)

  --- Runs a policy, sends 30 mails through it, and waits until their events, by default 60, are delivered.
  local function run_example(name, env, events)
    local sink = helper.sink '--http 127.0.0.1:0 --smtp 127.0.0.1:0'
    env.TAILRACE_DIR = helper.dir()
    env.TAILRACE_NEXT_HOP = sink.smtp
    env.TAILRACE_WEBHOOK = ('http://%s/log'):format(sink.http)
    env.TAILRACE_SMTP = '127.0.0.1:0'
    env.TAILRACE_HTTP = '127.0.0.1:0'
    local run = helper.run(('examples/%s.lua'):format(name), '', env)
    helper.inject(('--smtp %s --count 30 --header "X-Customer-ID: 42"'):format(run.smtp))
    helper.wait_for('the events', function()
      local delivered = 0
      for account, of in pairs(kumo.serde.json_parse((helper.sh(('curl -s http://%s/api/tailrace/ledger'):format(run.http))))) do
        delivered = delivered + (account == 'mail' and 0 or of.delivered)
      end
      return delivered == (events or 60)
    end)
    assert.are.equal(0, run:stop())
    return helper.summary(sink)
  end

  it('webhook.lua: a request for each delivery', function()
    local got = run_example('webhook', {}, 30)
    assert.are.equal(30, got.http.records)
    assert.are.equal(30, got.http.requests)
  end)

  it('webhook_batch.lua: few requests, all records', function()
    local got = run_example('webhook_batch', {})
    assert.are.equal(60, got.http.records)
    assert.is_true(got.http.requests < 30)
  end)

  it('kafka.lua: each record is acknowledged', function()
    run_example('kafka', { TAILRACE_KAFKA = 'mock' })
  end)

  it('amqp.lua: each record is confirmed', function()
    local broker = rabbitmq.start()
    broker:declare 'mail-events'
    run_example('amqp', { TAILRACE_AMQP_PORT = broker.port })
    assert.are.equal(60, #broker:take('mail-events', 60))
    broker:stop()
  end)

  it('nats.lua: each record is in the stream, once', function()
    local server = nats.start()
    server:declare('EVENTS', 'events.>')
    run_example('nats', { TAILRACE_NATS = server.url })
    assert.are.equal(60, server:count 'EVENTS')
    server:stop()
  end)
end)
