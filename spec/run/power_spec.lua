-- A power cut of the whole process. One run under load is recorded (power_shim.c): every write and sync of the spool, every name
-- and everything that is sent, in order. Then power_image.c makes images of what a power cut at a random point leaves: all that was
-- synced, and of the rest a random part by sectors. Each image must hold what was answered before that point and must not have
-- undone what was sent; some are started and run to the end. TAILRACE_CUTS: how many images (12), TAILRACE_SEED: of the choice of
-- points; TAILRACE_KEEP=DIR keeps the recording there, TAILRACE_RECORDED=DIR uses one that was kept.
local durable = require 'run.durable'
local helper = require 'helper'
local kumo = require 'kumo'

local CUTS = tonumber(os.getenv 'TAILRACE_CUTS' or '') or 12
local SEED = tonumber(os.getenv 'TAILRACE_SEED' or '') or os.time()
local STARTED = 10 -- every so manieth image is started
local POLICY = 'spec/run/kill_policy.lua'

local function build(dir)
  local text, status = helper.sh(
    ('cc -shared -fPIC -O1 -o %s/shim.so spec/run/power_shim.c -ldl -lpthread && cc -O2 -o %s/power_image spec/run/power_image.c'):format(
      dir, dir))
  assert.are.equal(0, status, text)
end

--- Runs under load until it is killed: what it leaves is DIR/base. Then again, and what the second run does is DIR/record, so
--- that a start over what waits is in it.
local function record(dir, env)
  local first = helper.run(POLICY, '--workers 2 --segment-size 1M', env)
  local text, status = helper.sh(('%s inject --smtp %s --count 150 --rate 500/s --json --quiet'):format(helper.TAILRACE, first.smtp))
  assert.are.equal(0, status, text)
  first:stop 'KILL'
  helper.sh(('cp -r --sparse=always %s/spool %s/base; cp %s/got %s/got-before'):format(dir, dir, dir, dir))
  env.LD_PRELOAD, env.TAILRACE_RECORD, env.TAILRACE_RECORD_DIR = dir .. '/shim.so', dir .. '/record', dir .. '/spool'
  env.ASAN_OPTIONS = 'verify_asan_link_order=0'
  local run = helper.run(POLICY, '--workers 2 --segment-size 1M', env)
  env.LD_PRELOAD = nil
  local inject = ('%s inject --smtp %s --keep-going --json --quiet'):format(helper.quote(helper.TAILRACE), run.smtp)
  local loads = {
    helper.start(inject .. ' --count 480 --rate 400/s --size 3k --connections 10'),
    helper.start(inject .. ' --count 18 --rate 15/s --size 300k --connections 3'), -- body files
  }
  for _, load in ipairs(loads) do
    load:wait()
    assert.is_true(kumo.serde.json_parse(load:output()).accepted > 0)
  end
  run:stop 'KILL'
  assert.is_nil(run:log():find 'ERROR', run:log())
end

--- Notes an event; two of one kind and mail must be the same event.
local function note(events, event, where)
  local of = events[event.type]
  if of then
    assert.is_true(of[event.id] == nil or of[event.id] == event.event_id, ('%s: two %ss of %s'):format(where, event.type, event.id))
    of[event.id] = event.event_id
  end
end

--- What was told to anybody before the cut: ids answered with 250, events that were posted, mails that were sent on.
local function read_sent(dir, image)
  local sent = { answered = {}, passed_on = {}, events = { Reception = {}, Delivery = {} }, count = 0 }
  for line in helper.lines(dir .. '/got-before') do
    local entry = kumo.serde.json_parse(line)
    if entry.body then
      note(sent.events, kumo.serde.json_parse(entry.body), 'before')
    end
  end
  for path in helper.sh(('ls %s/sent-* 2>/dev/null'):format(image)):gmatch '%S+' do
    local text = helper.read(path)
    for id in text:gmatch '250 OK ids=(%x+)\r\n' do
      sent.answered[id] = true
      sent.count = sent.count + 1
    end
    for id in text:gmatch 'with ESMTP id (%x+)' do
      sent.passed_on[id] = true
    end
    for body in text:gmatch '\r\n\r\n(%b{})' do
      note(sent.events, kumo.serde.json_parse(body), 'sent')
    end
  end
  return sent
end

--- What the image holds: waiting mails, waiting events.
local function read_image(image)
  local text, status = helper.sh(('%s spool check --meta %s/meta --data %s/data'):format(helper.TAILRACE, image, image))
  assert.are.equal(0, status, text)
  local holds = { mails = {}, events = { Reception = {}, Delivery = {} } }
  text, status = helper.sh(('%s spool dump --bodies --meta %s/meta --data %s/data'):format(helper.TAILRACE, image, image))
  assert.are.equal(0, status, text)
  for line in text:gmatch '{[^\n]+' do
    local account = line:match '"account":"([^"]*)"'
    if account == 'mail' then
      holds.mails[line:match '"id":"(%x+)"'] = true
    else
      note(holds.events, kumo.serde.json_parse(kumo.encode.base64_decode(line:match '"body_base64":"([^"]*)"')), 'in the image')
    end
  end
  return holds
