-- Policies that take memory without end: `tailrace run --lua-memory`, and a process that gets no more. The handler is
-- interrupted and told of, the mail refused or the record parked, others go on, and the memory is given back.
local helper = require 'helper'

local LUA_MIB = 16
local POLICY = [==[
local kumo = require 'kumo'
local DIR = os.getenv 'DIR'
local ways = {}
function ways.table()
  local t = {}
  for i = 1, 1e9 do t[i] = { i } end
end
function ways.text()
  local s = 'x'
  while true do s = s .. s end
end
function ways.coroutine()
  local co = coroutine.wrap(function()
    local t = {}
    while true do
      t[#t + 1] = { coroutine.yield() }
    end
  end)
  while true do co(1, 2, 3) end
end
function ways.caught() -- catches the error that should end it
  local t = {}
  local function grow()
    while true do t[#t + 1] = { t } end
  end
  while true do pcall(grow) end
end
function ways.c() -- in one call of C
  return kumo.serde.json_parse('[' .. ('[[[[1]]]],'):rep(3e5) .. '[]]')
end
everything = {}
function ways.global()
  while true do everything[#everything + 1] = { 1 } end
end
function ways.forget()
  everything = {}
end
function ways.ok() end
kumo.on('pre_init', function()
  kumo.configure_log_hook { name = 'hook', per_record = { Any = { enable = false }, Reception = { enable = true } } }
end)
kumo.on('init', function()
  kumo.define_spool { name = 'data', path = DIR .. '/data' }
  kumo.define_spool { name = 'meta', path = DIR .. '/meta' }
  kumo.start_esmtp_listener { listen = '127.0.0.1:0', relay_hosts = { '127.0.0.0/8' } }
  kumo.start_http_listener { listen = '127.0.0.1:0' }
end)
kumo.on('smtp_server_message_received', function(msg)
  ways[msg:recipient().user]()
  msg:set_meta('queue', 'null')
end)
kumo.on('should_enqueue_log_record', function(msg)
  if msg:get_meta('log_record').recipient:find '@record' then
    ways.table()
  end
  return false
end)
]==]

describe('a policy that takes memory without end', function()
  local run

  local function start(args)
    local dir = helper.dir()
    run = helper.run(helper.write(dir .. '/policy.lua', POLICY), '--workers 1 ' .. args, { DIR = dir })
  end

  --- How many of `count` messages are accepted.
  local function send(user, count, domain)
    return helper.inject(('--smtp %s --to %s@%s --count %d --connections 1 --keep-going'):format(
      run.smtp, user, domain or 'test', count or 1)).accepted -- stylua: ignore
  end

  local function metrics()
    return (helper.sh(('curl -sS -m 20 http://%s/metrics'):format(run.http)))
  end
  local function metric(name)
    return tonumber(metrics():match('\n' .. name .. '{worker="0"} (%d+)'))
  end

  after_each(helper.cleanup)

  it('is interrupted, and the others go on', function()
    start('--lua-memory ' .. LUA_MIB)
    local ways = { 'table', 'text', 'coroutine', 'caught', 'c' }
    for _, way in ipairs(ways) do
      assert.are.equal(0, send(way), way)
      assert.are.equal(5, send('ok', 5), 'after ' .. way)
    end
    assert.is_true(metric 'tailrace_lua_memory_bytes' < LUA_MIB * 2 ^ 20) -- it is given back
    local log = run:log()
    local told, caught = 0, 0
    for line in log:gmatch '[^\n]+' do
      told = told + (line:find 'policy.lua:%d+: more than 16 MiB of memory are needed: .* `tailrace run %-%-lua%-memory`' and 1 or 0)
      caught = caught + (line:find "caught the error in event 'smtp_server_message_received'" and 1 or 0)
    end
    assert.are.equal(#ways - 2, told, log)
    assert.are.equal(1, caught, log)
    assert.is_nil(log:find 'no memory for Lua', log) -- there was
    assert.is_truthy(log:find('in C asked for more than 64 MiB, and was refused: .* `tailrace run %-%-lua%-memory`'), log)
    assert.is_true(metric 'tailrace_lua_memory_interrupts_total' >= 7)

    -- what a global keeps stays, and so much less is there for all
    assert.are.equal(0, send 'global')
    assert.are.equal(5, send('ok', 5))
    assert.is_true(metric 'tailrace_lua_memory_bytes' > LUA_MIB * 2 ^ 20)
    assert.are.equal(1, send 'forget')
    assert.are.equal(0, send 'table')
    assert.is_true(metric 'tailrace_lua_memory_bytes' < LUA_MIB * 2 ^ 20)

    assert.are.equal(1, send('ok', 1, 'record')) -- its record is parked
    run:line "(in event 'should_enqueue_log_record')"
    assert.is_truthy(metrics():find 'tailrace_policy_errors_total{hook="hook"} 1\n')
    assert.are.equal(0, run:stop())
    assert.is_truthy(run:output():find '\nhook\n.-waiting +1\n', run:output())
  end)

  -- AddressSanitizer reserves terabytes of addresses, and ends the process that it cannot give memory
  local no_more = helper.sanitized and pending or it
  no_more('is interrupted, too, if the process gets no more memory', function()
    start '--lua-memory 0'
    send('ok', 5)
    local kb = tonumber(helper.read(('/proc/%d/status'):format(run.pid)):match 'VmSize:%s*(%d+)')
    local _, status = helper.sh(('prlimit --pid %d --as=%d'):format(run.pid, (kb + 32 * 1024) * 1024))
    assert.are.equal(0, status)
    for _, way in ipairs { 'table', 'text', 'coroutine', 'caught', 'c' } do
      assert.are.equal(0, send(way), way)
    end
    assert.are.equal(5, send('ok', 5))
    assert.is_truthy(run:log():find 'not enough memory')
    assert.are.equal(0, run:stop())
  end)
end)
