-- Threads that hang in C or in the kernel: a worker, the main thread, the commit thread, and standard error that nobody reads. The
-- log tells of each, and a stop ends the process all the same; what was answered is there at the next start.
local helper = require 'helper'

local POLICY = [[
local kumo = require 'kumo'
local DIR = os.getenv 'DIR'
kumo.on('init', function()
  kumo.define_spool { name = 'data', path = DIR .. '/data' }
  kumo.define_spool { name = 'meta', path = DIR .. '/meta' }
  kumo.start_esmtp_listener { listen = '127.0.0.1:0', relay_hosts = { '127.0.0.0/8' } }
end)
kumo.on('get_queue_config', function()
  return kumo.make_queue_config { protocol = { smtp = { mx_list = { '127.0.0.1:1' } } } }
end)
kumo.on('smtp_server_message_received', function(msg)
  if msg:recipient().user == 'logs' then
    kumo.log_info(('x'):rep(200000))
  end
end)
]]
-- handlers may run for half a second, so a thread may hang for one
local LIMITS = '--workers 2 --handler-limit 0.5 --stop-timeout 0.1'
local STUCK = 70 -- the exit status

describe('a thread that hangs', function()
  local shim

  lazy_setup(function()
    shim = os.tmpname()
    local text, status = helper.sh(('cc -shared -fPIC -O1 -o %s spec/run/hang_shim.c -ldl'):format(shim))
    assert.are.equal(0, status, text)
  end)
  lazy_teardown(function()
    os.remove(shim)
  end)
  after_each(helper.cleanup)

  local function start()
    local dir = helper.dir()
    local env = { DIR = dir, LD_PRELOAD = shim, TAILRACE_HANG = dir .. '/hang' }
    env.ASAN_OPTIONS = (os.getenv 'ASAN_OPTIONS' or '') .. ':verify_asan_link_order=0'
    local run = helper.run(helper.write(dir .. '/policy.lua', POLICY), LIMITS, env)
    run.dir = dir
    return run
  end

  --- Mails of which the runtime has said that it has them.
  local function accept(run, count)
    assert.are.equal(count, helper.inject(('--smtp %s --count %d'):format(run.smtp, count)).accepted)
  end

  --- Lets a call hang in threads of a name ("worker": 1, as 0 is the main thread), and has a client cause it.
  local function hang(run, text)
    helper.write(run.dir .. '/hang', text)
    return helper.start(('%s inject --smtp %s --count 20 --connections 4 --timeout 60 --quiet'):format(
      helper.quote(helper.TAILRACE), run.smtp))
  end

  --- The next start has at least so many messages, undamaged.
  local function assert_kept(run, count)
    local text, status = helper.sh(("'%s' spool stat --json --meta %s/meta --data %s/data"):format(helper.TAILRACE, run.dir, run.dir))
    assert.are.equal(0, status, text)
    assert.is_true(tonumber(text:match '"waiting":(%d+)') >= count, text)
  end

  --- What each says, in its own process at the same time.
  local CASES = {
    {
      'loop read worker', -- which worker: see hang()
      'worker 1 has not come back to its events for %d[%d.]* s %(%d[%d.]* s on a processor%)[^\n]-native stack:[^\n]-hang_in_a_loop',
    },
    {
      'dead accept4 tailrace',
      'worker 0 has not come back to its events for %d[%d.]* s %(0%.0 s on a processor%), waits in the kernel[^\n]-; it takes no signal',
    },
    {
      'dead fdatasync spool-commit',
      'the commit thread has been at one operation on the disk for %d[%d.]* s %(0%.0 s[^\n]-, waits in the kernel[^\n]-; it takes no signal',
    },
  }

  it('in a loop, in the kernel, on the disk, is told of, and a stop ends the process', function()
    local runs, clients = {}, {}
    for i, case in ipairs(CASES) do
      runs[i] = start()
      accept(runs[i], 10)
      clients[i] = hang(runs[i], case[1])
    end
    for i, case in ipairs(CASES) do
      runs[i]:line('(ERROR watchdog: ' .. case[2] .. ')')
      runs[i]:signal 'TERM'
    end
    for i, case in ipairs(CASES) do
      assert.are.equal(STUCK, runs[i]:wait(), runs[i]:log())
      assert.matches('the time of the stop is over, and something hangs: the process ends at once: ' .. case[2], runs[i]:log())
      os.remove(runs[i].dir .. '/hang')
      clients[i]:stop 'KILL'
      assert_kept(runs[i], 10)
    end
  end)

  it('and then goes on is told of twice, and nothing is lost', function()
    local run = start()
    local client = hang(run, 'loop read worker')
    run:line '(ERROR watchdog: worker 1 has not come back)'
    os.remove(run.dir .. '/hang')
    run:line '(WARN  watchdog: worker 1 goes on, after )'
    assert.are.equal(0, client:wait(), client:output())
    assert.are.equal(0, run:stop(), run:log())
    assert.are.equal(1, select(2, run:log():gsub('has not come back', '')))
    assert_kept(run, 20)
  end)

  it('because nobody reads its standard error is ended by a stop', function()
    local dir = helper.dir()
    helper.write(dir .. '/policy.lua', POLICY)
    local reader = 'while read -r line; do echo "$line"; case $line in *complete*) exec sleep 300;; esac; done'
    helper.write(dir .. '/start', ('exec %s run --policy %s/policy.lua %s 2> >(%s)\n'):format(
      helper.quote(helper.TAILRACE), dir, LIMITS, reader))
    local run = helper.start(('bash %s/start'):format(dir), { DIR = dir })
    run:line '(initialization complete)'
    run.smtp = run:output():match 'esmtp listener ([%d.:]+)'
    accept(run, 10)
    local client = helper.start(('%s inject --smtp %s --count 4 --connections 4 --to logs@x.test --timeout 60 --quiet'):format(
      helper.quote(helper.TAILRACE), run.smtp))
    helper.wait_for('a thread that waits for the reader', function()
      return ('\n' .. helper.sh(('cat /proc/%d/task/*/syscall'):format(run.pid))):find '\n1 0x2 ' -- write(2, ...)
    end)
    assert.are.equal(STUCK, run:stop())
    client:stop 'KILL'
    run.dir = dir
    assert_kept(run, 10)
  end)
end)
