-- `tailrace repl`: in pipelines, and at a pseudo-terminal as a person uses it.
local helper = require 'helper'
local pty = require 'pty'

local POLICY = [[
local kumo = require 'kumo'
local log_hooks = require 'policy-extras.log_hooks'
log_hooks:new_json {
  name = 'crm',
  url = 'http://10.0.0.1:4242/log',
  filter = function(msg)
    return msg:get_meta('log_record').type == 'Reception'
  end,
}
kumo.on('init', function()
  kumo.define_spool { name = 'meta', path = '/nonexistent/meta' }
  kumo.define_spool { name = 'data', path = '/nonexistent/data' }
  kumo.start_esmtp_listener { listen = '192.0.2.1:25' }
  kumo.configure_local_logs { log_dir = '/nonexistent/log' }
end)
kumo.on('smtp_server_message_received', function(msg)
  msg:set_meta('tenant', 'acme')
end)
kumo.on('get_queue_config', function()
  return kumo.make_queue_config { protocol = { smtp = { mx_list = { '192.0.2.1:25' } } } }
end)
function helper(a, b)
  return a.x + b
end
settings = { list = { 1, 2, 3 }, name = 'x\27[31m' }
settings.me = settings
]]

local dir, policy, repl
before_each(function()
  dir = helper.dir()
  policy = helper.write(dir .. '/policy.lua', POLICY)
  repl = ('TMPDIR=%s XDG_STATE_HOME=%s/state %s repl'):format(dir, dir, helper.quote(helper.TAILRACE))
end)
after_each(function()
  pty.close_all()
  helper.cleanup()
end)

--- Output and exit status of `tailrace repl ARGS`.
local function run(args, input)
  local path = helper.write(dir .. '/input', input or '')
  return helper.sh(('%s %s <%s'):format(repl, args, path))
end

local function with_policy(args, input)
  return run('--policy ' .. policy .. ' ' .. args, input)
end

local function leftovers()
  return helper.sh('ls ' .. dir .. ' | grep tailrace-repl')
end

