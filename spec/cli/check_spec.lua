-- `tailrace check`: policies with mistakes, and what is said about each.
-- luacheck: no max line length
local helper = require 'helper'
local kumo = require 'kumo'

local HEAD = [[
local kumo = require 'kumo'
kumo.on('init', function()
  kumo.define_spool { name = 'meta', path = 'spool' }
  kumo.define_spool { name = 'data', path = 'spool' }
end)
]] -- five lines

local dir

--- Writes files (name -> text), checks `policy.lua`: what is printed, status, both streams apart.
local function check(files, args)
  dir = helper.dir()
  helper.sh('mkdir ' .. dir .. '/lib')
  if type(files) == 'string' then
    files = { ['policy.lua'] = files }
  end
  for name, text in pairs(files) do
    helper.write(dir .. '/' .. name, text)
  end
  local command = ('cd %s && %s check policy.lua %s 2>err'):format(helper.quote(dir), helper.quote(helper.TAILRACE), args or '')
  local out, status = helper.sh(command)
  return out, status, helper.read(dir .. '/err')
end

--- The findings as a list of "FILE:LINE level code".
local function findings(files, args)
  local out, status, err = check(files, '--json ' .. (args or ''))
  local ok, answer = pcall(kumo.serde.json_parse, out)
  assert.is_true(ok, out .. err)
  assert.are.equal(status, answer.status)
  local list = {}
  for i, one in ipairs(answer.findings) do
    list[i] = ('%s:%d %s %s'):format(one.file, one.line, one.level, one.code)
  end
  return list, status, answer
end

