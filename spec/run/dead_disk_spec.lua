-- Dead letters on a disk that is full: a record that dies is kept until its letter can be written; a replay that cannot be
-- stored is refused at once, is counted, and moves nothing. Both work when there is space, without a restart.
local durable = require 'run.durable'
local helper = require 'helper'
local kumo = require 'kumo'

local POLICY = 'spec/run/kill_policy.lua'
local MAILS = 100

describe('dead letters on a disk without space', function()
  after_each(helper.cleanup)

  --- more: further variables.
  local function start(sink_options, more)
    local dir, env, sink = durable.setup(sink_options, more)
    env.TAILRACE_VARIANT = 'single'
    helper.sh(('cc -shared -fPIC -O1 -o %s/shim.so spec/run/disk_shim.c -ldl'):format(dir))
    env.LD_PRELOAD, env.TAILRACE_FAULT, env.TAILRACE_FAULT_DIR = dir .. '/shim.so', dir .. '/fault', dir .. '/spool'
    env.ASAN_OPTIONS = 'verify_asan_link_order=0'
    local run = helper.run(POLICY, '', env)
    return dir, run, sink
  end

  local function dead(run)
    return (durable.ledger(run)['dead:webhook'] or { waiting = 0 }).waiting
  end

  local function listed(run)
    local text = helper.sh(("'%s' dead list --admin http://%s"):format(helper.TAILRACE, run.http))
    return tonumber(text:match '(%d+) dead letters\n'), text
  end

  local function replay(run)
    return helper.start(("'%s' dead replay --all --admin http://%s"):format(helper.TAILRACE, run.http))
  end

  local function events(dir)
    local distinct, count = {}, 0
    for line in helper.lines(dir .. '/got') do
      local entry = kumo.serde.json_parse(line)
      if entry.body and entry.status == 200 then
        local id = kumo.serde.json_parse(entry.body).event_id
        count = count + (distinct[id] and 0 or 1)
        distinct[id] = true
      end
    end
    return count
  end

  it('are written when there is space again', function()
    local hop = helper.sink '--smtp 127.0.0.1:0'
    local dir, run, endpoint = start('--status-share 422=100', { TAILRACE_NEXT_HOP = hop.smtp })
    helper.stop_process(endpoint.pid) -- it says nothing before the disk is full
    assert.are.equal(MAILS, helper.inject(('--smtp %s --count %d'):format(run.smtp, MAILS)).accepted)
    helper.wait_for('all records', function()
      local ledger = durable.ledger(run)
      return ledger.webhook and ledger.webhook.waiting == 2 * MAILS and ledger.mail.waiting == 0
    end)
    helper.write(dir .. '/fault', '28 write names')
    endpoint:signal 'CONT'
    run:line '(nothing new is taken)'
    helper.wait_for('the answers to what was under way', function()
      local text = helper.sh(("'%s' why webhook.log_hook --admin http://%s"):format(helper.TAILRACE, run.http))
      local connections, idle = text:match '(%d+) connections? of at most %d+ %((%d+) idle%)'
      return idle and connections == idle
    end)
    os.remove(dir .. '/fault')
    helper.wait_for('all letters', function()
      return dead(run) == 2 * MAILS
    end)
    assert.are.equal(2 * MAILS, (listed(run)))
    assert.are.equal(0, run:stop(), run:log())
    assert.is_nil(run:log():find 'balance')
  end)

  for _, killed in ipairs { false, true } do
    it('are replayed, all of them' .. (killed and ', killed meanwhile' or ''), function()
      local dir, run, sink = start '--status-share 422=100'
      assert.are.equal(MAILS, helper.inject(('--smtp %s --count %d'):format(run.smtp, MAILS)).accepted)
      helper.wait_for('all letters', function()
        return dead(run) == 2 * MAILS
      end)
      sink:stop 'INT'
      helper.sink(('--smtp 127.0.0.1:0 --http %s --record %s/got'):format(sink.http, dir)) -- the endpoint is mended
      helper.write(dir .. '/fault', '28 write names')
      local first = replay(run)
      assert.are.equal(1, first:wait()) -- the listener does not wait for space
      assert.matches('the disk takes no more', first:output() .. first:log())
      assert.are.equal(2 * MAILS, dead(run))
      local metrics = helper.sh(('curl -s -m 60 http://%s/metrics'):format(run.http))
      assert.matches('tailrace_dead_letters_refused [1-9]', metrics)
      assert.are.equal(2 * MAILS, (listed(run)))
      if killed then
        run:stop 'KILL'
        os.remove(dir .. '/fault')
        run = helper.run(POLICY, '', { TAILRACE_DIR = dir, TAILRACE_WEBHOOK = ('http://%s/log'):format(sink.http),
          TAILRACE_NEXT_HOP = sink.smtp, TAILRACE_SMTP = '127.0.0.1:0', TAILRACE_HTTP = run.http, TAILRACE_VARIANT = 'single' })
      else
        os.remove(dir .. '/fault')
      end
      helper.wait_for('the disk', function()
        return helper.inject(('--smtp %s --count 1'):format(run.smtp)).accepted == 1
      end)
      assert.are.equal(2 * MAILS, dead(run))
      assert.are.equal(2 * MAILS, (listed(run)), run:log()) -- what the ledger knows can be found
      local second = replay(run)
      pcall(helper.wait_for, 'the replayed', function()
        return dead(run) == 0 and events(dir) >= 2 * MAILS
      end)
      assert.are.equal(0, dead(run), first:output() .. second:output() .. run:log())
      assert.is_true(events(dir) >= 2 * MAILS, first:output() .. second:output() .. run:log())
      assert.are.equal(0, run:stop(), run:log())
      assert.is_nil(run:log():find 'balance')
    end)
  end
end)
