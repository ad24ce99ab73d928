-- Many clients that mean no good, beside honest ones: the memory stays within what docs/smtp.md and docs/http-listener.md
-- state, and the honest ones keep a part of the rate that they had just before.
local helper = require 'helper'
local hostile = require 'ingress.hostile'

local INTAKE_MIB = 16
local ENVELOPE = 'EHLO x\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\n'

describe('hostile SMTP clients:', function()
  setup(hostile.init)
  teardown(hostile.fini)
  after_each(helper.cleanup)

  -- each: number of clients, what they do with the text, KB that each may cost beside the budget of intake
  local CASES = {
    ['nothing at all'] = { 10000, '', 2, '' },
    ['pipelined commands, replies never read'] = { 1000, 'read=no repeat=', 24, ('NOOP\r\n'):rep(1000) },
    ['more replies than commands, never read'] = { 1000, 'read=no repeat=', 24, ('EHLO x\r\n'):rep(1000) },
    ['commands that are none'] = { 300, 'repeat=', 24, ('GET / HTTP/1.1\r\n\r\n\0\255\r\n'):rep(500) },
    ['commands in the wrong order'] = { 300, 'repeat=', 24, ('DATA\r\nRCPT TO:<a@b.test>\r\n'):rep(300) },
    ['a command line without end'] = { 300, 'repeat=', 8, ('\0x'):rep(30000) },
    ['a header line without end'] = { 100, 'send=ENVELOPE repeat=', 8, ('x'):rep(60000) },
    ['headers without end'] = { 50, 'send=ENVELOPE repeat=', 150, ('X-Y: ' .. ('z'):rep(90) .. '\r\n'):rep(300) },
    ['texts that stop in the middle'] = { 100, 'send=', 8, ENVELOPE .. (('x'):rep(98) .. '\r\n'):rep(4000) },
    ['a thousand recipients each, and then nothing'] = {
      50, 'send=', 8, 'EHLO x\r\nMAIL FROM:<>\r\n' .. ('RCPT TO:<%s@d.test>\r\n'):format(('x'):rep(60)):rep(1024),
    },
  }

  --- The clients of the cases: a part of each, all at the same time.
  local function against(what, cases, part)
    local run, quiet = hostile.start('--stop-timeout 1000 --intake-memory ' .. INTAKE_MIB), hostile.start()
    hostile.assert_kept('--smtp ' .. run.smtp, '--smtp ' .. quiet.smtp)
    local first, bound, count = hostile.kb(run), INTAKE_MIB * 1024 + 8 * 1024, 0
    for name, case in pairs(cases) do
      local many = case[2] == '' and case[1] or math.ceil(case[1] * part)
      local options = case[2]:gsub('ENVELOPE', hostile.file('envelope', ENVELOPE))
      local clients = hostile.attack(run.smtp, many, case[2] == '' and '' or options .. hostile.file(name:gsub('%W', ''), case[4]))
      if case[2] == '' then
        assert.are.equal(many, (hostile.numbers(clients)), 'a limit of open files of 11,000 is needed')
      end
      count, bound = count + many, bound + many * case[3]
    end
    -- room comes from those known to be slow, a second later
    local during, before = hostile.assert_kept('--smtp ' .. run.smtp, '--smtp ' .. quiet.smtp)
    local grown = hostile.kb(run) - first
    print(('\n%s: %d clients, %d/s instead of %d/s, %.1f MB more'):format(what, count, during, before, grown / 1024))
    helper.assert_memory(grown, bound)
    assert.are.equal(0, run:stop(), run:log()) -- and a stop does not wait for any of them, which it would for 1,000 s
  end

  if os.getenv 'TAILRACE_HOSTILE' then
    for what, case in pairs(CASES) do
      it(what, function()
        against(what, { [what] = case }, 1)
      end)
    end
  end

  it('10,000 that say nothing, and hundreds of ten other kinds', function()
    against('all at once', CASES, 0.2)
  end)

  it('a byte now and then does not keep a line open', function()
    local run = hostile.start('', { CLIENT_TIMEOUT = '1s' })
    local clients = hostile.attack(run.smtp, 500, 'drip=300 send=' .. hostile.file('text', ('x'):rep(1000)))
    helper.wait_for('the end of all', function()
      return select(2, hostile.numbers(clients)) == 500
    end)
  end)

  it('those who say nothing lose their places to who comes', function()
    local inject = '--smtp %s --count 4 --connections 4'
    local run = hostile.start('', { MAX_CONNECTIONS = '200' }) -- with the time that they have by default
    local clients = hostile.attack(run.smtp, 400, '')
    helper.wait_for('refusals', function()
      return select(2, hostile.numbers(clients)) == 200
    end)
    assert.are.equal(0, helper.inject(inject:format(run.smtp)).accepted)
    assert.are.equal(0, run:stop())

    run = hostile.start('--workers 1', { MAX_CONNECTIONS = '200', CLIENT_TIMEOUT = '3s' })
    local host, port = run.smtp:match '^(.*):(%d+)$'
    helper.wait_for('a place lost to who comes', function() -- again where a busy machine lets its own time run out
      local first = helper.start(("bash -c 'exec 3<>/dev/tcp/%s/%s; cat <&3'"):format(host, port))
      first:line '(220 )'
      local others = hostile.attack(run.smtp, 400, '')
      helper.wait_for('a place', function() -- once each has been silent for half of its time
        return helper.inject(inject:format(run.smtp)).accepted == 4
      end)
      first:wait()
      others:stop 'KILL'
      return first:output():find '421 4.3.2 [^\r]* idle, and others wait\r\n'
    end)
  end)

  it('leave descriptors for what the process itself needs', function()
    local env = { DIR = helper.dir() }
    local policy = helper.write(env.DIR .. '/policy.lua', hostile.POLICY)
    local run = helper.start(("bash -c 'ulimit -n 400; exec %s run --policy %s'"):format(helper.TAILRACE, policy), env)
    run.smtp = run:line 'esmtp listener ([%d.:]+)'
    run:line '(initialization complete)'
    local clients = hostile.attack(run.smtp, 1000, '')
    helper.wait_for('refusals', function()
      return select(2, hostile.numbers(clients)) > 600
    end)
    local files = tonumber((helper.sh(('ls /proc/%d/fd | wc -l'):format(run.pid)):match '%d+'))
    assert.is_true(files > 250 and files <= 310, files .. ' of 400 descriptors')
  end)
end)
