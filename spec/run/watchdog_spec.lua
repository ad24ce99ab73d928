-- Handlers that do not end: each kind in a loop, waiting for ever, in a function of C; and a stop while they are at it. The log
-- says where each one is, for whom, with whose messages.
local helper = require 'helper'
local kumo = require 'kumo'

local POLICY = [==[
local kumo = require 'kumo'
local DIR, HOW, HANG = os.getenv 'DIR', os.getenv 'HOW', os.getenv 'HANG'
local ways = {}
function ways.loop()
  while true do end
end
function ways.deaf() -- catches the error that should end it
  while true do
    pcall(ways.loop)
  end
end
function ways.c() -- a pattern that takes years: the runtime cannot look into a function of C
  return ('a'):rep(4000):find(('.-'):rep(12) .. 'b')
end
function ways.sleep()
  kumo.sleep(600)
end
function ways.http()
  return kumo.http.build_client({ timeout = '600s' }):get(HANG):send()
end
local function stay(kind)
  kumo.log_info('begins: ' .. kind)
  return ways[HOW]()
end
local function maybe(kind, name)
  if name and name:find('^' .. kind .. '%f[^%w]') then
    stay(kind)
  end
end
kumo.on('pre_init', function()
  kumo.configure_log_hook { name = 'hook', per_record = { Any = { enable = false }, Reception = { enable = true } } }
end)
kumo.on('init', function()
  kumo.define_spool { name = 'data', path = DIR .. '/data' }
  kumo.define_spool { name = 'meta', path = DIR .. '/meta' }
  kumo.start_esmtp_listener { listen = '127.0.0.1:0', relay_hosts = { '127.0.0.0/8' }, data_processing_timeout = os.getenv 'LIMIT' }
  kumo.start_http_listener { listen = '127.0.0.1:0' }
end)
kumo.on('smtp_server_get_dynamic_parameters', function()
  if kumo.fs.open then -- after the others: for connections that come while the file is there
    local file = io.open(DIR .. '/stay_at_connect')
    if file then
      file:close()
      os.remove(DIR .. '/stay_at_connect')
      stay 'parameters'
    end
  end
end)
kumo.on('smtp_server_ehlo', function(domain) maybe('ehlo', domain) end)
kumo.on('smtp_server_mail_from', function(address) maybe('mailfrom', address.user) end)
kumo.on('smtp_server_rcpt_to', function(address) maybe('rcptto', address.user) end)
kumo.on('get_listener_domain', function(domain) maybe('domain', domain) end)
kumo.on('smtp_server_data', function(msg) maybe('data', msg:recipient().user) end)
kumo.on('smtp_server_split_transaction', function(msg) maybe('split', msg:recipient().user) end)
kumo.on('smtp_server_message_received', function(msg) maybe('received', msg:recipient().user) end)
kumo.on('smtp_server_rewrite_response', function(_, _, command) maybe('VRFY rewrite', command) end)
kumo.on('http_server_validate_auth_basic', function(user) maybe('auth', user) return true end)
kumo.on('http_message_generated', function(msg) maybe('generated', msg:recipient().user) end)
kumo.on('should_enqueue_log_record', function(msg)
  if msg:get_meta('log_record').recipient:find '^record@' then
    stay 'record'
  end
  return false
end)
kumo.on('get_queue_config', function(domain)
  maybe('queue', domain)
  local name = domain:match '^batch%.' and 'make.batch' or 'make.hop'
  return kumo.make_queue_config { protocol = { custom_lua = { constructor = name, batch_size = name == 'make.batch' and 10 or 1 } } }
end)
kumo.on('get_egress_path_config', function(domain)
  maybe('path', domain)
  return kumo.make_egress_path { connection_limit = 4, idle_timeout = '10ms' }
end)
kumo.on('make.hop', function(domain)
  maybe('constructor', domain)
  local hop = {}
  function hop:send(msg)
    maybe('send', domain)
    if domain:find '^requeue' then
      kumo.reject(400, 'later')
    end
    return 'taken'
  end
  function hop:close()
    maybe('close', domain)
  end
  return hop
end)
kumo.on('make.batch', function(domain)
  return {
    send_batch = function()
      stay 'batch'
    end,
    close = function() end,
  }
end)
kumo.on('requeue_message', function(msg) maybe('requeue', msg:recipient().domain) end)
kumo.on('task', function() stay 'task' end)
kumo.on('rebind_message', function() stay 'rebind' end)
kumo.on('smtp_server_connection_accepted', function()
  local file = io.open(DIR .. '/start_task')
  if file then
    file:close()
    os.remove(DIR .. '/start_task')
    kumo.spawn_task { event_name = 'task', args = {} }
  end
end)
]==]