describe('tailrace repl without a terminal', function()
  it('prints values of expressions as they are, and the spool is gone afterwards', function()
    local output, status = run [[-e '1 + 1' -e '="a\nb"' -e 'nil, {1, x = "y"}' -e 'x = 3' -e 'x']]
    assert.are.equal('2\na\nb\nnil, { 1, x = "y" }\n3\n', output)
    assert.are.equal(0, status)
    assert.are.equal('', leftovers())
  end)

  it('ends at the first error, with file and line, and status 1', function()
    local output, status = with_policy [[-e 'helper({}, 2)' -e 'print "not reached"']]
    assert.are.equal(1, status)
    assert.is_truthy(output:find('error: ' .. policy .. ":23: attempt to perform arithmetic on field 'x'", 1, true), output)
    assert.is_truthy(output:find("stdin:1: in main chunk", 1, true), output)
    assert.is_nil(output:find 'not reached')
  end)

  for what, case in pairs {
    ['a script as one chunk'] = { 'local k = require "kumo"\nfor i = 1, 2 do\n  print(i)\nend\nlocal t = { k ~= nil }\nprint(t[1])\n',
      '1\n2\ntrue\n', 0 },
    ['expressions line by line'] = { '1 + 1\n"x" .. "y"\n', '2\nxy\n', 0 },
    ['a script that ends in the middle'] = { 'if true then\n', "error: stdin:2: 'end' expected (to close 'if' at line 1) near '<eof>'\n", 1 },
    ['a command of several lines'] = { ':mail {\n  to = "a@b.example", body = "(",\n}\n"x"\n',
      'from <sender@example.com> to <a@b.example>, 63 bytes\nx\n', 0 },
    ['the status of os.exit'] = { 'print "a" os.exit(7) print "b"', 'a\n', 7 },
    ['what waits, in virtual time'] = { 'local t = os.time() kumo.sleep(86400) print(os.time() - t)', '86400\n', 0 },
    ['an error that is nil'] = { 'error()', 'error: an error that is nil\n  stdin:1: in main chunk\n', 1 },
    ['an error that is a table'] = { 'error { code = 5 }', 'error: an error that is a table: { code = 5 }\n  stdin:1: in main chunk\n', 1 },
  } do
    it('reads from standard input: ' .. what, function()
      local output, status = run('', case[1])
      assert.are.equal(case[2], output)
      assert.are.equal(case[3], status)
    end)
  end

  it('refuses a wrong policy with its text and status 78', function()
    helper.write(policy, 'local x = nil\nx.y = 1\n')
    local output, status = with_policy "-e '1'"
    assert.are.equal(78, status)
    assert.is_truthy(output:find(policy .. ":2: attempt to index local 'x'", 1, true), output)
  end)

  it('shows each step of a record and of a mail', function()
    local output, status =
      with_policy('', ':record {type="Bounce", recipient="a@b.example"}\n:send\n:mail {to="c@d.example"}\n:send\n')
    assert.are.equal(0, status)
    for _, text in ipairs {
      'a Bounce record, "crm")',
      'queue         crm.log_hook',
      'make.crm.log_hook',
      '> POST /log HTTP/1.1',
      '"type":"Bounce"',
      '"recipient":"a@b.example"',
      '< HTTP/1.1 200 OK',
      'delivered: 200 OK',
      'crm: offered +1, accepted +1, delivered +1',
      'smtp_server_message_received ' .. policy .. ':16',
      'acme@d.example',
      'path          unspecified->crm.log_hook@lua:make.crm.log_hook: 1 of at most 10 connections',
      'path          unspecified->mx_list:192.0.2.1:25@smtp_client: 1 of at most 32 connections',
      '> RCPT TO:<c@d.example>',
      '< 250 2.0.0 OK queued as',
      'crm: offered +2, filtered +1, accepted +1, delivered +1',
      'mail: accepted +1, delivered +1',
    } do
      assert.is_truthy(output:find(text, 1, true), text .. ' is not in\n' .. output)
    end
  end)

  it('tries again when time passes', function()
    local output = with_policy('', ':dry {http = {{status = 503, body = "later"}, 200}}\n:record {}\n:send\n:queues crm.log_hook\n'
      .. ':why crm.log_hook\n:advance 5m\n:queues\n')
    for _, text in ipairs { 'transient: 450 503 Service Unavailable: later', 'waiting +1', '1 on timers', 'crm.log_hook', '1 attempts',
      'POST http://10.0.0.1:4242/log', 'crm: delivered +1, waiting -1', '0 in line, 0 on timers' } do
      assert.is_truthy(output:find(text, 1, true), text .. ' is not in\n' .. output)
    end
  end)

  it('names what is mistyped', function()
    local output = with_policy('', ':evnts\n')
    assert.is_truthy(output:find("there is no command ':evnts', did you mean ':events'?", 1, true), output)
    for text, line in pairs {
      [":record: unknown field 'recipent', did you mean 'recipient'?"] = ':record {recipent = "x"}',
      [":record: there is no record of type 'Bonce', did you mean 'Bounce'?"] = ':record {type = "Bonce"}',
      ["no handler for 'ini', did you mean 'init'?"] = ':fire ini',
      ['there is nothing to send'] = ':send',
      ["there is no queue 'nowhere'"] = ':queues nowhere',
      ['a duration such as'] = ':advance soon',
      ['nothing.eml: No such file'] = ':mail nothing.eml',
    } do
      output = with_policy('', line .. '\n')
      assert.is_truthy(output:find(text, 1, true), text .. ' is not in\n' .. output)
    end
  end)
end)

