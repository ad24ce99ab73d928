-- Stops, pauses and restarts at bad moments: the stop ends in time and says who was busy, nothing is lost after the restart.
local durable = require 'run.durable'
local helper = require 'helper'
local kumo = require 'kumo'

--- The durable policy with more Lua behind it.
local function policy(dir, extra)
  return helper.write(dir .. '/policy.lua', helper.read(durable.POLICY) .. '\n' .. extra)
end

--- An SMTP client that sends `text` and then keeps the connection open.
local function client(run, text)
  local host, port = run.smtp:match '^(.*):(%d+)$'
  return helper.start(("bash -c 'exec 3<>/dev/tcp/%s/%s; printf %%b %s >&3; cat <&3'"):format(host, port, '"' .. text .. '"'))
end

describe('a stop', function()
  after_each(helper.cleanup)

  local HANDLER = [[kumo.on('smtp_server_message_received', function(msg)
    if msg:recipient().user == '%s' then
      kumo.log_info 'the handler runs'
      %s
    end
  end)]]
  for what, case in pairs {
    ['an endpoint and a next hop that never answer'] = {
      sink = '--hang',
      says = { 'is cancelled while', 'for smtp: the banner of 127', 'so are %d+ more with %d+: [%x-]+: %x+ %(event %x+%)' },
    },
    ['a client in the middle of DATA'] = {
      text = 'EHLO x\\r\\nMAIL FROM:<a@b.c>\\r\\nRCPT TO:<c@d.e>\\r\\nDATA\\r\\nSubject: x\\r\\n',
    },
    ['a handler that sleeps'] = {
      extra = HANDLER:format('sleep', 'kumo.sleep(600)'),
      text = 'EHLO x\\r\\nMAIL FROM:<a@b.c>\\r\\nRCPT TO:<sleep@d.e>\\r\\nDATA\\r\\nSubject: x\\r\\n\\r\\nx\\r\\n.\\r\\n',
      says = { 'still busy.-smtp_server_message_received' },
    },
    ['a handler that never returns'] = {
      extra = HANDLER:format('loop', 'while true do end'),
      text = 'EHLO x\\r\\nMAIL FROM:<a@b.c>\\r\\nRCPT TO:<loop@d.e>\\r\\nDATA\\r\\nSubject: x\\r\\n\\r\\nx\\r\\n.\\r\\n',
      says = { 'policy.lua:%d+' },
    },
  } do
    for _, twice in ipairs { false, true } do
      it(('with %s ends %s'):format(what, twice and 'at once when asked twice' or 'within its time-out'), function()
        local dir, env = durable.setup(case.sink)
        local path = policy(dir, case.extra or '')
        local timeout = twice and 1000 or 2
        local run = helper.run(path, '--workers 2 --stop-timeout ' .. timeout, env)
        local sent = helper.inject(('--smtp %s --count 50 --ids %s/ids'):format(run.smtp, dir))
        assert.are.equal(50, sent.accepted)
        if case.sink then -- sessions of both kinds have begun, and hang
          helper.wait_for('those who are busy', function()
            run:signal 'USR1'
            return run:log():find 'make%.webhook[^\n]*: session [^\n]* with %d+ messages' and run:log():find ': the banner of 127'
          end)
        end
        if case.text then
          client(run, case.text):line '\n(354) '
          if case.extra then
            run:line '(the handler runs)'
          end
        end
        run:signal 'TERM'
        if twice then
          run:line '(stopping, at most)' -- after a handler that never returns was interrupted
          run:signal 'TERM'
        end
        assert.are.equal(0, run:wait(), run:log()) -- whatever it waits for lasts longer than we wait
        assert.is_nil(run:log():find 'balance')
        for _, text in ipairs(case.says or {}) do
          assert.is_truthy(run:log():find(text), text .. ' is not in ' .. run:log())
        end
        if case.sink then -- the same runtime towards peers that answer
          local sink = helper.sink(('--http 127.0.0.1:0 --smtp 127.0.0.1:0 --record %s/got'):format(dir))
          env.TAILRACE_WEBHOOK, env.TAILRACE_NEXT_HOP = ('http://%s/log'):format(sink.http), sink.smtp
        end
        run = helper.run(path, '', env)
        durable.wait_empty(run)
        assert.are.equal(0, run:stop())
        assert.are.same({}, (durable.lost(dir, durable.read_sink(dir))))
      end)
    end
  end

  it('says which record a local log lacks because its filter was cut off', function()
    local dir, env = durable.setup()
    local path = policy(dir, [[
      kumo.on('pre_init', function()
        kumo.configure_local_logs { log_dir = DIR .. '/logs', filter_event = 'slow_filter' }
      end)
      kumo.on('slow_filter', function()
        kumo.log_info 'the filter runs'
        kumo.sleep(600)
      end)]])
    local run = helper.run(path, '--stop-timeout 1', env)
    helper.start(('%s inject --smtp %s --count 1'):format(helper.quote(helper.TAILRACE), run.smtp))
    run:line '(the filter runs)'
    assert.are.equal(0, run:stop(), run:log())
    assert.is_truthy(run:log():find("missing in a local log: its filter 'slow_filter' was cut off by the stop", 1, true), run:log())
  end)
end)