-- what the policy calls it -> the event of the log, and what a client does
local KINDS = {
  ehlo = { 'smtp_server_ehlo', say = 'EHLO ehlo.test\r\n' },
  mailfrom = { 'smtp_server_mail_from', say = 'EHLO x\r\nMAIL FROM:<mailfrom@x.test>\r\n' },
  rcptto = { 'smtp_server_rcpt_to', say = 'EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<rcptto@x.test>\r\n' },
  domain = { 'get_listener_domain', say = 'EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<a@domain.test>\r\n' },
  ['VRFY rewrite'] = { 'smtp_server_rewrite_response', say = 'VRFY rewrite\r\n' },
  data = { 'smtp_server_data', mail = 'data@x.test', ids = true },
  split = { 'smtp_server_split_transaction', mail = 'split@x.test', ids = true },
  received = { 'smtp_server_message_received', mail = 'received@x.test', ids = true },
  record = { 'should_enqueue_log_record', mail = 'record@x.test', ids = true },
  queue = { 'get_queue_config', mail = 'a@queue.test', also = 'queue queue.test' },
  path = { 'get_egress_path_config', mail = 'a@path.test', also = '>path.test@' },
  constructor = { 'make.hop', mail = 'a@constructor.test', ids = true, also = '>constructor.test@' },
  send = { 'make.hop', mail = 'a@send.test', ids = true, also = '>send.test@' },
  batch = { 'make.batch', mail = 'a@batch.test', ids = true },
  close = { 'make.hop', mail = 'a@close.test', also = '>close.test@' },
  requeue = { 'requeue_message', mail = 'a@requeue.test', ids = true },
  auth = { 'http_request', curl = '-u auth:x URL/metrics' },
  generated = {
    'http_request',
    curl = [[-H 'Content-Type: application/json' URL/api/inject/v1 -d '{"envelope_sender":"a@b.test",]]
      .. [["recipients":[{"email":"generated@x.test"}],"content":"x"}']],
  },
  parameters = { 'smtp_server_get_dynamic_parameters', file = 'stay_at_connect' },
  task = { 'task', file = 'start_task' },
}

local function start(how, options, env)
  env = env or {}
  env.DIR, env.HOW = helper.dir(), how
  env.LIMIT = env.LIMIT or '600s'
  local run = helper.run(helper.write(env.DIR .. '/policy.lua', POLICY), options, env)
  run.dir = env.DIR
  return run
end

--- A client that leads the runtime to the handler of this kind, and then waits.
local function client(run, kind)
  local case = KINDS[kind]
  local host, port = run.smtp:match '^(.*):(%d+)$'
  if case.curl then
    return helper.start('curl -s -m 60 ' .. case.curl:gsub('URL', 'http://' .. run.http))
  end
  local text = case.say or 'QUIT\r\n'
  if case.file then
    helper.write(run.dir .. '/' .. case.file, '')
  elseif case.mail then
    text = ('EHLO x\r\nMAIL FROM:<s@y.test>\r\nRCPT TO:<%s>\r\nDATA\r\nx\r\n.\r\n'):format(case.mail)
  end
  local input = helper.write(('%s/say.%s'):format(run.dir, kind:gsub('%W', '')), text)
  return helper.start(("bash -c 'exec 3<>/dev/tcp/%s/%s; cat %s >&3; timeout 60 cat <&3'"):format(host, port, input))
end

local function begin(run, kinds)
  for kind in pairs(kinds) do
    client(run, kind)
    run:line('(begins: ' .. kind .. ')')
  end
end

--- The line of the log about one handler.
local function about(log, case, where)
  for line in log:gmatch '[^\n]+' do
    if line:find('event=' .. case[1], 1, true) and line:find(where) and line:find(case.also or '', 1, true) then
      return line
    end
  end
  error(('nothing about %s, %s:\n%s'):format(case[1], where, log), 2)
end

describe('a handler that', function()
  after_each(helper.cleanup)

  --- Says where each kind is, and for whom.
  local function check(log, kinds, where)
    for kind, case in pairs(kinds) do
      local part = about(log, case, where)
      if case.ids then
        assert.matches(('%x'):rep(32), part, kind)
      end
    end
  end

  --- Waits until the log says so of each.
  local function wait_named(run, kinds, where)
    pcall(helper.wait_for, 'all', function()
      return pcall(check, run:log(), kinds, where)
    end)
    check(run:log(), kinds, where) -- names who is missing
  end

  it('loops is ended and named, each kind', function()
    local run = start('loop', '--workers 2 --handler-limit 0.2')
    begin(run, KINDS)
    wait_named(run, KINDS, "interrupted after.*policy.lua:5: in function 'stay'")
    assert.are.equal(0, run:stop(), run:log())
  end)

  it('loops and catches what should end it is ended all the same', function()
    local run = start('deaf', '--workers 1 --handler-limit 0.2')
    local kinds = { received = KINDS.received, send = KINDS.send, record = KINDS.record, auth = KINDS.auth }
    begin(run, kinds)
    helper.wait_for('the last one', function()
      return select(2, run:log():gsub('ran too long and caught the error in event', '')) == 4
    end)
    check(run:log(), kinds, 'policy.lua:9: in function')
    assert.are.equal(0, run:stop(), run:log())
  end)

  it('waits is in the report that SIGUSR1 asks for, and that a stop gives, each kind', function()
    local endpoint = helper.sink '--http 127.0.0.1:0 --hang'
    for _, way in ipairs { 'sleep', 'http' } do
      local kinds = way == 'sleep' and KINDS or { received = KINDS.received, send = KINDS.send, batch = KINDS.batch }
      local run = start(way, '--workers 2 --stop-timeout 0.3', { HANG = ('http://%s/'):format(endpoint.http) })
      begin(run, kinds)
      local where = way == 'sleep' and 'for sleep .*policy.lua:16: in function' or 'for http GET .*policy.lua:%d+: in function'
      run:signal 'USR1'
      for i = 0, 1 do
        run:line(('(report: worker %d: )'):format(i))
      end
      wait_named(run, kinds, where)
      assert.matches('batch.test@lua:make.batch: DeliveringMessage, messages: ' .. ('%x'):rep(32), run:log())
      local said = #run:log()
      assert.are.equal(0, run:stop(), run:log()) -- long before the 600 s are over
      kinds.close = nil -- a session without messages is closed without a word
      check(run:log():sub(said), kinds, where)
    end
  end)

  it('takes long in the start does not make SIGUSR1 deadly', function()
    local dir = helper.dir()
    local path = helper.write(dir .. '/policy.lua', [[
      local kumo = require 'kumo'
      kumo.on('init', function()
        kumo.log_info 'init waits'
        while not io.open(os.getenv 'DIR' .. '/asked') do
          kumo.sleep(0.01)
        end
        for _, name in ipairs { 'meta', 'data' } do
          kumo.define_spool { name = name, path = os.getenv 'DIR' .. '/' .. name }
        end
      end)
    ]])
    local run = helper.start(helper.quote(helper.TAILRACE) .. ' run --policy ' .. helper.quote(path), { DIR = dir })
    run:line '(init waits)'
    run:signal 'USR1'
    run:line '(still starting)'
    helper.write(dir .. '/asked', '')
    run:line '(initialization complete)'
    assert.are.equal(0, run:stop(), run:log())
  end)

  it('is one of many is counted where it is not named', function()
    local run = start('sleep', '--workers 1 --stop-timeout 0.2')
    helper.start(('%s inject --smtp %s --count 30 --connections 30 --to received@x.test --quiet'):format(
      helper.quote(helper.TAILRACE), run.smtp))
    helper.wait_for('a report about all', function()
      run:signal 'USR1'
      kumo.sleep(0.1)
      return run:log():find('worker 0: and 10 more', 1, true)
    end)
    assert.are.equal(0, run:stop(), run:log())
  end)

  it('takes longer than an event of SMTP may is cancelled where it waits, and named', function()
    local run = start('sleep', '--workers 1', { LIMIT = '500ms' })
    local kinds = { ehlo = KINDS.ehlo, received = KINDS.received }
    begin(run, kinds)
    run:line '(did not end within 0.5 s)'
    run:line '(data_processing_timeout: a handler is cancelled)'
    check(run:log(), kinds, 'client 127.0.0.1:%d+ at 127.0.0.1:%d+.*policy.lua:16: in function')
    assert.are.equal(0, run:stop(), run:log())
  end)

  it('is in a function of C for ever does not outlive the stop, on no worker', function()
    for _, workers in ipairs { 1, 2 } do
      local run = start('c', ('--workers %d --handler-limit 0.2 --stop-timeout 0.1'):format(workers))
      client(run, 'auth') -- worker 0
      run:line '(begins: auth)'
      run:line '(ran Lua for over 0.2 s without waiting: event http_request GET /metrics)'
      if workers == 2 then
        client(run, 'received')
        client(run, 'received')
      end
      assert.are.equal(70, run:stop(), run:log())
      assert.matches('worker 0 cannot be interrupted, .-the process ends at once: event http_request', run:log())
    end
  end)
end)
