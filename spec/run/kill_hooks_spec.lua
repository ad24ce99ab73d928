-- kill -9 at any moment, over what hooks and queues can be: batches, dead letters that are replayed meanwhile, pools, rates,
-- several workers, order keys, budgets. It counts by event_id: each mail that was answered with 250 has one Reception and one Delivery, each of
-- them delivered or a dead letter at the end; nothing else is there. TAILRACE_KILLS sets how often (4).
local durable = require 'run.durable'
local helper = require 'helper'
local kumo = require 'kumo'

local POLICY = 'spec/run/kill_hooks_policy.lua'
local KILLS = tonumber(os.getenv 'TAILRACE_KILLS' or '') or 4
local TROUBLE = '--status-share 503=30 --status-share 422=5 --reset-share 2'

local CASES = {
  { name = 'single', load = '--rate 300/s' },
  { name = 'batch', load = '--rate 300/s' },
  { name = 'single open', sink = TROUBLE, load = '--rate 150/s', replay = true },
  { name = 'batch open', sink = TROUBLE .. ' --smtp-code dot=451=10', load = '--rate 200/s', replay = true },
  { name = 'lowlevel', sink = '--status-share 503=10 --status-share 422=2', load = '--rate 200/s', replay = true },
  { name = 'single', sink = '--status-share 503=5', load = '--rate 300/s --size 20k', run = '--workers 2' },
  { name = 'pool rates', sink = '--smtp-code dot=451=5', load = '--rate 150/s', run = '--workers 2' },
  { name = 'ordered open', sink = '--status-share 503=30 --reset-share 2', load = '--rate 200/s', run = '--workers 2' },
  { name = 'ordered batch open budget', sink = '--status-share 503=40', load = '--rate 300/s', run = '--workers 2', sheds = true },
  { name = 'pool batch open', sink = '--status-share 503=10 --status-share 422=60', load = '--rate 200/s', run = '--workers 2', replay = true },
}

local function title(case)
  return table.concat({ case.name, case.sink or 'a good endpoint', case.run or '', case.replay and 'replaying' or '' }, ', ')
end

--- Notes one event: `by_id` has each mail's events by type, each event what became of it.
local function note(got, record, what)
  local event = got.events[record.event_id]
  if not event then
    event = { delivered = 0, dead = 0, refused = 0, id = record.id, type = record.type }
    got.events[record.event_id] = event
    local mail = got.mails[record.id] or {}
    got.mails[record.id] = mail
    mail[record.type] = (mail[record.type] or 0) + 1
  end
  event[what] = event[what] + 1
  if what ~= 'dead' then
    got.tried = got.tried + 1
    event.first, event.last = event.first or got.tried, got.tried
  end
end

--- What has an order key: never was a mail's Reception tried after its Delivery.
local function check_order(got, seed)
  local last, pairs_seen = {}, 0
  for _, event in pairs(got.events) do
    if event.type == 'Reception' then
      last[event.id] = event.last
    end
  end
  for _, event in pairs(got.events) do
    if event.type == 'Delivery' and last[event.id] then
      pairs_seen = pairs_seen + 1
      assert.is_true(last[event.id] < event.first, ('the Delivery of %s came before its Reception (seed %d)'):format(event.id, seed))
    end
  end
  assert.is_true(pairs_seen > 0)
end

--- What the sink and the dead letters tell.
local function account(dir)
  local got = { events = {}, mails = {}, tried = 0 }
  for line in io.lines(dir .. '/got') do
    local entry = kumo.serde.json_parse(line)
    if entry.body then
      local records = kumo.serde.json_parse(entry.body)
      for _, record in ipairs(records.type and { records } or records) do
        note(got, record, entry.status == 200 and 'delivered' or 'refused')
      end
    end
  end
  local text, status = helper.sh(('%s dead export --meta %s/spool/meta --data %s/spool/data'):format(helper.TAILRACE, dir, dir))
  assert.are.equal(0, status, text)
  for line in text:gmatch '{[^\n]+' do
    local payload = kumo.serde.json_parse(line).payload
    note(got, type(payload) == 'string' and kumo.serde.json_parse(payload) or payload, 'dead')
  end
  return got
end

local function replay(run, background)
  helper.sh(
    ('curl -s -m 20 -X POST -H "Content-Type: application/json" -d \'{"all":true}\' http://%s/api/admin/tailrace/dead/replay %s'):format(
      run.http, background and '>/dev/null 2>&1 &' or ''))
end

local function kill(run, case)
  local how = math.random(4)
  if how == 1 then
    kumo.sleep(math.random() * 0.3) -- during the start
  else
    run:line '(initialization complete)'
    kumo.sleep(math.random() * 0.8) -- a random moment, not a wait for something
    if case.replay and how > 2 then
      replay(run, true)
      kumo.sleep(math.random() * 0.03)
    end
    if how == 4 then
      run:signal 'TERM'
      kumo.sleep(math.random() * 0.1)
    end
  end
  run:stop 'KILL'
