-- A text of several lines in the diagnostic log, such as a report of what hangs: one line in a file, readable at a terminal.
local helper = require 'helper'
local pty = require 'pty'

describe('a text of several lines in the diagnostic log', function()
  after_each(function()
    pty.close_all()
    helper.cleanup()
  end)

  local function command()
    local path = helper.write(helper.dir() .. '/log.lua', [[require('kumo').log_error 'first\n2026-01-01 forged\27[2J']])
    return ('%s lua %s'):format(helper.quote(helper.TAILRACE), helper.quote(path))
  end

  it('is one line in a file', function()
    assert.matches('first\\n2026%-01%-01 forged\\x1b%[2J', helper.sh(command() .. ' 2>&1'))
  end)

  it('has its lines at a terminal, none of which looks like one of the log', function()
    pty.start(command()):expect 'first\n    2026-01-01 forged\\x1b[2J'
  end)
end)