--- Checks the policies of all cases (their second member, behind `head`) side by side, in one directory. A case may have a
--- time limit of its own: only what is to run into one, for a machine may be slow.
local function check_all(cases, head)
  local base = helper.dir()
  for i, case in ipairs(cases) do
    case.dir = base .. '/' .. i
  end
  helper.sh(('cd %s && mkdir $(seq %d)'):format(base, #cases))
  for _, case in ipairs(cases) do
    helper.write(case.dir .. '/policy.lua', head .. case[2])
    helper.write(case.dir .. '/args', case.limit_s and '--timeout ' .. case.limit_s or '')
  end
  helper.sh(([[cd %s && for i in $(seq %d); do
    (cd $i && %s check policy.lua --json $(cat args) >out 2>err; echo $? >status) &
    [ $((i %% 6)) -ne 0 ] || wait
  done; wait]]):format(base, #cases, helper.quote(helper.TAILRACE)))
end

local function answer_of(case)
  local out = helper.read(case.dir .. '/out')
  local ok, answer = pcall(kumo.serde.json_parse, out)
  assert.is_true(ok, out .. helper.read(case.dir .. '/err'))
  return answer, tonumber(helper.read(case.dir .. '/status'))
end

--- One finding with this place and text; the exit status.
local function says(answer, status, place, text)
  for _, one in ipairs(answer.findings) do
    if one.file .. ':' .. one.line == place and (one.message .. '\n' .. tostring(one.remedy)):find(text, 1, true) then
      return status, one
    end
  end
  error(('%s: %q is not in %s'):format(place, text, kumo.serde.json_encode_pretty(answer)), 2)
end

describe('tailrace check', function()
  local CASES, WARNINGS

  it('says that nothing is wrong', function()
    local out, status, err = check(HEAD)
    assert.are.equal('policy.lua: 1 file, 1 event handled, nothing to report\n', out)
    assert.are.equal(0, status)
    assert.are.equal('', err)
  end)

  setup(function()
    check_all(CASES, HEAD)
    check_all(WARNINGS, HEAD)
  end)
  teardown(helper.cleanup)

  -- { what, the text behind HEAD (which begins on line 6), line, part of the message or remedy }
  CASES = {
    { 'an unknown event', "kumo.on('smtp_server_mesage_received', function() end)", 6, "did you mean 'smtp_server_message_received'?" },
    { 'an unknown function of kumo', "kumo.on('smtp_server_data', function()\n  kumo.log_inf 'x'\nend)", 7, "did you mean 'log_info'?" },
    { 'one in a group', 'local http = kumo.http\nlocal function f()\n  return http.build_clent {}\nend\nf = f', 8, "did you mean 'build_client'?" },
    { 'one that is not supported', 'local function f()\n  return kumo.xfer.start {}\nend\nf = f', 7, 'kumo.xfer is not supported by Tailrace' },
    { 'one of a helper', "local log_hooks = require 'policy-extras.log_hooks'\nif os.time() < 0 then\n  log_hooks:new_jsn {}\nend", 8, "did you mean 'new_json'?" },
    { 'one of the standard library', 'local function f(x)\n  return string.formt(x)\nend\nf = f', 7, "did you mean 'format'?" },
    { 'a method of a message', "kumo.on('smtp_server_data', function(msg)\n  msg:set_metta('a', 1)\nend)", 7, "did you mean 'set_meta'?" },
    { 'an unknown global', "kumo.on('smtp_server_data', function(msg)\n  local tenant = msg:id()\n  msg:set_meta(tenat, tenant)\nend)", 8, "did you mean 'tenant'?" },
    { 'a module that is not there', "local function f()\n  return require 'lib.none'\nend\nf = f", 7, "the module 'lib.none' is not there" },
    { 'an unknown option', "kumo.on('get_queue_config', function()\n  return kumo.make_queue_config { retry_intervall = '1m' }\nend)", 7, "did you mean 'retry_interval'?" },
    { 'one in a table in a table', "kumo.on('get_queue_config', function()\n  return kumo.make_queue_config {\n    protocol = { custom_lua = { constructor = 'make.x', batchsize = 3 } },\n  }\nend)", 8, "did you mean 'batch_size'?" },
    { 'one of what a helper passes on', "require('policy-extras.log_hooks'):new_json {\n  name = 'x',\n  url = 'http://x/',\n  log_parameters = { metta = { 'a' } },\n}", 9, "did you mean 'meta'?" },
    { 'a value of another type', "kumo.on('get_egress_path_config', function()\n  return kumo.make_egress_path { max_ready = '10' }\nend)", 7, 'integer is expected, not \'10\'' },
    { 'a text that is no duration', "kumo.on('get_queue_config', function()\n  return kumo.make_queue_config { max_age = 'forever' }\nend)", 7, 'a duration is expected, not \'forever\'' },
    { 'a value that is not in the list', "kumo.on('get_queue_config', function()\n  return kumo.make_queue_config { refresh_strategy = 'Ttll' }\nend)", 7, "did you mean 'Ttl'?" },
    { 'a flag that may only be off', "kumo.on('get_listener_domain', function()\n  return kumo.make_listener_domain { log_oob = true }\nend)", 7, "'Ignore' or false is expected, not true" },
    { 'a method that no name is near', "kumo.on('smtp_server_data', function(msg)\n  msg:frobnicate(1)\nend)", 7, 'see `tailrace help kumo.Message`' },
    { 'a missing option', "kumo.on('get_egress_source', function()\n  return kumo.make_egress_source {}\nend)", 7, "the option 'name' is missing" },
    { 'a handler behind one that always answers', "kumo.on('get_queue_config', function()\n  return kumo.make_queue_config {}\nend)\nkumo.on('get_queue_config', function() end)", 9, 'is never asked: the handler at policy.lua:6 answers for everything' },
    { 'a log hook behind one', "kumo.on('get_queue_config', function()\n  return kumo.make_queue_config {}\nend)\nrequire('policy-extras.log_hooks'):new_json { name = 'x', url = 'http://x/' }", 9, 'set the log hook up before it' },
    { 'a handler behind the queue helper', "require('policy-extras.queue'):setup {}\nkumo.on('get_queue_config', function() end)", 7, 'the queue helper set up at policy.lua:6 answers for everything' },
    { 'kumo.on in a handler', "kumo.on('smtp_server_data', function()\n  kumo.on('smtp_server_ehlo', function() end)\nend)", 7, 'register handlers at the top level' },
    { 'a hook without constructor', "local log_hooks = require 'policy-extras.log_hooks'\nkumo.on('get_queue_config', function()\n  return kumo.make_queue_config { protocol = { custom_lua = { constructor = 'make.it' } } }\nend)\nlog_hooks:new_json { name = 'x', url = 'http://x/' }", 10, "the constructor 'make.it', which has no handler" },
    { 'a disposition hook that is not configured', "kumo.on('log_disposition_x', function() end)", 6, 'kumo.configure_log_disposition_hook' },
    { 'a filter without handler', "kumo.on('pre_init', function()\n  kumo.configure_local_logs { log_dir = 'logs', filter_event = 'my.fliter' }\nend)\nkumo.on('my.filter', function() return true end)", 7, "did you mean 'my.filter'?" },
    { 'a log directory that cannot be', "kumo.on('pre_init', function()\n  kumo.configure_local_logs { log_dir = '/dev/null/logs' }\nend)", 7, '/dev/null is no directory' },
    { 'a connection without send_batch', "kumo.on('get_queue_config', function()\n  return kumo.make_queue_config { protocol = { custom_lua = { constructor = 'make.x', batch_size = 5 } } }\nend)\nkumo.on('make.x', function()\n  return { send = function() return 'ok' end }\nend)", 9, 'no send_batch, and its queue takes batches of 5' },
    { 'one without send', "kumo.on('get_queue_config', function()\n  return kumo.make_queue_config { protocol = { custom_lua = { constructor = 'make.x' } } }\nend)\nkumo.on('make.x', function()\n  local c = {}\n  function c.send_batch() return 'ok' end\n  return c\nend)", 9, 'takes one message at a time' },
    { 'a send that says nothing', "require('policy-extras.log_hooks'):new {\n  name = 'x',\n  constructor = function()\n    local c = {}\n    function c:send(msg)\n      print(msg:id())\n    end\n    return c\n  end,\n}", 10, 'send returns nothing' },
    { 'a code that refuses nothing', "kumo.on('smtp_server_data', function()\n  kumo.reject(200, 'fine')\nend)", 7, '400 to 599' },
    { 'os.exit in a handler', "kumo.on('smtp_server_data', function()\n  os.exit(1)\nend)", 7, 'ends the whole process' },
    { 'an error in pre_init', "kumo.on('pre_init', function()\n  local x\n  return x.y\nend)", 8, "attempt to index local 'x'" },
    { 'an error in a coroutine', "kumo.on('pre_init', function()\n  coroutine.wrap(function()\n    error 'inside'\n  end)()\nend)", 8, 'inside' },
    { 'what validate_config finds', "kumo.on('validate_config', function()\n  io.stderr:write('ERROR: policy.lua:2: not like that\\n')\nend)", 2, 'not like that' },
  } -- stylua: ignore
  for _, case in ipairs(CASES) do
    it('names ' .. case[1], function()
      local answer, status = answer_of(case)
      assert.are.equal(1, (says(answer, status, 'policy.lua:' .. case[3], case[4])))
    end)
  end

  -- Mistakes that may be meant: warnings.
  WARNINGS = {
    { 'an option that nobody reads', "kumo.on('get_queue_config', function()\n  return kumo.make_queue_config { strategy = 'SkipList' }\nend)", 7, 'never read' },
    { 'a global that a handler writes', "kumo.on('smtp_server_data', function()\n  seen = true\nend)", 7, 'make it local' },
    { 'return nil in a chain', "kumo.on('get_queue_config', function()\n  return nil\nend)", 7, 'write `return`' },
    { 'an event that nothing names', "kumo.on('make.nothing', function() end)", 6, "nothing fires the event 'make.nothing'" },
    { 'an event that is never fired', "kumo.on('smtp_server_auth_plain', function() end)", 6, 'never fires' },
    { 'a hook that discards all', "kumo.on('pre_init', function()\n  kumo.configure_log_hook { name = 'h' }\nend)", 7, 'discards every record' },
    { 'a program run in a handler', "kumo.on('smtp_server_data', function()\n  os.execute 'true'\nend)", 7, 'stops the whole worker' },
  } -- stylua: ignore
  for _, case in ipairs(WARNINGS) do
    it('warns of ' .. case[1], function()
      local answer, status = answer_of(case)
      local _, one = says(answer, status, 'policy.lua:' .. case[3], case[4])
      assert.are.equal('warning', one.level)
      assert.are.equal(0, status)
    end)
  end

  it('tells once what an error at the top level and the text both say', function()
    local list, status = findings "local kumo = require 'kumo'\nkumo.log_inf 'x'"
    assert.are.same({ 'policy.lua:2 error function' }, list)
    assert.are.equal(78, status)
    list = findings "require 'lib.none'"
    assert.are.same({ 'policy.lua:1 error require' }, list)
  end)

  it('fails for warnings with --strict', function()
    local list, status = findings(HEAD .. "kumo.on('make.nothing', function() end)", '--strict')
    assert.are.same({ 'policy.lua:6 warning event' }, list)
    assert.are.equal(1, status)
  end)

  it('fails when validation_failed was called and nothing else was said', function()
    local list, status = findings(HEAD .. "kumo.on('validate_config', function() if _VALIDATING_CONFIG then kumo.validation_failed() end end)")
    assert.are.same({ 'policy.lua:0 error validate' }, list)
    assert.are.equal(1, status)
  end)

  it('says nothing about what is right', function()
    local list = findings(HEAD .. [[
      local log_hooks = require 'policy-extras.log_hooks'
      local PREFIX = 'make.'
      local client = kumo.http.build_client { timeout = 5 }
      local options = { retry_interval = '1m' }
      options.max_age = '1 day'
      state = { count = 0 }
      log_hooks:new {
        name = 'own',
        filter = function(msg) return msg:get_meta('log_record') == nil end,
        constructor = function()
          local other = {}
          function other.send() kumo.reject(450, 'later') end
          return { send = function(_, msg) return client:post('http://x/'):body(msg:get_data()):send():text() end }
        end,
      }
      kumo.on('get_queue_config', function(domain, tenant)
        if domain == 'other.example' then
          return kumo.make_queue_config { protocol = { custom_lua = { constructor = PREFIX .. 'other' } } }
        end
        if tenant and (not_there or type(neither) == 'table') then
          return
        end
        return kumo.make_queue_config(options)
      end)
      kumo.on('make.other', function() return {} end)
      kumo.on('my.secret', function() return 'x' end)
      kumo.on('http_message_generated', function(msg)
        state.count = state.count + 1
        local key = kumo.secrets.load { event_name = 'my.secret' }
        msg:set_meta('tenant', ('%s %d'):format(msg:recipient().domain, #key))
      end)
    ]])
    assert.are.same({}, list)
  end)

  it('says nothing about the examples', function()
    local share = require('tr.host').c.share_dir
    local out = helper.sh(('cd %s && for f in $(ls examples/*.lua examples/*/policy.lua); do %s check --strict $f; done'):format(
      helper.quote(share), helper.quote(helper.TAILRACE))) -- stylua: ignore
    local count = 0
    for line in out:gmatch '[^\n]+' do
      count = count + 1
      assert.is_truthy(line:find '^examples/.*, nothing to report$', out)
    end
    assert.is_true(count > 5)
  end)

  it('looks into each file that the policy reaches, and tells all at once', function()
    local list, status, answer = findings {
      ['policy.lua'] = "local kumo = require 'kumo'\nlocal a = require 'lib.a'\nlocal name = 'lib.' .. 'c'\nrequire(name)\ndofile 'lib/d.lua'\na.x()\n"
        .. 'local broken = function() return require "lib.b" end\nbroken = kumo and broken\n' .. HEAD,
      ['lib/a.lua'] = 'return {\n  x = function() return nowhere.y end,\n}\n',
      ['lib/b.lua'] = 'local x = 1\nx x\n',
      ['lib/c.lua'] = 'local function f() return string.nope end\nreturn f\n',
      ['lib/d.lua'] = 'local function f() return math.nope end\nreturn f\n',
    }
    assert.are.same({
      './lib/a.lua:2 error global', -- a.x() was called and raised, which is not told twice
      './lib/b.lua:2 error syntax',
      './lib/c.lua:1 error function',
      'lib/d.lua:1 error function',
    }, list)
    assert.are.equal(78, status) -- the top level did not end
    assert.are.equal(5, #answer.files)
  end)

  it('finds what is wrong in files of shaping, queues and sources, with their lines', function()
    local files = {
      ['policy.lua'] = HEAD .. "kumo.on('get_egress_path_config', require('policy-extras.shaping'):setup_with_automation {\n"
        .. "  extra_files = { 'shaping.toml' }, no_default_files = true, validation_options = { skip_dns = true },\n}.get_egress_path_config)\n"
        .. "require('policy-extras.sources'):setup { 'sources.toml' }\nrequire('policy-extras.queue'):setup { 'queues.json' }\n",
      ['shaping.toml'] = '[default]\nmax_ready = 10\n["a.example"]\nmx_rollup = false\nmax_redy = 3\nconnection_limit = "x"\n',
      ['sources.toml'] = '[source."a"]\nsource_address = "10.0.0.1"\n[pool."p"."b"]\nweight = 1\n',
      ['queues.json'] = '{ "queue": { "default": {\n  "retry_intrval": "1m", "egress_pool": "p" } } }',
    }
    local list, status = findings(files)
    assert.are.same({
      'queues.json:2 error file',
      'shaping.toml:5 error policy',
      'shaping.toml:6 error policy',
      'sources.toml:3 warning log',
    }, list)
    assert.are.equal(1, status)
  end)

  it('says that a spool is missing as tailrace run does', function()
    local _, status, answer = findings ''
    assert.are.equal(1, status)
    says(answer, status, 'policy.lua:0', "the spool 'meta' is not defined: call kumo.define_spool")
    local text = helper.sh(('%s run --policy %s/policy.lua'):format(helper.quote(helper.TAILRACE), dir))
    assert.is_truthy(text:find("the spool 'meta' is not defined: call kumo.define_spool", 1, true), text)
  end)

  it('opens no port and writes nothing', function()
    local out, status, err = check([[
      local kumo = require 'kumo'
      kumo.on('init', function()
        kumo.define_spool { name = 'meta', path = 'spool/meta' }
        kumo.define_spool { name = 'data', path = 'spool/data' }
        kumo.configure_local_logs { log_dir = 'logs' }
        kumo.start_esmtp_listener { listen = '127.0.0.1:0' }
        kumo.start_http_listener { listen = '127.0.0.1:0' }
        kumo.start_repl_socket { path = os.getenv 'PWD' .. '/repl.sock' }
        kumo.spawn_task { event_name = 'my.task', args = {} }
        local pipe = io.popen 'ls -l /proc/$PPID/fd'
        local open, own = pipe:read '*a', {}
        pipe:close()
        for inode in open:gmatch 'socket:%[(%d+)%]' do
          own[inode] = true -- pairs of sockets between threads
        end
        local looked = 0
        for line in io.lines '/proc/net/tcp' do
          local inode = line:match '^%s*%d+: %S+ %S+ 0A %S+ %S+ %S+%s+%S+%s+%S+ (%d+)' -- listens
          looked = looked + (inode and 1 or 0)
          if own[inode or ''] then
            error('it listens: ' .. line)
          end
        end
        print(next(own) and 'looked at ' .. looked)
      end)
      kumo.on('my.task', function()
        io.open('written', 'w'):close()
      end)
    ]])
    assert.are.equal(0, status, out .. err)
    assert.is_truthy(err:find 'looked at %d+', err)
    assert.are.equal('./err\n./policy.lua\n', (helper.sh(('cd %s && find . -type f | sort'):format(dir))))
    assert.are.equal('.\n./lib\n', (helper.sh(('cd %s && find . -type d | sort'):format(dir))))
  end)

  it('groups by file in the order of the lines, in colours only on a terminal', function()
    local out = check(HEAD .. "kumo.on('make.a', function() end)\nkumo.on('init_', function() end)\n")
    assert.are.equal([[
policy.lua
  6  warning: nothing fires the event 'make.a': it is none of Tailrace's, and no other text of the policy names it
     -> `tailrace help events` lists the events
  7  error: there is no event 'init_'
     -> did you mean 'init'?

1 error, 1 warning (1 file, 3 events handled)
]], out)
  end)

  it('describes itself, and refuses a command line that makes no sense', function()
    local text, status = helper.sh(helper.quote(helper.TAILRACE) .. ' check --help')
    assert.are.equal(0, status)
    assert.is_truthy(text:find('--strict', 1, true))
    for args, why in pairs { [''] = '--policy FILE is required', ['a b'] = 'one policy', ['a --jsn'] = '--json' } do
      text, status = helper.sh(helper.quote(helper.TAILRACE) .. ' check ' .. args)
      assert.are.equal(64, status)
      assert.is_truthy(text:find(why, 1, true), text)
    end
  end)
end)

describe('tailrace check survives', function()
  local BAD, stuck
  setup(function()
    local path = helper.write(helper.dir() .. '/policy.lua',
      HEAD .. "kumo.on('pre_init', function() ('a'):rep(40):find(('a*'):rep(40) .. 'b') end)") -- stylua: ignore
    stuck = helper.start(('%s check %s --timeout 0.5'):format(helper.quote(helper.TAILRACE), path)) -- takes seconds
    check_all(BAD, '')
  end)
  teardown(helper.cleanup)

  BAD = {
    { 'an endless loop', 'local x = 1\nwhile true do x = x + 1 end', 2, 'ran longer than', limit_s = 1 },
    { 'one that catches errors', 'while true do pcall(function() while true do end end) end', 1, 'the top level did not end, and caught the error', limit_s = 1 },
    { 'unbounded recursion', 'local function f(x)\n  return 1 + f(x)\nend\nf(1)', 2, 'stack overflow' },
    { 'os.exit', '\nos.exit(0)', 2, 'would end the process' },
    { 'an error that is a table', '\nerror { message = "no" }', 2, '{"message":"no"}' },
    { 'an error that shows itself', '\nerror(setmetatable({}, { __tostring = function() return "mine" end }))', 2, 'mine' },
    { 'one that cannot', '\nerror(setmetatable({}, { __tostring = error }))', 2, 'error object' },
    { 'an error without value', '\nerror()', 2, 'nil' },
    { 'a rejection', "\nrequire('kumo').reject(550, 'no')", 2, '550 no' },
    { 'a wait without end', "local kumo = require 'kumo'\nkumo.sleep(1000)", 2, 'it waits for sleep 1000 s', limit_s = 1 },
    { 'bytes that are no Lua', '\1\2\255\254 garbage \27[31m', 1, "unexpected symbol near 'char(1)'" },
    { 'compiled Lua', '\27LJ\2\255\255\255', 0, 'is compiled Lua' },
    { 'a slip of syntax', 'local x = 1\nx = = 2', 2, "unexpected symbol near '='" },
  }
  for _, case in ipairs(BAD) do
    it(case[1], function()
      local answer, status = answer_of(case)
      for _ = 1, 5 do
        if not (case.limit_s and helper.read(case.dir .. '/out'):find('the top level did not end within', 1, true)) then
          break
        end
        check_all({ case }, '') -- the machine made a pause, in which the time that cannot be got around was over
        answer, status = answer_of(case)
      end
      assert.are.equal(78, (says(answer, status, 'policy.lua:' .. case[3], case[4])))
    end)
  end

  it('policies that take the standard library apart', function()
    local list, status = findings(HEAD .. [[
      kumo.on('make.nothing', function() end)
      for name in pairs(string) do string[name] = nil end
      for name in pairs(table) do table[name] = nil end
      debug.setmetatable('', { __index = {} })
      setmetatable(_G, { __index = function() error 'strict' end })
      for name in next, _G do
        if name ~= 'next' and name ~= '_G' then
          rawset(_G, name, nil)
        end
      end
    ]])
    assert.is_truthy(table.concat(list, '\n'):find('policy.lua:6 warning event', 1, true))
    assert.are_not.equal(0, status) -- its events cannot be fired any more
  end)

  it('Ctrl-C: it says where it was', function()
    helper.write(dir .. '/policy.lua', ("io.open('%s/there', 'w'):close()\nwhile true do end"):format(dir))
    local process = helper.start(('%s check %s/policy.lua'):format(helper.quote(helper.TAILRACE), dir))
    helper.wait_for('the loop', function()
      return helper.read(dir .. '/there')
    end)
    assert.are.equal(130, process:stop 'INT')
    assert.is_truthy(process:log():find('tailrace check: interrupted while it was at load', 1, true), process:log())
  end)

  it('texts of gigabytes', function()
    local _, status, answer = findings [[local kumo, kept = require 'kumo', {}
      for i = 1, 1000 do kept[i] = i .. ('x'):rep(2 ^ 22) kumo.sleep(0) end]] -- each in a moment, how slow the machine may be
    assert.are.equal(78, (says(answer, status, 'policy.lua:2', 'more than 512 MiB of memory are needed')))
  end)

  it('a writer of JSON lines: it makes no directory', function()
    local list, status = findings(HEAD .. "writer = kumo.jsonl.new_writer { log_dir = 'made' }")
    assert.are.same({}, list)
    assert.are.equal(0, status)
    assert.are.equal('', (helper.sh('ls -d ' .. dir .. '/made 2>/dev/null')))
  end)

  it('a module that waits', function()
    local list, status = findings {
      ['policy.lua'] = "local a = require 'lib.a'\na.use = true\n" .. HEAD,
      ['lib/a.lua'] = "require('kumo').sleep(0.01)\nreturn {}\n",
    }
    assert.are.same({}, list)
    assert.are.equal(0, status)
  end)

  it('a directory, and no file at all', function()
    local out, status = helper.sh(helper.quote(helper.TAILRACE) .. ' check /')
    assert.are.equal(78, status)
    assert.is_truthy(out:find('is a directory', 1, true), out)
    out, status = helper.sh(helper.quote(helper.TAILRACE) .. ' check /nowhere/policy.lua')
    assert.are.equal(78, status)
    assert.is_truthy(out:find('cannot be read: No such file or directory', 1, true), out)
  end)

  it('what cannot be interrupted, and says where', function()
    assert.are.equal(78, stuck:wait())
    assert.is_truthy(stuck:log():find('does not come back from pre_init', 1, true), stuck:log())
  end)

  it('control characters: they do not reach the terminal', function()
    local out, _, err = check(HEAD .. "print '\27[31mred'\nio.write '\27[2J\\n'\nkumo.on('pre_init', function() error('\27]0;title\7') end)")
    assert.is_nil((out .. err):find '[%z\1-\8\11-\31\127]', out .. err)
    assert.is_truthy(err:find('\\x1b[31mred', 1, true))
  end)
end)
