-- The dry mode of `tailrace repl` for transports that have sockets of their own, and the real network.
local helper = require 'helper'

local POLICY = [[
local kumo = require 'kumo'
local log_hooks = require 'policy-extras.log_hooks'
log_hooks:new_kafka { name = 'k', brokers = '192.0.2.1:9092', topic = 'events' }
log_hooks:new_amqp { name = 'a', connection = { host = '192.0.2.2' }, routing_key = 'events' }
log_hooks:new_nats { name = 'n', servers = '192.0.2.3:4222', subject = 'events' }
log_hooks:new_json { name = 'h', url = 'http://%s/log', timeout = '1s' }
kumo.on('init', function()
  kumo.configure_redis_throttles { node = 'redis://192.0.2.4' }
end)
]]

local dir
before_each(function()
  dir = helper.dir()
end)
after_each(helper.cleanup)

local function run(address, input)
  local policy = helper.write(dir .. '/policy.lua', POLICY:format(address))
  local path = helper.write(dir .. '/input', input)
  return helper.sh(('TMPDIR=%s %s repl --policy %s <%s'):format(dir, helper.quote(helper.TAILRACE), policy, path))
end

local function assert_has(output, texts)
  for _, text in ipairs(texts) do
    assert.is_truthy(output:find(text, 1, true), text .. ' is not in\n' .. output)
  end
end

describe('tailrace repl', function()
  it('plays Kafka, AMQP and NATS, and does not count at the shared Redis', function()
    local output, status = run('192.0.2.5:80', ':record {}\n:send\n')
    assert.are.equal(0, status, output)
    assert_has(output, {
      'Kafka at 192.0.2.1:9092, played by the script',
      '> topic events, key none',
      'AMQP at 192.0.2.2:5672, played by the script',
      '> exchange "", routing key "events"',
      'NATS at nats://192.0.2.3:4222, played by the script',
      '> subject "events"',
      '> {"type":"Delivery"',
      'k: offered +1, accepted +1, delivered +1',
      'a: offered +1, accepted +1, delivered +1',
      'n: offered +1, accepted +1, delivered +1',
    })
  end)

  it('says of a filter that raises no more than that', function()
    local policy = helper.write(dir .. '/policy.lua', [[
      require('policy-extras.log_hooks'):new_json { name = 'h', url = 'http://192.0.2.5/', filter = function() error 'oops' end }
    ]])
    local output = helper.sh(("TMPDIR=%s %s repl --policy %s -e ':record {}' -e ':send' 2>/dev/null"):format(dir,
      helper.quote(helper.TAILRACE), policy))
    assert_has(output, { 'raised: ', 'oops', 'parked' })
    assert.is_nil(output:find('none was asked', 1, true))
  end)

  it('shows the ledger, a line for each account', function()
    local policy = helper.write(dir .. '/policy.lua', [[
      local log_hooks = require 'policy-extras.log_hooks'
      log_hooks:new_json { name = 'all', url = 'http://192.0.2.5/' }
      log_hooks:new_json { name = 'none', url = 'http://192.0.2.5/', filter = function() return true end }
    ]])
    local output = helper.sh(("TMPDIR=%s %s repl --policy %s -e ':record {}' -e :send -e :ledger"):format(dir,
      helper.quote(helper.TAILRACE), policy))
    assert.matches('\nall           offered 1, accepted 1, delivered 1\nmail          nothing\nnone          offered 1, filtered 1[^\n]*\n$', output)
  end)

  it('lets them fail as :dry says, and recover', function()
    local output = run('192.0.2.5:80', ':dry { kafka = { "no leader", true }, amqp = function() return "busy" end, nats = "no stream" }\n'
      .. ':record {}\n:send\n:advance 5m\n:dry { mqtt = 1 }\n')
    assert_has(output, {
      'no leader',
      'busy',
      'no stream',
      'k: offered +1, accepted +1, waiting +1',
      'k: delivered +1, waiting -1',
      'AMQP at 192.0.2.2:5672, exchange "", routing key "events"',
      "unknown field 'mqtt'",
    })
    assert.is_nil(output:find 'a: delivered')
  end)

  it('asks the real network when it is told to, in which what hangs is timed out', function()
    local sink = helper.sink('--http 127.0.0.1:0')
    local output, status = run(sink.http, ':live\n:time require("kumo").http.build_client({}):get("http://'
      .. sink.http .. '/x"):send():status_code()\n:dry\n')
    assert.are.equal(1, status) -- :dry is refused
    assert_has(output, { 'live: ', '200\n', 'connections to the real network may be open still' })
    sink:stop()
    local hung = helper.sink('--http 127.0.0.1:0 --hang')
    output = run(hung.http, ':live\nkumo.http.build_client({ timeout = "1s" }):get("http://' .. hung.http .. '/x"):send()\n')
    assert_has(output, { 'operation timed out after 1 s' })
    hung:stop()
  end)
end)
