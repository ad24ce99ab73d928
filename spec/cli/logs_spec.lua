-- `tailrace logs`: segments that are finished, that grow, that are damaged.
local helper = require 'helper'
local pty = require 'pty'

describe('tailrace logs', function()
  local dir
  before_each(function()
    dir = helper.dir()
  end)
  after_each(function()
    pty.close_all()
    helper.cleanup()
  end)

  --- Appends lines to a segment as one zstd frame.
  local function append(name, text)
    helper.write(dir .. '/.text', text)
    helper.sh(('zstd -q -c %s/.text >>%s/%s && rm %s/.text'):format(dir, dir, name, dir))
  end

  local function finish(name)
    helper.sh(('chmod 444 %s/%s'):format(dir, name))
  end

  local function logs(args)
    return helper.sh(('%s logs %s %s'):format(helper.quote(helper.TAILRACE), dir, args or ''))
  end

  it('prints all lines in the order of the segments, those of an open one, too', function()
    append('20261126-020000.000', '{"n":3}\n{"n":4}\n')
    append('20261126-010000.000', '{"n":1}\n')
    append('20261126-010000.000', '{"n":2}\n')
    finish '20261126-010000.000'
    local out, status = logs()
    assert.are.equal('{"n":1}\n{"n":2}\n{"n":3}\n{"n":4}\n', out)
    assert.are.equal(0, status)
    assert.are.equal('{"n":3}\n{"n":4}\n', (logs "--pattern '*-02*'"))
    assert.are.equal('{"n":3}\n{"n":4}\n', (logs '--tail'))
  end)

  it('reads what the runtime writes', function()
    local policy = helper.write(dir .. '/.policy.lua', ([[
      local kumo = require 'kumo'
      kumo.on('init', function()
        kumo.define_spool { name = 'meta', path = %q }
        kumo.define_spool { name = 'data', path = %q }
        kumo.configure_local_logs { log_dir = %q }
      end)
      kumo.on('get_queue_config', function()
        return kumo.make_queue_config { protocol = { custom_lua = { constructor = 'make.it' } } }
      end)
      kumo.on('make.it', function() return { send = function() return 'thanks' end } end)
    ]]):format(dir .. '/.meta', dir .. '/.data', dir))
    local testing = require 'tr.testing'
    local rt = testing.start { policy = policy }
    rt:receive { to = 'a@example.org' }
    rt:advance(5)
    rt:stop(1)
    local out, status = logs()
    assert.are.equal(0, status, out)
    assert.is_truthy(out:find '^{"type":"Reception"', out)
    assert.is_truthy(out:find('\n{"type":"Delivery"', 1, true), out)
  end)

  it('goes on where it stopped, with a checkpoint', function()
    append('a', 'one\ntwo\n')
    assert.are.equal('one\ntwo\n', (logs '--checkpoint mark'))
    assert.are.equal('', (logs '--checkpoint mark'))
    append('a', 'three\n')
    append('b', 'four\n')
    finish 'a'
    assert.are.equal('three\nfour\n', (logs '--checkpoint mark'))
    assert.are.equal('one\ntwo\nthree\nfour\n', (logs '--checkpoint other'))
    assert.are.equal('done a\n1 b\n', helper.read(dir .. '/.mark'))
    helper.sh('rm -f ' .. dir .. '/a')
    append('c', 'five\n')
    assert.are.equal('five\n', (logs '--checkpoint mark'))
    assert.are.equal('1 b\n1 c\n', helper.read(dir .. '/.mark')) -- what was cleared away is forgotten
  end)

  it('follows what is written', function()
    append('a', 'one\n')
    local run = helper.start(('%s logs %s --follow --checkpoint mark'):format(helper.quote(helper.TAILRACE), dir))
    local function comes(text)
      helper.wait_for(text, function()
        return helper.read(run.out) == text
      end)
    end
    comes 'one\n'
    append('a', 'two\n')
    comes 'one\ntwo\n'
    finish 'a'
    append('b', 'three\n')
    comes 'one\ntwo\nthree\n'
    run:signal 'TERM'
    assert.are.equal(0, run:wait())
    assert.are.equal('done a\n1 b\n', helper.read(dir .. '/.mark'))
  end)

  it('waits for the rest of a line', function()
    append('a', 'one\ntw')
    assert.are.equal('one\n', (logs '--checkpoint mark'))
    append('a', 'o\n')
    assert.are.equal('two\n', (logs '--checkpoint mark'))
    append('b', 'no end')
    finish 'b'
    assert.are.equal('no end\n', (logs '--checkpoint mark')) -- nothing can follow
  end)

  it('names a damaged segment and prints the others', function()
    append('a', 'one\n')
    helper.write(dir .. '/b', 'this is no zstd at all')
    append('c', 'three\n')
    append('d', ('four\n'):rep(1000))
    helper.sh(('truncate -s -10 %s/d && chmod 444 %s/d'):format(dir, dir)) -- cut off by a crash
    local out, status = logs '2>&1'
    assert.are.equal(65, status)
    assert.is_truthy(out:find('one\n', 1, true) and out:find('three\n', 1, true), out)
    assert.is_truthy(out:find '/b: damaged behind line 0: ', out)
  end)

  it('escapes control characters on a terminal only', function()
    append('a', 'a\27[31mb\n')
    assert.are.equal('a\27[31mb\n', (logs()))
    pty.start(('%s logs %s'):format(helper.quote(helper.TAILRACE), dir)):expect 'a\\x1b[31mb\n'
  end)

  it('ends when nobody reads any more, and refuses what is no directory', function()
    append('a', ('line\n'):rep(200000))
    local out = helper.sh(('{ %s logs %s --checkpoint mark; echo "ended $?" >&2; } | head -1'):format(
      helper.quote(helper.TAILRACE), dir)) -- stylua: ignore
    assert.is_truthy(out:find 'line\n', out)
    assert.is_truthy(out:find 'ended 0', out)
    assert.is_nil(helper.read(dir .. '/.mark')) -- nothing is known to have arrived
    local status
    out, status = helper.sh(helper.quote(helper.TAILRACE) .. ' logs /nowhere')
    assert.are.equal(66, status)
    assert.is_truthy(out:find('No such file', 1, true), out)
    assert.are.equal(64, select(2, logs '--checkpoint a/b'))
  end)
end)
