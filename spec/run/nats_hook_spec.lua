-- log_hooks:new_nats: docs/log-hooks.md, with a server that is killed, and with a record that it refuses.
local helper = require 'helper'
local nats = require 'nats'

local POLICY = [[
local kumo = require 'kumo'
local log_hooks = require 'policy-extras.log_hooks'

log_hooks:new_nats {
  name = 'n',
  servers = '%s',
  subject = 'events.mail',
  headers = { source = 'mx1' },
  config = { request_timeout = '2s' },
  batch_size = 50,
  queue_config = { retry_interval = '1s' },
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
kumo.on('make.mail', function() return { send = function() return 'ok' end } end)
]]

describe('a hook over NATS', function()
  local run, server

  after_each(function()
    if run and not run:status() then
      run:stop 'KILL'
    end
    server:stop()
    helper.cleanup()
  end)

  local function start_run()
    local dir = helper.dir()
    helper.write(dir .. '/policy.lua', POLICY:format(server.url, dir, dir))
    run = helper.run(dir .. '/policy.lua')
  end

  local function start(config, stream)
    server = nats.start(config)
    server:declare('EVENTS', 'events.>', stream)
    start_run()
  end

  local function await(what)
    helper.wait_for(what, function()
      return helper.sh(('curl -s http://%s/api/tailrace/ledger'):format(run.http)):find(what)
    end)
  end

  it('loses and doubles nothing while the server is killed', function()
    start(nil, { duplicate_window = 120e9 })
    helper.inject(('--smtp %s --count 50'):format(run.smtp))
    await '"delivered":100'
    server:kill()
    helper.inject(('--smtp %s --count 50'):format(run.smtp))
    server:restart()
    helper.inject(('--smtp %s --count 50'):format(run.smtp))
    await '"delivered":300'
    assert.are.equal(0, run:stop())
    local ids, batches = {}, {}
    assert.are.equal(300, server:count 'EVENTS')
    for i = 1, 300 do
      local _, headers = server:get('EVENTS', i)
      local id = headers:match 'Nats%-Msg%-Id: ?(%x+)'
      assert.is_nil(ids[id])
      ids[id] = true
      assert.matches('attempt: ?[1-9]', headers)
      batches[headers:match 'batch_id: ?(%x+)'] = true
      assert.matches('source: ?mx1', headers)
    end
    local count = 0
    for _ in pairs(batches) do
      count = count + 1
    end
    assert.is_true(count >= 6 and count < 300) -- of at most 50
  end)

  it('waits for a server that is not there yet, then for the stream', function()
    server = nats.new()
    start_run()
    helper.inject(('--smtp %s --count 20'):format(run.smtp))
    await '"waiting":40'
    server:restart()
    helper.inject(('--smtp %s --count 5'):format(run.smtp))
    server:declare('EVENTS', 'events.>')
    await '"delivered":50'
    assert.are.equal(50, server:count 'EVENTS')
    assert.are.equal(0, run:stop())
  end)

  it('keeps what the stream refuses for good as dead letters', function()
    start(nil, { max_msg_size = 400 }) -- a record is larger
    helper.inject(('--smtp %s --count 5'):format(run.smtp))
    await '"dead":10'
    assert.are.equal(0, server:count 'EVENTS')
    assert.are.equal(0, run:stop())
  end)
end)
