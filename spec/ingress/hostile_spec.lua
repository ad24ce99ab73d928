-- Many clients that mean no good, beside honest ones: the memory stays within what docs/smtp.md and docs/http-listener.md
-- state, and the honest ones keep a part of the rate that they had just before.
local helper = require 'helper'
local kumo = require 'kumo'

local KEPT = 0.03 -- of the rate: the attack, the server and the honest client share two noisy cores
local INTAKE_MIB = 16

local POLICY = [[
local kumo = require 'kumo'
local DIR = os.getenv 'DIR'
kumo.on('init', function()
  kumo.define_spool { name = 'data', path = DIR .. '/data' }
  kumo.define_spool { name = 'meta', path = DIR .. '/meta' }
  kumo.start_esmtp_listener {
    listen = '127.0.0.1:0', relay_hosts = { '127.0.0.0/8' }, client_timeout = os.getenv 'CLIENT_TIMEOUT',
    max_connections = tonumber(os.getenv 'MAX_CONNECTIONS'),
  }
  kumo.start_http_listener { listen = '127.0.0.1:0' }
end)
kumo.on('get_queue_config', function()
  return kumo.make_queue_config { protocol = { custom_lua = { constructor = 'make.sink' } } }
end)
kumo.on('make.sink', function()
  return { send = function() return 'taken' end, close = function() end }
end)
kumo.on('http_server_validate_auth_basic', function(user, password)
  return user == 'app' and password == 'right'
end)
]]
local ENVELOPE = 'EHLO x\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\n'

local dir, hostile

local function kb(run)
  return tonumber(helper.read(('/proc/%d/status'):format(run.pid)):match 'VmRSS:%s+(%d+) kB')
end

local function start(options, env)
  env = env or {}
  env.DIR = helper.dir()
  return helper.run(helper.write(env.DIR .. '/policy.lua', POLICY), '--workers 2 ' .. (options or ''), env)
end

--- hostile.c against `to` in the background; returns once each connection was made or refused.
local function attack(to, count, options)
  local fifo = helper.sh('mktemp -u ' .. dir .. '/fifo.XXXXXX'):match '%S+'
  helper.sh('mkfifo ' .. fifo)
  local self = helper.start(("bash -c 'exec %s connect %s %d from=127.0.0.2 %s <> %s'"):format(hostile, to, count, options, fifo))
  self:line '(open %d+)'
  self.fifo = fifo
  return self
end

local function numbers(self)
  local open, closed = self:output():match '.*open (%d+) closed (%d+)'
  return tonumber(open), tonumber(closed)
end

--- An honest client's rate, all of whose messages are taken.
local function rate(run, what)
  local sent = helper.inject(('--smtp %s --count 150 --connections 4'):format(run.smtp))
  assert.are.equal(150, sent.accepted, what)
  return sent.messages_per_second
end

--- A file with `text` for the options of an attack.
local function file(name, text)
  return helper.write(dir .. '/' .. name, text)
end

describe('hostile SMTP clients:', function()
  setup(function()
    dir = helper.sh 'mktemp -d "${TMPDIR:-/tmp}/tailrace-spec.XXXXXX"':match '%S+'
    hostile = dir .. '/hostile'
    local text, status = helper.sh(('cc -O1 -o %s spec/ingress/hostile.c'):format(hostile))
    assert.are.equal(0, status, text)
  end)
  teardown(function()
    helper.sh('rm -rf ' .. dir)
  end)
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
    ['texts that stop in the middle'] = { 100, 'send=', 8, ENVELOPE .. (('x'):rep(98) .. '\r\n'):rep(4000), holds = true },
    ['a thousand recipients each, and then nothing'] = {
      50, 'send=', 8, 'EHLO x\r\nMAIL FROM:<>\r\n' .. ('RCPT TO:<%s@d.test>\r\n'):format(('x'):rep(60)):rep(1024), holds = true,
    },
  }

  --- The clients of the cases: a part of each, all at the same time.
  local function against(what, cases, part)
    local run = start('--intake-memory ' .. INTAKE_MIB)
    local before = rate(run, what)
    local first, bound, holds, count = kb(run), INTAKE_MIB * 1024 + 8 * 1024, false, 0
    for name, case in pairs(cases) do
      local many = case[2] == '' and case[1] or math.ceil(case[1] * part)
      local options = case[2]:gsub('ENVELOPE', file('envelope', ENVELOPE))
      local clients = attack(run.smtp, many, case[2] == '' and '' or options .. file(name:gsub('%W', ''), case[4]))
      if case[2] == '' then
        assert.are.equal(many, (numbers(clients)), 'a limit of open files of 11,000 is needed')
      end
      count, bound, holds = count + many, bound + many * case[3], holds or case.holds
    end
    if holds then -- they are known to be slow a second later
      kumo.sleep(1.2)
    end
    local during = rate(run, what)
    local grown = kb(run) - first
    print(('\n%s: %d clients, %d/s instead of %d/s, %.1f MB more'):format(what, count, during, before, grown / 1024))
    helper.assert_memory(grown, bound)
    assert.is_true(during > before * KEPT, ('%.1f/s, %.1f/s before'):format(during, before))
    assert.are.equal(0, run:stop('TERM', 10), run:log()) -- and a stop does not wait for any of them
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
    local run = start('', { CLIENT_TIMEOUT = '1s' })
    local clients = attack(run.smtp, 500, 'drip=300 send=' .. file('text', ('x'):rep(1000)))
    helper.wait_for('the end of all', function()
      return select(2, numbers(clients)) == 500
    end, 10)
  end)

  it('those who say nothing lose their places to who comes', function()
    local run = start('', { MAX_CONNECTIONS = '200', CLIENT_TIMEOUT = '3s' })
    local clients = attack(run.smtp, 400, '')
    helper.wait_for('refusals', function()
      return select(2, numbers(clients)) == 200
    end, 10)
    assert.are.equal(0, helper.inject(('--smtp %s --count 4 --connections 4'):format(run.smtp)).accepted)
    helper.wait_for('a place', function() -- once each has been silent for half of its time
      return helper.inject(('--smtp %s --count 4 --connections 4'):format(run.smtp)).accepted == 4
    end, 10)
    assert.is_true((numbers(clients)) > 100)
  end)

  it('leave descriptors for what the process itself needs', function()
    local env = { DIR = helper.dir() }
    local policy = helper.write(env.DIR .. '/policy.lua', POLICY)
    local run = helper.start(("bash -c 'ulimit -n 400; exec %s run --policy %s'"):format(helper.TAILRACE, policy), env)
    run.smtp = run:line 'esmtp listener ([%d.:]+)'
    run:line '(initialization complete)'
    local clients = attack(run.smtp, 1000, '')
    helper.wait_for('refusals', function()
      return select(2, numbers(clients)) > 600
    end, 10)
    local files = tonumber((helper.sh(('ls /proc/%d/fd | wc -l'):format(run.pid)):match '%d+'))
    assert.is_true(files > 250 and files <= 310, files .. ' of 400 descriptors')
  end)
end)
