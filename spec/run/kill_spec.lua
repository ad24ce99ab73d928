-- kill -9 at any moment under load: every message answered with 250 arrives, every delivered message has its Delivery event,
-- nothing is invented. TAILRACE_KILLS sets how often (10).
local helper = require 'helper'
local kumo = require 'kumo'

local KILLS = tonumber(os.getenv 'TAILRACE_KILLS' or '') or 10

describe('kill -9 under load', function()
  after_each(helper.cleanup)

  it(('loses nothing in %d kills'):format(KILLS), function()
    local dir = helper.dir()
    local sink = helper.sink(('--http 127.0.0.1:0 --smtp 127.0.0.1:0 --record %s/got'):format(dir))
    local env = {
      TAILRACE_DIR = dir,
      TAILRACE_WEBHOOK = ('http://%s/log'):format(sink.http),
      TAILRACE_NEXT_HOP = sink.smtp,
      TAILRACE_SMTP = '127.0.0.1:0',
      TAILRACE_HTTP = '127.0.0.1:0',
    }
    math.randomseed(os.time())
    local run = helper.run('examples/quickstart.lua', '', env)
    env.TAILRACE_SMTP = run.smtp -- the same port from now on, so that the load finds it again
    local load = helper.start(
      ('%s inject --smtp %s --duration %d --connections 10 --size 2k --keep-going --json --quiet'
        .. ' --ids %s/ids --rate 300/s'):format(
        helper.quote(helper.TAILRACE),
        run.smtp,
        2 + KILLS,
        dir
      )
    )
    for _ = 1, KILLS do
      kumo.sleep(math.random() * 0.8) -- a random moment, not a wait for something
      run:stop 'KILL'
      run = helper.run('examples/quickstart.lua', '', env)
    end
    load:wait(KILLS * 5 + 60)

    local accepted = {}
    for id in (helper.read(dir .. '/ids') or ''):gmatch '%x+' do
      accepted[#accepted + 1] = id
    end
    assert.is_true(#accepted > 100)
    local seen, events = {}, {}
    local function read_events()
      seen, events = { Reception = {}, Delivery = {} }, {}
      for line in (helper.read(dir .. '/got') or ''):gmatch '[^\n]+\n' do
        local entry = kumo.serde.json_parse(line)
        if entry.body and entry.status == 200 then
          local record = kumo.serde.json_parse(entry.body)
          if seen[record.type] then
            seen[record.type][record.id] = true
          end
          events[record.event_id] = (events[record.event_id] or 0) + 1
        end
      end
    end
    helper.wait_for('the last events', function()
      local ledger = kumo.serde.json_parse((helper.sh(('curl -s http://%s/api/tailrace/ledger'):format(run.http))))
      return ledger.webhook and ledger.webhook.waiting == 0 and ledger.mail.waiting == 0
    end, 300)
    assert.are.equal(0, run:stop())
    assert.is_nil(run:log():find 'does not balance')
    read_events()
    local lost = {}
    for _, id in ipairs(accepted) do
      if not seen.Reception[id] or not seen.Delivery[id] then
        lost[#lost + 1] = id
      end
    end
    assert.are.same({}, lost)
    local duplicates = 0
    for _, n in pairs(events) do
      duplicates = duplicates + n - 1
    end
    print(('\n%d kills: %d messages accepted, none lost, %d duplicate events'):format(KILLS, #accepted, duplicates))
  end)
end)