end

local function check_spool(dir, when)
  local text, status = helper.sh(('%s spool check --meta %s/spool/meta --data %s/spool/data'):format(helper.TAILRACE, dir, dir))
  assert.are.equal(0, status, when .. ': ' .. text)
end

describe('kill -9', function()
  after_each(helper.cleanup)

  for i, case in ipairs(CASES) do
    it(('%d loses and invents nothing in %d kills: %s'):format(i, KILLS, title(case)), function()
      local dir, env, sink = durable.setup((case.sink or '') .. ' --count-ids event_id', { TAILRACE_VARIANT = case.name })
      local seed = tonumber(os.getenv 'TAILRACE_SEED' or '') or os.time()
      math.randomseed(seed)
      local run = helper.run(POLICY, case.run, env)
      env.TAILRACE_SMTP, env.TAILRACE_HTTP = run.smtp, run.http
      local command = ('%s run --policy %s --ledger %s'):format(helper.quote(helper.TAILRACE), POLICY, case.run or '')
      local load = helper.start(
        ('%s inject --smtp %s --duration %d --connections 8 --keep-going --json --quiet --ids %s/ids %s'):format(
          helper.quote(helper.TAILRACE), run.smtp, 2 + KILLS, dir, case.load))
      local runs = { run }
      for k = 1, KILLS do
        kill(run, case)
        check_spool(dir, ('after kill %d of seed %d'):format(k, seed))
        run = helper.start(command, env)
        run.http = env.TAILRACE_HTTP
        runs[#runs + 1] = run
      end
      run:line '(initialization complete)'
      load:wait(KILLS * 10 + 120)
      durable.wait_empty(run, 300)
      if case.replay then -- once more in peace
        replay(run)
        durable.wait_empty(run, 300)
      end
      local ledger = durable.ledger(run)
      assert.are.equal(0, run:stop(), run:log())
      check_spool(dir, 'at the end')
      for k, one in ipairs(runs) do
        for _, word in ipairs { 'balance', ' should be waiting', 'damaged bytes', 'missing', 'makes no sense', 'ERROR', 'Sanitizer' } do
          assert.is_nil(one:log():find(word, 1, true), ('run %d (seed %d), %s: %s'):format(k, seed, word, one:log()))
        end
      end

      local counts = helper.summary(sink)
      local sent = kumo.serde.json_parse(load:output())
      local got = account(dir)
      local figures = { received = 0, duplicates = 0, dead = 0, lost = 0, events = 0 }
      if case.name:find 'ordered' then
        check_order(got, seed)
      end
      if case.sheds then -- what is gone was dropped, and counted
        local hook = ledger.webhook
        assert.are.equal(hook.dropped, hook.dropped_by.shed or 0)
        assert.are.equal(hook.offered, hook.delivered + hook.dropped)
        assert.are.equal(ledger.mail.delivered * 2, hook.offered)
        print(('\n%s: %d kills, seed %d; events %d = delivered %d + shed %d'):format(title(case), KILLS, seed, hook.offered, hook.delivered,
          hook.dropped))
        return
      end
      for event_id, event in pairs(got.events) do
        figures.events = figures.events + 1
        figures.duplicates = figures.duplicates + math.max(0, event.delivered - 1)
        figures.dead = figures.dead + event.dead
        assert.is_true(event.dead <= 1, 'two dead letters of one event: ' .. event_id)
        assert.is_true(event.delivered + event.dead > 0, ('%s of %s was refused and is gone'):format(event.type, event.id))
      end
      for id, mail in pairs(got.mails) do
        figures.received = figures.received + 1
        assert.are.same({ Reception = 1, Delivery = 1 }, mail, ('%s (seed %d)'):format(id, seed))
      end
      local accepted = 0
      for id in (helper.read(dir .. '/ids') or ''):gmatch '%x+' do
        accepted = accepted + 1
        if not got.mails[id] then
          figures.lost = figures.lost + 1
        end
      end
      assert.are.equal(0, figures.lost, ('seed %d'):format(seed))
      assert.are.equal(sent.accepted, accepted)
      assert.is_true(accepted > 0)
      assert.is_true(figures.received <= accepted + sent.unknown, 'mails were invented')
      assert.are.equal(figures.dead, (ledger['dead:webhook'] or { waiting = 0 }).waiting)
      assert.are.equal(figures.received, ledger.mail.delivered)
      assert.are.equal(figures.events - figures.dead, ledger.webhook.delivered)
      assert.are.equal(0, counts.http.malformed_bodies)
      print(
        ('\n%s: %d kills, seed %d; accepted %d (%d unanswered), none lost; events %d = delivered %d + dead %d; replayed %d; '):format(
          title(case), KILLS, seed, accepted, sent.unknown, figures.events, ledger.webhook.delivered, figures.dead,
          ledger.webhook.moved_in or 0)
          .. ('duplicates: %d events, %d mails'):format(figures.duplicates, counts.smtp.messages - figures.received)
      )
    end)
  end
end)
