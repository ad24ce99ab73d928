-- `tailrace lua FILE`: arguments, exit statuses, and what is said of errors.
local helper = require 'helper'

local dir
setup(function()
  dir = helper.dir()
end)
teardown(helper.cleanup)

local function run(text, args)
  helper.write(dir .. '/script.lua', text)
  return helper.sh(('cd %s && %s lua script.lua %s'):format(dir, helper.quote(helper.TAILRACE), args or ''))
end

describe('tailrace lua', function()
  it('gives a script its arguments, and the exit status is the script\'s', function()
    local out, status = run("#!/usr/bin/env -S tailrace lua\nprint(arg[1], arg[2], ...)\nrequire('kumo').sleep(0.01)\nos.exit(7)", 'a b')
    assert.are.equal('a\tb\ta\tb\n', out)
    assert.are.equal(7, status)
    assert.are.equal(0, select(2, run ''))
    out, status = run 'error()'
    assert.are.equal('', out)
    assert.are.equal(1, status)
  end)

  it('shows errors of any kind, and nothing raw', function()
    local out, status = run "error('a\\27[31mb')"
    assert.matches('^tailrace lua: script.lua:1: a\\x1b%[31mb\nstack traceback:\n', out)
    assert.are.equal(1, status)
    out, status = run 'error { code = 5 }'
    assert.matches('^tailrace lua: an error that is a table: {"code":5}\nstack traceback:\n', out)
    assert.are.equal(1, status)
    assert.matches('script.lua:1: string.rep: the result would have 1000000000 bytes', (run "local s = ('x'):rep(1e9)"))
  end)

  it('names what is wrong with the file, without a traceback of its own', function()
    local out, status = run 'print(1'
    assert.are.equal("tailrace: script.lua:1: ')' expected near '<eof>'\n", out)
    assert.are.equal(1, status)
    out, status = helper.sh(helper.quote(helper.TAILRACE) .. ' lua /not/there.lua')
    assert.are.equal('tailrace: cannot open /not/there.lua: No such file or directory\n', out)
    assert.are.equal(1, status)
    assert.are.equal(64, select(2, helper.sh(helper.quote(helper.TAILRACE) .. ' lua')))
  end)
end)