end

local function compare(sent, holds, where)
  local function fail(what, id)
    error(('%s: mail %s %s'):format(where, id, what))
  end
  local function has(kind, id)
    return holds.events[kind][id] or sent.events[kind][id]
  end
  for kind, ids in pairs(sent.events) do
    for id, event_id in pairs(ids) do
      if holds.events[kind][id] and holds.events[kind][id] ~= event_id then
        fail('has another ' .. kind .. ' event than was sent', id)
      end
    end
  end
  for id in pairs(sent.answered) do
    if not has('Reception', id) then
      fail('was answered and has no Reception', id)
    elseif not holds.mails[id] and not has('Delivery', id) then
      fail('was answered and is neither waiting nor delivered', id)
    end
  end
  for id in pairs(holds.mails) do
    if has('Delivery', id) then
      fail('waits though its Delivery was stored or sent', id)
    elseif not has('Reception', id) then
      fail('waits without its Reception', id)
    end
  end
  for id in pairs(sent.passed_on) do
    if not (holds.mails[id] or has('Delivery', id)) then
      fail('was sent on and is not known', id)
    end
  end
  for id in pairs(sent.events.Reception) do
    if not (holds.mails[id] or holds.events.Reception[id] or has('Delivery', id)) then
      fail('is not known though its Reception was sent', id)
    end
  end
end

--- Starts on the image and runs until nothing waits: each mail that was answered has one Reception and one Delivery, and no other.
local function start(image, dir, env, sent, where)
  local before = #(helper.read(dir .. '/got') or '')
  env.TAILRACE_SPOOL = image
  local run = helper.run(POLICY, '--segment-size 1M', env)
  durable.wait_empty(run)
  assert.are.equal(0, run:stop(), run:log())
  for _, word in ipairs { 'ERROR', 'balance', 'damaged bytes', 'missing' } do
    assert.is_nil(run:log():find(word, 1, true), where .. run:log())
  end
  local events = sent.events
  for line in (helper.read(dir .. '/got') or ''):sub(before + 1):gmatch '[^\n]+' do
    local entry = kumo.serde.json_parse(line)
    if entry.body then
      note(events, kumo.serde.json_parse(entry.body), where)
    end
  end
  for id in pairs(sent.answered) do
    assert.is_truthy(events.Reception[id] and events.Delivery[id], where .. 'lost: ' .. id)
  end
  for id in pairs(events.Delivery) do
    assert.is_truthy(events.Reception[id], where .. 'delivered and not received: ' .. id)
  end
  for id in pairs(events.Reception) do
    assert.is_truthy(events.Delivery[id], where .. 'received and not delivered: ' .. id)
  end
end

describe('a power cut', function()
  after_each(helper.cleanup)

  it(('at any of %d points loses nothing that was answered and undoes nothing that was sent'):format(CUTS), function()
    local dir, env = durable.setup('--status-share 503=20 --smtp-code dot=451=5', { TAILRACE_VARIANT = 'single open' })
    local recorded = os.getenv 'TAILRACE_RECORDED'
    build(dir)
    if recorded then
      helper.sh(('cp -r %s/record %s/base %s/got-before %s/'):format(recorded, recorded, recorded, dir))
    else
      record(dir, env)
      if os.getenv 'TAILRACE_KEEP' then
        helper.sh(('mkdir -p %s && cd %s && cp -r record base got-before %s/'):format(os.getenv 'TAILRACE_KEEP', dir, os.getenv 'TAILRACE_KEEP'))
      end
    end
    local started, answered = 0, 0
    for i = 1, CUTS do
      local where = ('image %d of seed %d: '):format(i, SEED)
      local image = dir .. '/image'
      local text, status = helper.sh(
        ('rm -rf %s; cp -r --sparse=always %s/base %s && %s/power_image %s/record %s %d %d'):format(image, dir, image, dir, dir, image, i,
          SEED))
      assert.are.equal(0, status, text)
      local sent = read_sent(dir, image)
      answered = math.max(answered, sent.count)
      if helper.sh(('ls %s/meta/*.seg 2>/dev/null'):format(image)):find '%S' then
        compare(sent, read_image(image), where)
      else -- before anything was written
        assert.are.equal(0, sent.count, where)
      end
      if i % STARTED == 0 or i == CUTS then
        start(image, dir, env, sent, where)
        started = started + 1
      end
    end
    assert.is_true(answered > 0)
    print(('\n%d power cuts of one run, %d of them started; up to %d mails answered, none lost; seed %d'):format(CUTS, started, answered,
      SEED))
  end)
end)
