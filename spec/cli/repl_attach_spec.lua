-- `tailrace repl --attach`: the prompt of a live process, with mail going through it meanwhile.
local ffi = require 'ffi'
local helper = require 'helper'
local pty = require 'pty'

ffi.cdef [[
struct spec_sockaddr { unsigned short family; char path[108]; };
int socket(int domain, int type, int protocol);
int connect(int fd, const struct spec_sockaddr *at, unsigned int len);
]]

local POLICY = [[
local kumo = require 'kumo'
local DIR = os.getenv 'TAILRACE_DIR'
kumo.on('init', function()
  kumo.define_spool { name = 'data', path = DIR .. '/spool' }
  kumo.define_spool { name = 'meta', path = DIR .. '/spool' }
  kumo.start_esmtp_listener { listen = '127.0.0.1:0' }
  kumo.start_repl_socket { path = DIR .. '/socket', time_limit = os.getenv 'LIMIT' or '5s', timeout = os.getenv 'TIMEOUT' or '2m' }
end)
kumo.on('get_queue_config', function()
  return kumo.make_queue_config { protocol = { custom_lua = { constructor = 'make.it' } } }
end)
kumo.on('make.it', function()
  return { send = function() return 'taken' end }
end)
settings = { list = { 1, 2, 3 }, name = 'x\27[31m' }
function rename(name)
  settings.name = name
end
function settings.length()
  return #settings.list
end
function leave(code)
  os.exit(code)
end
function arrive()
  io.open(DIR .. '/arrived', 'w'):close()
end
require 'ffi'
]]

local dir, run, socket
local function start(limit, timeout)
  run = helper.run(dir .. '/policy.lua', '--workers 2', { TAILRACE_DIR = dir, LIMIT = limit, TIMEOUT = timeout })
end
before_each(function()
  dir = helper.dir()
  helper.write(dir .. '/policy.lua', POLICY)
  start()
  socket = dir .. '/socket'
end)
after_each(function()
  pty.close_all()
  helper.cleanup()
end)

local function attach(args)
  return helper.sh(('%s repl --attach %s %s </dev/null'):format(helper.quote(helper.TAILRACE), socket, args))
end

