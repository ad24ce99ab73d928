-- SIGTERM while everything hangs: an endpoint that is stopped, a next hop, an AMQP and a Kafka broker that take bytes and never
-- answer. The stop ends within its deadline, names what it cut off, and loses nothing.
local helper = require 'helper'
local kumo = require 'kumo'

local POLICY = [[
local kumo = require 'kumo'
local log_hooks = require 'policy-extras.log_hooks'
local HANG, DIR = os.getenv 'HANG', os.getenv 'DIR'
local MINE = { Any = { enable = false }, Reception = { enable = true } }
log_hooks:new_json { name = 'web', url = os.getenv 'WEBHOOK', log_parameters = { per_record = MINE } }
log_hooks:new_json { name = 'batch', url = os.getenv 'WEBHOOK', batch_size = 50, compression = 'gzip', log_parameters = { per_record = MINE } }
log_hooks:new_amqp {
  name = 'amqp',
  connection = { host = '127.0.0.1', port = tonumber(HANG:match ':(%d+)') },
  routing_key = 'events',
  batch_size = 10,
  log_parameters = { per_record = MINE },
}
log_hooks:new_kafka { name = 'kafka', brokers = HANG, topic = 'events', batch_size = 10, log_parameters = { per_record = MINE } }
kumo.on('init', function()
  kumo.define_spool { name = 'data', path = DIR .. '/data' }
  kumo.define_spool { name = 'meta', path = DIR .. '/meta' }
  kumo.start_esmtp_listener { listen = '127.0.0.1:0', relay_hosts = { '127.0.0.0/8' } }
  kumo.start_http_listener { listen = '127.0.0.1:0' }
end)
kumo.on('get_queue_config', function()
  return kumo.make_queue_config { protocol = { smtp = { mx_list = { os.getenv 'HOP' } } } }
end)
]]
local MAILS = 40
local HOOKS = { 'web', 'batch', 'amqp', 'kafka' }

--- Waits until each hook has a session that hangs with records in its hands.
local function wait_busy(run)
  helper.wait_for('sessions of all hooks', function()
    run:signal 'USR1'
    kumo.sleep(0.2)
    for _, hook in ipairs(HOOKS) do
      if not run:log():find('still busy: [^\n]*make%.' .. hook .. '%.log_hook: session [^\n]* with %d+ messages') then
        return false
      end
    end
    return true
  end)
end

describe('a stop with everything hanging', function()
  after_each(helper.cleanup)

  for options, asks in pairs { ['--workers 1 --stop-timeout 3'] = 1, ['--workers 2 --stop-timeout 1'] = 1, ['--workers 2'] = 2 } do
    it(('ends in time and names each: %s, asked %d times'):format(options, asks), function()
      local dir = helper.dir()
      local endpoint = helper.sink '--http 127.0.0.1:0'
      local hang = helper.sink '--http 127.0.0.1:0 --smtp 127.0.0.1:0 --hang'
      helper.write(dir .. '/policy.lua', POLICY)
      local env = { DIR = dir, WEBHOOK = ('http://%s/log'):format(endpoint.http), HANG = hang.http, HOP = hang.smtp }
      local run = helper.run(dir .. '/policy.lua', options, env)
      endpoint:signal 'STOP'
      assert.are.equal(MAILS, helper.inject(('--smtp %s --count %d'):format(run.smtp, MAILS)).accepted)
      local client = helper.start(('%s inject --smtp %s --count 100000 --rate 20/s --keep-going --quiet'):format(
        helper.quote(helper.TAILRACE), run.smtp))
      wait_busy(run)
      if asks == 2 then
        run:signal 'TERM'
        run:line '(stopping, at most 20.0 s)'
      end
      local status = run:stop('TERM', 120) -- a stop that needs the watchdog's help has another status
      endpoint:signal 'CONT'
      client:stop 'KILL'
      assert.are.equal(0, status, run:log())
      assert.are.equal(asks == 2, run:log():find('asked again', 1, true) ~= nil)
      for _, hook in ipairs(HOOKS) do
        assert.is_truthy(run:log():find(hook .. '%.log_hook: session %S+ is cancelled'), hook .. ' is not named: ' .. run:log())
      end
      assert.is_nil(run:log():find 'more lines like this in a second: %%s: session', run:log())
      assert.is_nil(run:log():find 'balance')
      local text, damaged = helper.sh(("'%s' spool stat --json --meta %s/meta --data %s/data"):format(helper.TAILRACE, dir, dir))
      assert.are.equal(0, damaged, text)
      local waiting = {}
      for line in text:gmatch '{[^\n]+' do
        local ledger = kumo.serde.json_parse(line).ledger
        for name, account in pairs(ledger or {}) do
          waiting[name] = account.waiting
        end
      end
      for _, hook in ipairs(HOOKS) do
        assert.is_true(waiting[hook] >= MAILS, ('%s: %s'):format(hook, text))
      end
    end)
  end
end)
