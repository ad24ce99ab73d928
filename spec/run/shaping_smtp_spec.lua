-- Limits and rates of a path on built-in SMTP connections: a real process against the sink, in real time.
local helper = require 'helper'
local kumo = require 'kumo'

local POLICY = [[
local kumo = require 'kumo'
kumo.on('init', function()
  kumo.define_spool { name = 'data', path = os.getenv 'DIR' .. '/spool' }
  kumo.define_spool { name = 'meta', path = os.getenv 'DIR' .. '/spool' }
  kumo.start_http_listener { listen = '127.0.0.1:0' }
end)
kumo.on('get_queue_config', function()
  return kumo.make_queue_config { protocol = { smtp = { mx_list = { os.getenv 'HOP' } } } }
end)
kumo.on('get_egress_path_config', function()
  return kumo.make_egress_path { enable_tls = 'Disabled', %s }
end)
]]

describe('SMTP connections', function()
  after_each(helper.cleanup)

  --- Sends `count` messages; returns the seconds until all are delivered, and the sink's summary.
  local function send(path, count)
    local dir = helper.dir()
    local sink = helper.sink '--smtp 127.0.0.1:0'
    local run = helper.run(helper.write(dir .. '/policy.lua', POLICY:format(path)), '', { DIR = dir, HOP = sink.smtp })
    local client = kumo.http.build_client { timeout = '120s' }
    local rcpts = {}
    for i = 1, count do
      rcpts[i] = { email = ('a%d@example.org'):format(i) }
    end
    local start = kumo.time.now()
    local response = client:post('http://' .. run.http .. '/api/inject/v1'):header('Content-Type', 'application/json')
      :body(kumo.serde.json_encode { envelope_sender = 'a@example.com', recipients = rcpts, content = 'Subject: x\r\n\r\nx\r\n' }):send()
    assert.are.equal(200, response:status_code())
    helper.wait_for('all to be delivered', function()
      local ledger = client:get('http://' .. run.http .. '/api/tailrace/ledger'):send():text()
      return kumo.serde.json_parse(ledger).mail.delivered == count
    end)
    local seconds = (kumo.time.now() - start).seconds
    run:stop()
    return seconds, helper.summary(sink)
  end

  it('obey max_message_rate', function()
    local seconds = send("connection_limit = 5, max_message_rate = '20/s,max_burst=1'", 41)
    assert.is_true(seconds >= 1.95, seconds .. ' s for 40 intervals of 50 ms')
  end)

  it('obey max_connection_rate and max_deliveries_per_connection', function()
    local seconds, summary = send("max_connection_rate = '10/s,max_burst=1', max_deliveries_per_connection = 1, connection_limit = 20", 21)
    assert.is_true(seconds >= 1.95, seconds .. ' s for 20 intervals of 100 ms')
    assert.are.equal(21, summary.smtp.connections)
  end)
end)
