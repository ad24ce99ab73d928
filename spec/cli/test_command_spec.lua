-- `tailrace test`: busted inside the runtime.
local helper = require 'helper'

local POLICY = [[
local kumo = require 'kumo'
local log_hooks = require 'policy-extras.log_hooks'
log_hooks:new_json {
  name = 'webhook', url = 'http://10.0.0.1:4242/log',
  log_parameters = { per_record = { Delivery = { enable = true }, Any = { enable = false } } },
}
]]

describe('tailrace test', function()
  local dir

  before_each(function()
    dir = helper.dir()
    helper.write(dir .. '/init.lua', POLICY)
  end)
  after_each(helper.cleanup)

  --- Runs it in the directory: output and exit status.
  local function run(args, env)
    return helper.sh(
      ('cd %s && env TMPDIR=%s %s timeout 300 %s test %s'):format(dir, dir, env or '', helper.quote(helper.TAILRACE), args or '')
    )
  end

  it('finds tests beside the policy, runs them in the runtime, and passes busted\'s options on', function()
    helper.write(
      dir .. '/hook_spec.lua',
      [[
      local test = require 'kumo.test'
      describe('the hook', function()
        it('tries again #slow', function()
          local rt = test.start { policy = 'init.lua' }
          rt:http('http://10.0.0.1:4242/log', { 503, 200 })
          rt:event { type = 'Delivery' }
          rt:advance '2m'
          assert.delivered(rt, 'webhook', 1)
        end)
        it('just waits', function() require('kumo').sleep(0.01) end)
      end)
    ]]
    )
    local out, status = run '-o TAP'
    assert.are.equal(0, status, out)
    assert.matches('ok 1 %- the hook tries again', out)
    assert.matches('ok 2 %- the hook just waits', out)
    out = run '--list'
    assert.matches('hook_spec.lua:3: the hook tries again #slow', out)
    out, status = run '-o plainTerminal --filter=waits hook_spec.lua'
    assert.are.equal(0, status)
    assert.matches('1 success / 0 failures / 0 errors', out)
    helper.write(dir .. '/.busted', "return { default = { output = 'TAP', tags = 'slow' } }")
    out = run()
    assert.matches('1%.%.1', out)
    assert.are.equal('', helper.sh('ls -d ' .. dir .. '/tailrace-test.* 2>/dev/null'))
  end)

  it('names what is wrong, test by test, and goes on', function()
    helper.write(
      dir .. '/bad_spec.lua',
      [[
local test = require 'kumo.test'
describe('bad', function()
  it('stray', function()
    local rt = test.start { policy = 'init.lua' }
    rt:event { type = 'Delivery' }
    rt:advance(1)
  end)
  it('wrong count', function()
    local rt = test.start { policy = 'init.lua' }
    assert.delivered(rt, 'webhook', 1)
  end)
  it('exits', function() os.exit(3) end)
  it('a table', function() error { a = 1 } end)
  it('escapes', function() error '\27[31mred' end)
  it('recursion', function() local function f() return 1 + f() end f() end)
  it('good', function() test.start { policy = 'init.lua' } end)
end)
    ]]
    )
    helper.write(dir .. '/broken_spec.lua', "describe('broken', function( x\n")
    local out, status = run '-o plainTerminal'
    assert.are.equal(1, status)
    assert.matches('1 success / 2 failures / 5 errors', out)
    assert.matches('bad_spec.lua:4: what was started here left something behind:\n%- not scripted: 10.0.0.1:4242', out)
    assert.matches('bad_spec.lua:10: webhook delivered: expected 1, got 0', out)
    assert.matches('bad_spec.lua:12: os.exit%(3%) in a test', out)
    assert.matches('bad_spec.lua:13: {\n  a = 1\n}', out)
    assert.matches('bad_spec.lua:14: \\x1b%[31mred', out)
    assert.is_nil(out:find('\27', 1, true))
    assert.matches('bad recursion\n%S+:%d+: stack overflow', out)
    assert.matches("broken_spec.lua:2: '%)' expected near '<eof>'", out)
  end)

  it('ends a test that does not end, and goes on', function()
    helper.write(dir .. '/endless_spec.lua', "it('spins', function() while true do end end)\nit('good', function() end)\n")
    local out, status
    for _, limit in ipairs { 0.5, 5, 50 } do -- busted itself must come so far in less
      out, status = run(('--limit %g -o plainTerminal'):format(limit))
      if out:find(('endless_spec.lua:1: handler ran longer than %g s without waiting'):format(limit), 1, true) then
        break
      end
    end
    assert.are.equal(1, status)
    assert.matches('endless_spec.lua:1: handler ran longer than %S+ s without waiting', out)
    assert.matches('1 success / 0 failures / 1 error', out)
  end)

  it('runs nothing in place of a file that is not there', function()
    helper.write(dir .. '/good_spec.lua', "it('is good', function() print 'it ran' end)\n")
    local out, status = run '-o plainTerminal god_spec.lua'
    assert.are.equal(1, status, out)
    assert.matches('god_spec.lua', out)
    assert.is_nil(out:find('it ran', 1, true))
  end)

  it('counts what is alike in a failure, in place of showing it again', function()
    helper.write(
      dir .. '/alike_spec.lua',
      [[
local test = require 'kumo.test'
it('counts', function()
  local rt = test.start { policy = 'init.lua' }
  rt:http('http://10.0.0.1:4242/log', { 503, 503, 503, 200 })
  for _ = 1, 3 do
    rt:event { type = 'Delivery' }
  end
  rt:advance '1h'
  assert.delivered(rt, 'webhook', 4)
end)
    ]]
    )
    local out = run '-o plainTerminal'
    assert.matches('requests: 6\n', out)
    assert.matches('%-> 503: [^\n]+ %(3 times%)\n', out)
    assert.is_nil(out:match '%-> 503.*%-> 503') -- and those of other moments are lines of their own
    assert.matches('%-> 200: [^\n]+\n', out)
  end)

  it('says what waited at Ctrl-C, and leaves nothing', function()
    helper.write(
      dir .. '/long_spec.lua',
      [[
      local test = require 'kumo.test'
      it('waits', function()
        local rt = test.start { policy = 'init.lua', clock = 'real' }
        local sleep = require('kumo').sleep
        print 'now' io.stdout:flush() sleep(3600)
      end)
    ]]
    )
    local run_ = helper.start(
      ("sh -c 'cd %s && exec %s test -o TAP long_spec.lua'"):format(dir, helper.TAILRACE),
      { TMPDIR = dir }
    )
    run_:line '(now)'
    run_:signal 'INT'
    assert.are.equal(130, run_:wait())
    assert.matches('tailrace test: interrupted[.:]', run_:log()) -- with a colon: it had not yet begun to wait
    assert.matches('long_spec.lua:5', run_:log())
    assert.are.equal('', helper.sh('ls -d ' .. dir .. '/tailrace-test.* 2>/dev/null'))
  end)

  it('ends an endless loop at Ctrl-C', function()
    -- on one line: the key may come at the very next instruction
    helper.write(dir .. '/loop_spec.lua', "it('spins', function()\n  print 'now' io.stdout:flush() while true do end\nend)\n")
    local run_ = helper.start(("sh -c 'cd %s && exec %s test -o TAP loop_spec.lua'"):format(dir, helper.TAILRACE))
    run_:line '(now)'
    run_:signal 'INT'
    assert.are.equal(130, run_:wait())
    assert.matches('interrupted: .*loop_spec.lua:2', run_:log())
  end)

  it('names the package if busted is not there', function()
    local out, status = run('', "LUA_PATH='/nowhere/?.lua'")
    assert.are.equal(69, status)
    assert.matches('Install the package lua%-busted', out)
  end)

  it('has help', function()
    local out, status = run '--help'
    assert.are.equal(0, status)
    assert.matches('Usage: tailrace test', out)
    out = run '--help-busted'
    assert.matches('Usage: tailrace test', out)
    out, status = run '--limit many'
    assert.are.equal(64, status)
    assert.matches("%-%-limit: seconds from 0.1 to 86400 expected, got 'many'", out)
  end)
end)
