-- examples/lowlevel_hook.lua as it is: real mail, a next hop, and an endpoint.
local helper = require 'helper'
local kumo = require 'kumo'

describe('examples/lowlevel_hook.lua', function()
  after_each(helper.cleanup)

  it('posts each event once, and the ledger balances', function()
    local dir = helper.dir()
    local sink = helper.sink(
      ('--http 127.0.0.1:0 --smtp 127.0.0.1:0 --record %s/got --smtp-code rcpt=550=20'):format(dir)
    )
    local run = helper.run('examples/lowlevel_hook.lua', '', {
      TAILRACE_DIR = dir,
      TAILRACE_WEBHOOK = ('http://%s/log'):format(sink.http),
      TAILRACE_NEXT_HOP = sink.smtp,
      TAILRACE_SMTP = '127.0.0.1:0',
    })
    local sent = helper.inject(('--smtp %s --count 20 --connections 2'):format(run.smtp))
    assert.are.equal(20, sent.accepted)
    local of_type, ids = {}, {}
    helper.wait_for('40 distinct events', function()
      of_type, ids = {}, {}
      local count = 0
      for line in helper.lines(dir .. '/got') do
        local entry = kumo.serde.json_parse(line)
        local record = entry.body and kumo.serde.json_parse(entry.body)
        if record and not ids[record.event_id] then
          ids[record.event_id] = record
          of_type[record.type] = (of_type[record.type] or 0) + 1
          count = count + 1
        end
      end
      return count == 40
    end)
    assert.are.equal(20, of_type.Reception)
    assert.are.equal(20, (of_type.Delivery or 0) + (of_type.Bounce or 0))
    local _, record = next(ids)
    assert.matches('^message %d+$', record.headers.Subject)
    assert.are.equal(0, run:stop())
    assert.is_nil(run:log():find 'does not balance')
    assert.is_truthy(run:output():find 'webhook', run:output())
  end)
end)
