--- SIGKILL at random moments of a real process under load, with real peers, over what sources, hooks and queues can be: what
--- kill_spec.lua does a few times and kills.lua a thousand times. It counts by event_id: each mail that was answered with 250 or
--- 200 has one Reception and one Delivery, each of them delivered or a dead letter at the end; nothing else is there.
local durable = require 'run.durable'
local helper = require 'helper'
local kumo = require 'kumo'

local killing = {}

local POLICY = 'spec/run/kill_policy.lua'
local TROUBLE = '--status-share 503=30 --status-share 422=5 --reset-share 2'

--- name: TAILRACE_VARIANT of the policy. load: mail by SMTP; http: by HTTP injection, too. replay: dead letters are replayed
--- meanwhile. sheds: the hook drops what waits above its bound.
killing.CASES = {
  { name = 'single', load = '--rate 300/s --size 2k', http = '--rate 50/s' },
  { name = 'batch', load = '--rate 300/s' },
  { name = 'single open', sink = TROUBLE, load = '--rate 150/s', replay = true },
  { name = 'batch open', sink = TROUBLE .. ' --smtp-code dot=451=10', load = '--rate 200/s', replay = true },
  { name = 'lowlevel', sink = '--status-share 503=10 --status-share 422=2', load = '--rate 200/s', replay = true },
  { name = 'single', sink = '--status-share 503=5', load = '--rate 300/s --size 20k', http = '--rate 20/s', run = '--workers 2' },
  { name = 'single bodies', sink = '--status-share 503=20 --reset-share 1 --smtp-code dot=451=20', load = '--rate 40/s --size 300k',
    run = '--workers 2' },
  { name = 'pool rates', sink = '--smtp-code dot=451=5', load = '--rate 150/s', run = '--workers 2' },
  { name = 'ordered open', sink = '--status-share 503=30 --reset-share 2', load = '--rate 200/s', run = '--workers 2' },
  { name = 'ordered batch open budget', sink = '--status-share 503=40', load = '--rate 300/s', run = '--workers 2', sheds = true },
  { name = 'pool batch open', sink = '--status-share 503=10 --status-share 422=60', load = '--rate 200/s', run = '--workers 2', replay = true },
}

function killing.title(case)
  return table.concat({ case.name, case.sink or 'a good endpoint', case.run or 'one worker', case.http and 'HTTP, too' or 'SMTP',
    case.replay and 'replaying' or 'no replay' }, ', ')
end

--- Fails with a message; `fmt` as for string.format.
local function need(true_value, fmt, ...)
  if not true_value then
    error(select('#', ...) > 0 and fmt:format(...) or fmt, 2)
  end
end

--- Notes one event: `mails` has each mail's events by type, `events` what became of each.
local function note(got, record, what)
  local event = got.events[record.event_id]
  if not event then
    event = { delivered = 0, dead = 0, refused = 0, id = record.id, type = record.type }
    got.events[record.event_id] = event
    local mail = got.mails[record.id] or { recipient = record.recipient }
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
local function check_order(got)
  local last, pairs_seen = {}, 0
  for _, event in pairs(got.events) do
    if event.type == 'Reception' then
      last[event.id] = event.last
    end
  end
  for _, event in pairs(got.events) do
    if event.type == 'Delivery' and last[event.id] then
      pairs_seen = pairs_seen + 1
      need(last[event.id] < event.first, 'the Delivery of %s came before its Reception', event.id)
    end
  end
  need(pairs_seen > 0, 'no order was checked')
end

--- What the sink and the dead letters tell.
local function account(dir)
  local got = { events = {}, mails = {}, tried = 0 }
  for line in helper.lines(dir .. '/got') do
    local entry = kumo.serde.json_parse(line)
    if entry.body then
      local records = kumo.serde.json_parse(entry.body)
      for _, record in ipairs(records.type and { records } or records) do
        note(got, record, entry.status == 200 and 'delivered' or 'refused')
      end
    end
  end
  local text, status = helper.sh(('%s dead export --meta %s/spool/meta --data %s/spool/data'):format(helper.TAILRACE, dir, dir))
  need(status == 0, text)
  for line in text:gmatch '{[^\n]+' do
    local payload = kumo.serde.json_parse(line).payload
    note(got, type(payload) == 'string' and kumo.serde.json_parse(payload) or payload, 'dead')
  end
  return got