--- A connection that sends raw bytes.
local function connect(bytes)
  local fd = ffi.C.socket(1, 1, 0)
  local name = ffi.new('struct spec_sockaddr', 1)
  ffi.copy(name.path, socket)
  assert(ffi.C.connect(fd, name, ffi.sizeof(name)) == 0)
  assert(ffi.C.write(fd, bytes, #bytes) == #bytes)
  return fd
end

local function frame(kind, text)
  local n = #text + 1
  return string.char(n % 256, math.floor(n / 256) % 256, math.floor(n / 65536) % 256, math.floor(n / 16777216)) .. kind .. text
end

local function mail_flows()
  local out, status = helper.sh(('%s inject --smtp %s --count 20 --json'):format(helper.quote(helper.TAILRACE), run.smtp))
  assert.are.equal(0, status, out)
end

describe('tailrace repl --attach', function()
  it('looks and does not touch until :unlock', function()
    for code, expected in pairs {
      ['settings'] = '{\n  length = function() ' .. dir .. '/policy.lua:19,\n  list = { 1, 2, 3 },\n  name = "x\\x1b[31m"\n}\n',
      ['#settings.list, settings.length(), type(settings)'] = '3, 3, "table"\n',
      ['for i, v in ipairs(settings.list) do print(i, v) end'] = '1\t1\n2\t2\n3\t3\n',
      ['table.concat(settings.list, "+")'] = '1+2+3\n',
      ['local t = { settings } t.x = 1 print(t.x, t[1].name == settings.name)'] = '1\ttrue\n',
      ['kumo.time.parse_duration "1m".seconds'] = '60\n',
      ['getmetatable("").__index.rep("x", 3)'] = 'xxx\n',
    } do
      local out, status = attach('-e ' .. helper.quote(code))
      assert.are.equal(expected, out)
      assert.are.equal(0, status)
    end
    for code, what in pairs {
      ['settings.name = 1'] = 'assigning to field "name"',
      ['settings.list[1] = 1'] = 'assigning to field 1',
      ['anew = 1'] = 'assigning to the global anew',
      ['table.insert(settings.list, 1)'] = 'table.insert',
      ['rawset(settings, "name", 1)'] = 'rawset',
      ['setmetatable(settings, {})'] = 'setmetatable',
      ['getmetatable("").__index.rep = 1'] = 'assigning to field "rep"',
      ['os.exit(1)'] = 'os.exit',
      ['io.open "/etc/passwd"'] = 'io.open',
      ['debug.getregistry()'] = 'debug.getregistry',
      ['require "kumo".on("init", print)'] = 'kumo.on',
      ['kumo.api.admin.bounce.bounce {}'] = 'kumo.api.admin.bounce.bounce',
      ['package.loaded.kumo.on("init", print)'] = 'package.loaded',
      ['require "ffi".C.getpid()'] = 'ffi.C',
      ['require "tr.host".c.log("error", "x")'] = 'tr.host.c',
      ['loadstring "settings.name = 1" ()'] = 'assigning to field "name"',
      ['pcall(function() x = 1 end) y = 2'] = 'assigning to the global y',
      ['require "nothing"'] = 'loading the module "nothing"',
      [':fire make.it'] = ':fire',
    } do
      local out, status = attach('-e ' .. helper.quote(code))
      assert.is_truthy(out:find('error: ' .. what .. ' may change something: :unlock first', 1, true), code .. ': ' .. out)
      assert.are.equal(1, status)
    end
    assert.are.equal('unlocked: what is changed is changed in worker 0, until the process ends\n"new"\n',
      (attach [[-e :unlock -e 'rename "new"' -e 'settings.name, nil' ]]):gsub(', nil', ''))
    assert.are.equal('new\n', (attach "-e settings.name")) -- in a session that is locked again
    assert.are.equal('x\\x1b[31m\n', (attach "-e ':worker 1' -e settings.name"):gsub('\27', '\\x1b')) -- another state
    assert.is_truthy(run:log():find('unlocked worker 0', 1, true))
    assert.is_truthy(run:log():find('rename \\"new\\"', 1, true))
  end)

  it('does not end the process by os.exit', function()
    assert.is_truthy(attach([[-e :unlock -e 'os.exit(3)']]):find('os.exit(3) was called: it would end the service', 1, true))
    assert.is_truthy(attach([[-e :unlock -e 'leave(4)']]):find('os.exit(4) was called', 1, true))
    assert.is_truthy(attach([[-e 'leave(5)']]):find('os.exit(5) was called', 1, true)) -- a function of the policy: not hidden
    assert.are.equal('4\n', (attach [[-e '2+2']]))
  end)

  it('is for its user alone', function()
    assert.are.equal('600', (helper.sh('stat -c %a ' .. socket):match '%d+'))
    if helper.sh 'id -u':match '%d+' == '0' then
      helper.sh('chmod 755 ' .. dir .. '; chmod 666 ' .. socket) -- so that the peer's identity decides
      local out, status = helper.sh(('setpriv --reuid 65534 --clear-groups %s repl --attach %s -e 1 2>&1'):format(
        helper.quote(helper.TAILRACE), socket))
      if not out:find 'cannot execute' and not out:find 'setpriv: ' then
        assert.are_not.equal(0, status)
        assert.is_truthy(out:find('only the user of the process and root may attach', 1, true), out)
      end
    end
  end)

  it('tells who handles what', function()
    assert.are.equal(('%-36s %s/policy.lua:12\n'):format('make.it', dir), (attach "-e ':events make'"))
    assert.is_truthy((attach "-e ':source make.it'"):find "return { send = function%(%) return 'taken' end }")
  end)

  it('bounds time and answers, and mail goes on', function()
    local out = attach [[-e 'for i = 1, 20 do print(("x"):rep(1048576)) end']]
    assert.is_truthy(#out < 1100000, #out)
    assert.is_truthy(out:find '%.%.%. %d+ more bytes are not shown')
    run:stop()
    start('500ms', '1s')
    out = attach [[-e 'while true do end']]
    assert.is_truthy(out:find('ran longer than 0.5 s', 1, true), out)
    out = attach [[-e 'kumo.sleep(60)']]
    assert.is_truthy(out:find('out of time', 1, true), out)
    mail_flows()
  end)

  it('survives clients that vanish, that talk nonsense, and that are too many', function()
    local fds = {}
    for _, bytes in ipairs {
      frame('W', '80 0 0') .. frame('E', '1kumo.sleep(1.5)'),
      frame('W', '80 0 0') .. frame('E', '1for i = 1, 20 do print(("x"):rep(1048576)) end'),
      'GET / HTTP/1.1\r\n\r\n',
      frame('E', '1print(1)'),
      frame('W', 'wide'),
      frame('W', '80 0 0') .. frame('Z', ''),
      '\255\255\255\255',
      '',
    } do
      fds[#fds + 1] = connect(bytes)
    end
    helper.wait_for('the end of those who do not speak it', function()
      return select(2, run:log():gsub('does not speak this protocol', '')) == 5
    end)
    for _, fd in ipairs(fds) do
      ffi.C.close(fd)
    end
    helper.wait_for('the end of the others', function()
      return select(2, run:log():gsub('it closed the connection', '')) == 3
    end)
    fds = {}
    for i = 1, 8 do
      fds[i] = connect ''
    end
    assert.is_truthy((attach '-e 1'):find('there are 8 clients already', 1, true))
    for _, fd in ipairs(fds) do
      ffi.C.close(fd)
    end
    helper.wait_for('room', function()
      return attach '-e 1' == '1\n'
    end)
    mail_flows()
  end)

  it('is a prompt, whose connection ends with the process', function()
    local term = pty.start(('XDG_STATE_HOME=%s %s repl --attach %s'):format(dir, helper.quote(helper.TAILRACE), socket))
    term:expect 'locked 0> '
    term:line('settings.name', '"x\\x1b[31m"')
    term:type 'settings.le\t)\r'
    term:expect '\n3\n'
    term:type 'arrive() kumo.sleep(1000) print "\\7"\r'
    helper.wait_for('the start of the call', function()
      return helper.read(dir .. '/arrived')
    end)
    term:type '\3'
    term:expect 'interrupted'
    term:expect 'locked 0> '
    term:line(':worker 1', 'worker 1 of 2')
    term:expect 'locked 1> '
    term:line(':unlock', 'unlocked 1> ')
    term:line('settings.name = 5', 'unlocked 1> ')
    term:line(':lock', 'locked 1> ')
    term:line('settings.name', '\n5\n')
    term:line('if true then', '   > ')
    term:line('print "in two lines" end', 'in two lines\n')
    term:line(':tasks', 'none waits')
    run:signal 'TERM'
    term:expect 'the process stops'
    assert.are.equal(0, term:wait_end())
    assert.are.equal(0, run:wait())
    assert.is_nil(helper.read(socket))
    local out, status = attach '-e 1'
    assert.is_truthy(out:find('is a process running with --repl-socket', 1, true), out)
    assert.are.equal(69, status)
  end)

  it('takes the place of a socket that a killed process has left, and of no other', function()
    run:stop 'KILL'
    local again = helper.run(dir .. '/policy.lua', '--workers 1', { TAILRACE_DIR = dir })
    assert.are.equal('1\n', (attach '-e 1'))
    local out, status = helper.sh(('TAILRACE_DIR=%s %s run --policy %s/policy.lua'):format(dir, helper.quote(helper.TAILRACE), dir))
    assert.are.equal(78, status)
    assert.is_truthy(out:find('another process listens at ' .. socket, 1, true), out)
    assert.are.equal('1\n', (attach '-e 1'))
    again:stop()
  end)
end)