describe('a pause', function()
  after_each(helper.cleanup)

  local PAUSE_S = tonumber(os.getenv 'TAILRACE_PAUSE' or '') or 2
  local HANDLERS = [[
    kumo.on('smtp_server_message_received', function(msg)
      local user = msg:recipient().user
      if user == 'sleeps' then
        kumo.log_info 'a handler sleeps'
        kumo.sleep(1)
        kumo.log_info 'a handler has slept'
      elseif user == 'works' then
        local clock = os.clock()
        kumo.log_info 'a handler works'
        while os.clock() - clock < 0.2 do end
      end
    end)]]

  it(('of the whole process for %g s (TAILRACE_PAUSE) breaks nothing: clients, deliveries, timers, watchdog'):format(PAUSE_S), function()
    local dir, env = durable.setup '--slow-ms 50 --status-share 503=10 --count-ids event_id'
    local run = helper.run(policy(dir, HANDLERS), '--workers 2', env)
    local inject = ('%s inject --smtp %s --json --quiet --timeout 120'):format(helper.quote(helper.TAILRACE), run.smtp)
    local load = helper.start(('%s --ids %s/ids --duration 3600 --connections 10 --rate 100/s'):format(inject, dir))
    helper.wait_for('deliveries', function()
      local webhook = durable.ledger(run).webhook
      return webhook and webhook.delivered > 50
    end)
    local handlers = helper.start(inject .. ' --count 1 --to sleeps@example.net')
    local worker = helper.start(inject .. ' --count 1 --to works@example.net')
    run:line '(a handler sleeps)'
    run:line '(a handler works)'
    helper.stop_process(run.pid)
    local start_ms = helper.now_ms()
    helper.wait_for('the end of the pause', function() -- the clients above wait for answers meanwhile
      return helper.now_ms() - start_ms >= 1000 * PAUSE_S
    end, PAUSE_S + 120)
    run:signal 'CONT'
    run:line '(a handler has slept)' -- a timer that was due meanwhile fires
    assert.are.equal(0, helper.start(inject .. ' --count 1'):wait()) -- and somebody new is served
    load:signal 'INT' -- no more, but the answers to what it has sent
    for _, one in ipairs { load, handlers, worker } do -- everybody was answered, on the connection that there was
      assert.are.equal(0, one:wait(), one:output())
      local counts = kumo.serde.json_parse(one:output())
      assert.are.same({ 0, 0, 0, 0 }, { counts.refused, counts.unknown, counts.lost_connections, counts.connect_failures })
    end
    durable.wait_empty(run)
    assert.are.equal(0, run:stop())
    for _, word in ipairs { 'WARN', 'ERROR', 'balance' } do -- no deadline and no handler was found too long
      assert.is_nil(run:log():find(word, 1, true), run:log())
    end
    local got = durable.read_sink(dir)
    assert.are.same({}, (durable.lost(dir, got)))
    assert.are.equal(0, got.duplicates)
  end)
end)