end

local function replay(run, background)
  helper.sh(
    ('curl -s -m 60 -X POST -H "Content-Type: application/json" -d \'{"all":true}\' http://%s/api/admin/tailrace/dead/replay %s'):format(
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
      kumo.sleep(math.random() * 0.1) -- during the stop
    end
  end
  run:stop 'KILL'
end

local function check_spool(dir, when)
  local text, status = helper.sh(('%s spool check --meta %s/spool/meta --data %s/spool/data'):format(helper.TAILRACE, dir, dir))
  need(status == 0, '%s: %s', when, text)
end

--- A kill leaves a torn tail at most.
local function check_logs(runs)
  for k, one in ipairs(runs) do
    for _, word in ipairs { 'balance', ' should be waiting', 'damaged bytes', 'missing', 'makes no sense', 'ERROR', 'Sanitizer' } do
      need(not one:log():find(word, 1, true), 'run %d, %s: %s', k, word, one:log())
    end
  end
end

--- Each event once in the account; fills in the figures.
local function check_events(got, figures)
  for event_id, event in pairs(got.events) do
    figures.events = figures.events + 1
    figures.duplicates = figures.duplicates + math.max(0, event.delivered - 1)
    figures.dead = figures.dead + event.dead
    need(event.dead <= 1, 'two dead letters of one event: %s', event_id)
    need(event.delivered + event.dead > 0, '%s of %s was refused and is gone', event.type, event.id)
  end
  for id, mail in pairs(got.mails) do
    need(mail.Reception == 1 and mail.Delivery == 1, 'mail %s has %d Receptions and %d Deliveries', id, mail.Reception or 0, mail.Delivery or 0)
  end
end

--- What was answered is there; what is there was sent. sent: summaries of the loads by source.
local function check_mails(dir, got, sent, figures)
  local received = { smtp = 0, http = 0 }
  for _, mail in pairs(got.mails) do
    local source = mail.recipient:find '^http' and 'http' or 'smtp'
    received[source] = received[source] + 1
  end
  local ids = 0
  for id in (helper.read(dir .. '/ids') or ''):gmatch '%x+' do
    ids = ids + 1
    figures.lost = figures.lost + (got.mails[id] and 0 or 1)
  end
  need(ids == sent.smtp.accepted, '%d ids of %d mails', ids, sent.smtp.accepted)
  for source, summary in pairs(sent) do -- what was not answered may have been stored; nothing else may
    local count, accepted, unknown = received[source], summary.accepted, summary.unknown
    figures.accepted, figures.unanswered = figures.accepted + accepted, figures.unanswered + unknown
    figures.lost = source == 'http' and figures.lost + math.max(0, accepted - count) or figures.lost
    need(count <= accepted + unknown, '%d mails by %s were invented', count - accepted - unknown, source)
    figures.received = figures.received + count
  end
  need(figures.lost == 0, '%d of %d accepted mails are lost', figures.lost, figures.accepted)
end

--- Kills a process `kills` times in a case and accounts for everything. Returns figures: kills, accepted, unanswered, received, lost,
--- events, duplicates, mail_duplicates, dead, replayed, shed. Raises if anything is not as promised.
function killing.run(case, kills)
  local dir, env, sink = durable.setup((case.sink or '') .. ' --count-ids event_id', { TAILRACE_VARIANT = case.name })
  local run = helper.run(POLICY, case.run, env)
  local command = ('%s run --policy %s --ledger %s'):format(helper.quote(helper.TAILRACE), POLICY, case.run or '')
  local inject = ('%s inject --duration 36000 --keep-going --json --quiet'):format(helper.quote(helper.TAILRACE))
  local loads = { smtp = helper.start(('%s --smtp %s --connections 8 --ids %s/ids %s'):format(inject, run.smtp, dir, case.load)) }
  if case.http then
    loads.http = helper.start(('%s --http http://%s --connections 4 --to http%%d@example.net %s'):format(inject, run.http, case.http))
  end
  local runs = { run }
  local function wait_for_mail() -- without any there is nothing to lose
    local before = #(helper.read(dir .. '/ids') or '')
    helper.wait_for('a mail', function()
      return #(helper.read(dir .. '/ids') or '') > before
    end)
  end
  wait_for_mail()
  for k = 1, kills do
    kill(run, case)
    check_spool(dir, 'after kill ' .. k)
    run = helper.start(command, env)
    run.http = env.TAILRACE_HTTP
    runs[#runs + 1] = run
  end
  run:line '(initialization complete)'
  wait_for_mail()
  local sent = {}
  for source, load in pairs(loads) do
    load:stop 'INT' -- no more, but the answers to what it has sent
    sent[source] = kumo.serde.json_parse(load:output())
    need(sent[source].accepted > 0 or kills < 4, 'nothing was accepted by %s', source)
  end
  durable.wait_empty(run, 300)
  if case.replay then -- once more in peace
    replay(run)
    durable.wait_empty(run, 300)
  end
  local ledger = durable.ledger(run)
  need(run:stop() == 0, run:log())
  check_spool(dir, 'at the end')
  check_logs(runs)
  need(durable.body_files(dir .. '/spool/data') == 0, 'there are body files of messages that have ended')

  local counts, got = helper.summary(sink), account(dir)
  local hook = ledger.webhook
  local figures = { kills = kills, accepted = 0, unanswered = 0, received = 0, lost = 0, events = 0, duplicates = 0, mail_duplicates = 0,
    dead = 0, replayed = hook.moved_in or 0, shed = hook.dropped or 0 }
  if case.name:find 'ordered' then
    check_order(got)
  end
  if case.sheds then -- what is gone was dropped, and counted: not every mail has all of its events
    need(hook.dropped == (hook.dropped_by.shed or 0), 'dropped %d, shed %d', hook.dropped, hook.dropped_by.shed or 0)
    need(hook.offered == hook.delivered + hook.dropped, 'offered %d, delivered %d, dropped %d', hook.offered, hook.delivered, hook.dropped)
    need(hook.offered == 2 * ledger.mail.delivered, '%d events of %d mails', hook.offered, ledger.mail.delivered)
    need(ledger.mail.delivered >= sent.smtp.accepted, '%d of %d mails', ledger.mail.delivered, sent.smtp.accepted)
    figures.accepted, figures.unanswered, figures.received = sent.smtp.accepted, sent.smtp.unknown, ledger.mail.delivered
    figures.events = hook.offered
    return figures
  end
  check_events(got, figures)
  check_mails(dir, got, sent, figures)
  figures.mail_duplicates = counts.smtp.messages - figures.received
  local dead = (ledger['dead:webhook'] or { waiting = 0 }).waiting
  need(figures.dead == dead, '%d dead letters, the ledger says %d', figures.dead, dead)
  need(figures.received == ledger.mail.delivered, '%d mails, the ledger says %d', figures.received, ledger.mail.delivered)
  need(figures.events - figures.dead == hook.delivered, '%d events, the ledger says %d', figures.events - figures.dead, hook.delivered)
  need(counts.http.malformed_bodies == 0, 'the endpoint got bodies that are no JSON')
  return figures
end

function killing.figures_line(figures)
  return ('%d kills; accepted %d (%d unanswered), lost %d; events %d, dead %d, shed %d, replayed %d; duplicates: %d events, %d mails'):format(
    figures.kills, figures.accepted, figures.unanswered, figures.lost, figures.events, figures.dead, figures.shed, figures.replayed,
    figures.duplicates, figures.mail_duplicates)
end

return killing
