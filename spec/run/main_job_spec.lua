-- The main job with real processes: mail in by SMTP and HTTP, on to a next hop, events to a webhook.
local helper = require 'helper'
local kumo = require 'kumo'

local function env_of(dir, sink)
  return {
    TAILRACE_DIR = dir,
    TAILRACE_WEBHOOK = ('http://%s/log'):format(sink.http),
    TAILRACE_NEXT_HOP = sink.smtp,
    TAILRACE_SMTP = '127.0.0.1:0',
    TAILRACE_HTTP = '127.0.0.1:0',
  }
end

local function records(path)
  local list = {}
  for line in helper.lines(path) do
    local entry = kumo.serde.json_parse(line)
    if entry.body then
      list[#list + 1] = kumo.serde.json_parse(entry.body)
    end
  end
  return list
end

local function count(list, kind)
  local n = 0
  for _, record in ipairs(list) do
    if record.type == kind then
      n = n + 1
    end
  end
  return n
end

describe('the main job', function()
  after_each(helper.cleanup)

  it('delivers mail and posts each event once; the ledger balances', function()
    local dir = helper.dir()
    local sink = helper.sink(('--http 127.0.0.1:0 --smtp 127.0.0.1:0 --count-ids event_id --record %s/got'):format(dir))
    local run = helper.run('examples/quickstart.lua', '', env_of(dir, sink))
    local sent = helper.inject(('--smtp %s --count 200 --connections 5 --header "X-Customer-ID: 42"'):format(run.smtp))
    assert.are.equal(200, sent.accepted)
    helper.wait_for('400 events', function()
      return #records(dir .. '/got') >= 400
    end)
    assert.are.equal(0, run:stop())
    local got = records(dir .. '/got')
    assert.are.equal(200, count(got, 'Reception'))
    assert.are.equal(200, count(got, 'Delivery'))
    assert.are.equal('42', got[1].headers['X-Customer-ID'])
    local summary = helper.summary(sink)
    assert.are.equal(200, summary.smtp.messages)
    assert.are.equal(0, summary.http.ids.duplicates)
    assert.is_truthy(run:output():find 'webhook')
    assert.is_nil(run:log():find 'does not balance')
  end)

  it('keeps events for an endpoint that is down and ships them after a restart', function()
    local dir = helper.dir()
    local sink = helper.sink '--http 127.0.0.1:0 --smtp 127.0.0.1:0'
    local env = env_of(dir, sink)
    env.TAILRACE_WEBHOOK = 'http://127.0.0.1:1/log' -- nobody listens there
    local text, places = helper.read('examples/quickstart.lua'):gsub('url = WEBHOOK,', function(url)
      return url .. " queue_config = { retry_interval = '1s', max_retry_interval = '2s' },"
    end)
    assert.are.equal(1, places)
    local policy = helper.write(dir .. '/policy.lua', text)
    local run = helper.run(policy, '', env)
    local sent = helper.inject(('--smtp %s --count 50'):format(run.smtp))
    assert.are.equal(50, sent.accepted)
    helper.wait_for('the mail', function()
      local ledger = kumo.serde.json_parse((helper.sh(('curl -s http://%s/api/tailrace/ledger'):format(run.http))))
      return ledger.mail.delivered == 50
    end)
    assert.are.equal(0, run:stop())
    env.TAILRACE_WEBHOOK = ('http://%s/log'):format(sink.http)
    run = helper.run(policy, '', env)
    helper.wait_for('100 events', function()
      local ledger = kumo.serde.json_parse((helper.sh(('curl -s http://%s/api/tailrace/ledger'):format(run.http))))
      return ledger.webhook.delivered == 100
    end, 120)
    assert.are.equal(0, run:stop())
    assert.are.equal(100, helper.summary(sink).http.records)
  end)
end)

describe('tailrace run', function()
  after_each(helper.cleanup)

  for what, case in pairs {
    ['a missing policy'] = { path = '/nowhere/policy.lua', says = 'cannot be read' },
    ['a syntax error'] = { text = 'local x = = 1', says = 'policy.lua:1' },
    ['an error in init'] = {
      text = "local kumo = require 'kumo'\nkumo.on('init', function()\n  error('no luck')\nend)",
      says = 'policy.lua:3: no luck',
    },
    ['a mistyped option'] = {
      text = "local kumo = require 'kumo'\nkumo.on('init', function()\n  kumo.define_spool { name = 'data', pat = 'x' }\nend)",
      says = "'path'",
    },
    ['no spool'] = { text = "require 'kumo'", says = 'define_spool' },
    ['two hooks of one name'] = {
      text = "local h = require 'policy-extras.log_hooks'\n"
        .. "h:new_json { name = 'a', url = 'http://127.0.0.1:1/' }\nh:new_json { name = 'a', url = 'http://127.0.0.1:1/' }",
      says = "policy.lua:3",
    },
  } do
    it(('refuses %s with status 78 and says where'):format(what), function()
      local dir = helper.dir()
      local path = case.path or helper.write(dir .. '/policy.lua', case.text)
      local text, status = helper.sh(('%s run --policy %s'):format(helper.quote(helper.TAILRACE), path))
      assert.are.equal(78, status)
      assert.is_truthy(text:find(case.says, 1, true), text)
    end)
  end
end)
