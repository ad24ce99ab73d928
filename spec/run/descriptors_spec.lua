-- A process that has no file descriptor left says so, with what to do, wherever that hits it; and goes on when there are some again.
local helper = require 'helper'

local POLICY = [[
local kumo = require 'kumo'
local DIR = os.getenv 'DIR'
kumo.on('init', function()
  kumo.define_spool { name = 'data', path = DIR .. '/data' }
  kumo.define_spool { name = 'meta', path = DIR .. '/meta' }
  kumo.start_esmtp_listener { listen = '127.0.0.1:0', relay_hosts = { '127.0.0.0/8' } }
  kumo.start_http_listener { listen = '127.0.0.1:0' }
end)
kumo.on('get_queue_config', function()
  return kumo.make_queue_config { protocol = { smtp = { mx_list = { '127.0.0.1:1' } } } }
end)
]]

describe('without file descriptors', function()
  after_each(helper.cleanup)

  it('a start fails by name wherever they run out', function()
    local starts = {}
    for count = 5, 23, 2 do -- the last ones may succeed
      local dir = helper.dir()
      helper.write(dir .. '/policy.lua', POLICY)
      starts[count] = helper.start(('sh -c \'ulimit -n %d; exec "$0" run --workers 2 --policy %s/policy.lua\' %s'):format(
        count, dir, helper.quote(helper.TAILRACE)), { DIR = dir })
    end
    local failed = 0
    for count, run in pairs(starts) do
      helper.wait_for('the start', function()
        return run:status() or run:log():find('initialization complete', 1, true)
      end)
      local status = run:status() or run:stop()
      assert.is_true(status == 0 or status == 71 or status == 78, ('%d: %d\n%s'):format(count, status, run:log()))
      assert.is_nil(run:log():find 'nput/output error' or run:log():find 'an address such as', run:log())
      if status ~= 0 then
        failed = failed + 1
        assert.matches('oo many open files', run:log(), ('%d descriptors'):format(count))
      end
    end
    assert.is_true(failed >= 5)
  end)

  it('a running process accepts nothing and begins no segment, and does again when there are some', function()
    local dir = helper.dir()
    local run = helper.run(helper.write(dir .. '/policy.lua', POLICY), '--workers 1 --segment-size 64K', { DIR = dir })
    local function sockets()
      return select(2, helper.sh(('ls -l /proc/%d/fd'):format(run.pid)):gsub('socket:', ''))
    end
    local without = sockets()
    local inject = ('%s inject --smtp %s --quiet'):format(helper.quote(helper.TAILRACE), run.smtp)
    local client = helper.start(inject .. ' --connections 1 --count 1000000 --rate 200/s --size 4000 --keep-going')
    helper.wait_for('a connection', function() -- which stays open
      return sockets() > without
    end)
    local open = {}
    for fd in helper.sh(('ls /proc/%d/fd'):format(run.pid)):gmatch '%d+' do
      open[tonumber(fd)] = true
    end
    local limit = 0
    while open[limit] do
      limit = limit + 1
    end
    local before = helper.sh(('prlimit --pid %d --nofile --output SOFT --noheadings'):format(run.pid)):match '%d+'
    helper.sh(('prlimit --pid %d --nofile=%d:'):format(run.pid, limit))
    run:line '(spool: %S+: no segment can be made ahead: too many open files: raise the limit)'
    local other = helper.start(inject .. ' --count 1')
    run:line '(net: %S+: no connection can be accepted: too many open files: raise the limit)'
    assert.is_nil(run:log():find('input/output error', 1, true), run:log())
    helper.sh(('prlimit --pid %d --nofile=%s:'):format(run.pid, before))
    for _, one in ipairs { client, other } do
      one:stop 'KILL'
    end
    helper.wait_for('a mail to be accepted', function()
      return helper.inject(('--smtp %s --count 1'):format(run.smtp)).accepted == 1
    end)
    assert.are.equal(0, run:stop(), run:log())
  end)
end)
