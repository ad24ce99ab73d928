--- What the specs about hostile clients share: hostile.c, a server, an honest client's rate.
local helper = require 'helper'

local hostile = {}

local KEPT = 0.05 -- of the rate of a server that nobody attacks, on a machine that others use, too

hostile.POLICY = [[
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

--- Builds hostile.c into a directory that lasts until hostile.fini().
function hostile.init()
  hostile.dir = helper.sh 'mktemp -d "${TMPDIR:-/tmp}/tailrace-spec.XXXXXX"':match '%S+'
  local text, status = helper.sh(('cc -O1 -o %s/hostile spec/ingress/hostile.c'):format(hostile.dir))
  assert(status == 0, text)
end

function hostile.fini()
  helper.sh('rm -rf ' .. hostile.dir)
end

--- A file with `text` for the options of an attack.
function hostile.file(name, text)
  return helper.write(hostile.dir .. '/' .. name, text)
end

--- A server of two workers, or as many as the options say.
function hostile.start(options, env)
  env, options = env or {}, options or ''
  env.DIR = helper.dir()
  return helper.run(helper.write(env.DIR .. '/policy.lua', hostile.POLICY), (options:find '%-%-workers' and '' or '--workers 2 ') .. options, env)
end

function hostile.kb(run)
  return tonumber(helper.read(('/proc/%d/status'):format(run.pid)):match 'VmRSS:%s+(%d+) kB')
end

--- hostile.c in the background, until it has said `ready`. Nice, so that its own need of a processor is not measured.
function hostile.spawn(args, ready)
  local fifo = helper.sh('mktemp -u ' .. hostile.dir .. '/fifo.XXXXXX'):match '%S+'
  helper.sh('mkfifo ' .. fifo)
  local self = helper.start(("bash -c 'exec nice -n 15 %s/hostile %s <> %s'"):format(hostile.dir, args, fifo))
  return self, self:line(ready)
end

--- So many clients from 127.0.0.2; returns once each connection was made or refused.
function hostile.attack(to, count, options)
  return (hostile.spawn(('connect %s %d from=127.0.0.2 %s'):format(to, count, options), '(open %d+)'))
end

--- Its connections: open, closed.
function hostile.numbers(self)
  local open, closed = self:output():match '.*open (%d+) closed (%d+)'
  return tonumber(open), tonumber(closed)
end

--- The rate of an honest client; nil if not all is taken. target: '--smtp ADDR' or '--http URL'
local function rate(target)
  local sent = helper.inject(target .. ' --count 150 --connections 4')
  return sent.accepted == 150 and sent.messages_per_second
end

--- Asserts that honest clients keep their part of the rate that a server without attackers has at the same time. Measured
--- again where it seems not so: the machine may have been busy for just one of the two. Returns both rates.
function hostile.assert_kept(target, quiet_target)
  local during, quiet
  local ok = pcall(helper.wait_for, 'an honest rate', function()
    quiet, during = rate(quiet_target), rate(target)
    return quiet and during and during > quiet * KEPT
  end)
  assert(ok, ('%s/s, %s/s without them'):format(during, quiet))
  return during, quiet
end

return hostile
