-- A stop over a disk that takes nothing any more: the process ends in order, and the next start has what was stored.
local durable = require 'run.durable'
local helper = require 'helper'

describe('a disk that fails during the stop', function()
  after_each(helper.cleanup)

  it('keeps the process from nothing but the last changes', function()
    local dir, env, sink = durable.setup()
    -- the limit of file sizes stands for the disk: writes beyond it fail, and the signal that comes with it is ignored
    local command = ([[sh -c 'trap "" XFSZ; exec "$0" "$@"' %s run --policy %s --workers 2 --stop-timeout 1]]):format(
      helper.quote(helper.TAILRACE), durable.POLICY)
    local run = helper.start(command, env)
    run:line '(initialization complete)'
    local http = run:log():match 'http listener ([%d.:]+)'
    helper.stop_process(sink.pid) -- it answers nothing before the disk fails
    local sent = helper.inject(('--http http://%s --count 50 --connections 4'):format(http))
    assert.are.equal(50, sent.accepted)
    helper.sh(('prlimit --pid %d --fsize=8192'):format(run.pid))
    sink:signal 'CONT'
    run:line '(nothing new is taken)' -- answers of the endpoints have met the failing disk
    assert.are.equal(0, run:stop(), run:log())

    run = durable.run(env, '--workers 2') -- with the disk as before
    durable.wait_empty(run)
    assert.are.equal(0, run:stop())
    assert.is_true(durable.read_sink(dir).mails >= 50)
  end)
end)