describe('a hook that is not configured any more', function()
  after_each(helper.cleanup)

  it('keeps its records, which never go as mail; when it is back, they are delivered', function()
    local dir, env, sink = durable.setup()
    local hook = env.TAILRACE_WEBHOOK
    env.TAILRACE_WEBHOOK = 'http://127.0.0.1:1/'
    local run = durable.run(env)
    assert.are.equal(30, helper.inject(('--smtp %s --count 30 --ids %s/ids'):format(run.smtp, dir)).accepted)
    helper.wait_for('the mail', function()
      return durable.ledger(run).mail.delivered == 30
    end)
    assert.are.equal(0, run:stop())
    local without = helper.read(durable.POLICY):gsub('log_hooks:new_json %b{}', '')
    run = helper.run(helper.write(dir .. '/policy.lua', without), '', env)
    -- new mail overtakes nothing: had they gone anywhere, it would have been before
    assert.are.equal(1, helper.inject(('--smtp %s --count 1'):format(run.smtp)).accepted)
    helper.wait_for('new mail', function()
      return durable.ledger(run).mail.delivered == 31
    end)
    assert.are.equal(60, durable.ledger(run).webhook.waiting)
    assert.are.equal(0, run:stop())
    assert.are.equal(60, tonumber(run:output():match 'webhook.-waiting%s+(%d+)'))
    env.TAILRACE_WEBHOOK = hook
    run = durable.run(env)
    durable.wait_empty(run)
    assert.are.equal(0, run:stop())
    assert.are.same({}, (durable.lost(dir, durable.read_sink(dir))))
    assert.are.equal(31, helper.summary(sink).smtp.messages)
  end)
end)

describe('ten times the load that the peers can take', function()
  after_each(helper.cleanup)

  it('waits in bounded memory and arrives', function()
    local dir, env = durable.setup '--slow-ms 40'
    local run = durable.run(env, '--workers 2')
    local function rss_kb()
      return tonumber((helper.read(('/proc/%d/status'):format(run.pid)) or ''):match 'VmRSS:%s+(%d+)')
    end
    local first = rss_kb()
    local sent = helper.inject(('--smtp %s --ids %s/ids --count 2500 --connections 20 --size 10k'):format(run.smtp, dir))
    assert.are.equal(2500, sent.accepted)
    local grown = rss_kb() - first
    print(('\n%d messages of 10 KB at %d/s: %d MB more'):format(sent.accepted, sent.messages_per_second, grown / 1024))
    -- what is ready is in memory (at most max_ready 1024 + 10000 records); no more
    helper.assert_memory(grown, 100 * 1024)
    durable.wait_empty(run, 300)
    assert.are.equal(0, run:stop())
    assert.are.same({}, (durable.lost(dir, durable.read_sink(dir))))
  end)
end)

describe('a spool without flush', function()
  after_each(helper.cleanup)

  it('holds nothing of what has ended: no end overtakes its message', function()
    local dir, env = durable.setup(nil, { TAILRACE_FLUSH = 'no' })
    local run = durable.run(env, '--workers 2')
    local sent = helper.inject(('--smtp %s --ids %s/ids --count 3000 --connections 20 --size 20k'):format(run.smtp, dir))
    assert.are.equal(3000, sent.accepted)
    durable.wait_empty(run)
    assert.are.equal(0, run:stop())
    run = durable.run(env)
    assert.are.equal(0, run:stop())
    assert.is_nil(run:log():find 'should be waiting', run:log())
    assert.are.same({}, (durable.lost(dir, durable.read_sink(dir))))
  end)
end)