describe('tailrace repl at a terminal', function()
  local term

  local function start(args, columns, env)
    term = pty.start(repl .. ' ' .. (args or '--policy ' .. policy), columns, env)
    term:expect 'dry> '
  end

  it('evaluates, completes and survives what goes wrong', function()
    start()
    term:line('1 + 1', '\n2\n')
    term:line('_ * 10', '\n20\n')
    term:line('settings', 'me = <the same as it>, name = "x\\x1b[31m" }')
    term:line('print "\\27[31m\\7"', '\n\\x1b[31m\\x07\n')
    term:line('io.write "\\27]0;title\\n"', '\n\\x1b]0;title\n')
    term:line('local lasting = 5', 'dry> ')
    term:line('lasting', '\n5\n')
    term:type 'for i = 1, 2 do\r'
    term:expect '   > '
    term:line('print("turn " .. i)', '   > ')
    term:line('end', 'turn 2\n')
    term:line(':record {', '   > ')
    term:line('type = "Bounce" }', 'type = "Bounce"\n}\n')
    term:type 'kumo.sle\t2)\r'
    term:expect 'kumo.sleep(2)'
    for typed, completed in pairs {
      ['kumo.on("smtp_server_mes\t'] = 'smtp_server_message_received"',
      [':eve\t'] = ':events',
      [':fire smtp_server_mail\t'] = 'smtp_server_mail_from',
      ['settings.\t'] = 'list  me    name',
      ['_G.settings.list[1].x\t'] = 'list[1].x',
    } do
      term:type(typed)
      term:expect(completed)
      term:type '\3'
      term:expect '^C' -- the prompt may also stand below a list
      term:expect 'dry> '
    end
    term:line('settings.li\t[2]', '\n2\n')
    term:line('error({ code = 3 })', 'an error that is a table: { code = 3 }')
    term:line('local function f() return 1 + f() end f()', 'error: stack overflow')
    term:line('os.exit(3)', 'os.exit(3) was called')
    term:line('coroutine.wrap(function() helper({}) end)()', 'in a coroutine of its own:')
    term:line('kumo.reject(450, "no\\27")', 'error: kumo.reject: 450 no\\x1b')
    term:line('("x"):rep(2 ^ 26)', '... (67,108,864 bytes)')
    term:line('("x"):rep(2 ^ 30)', 'at most 67108864 are allowed')
    term:line('x = = 1', "unexpected symbol near '='")
    term:line('"the end"', '\n"the end"\n')
    term:type '\4'
    assert.are.equal(0, term:wait_end())
    assert.are.equal('', leftovers())
    assert.is_nil(term.raw:find('\27]0;title', 1, true))
  end)

  it('gives the prompt back at Ctrl-C, wherever it comes', function()
    helper.write(dir .. '/slow.lua', 'require("kumo").sleep(1)\nprint "now" while SPIN do end\nreturn "loaded"\n')
    start()
    -- "now" is printed where the traceback must begin: the key may come at the very next instruction.
    for what, line in pairs {
      ['(input '] = 'print "now" while true do end',
      ["[C]: in function 'raw_pcall'"] = 'while true do pcall(function() print "now" while true do end end) end',
      ['slow.lua:2:'] = 'SPIN = true require "slow"',
    } do
      term:line(line, '\nnow\n')
      term:type '\3'
      term:expect 'interrupted'
      term:expect(what)
      term:expect 'dry> '
    end
    term:line('SPIN = false return require "slow"', '"loaded"')
    term:expect 'dry> '
    term:line('for i = 1, 2 do', '   > ')
    term:type '\3'
    term:expect 'dry> '
    term:line('"alive"', '\n"alive"\n')
  end)

  it('keeps a history that is its own and not for others', function()
    start()
    term:line('"first"', '\n"first"\n')
    term:line(' "secret"', '\n"secret"\n')
    term:line('if true then', '   > ')
    term:line('print "second" end', 'second\n')
    term:line(':quit', '')
    assert.are.equal(0, term:wait_end())
    local path = dir .. '/state/tailrace/repl_history'
    assert.are.equal('"first"\nif true then\\nprint "second" end\n:quit\n', helper.read(path))
    assert.are.equal('600', (helper.sh('stat -c %a ' .. path):match '%d+'))
    start()
    term:type '\27[A\27[A\27[A\r' -- up to "first"
    term:expect '\n"first"\n'
  end)

  it('loads a policy that was wrong once it is right, and another one for :reload', function()
    local right = helper.read(policy)
    helper.write(policy, 'error("not \27[31m yet")\n')
    start()
    assert.is_truthy(term.raw:find('not \\x1b[31m yet', 1, true))
    term:line('"alive"', '\n"alive"\n')
    helper.write(policy, right)
    term:line(':reload', 'handlers for')
    term:expect 'dry> '
    term:line('settings.name', '"x\\x1b[31m"')
    helper.write(policy, 'print "now"\nwhile true do end\n')
    term:line(':reload', '\nnow\n')
    term:type '\3'
    term:expect 'cannot be loaded'
    term:expect 'no policy'
    term:line('"alive"', '\n"alive"\n')
  end)

  it('fits into 20 columns, and follows a change of width', function()
    start(nil, 20)
    term:line('{ 1000000, 2000000, 3000000 }', '{\n  1000000,\n  2000000,\n  3000000\n}\n')
    term:size(100)
    term:line('"wide"', '\n"wide"\n')
    term:line('{ 1000000, 2000000, 3000000 }', '{ 1000000, 2000000, 3000000 }\n')
  end)

  it('colours only where it may', function()
    start(nil, 100, { NO_COLOR = '1' })
    term:line('"plain"', '\n"plain"\n')
    assert.is_nil(term.raw:find '\27%[%d*;?3[0-9]m')
    start()
    term:line('"green"', '\n"green"\n')
    assert.is_truthy(term.raw:find('\27[32m"green"', 1, true))
  end)

  it('ends in order at SIGTERM', function()
    start()
    term.process:signal 'TERM'
    assert.are.equal(143, term:wait_end())
    assert.are.equal('', leftovers())
  end)
end)
