-- examples/shaping as it is: events of a burst, with the section of the file and with mail's defaults.
local helper = require 'helper'
local kumo = require 'kumo'

local COUNT = 600

describe('examples/shaping', function()
  after_each(helper.cleanup)

  --- How many events wait when the last mail is in; seconds until none waits, from the first mail on; seconds of the burst.
  local function burst(mail_defaults)
    local dir = helper.dir()
    local sink = helper.sink '--http 127.0.0.1:0 --smtp 127.0.0.1:0'
    local run = helper.run('examples/shaping/policy.lua', '', {
      TAILRACE_DIR = dir,
      TAILRACE_WEBHOOK = ('http://%s/log'):format(sink.http),
      TAILRACE_NEXT_HOP = sink.smtp,
      TAILRACE_SMTP = '127.0.0.1:0',
      TAILRACE_HTTP = '127.0.0.1:0',
      MAIL_DEFAULTS = mail_defaults and '1' or '0',
    })
    local function left()
      local text = helper.sh(('curl -s http://%s/api/tailrace/ledger'):format(run.http))
      return kumo.serde.json_parse(text).webhook.waiting
    end
    local clock = kumo.time.start_timer 'spec'
    local began = kumo.time.now()
    local sent = helper.inject(('--smtp %s --count %d --connections 10'):format(run.smtp, COUNT))
    assert.are.equal(COUNT, sent.accepted)
    local sending_s = began.elapsed.seconds
    local waiting = left()
    helper.wait_for('the end of the events', function()
      return left() == 0
    end)
    assert.are.equal(0, run:stop())
    return waiting, clock:done(), sending_s
  end

  it('has no backlog with its section, and one with the defaults of mail', function()
    local with, with_s, with_sending_s = burst(false)
    local without, without_s, sending_s = burst(true)
    -- 100 at once, then 100 a second, however fast the endpoint is
    assert.is_true(without_s > (COUNT - 100) / 100 - 0.5, ('%g s for all events'):format(without_s))
    if sending_s < 3 then -- else the machine is so busy that mail comes as slowly as events may go
      assert.is_true(without > COUNT / 4, ('%d events waited'):format(without))
    end
    assert.is_true(with < COUNT / 4, ('%d events waited'):format(with))
    assert.is_true(with_s - with_sending_s < without_s, ('%g s, of which %g s were mail'):format(with_s, with_sending_s))
  end)
end)
