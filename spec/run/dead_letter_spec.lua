-- Dead letters on the real engine under the virtual clock: what becomes one, looking, replaying, purging, bounds, restart.
local helper = require 'helper'
local kumo = require 'kumo'
local testing = require 'tr.testing'

--- Reception records of hook `h` go to the global `answer(msg)`.
local POLICY = [[
local kumo = require 'kumo'
local log_hooks = require 'policy-extras.log_hooks'
got = {}
log_hooks:new {
  name = 'h',
  log_parameters = PARAMETERS,
  queue_config = { max_age = '1 hour', retry_interval = '10m' },
  constructor = function()
    return { send = function(_, msg)
      table.insert(got, msg:get_meta('log_record') == nil and kumo.serde.json_parse(msg:get_data()).event_id or '?')
      return answer(msg)
    end }
  end,
  filter = function(msg)
    if kumo.serde.json_parse(msg:get_data()).type ~= 'Reception' then return true end
    if raises then error 'the filter is broken' end
    return drops
  end,
}
kumo.on('init', function()
  kumo.define_spool { name = 'data', path = DIR .. '/data' }
  kumo.define_spool { name = 'meta', path = DIR .. '/meta' }
end)
kumo.on('get_queue_config', function()
  return kumo.make_queue_config { protocol = { custom_lua = { constructor = 'make.mail' } } }
end)
kumo.on('make.mail', function() return { send = function() return 'ok' end } end)
results = {}
kumo.on('job', function(args)
  local i, verb, filter = unpack(args)
  results[i] = kumo.api.admin.dead_letters[verb](filter)
end)
kumo.on('ask', function(args)
  local text = args[1]
  local letters = kumo.api.admin.dead_letters
  local env = { list = function(filter) return letters.list(filter or {}) end, replay = letters.replay, purge = letters.purge }
  local ok, result = pcall(setfenv(assert(loadstring('return ' .. text)), env))
  answered = { ok and result or tostring(result) }
end)
]]

local dir, rt, log_parameters

local function start(answer)
  dir = dir or helper.dir()
  helper.write(dir .. '/policy.lua', ("DIR = %q\nPARAMETERS = %s\nlocal kumo = require 'kumo'\n%s\n%s"):format(dir, log_parameters or '{}', answer,
    POLICY))
  rt = testing.start { policy = dir .. '/policy.lua' }
end

local function stop()
  local balances, text = rt:stop(1)
  rt = nil
  assert.is_true(balances, text)
end

local function receive(count)
  for _ = 1, count do
    assert(rt:receive { to = 'a@example.org' })
  end
  rt:advance(1)
end

local function column(account, name)
  return rt:ledger()[account][name]
end

--- Evaluates an expression with list, replay and purge in a task of the runtime.
local function ask(text)
  rt:eval(("answered = nil require('kumo').spawn_task { event_name = 'ask', args = { %q } }"):format(text))
  rt:advance(0.1)
  return rt:eval 'return answered'[1]
end

local function clean_up()
  if rt then
    stop()
  end
  dir, log_parameters = nil, nil
  helper.cleanup()
end

describe('a dead letter', function()
  after_each(clean_up)

  it('is a record that was refused for good', function()
    start "function answer() kumo.reject(550, '5.6.0 not this one') end"
    receive(2)
    local letters = ask 'list()'
    assert.are.equal(2, #letters)
    local letter = letters[1].letter
    assert.are.equal('h', letter.hook)
    assert.are.equal('h.log_hook', letter.queue)
    assert.are.equal('rejected', letter.reason)
    assert.matches('550 .*not this one', letter.answer)
    assert.are.equal(1, letter.attempts)
    assert.is_nil(letters[1].payload)
    local full = ask "list { payload = true, limit = 1 }"
    assert.are.equal(1, #full)
    assert.matches('"type":"Reception"', full[1].payload)
    assert.are.equal(2, column('h', 'dead'))
    assert.are.equal(2, column('dead:h', 'waiting'))
  end)

  it('is a record that expired', function()
    start "function answer() kumo.reject(450, 'later') end"
    receive(1)
    rt:advance(2 * 3600)
    local letters = ask 'list { reason = "expired" }'
    assert.are.equal(1, #letters)
    assert.is_true(letters[1].letter.attempts > 2)
    assert.are.equal(0, #ask 'list { reason = "rejected" }')
    assert.are.equal(0, column('h', 'expired'))
  end)

  it('is replayed as if it were new, with its event_id', function()
    start "refuse = true function answer() if refuse then kumo.reject(550, 'no') end return 'ok' end"
    receive(3)
    rt:advance(7 * 86400) -- far beyond max_age
    local ids = rt:eval 'return got'
    rt:eval 'refuse, got = false, {}'
    local result = ask "replay { hook = 'h' }"
    assert.are.same({ matched = 3, unreadable = 0 }, result)
    rt:advance(1)
    assert.are.same(ids, rt:eval 'return got')
    assert.are.equal(0, #ask 'list()')
    assert.are.equal(3, column('h', 'delivered'))
    assert.are.equal(3, column('dead:h', 'moved_out'))
  end)

  it('can be chosen by id, by time and by number', function()
    start "refuse = true function answer() if refuse then kumo.reject(550, 'no') end return 'ok' end"
    receive(2)
    rt:advance(3600)
    local between = rt:eval "return require('kumo').time.now():format '%Y-%m-%dT%H:%M:%SZ'"
    rt:advance(3600)
    receive(2)
    rt:eval 'refuse = false'
    local letters = ask 'list()'
    assert.are.equal(4, #letters)
    assert.are.equal(2, #ask(('list { since = %q }'):format(between)))
    assert.are.equal(2, #ask(('list { ["until"] = %q }'):format(between)))
    assert.are.equal(3, #ask(("list { hook = 'h', after_seq = %d }"):format(letters[1].seq)))
    assert.are.same({ matched = 1, unreadable = 0 }, ask(('replay { ids = { %q } }'):format(letters[2].id)))
    assert.are.same({ matched = 1, unreadable = 0 }, ask 'purge { hook = "h", limit = 1 }')
    rt:advance(1)
    local left = ask 'list()'
    assert.are.same({ letters[3].id, letters[4].id }, { left[1].id, left[2].id })
    assert.are.same({ matched = 0, unreadable = 0 }, ask "replay { hook = 'other' }")
  end)

  it('survives a restart', function()
    start "function answer() kumo.reject(550, 'no') end"
    receive(3)
    stop()
    start "function answer() return 'ok' end"
    rt:advance(1)
    assert.are.equal(3, #ask 'list()')
    assert.are.equal(0, #rt:eval 'return got') -- no start sends it
    assert.are.same({ matched = 3, unreadable = 0 }, ask 'replay { all = true }')
    rt:advance(1)
    assert.are.equal(3, #rt:eval 'return got')
  end)

  it('is not kept by a hook that does not want it', function()
    log_parameters = '{ dead_letters = false }'
    start "function answer() kumo.reject(550, 'no') end"
    receive(2)
    assert.are.equal(2, column('h', 'bounced'))
    assert.are.equal(0, #ask 'list()')
  end)

  it('is crowded out by newer ones, which is counted', function()
    log_parameters = "{ dead_letters = { max_count = 3, max_age = '1 day' } }"
    start "function answer() kumo.reject(550, 'no') end"
    receive(5)
    local before = ask 'list()'
    rt:advance(15) -- housekeeping
    local after = ask 'list()'
    assert.are.equal(3, #after)
    assert.are.equal(before[3].id, after[1].id)
    assert.are.equal(2, rt:ledger()['dead:h'].dropped_by.dead_bound)
    rt:advance(86400 + 15)
    assert.are.equal(0, #ask 'list()')
    stop()
    start "function answer() kumo.reject(550, 'no') end"
    rt:advance(1)
    assert.are.equal(0, #ask 'list()')
  end)

  it('has bounds that are checked', function()
    for expected, parameters in pairs {
      ["dead_letters: unknown field 'max', expected one of .*max_age"] = '{ dead_letters = { max = 1 } }',
      ['dead_letters: true, false or a table of bounds expected, got string'] = "{ dead_letters = 'yes' }",
    } do
      log_parameters = parameters
      local ok, err = pcall(start, 'function answer() end')
      assert.is_false(ok)
      assert.matches(expected, tostring(err))
    end
  end)

  it('must be asked for clearly', function()
    start "function answer() kumo.reject(550, 'no') end"
    for expected, code in pairs {
      ['say which letters'] = 'purge {}',
      ['unknown field `hok`, expected one of .*`hook`'] = "replay { hok = 'h' }",
      ['`reason` must be'] = "list { reason = 'lost' }",
      ['`since` must be a moment'] = "list { since = 'yesterday' }",
      ['ids%[1%]: the id of a letter is 32'] = "replay { ids = { 'x' } }",
      ['`limit` must be a whole number'] = 'list { limit = 0 }',
    } do
      assert.matches(expected, ask(code))
    end
  end)
end)

describe('a record that is parked as policy failed', function()
  after_each(clean_up)

  local function parked()
    return rt:figures().parked
  end

  it('is seen, replayed and purged as a dead letter is', function()
    start "raises = true function answer(msg) if refuse then kumo.reject(550, 'no') end return 'ok' end"
    receive(3)
    assert.are.equal(3, parked())
    local list = ask "list { reason = 'policy_error', payload = true }"
    assert.are.equal(3, #list)
    assert.are.equal('h', list[1].letter.hook)
    assert.matches('the filter is broken', list[1].letter.answer)
    assert.matches('^20%d%d%-', list[1].letter.at)
    assert.matches('"type":"Reception"', list[1].payload)
    assert.are.same({}, ask "list { kind = 'letters' }")
    assert.are.same({ matched = 3, parked = 3, unreadable = 0 }, ask "replay { hook = 'h' }") -- policy still fails
    rt:advance(1)
    assert.are.equal(3, parked())
    rt:eval 'raises = nil'
    assert.are.same({ matched = 1, parked = 1, unreadable = 0 }, ask(('replay { ids = { %q } }'):format(list[2].id)))
    assert.are.equal(2, parked())
    rt:eval 'drops = true' -- the next answer is that nobody wants it
    assert.are.same({ matched = 1, parked = 1, unreadable = 0 }, ask 'replay { all = true, limit = 1 }')
    rt:advance(1)
    assert.are.same({ matched = 1, parked = 1, unreadable = 0 }, ask 'purge { reason = "policy_error" }')
    assert.are.equal(0, parked())
    local h = rt:ledger().h
    assert.are.equal(1, h.delivered)
    assert.are.equal(1, h.dropped_by.policy)
    assert.are.equal(1, h.dropped_by.removed)
    assert.are.equal(0, h.waiting)
  end)

  it('stands beside letters of its hook, and outlives the bounds of letters', function()
    log_parameters = '{ dead_letters = { max_count = 1 } }'
    start "function answer(msg) kumo.reject(550, 'no') end"
    receive(1)
    rt:eval 'raises = true'
    receive(4)
    rt:advance(60)
    assert.are.equal(5, #ask 'list()')
    assert.are.equal(1, #ask 'list { reason = "rejected" }')
    assert.are.equal(4, #ask 'list { kind = "parked" }')
  end)
end)

describe('jobs over dead letters', function()
  after_each(clean_up)

  it('that run at once go through the letters of a hook one after the other', function()
    start "refuse = true function answer() if refuse then kumo.reject(550, 'no') end return 'ok' end"
    receive(150)
    rt:eval 'refuse = false'
    rt:eval [[
      local spawn = require('kumo').spawn_task
      spawn { event_name = 'job', args = { 1, 'list', { limit = 1000 } } }
      spawn { event_name = 'job', args = { 2, 'replay', { hook = 'h', limit = 100 } } }
      spawn { event_name = 'job', args = { 3, 'list', { limit = 1000 } } }
      spawn { event_name = 'job', args = { 4, 'replay', { hook = 'h' } } }
      spawn { event_name = 'job', args = { 5, 'purge', { hook = 'h' } } }
    ]]
    rt:advance(5)
    assert.are.same({ 150, 100, 50, 50, 0 },
      rt:eval 'return { #results[1], results[2].matched, #results[3], results[4].matched, results[5].matched }')
    assert.are.equal(150, column('h', 'delivered'))
  end)
end)

describe('tailrace dead', function()
  after_each(clean_up)

  local function dead(args)
    return helper.sh(("'%s' dead %s"):format(helper.TAILRACE, args))
  end

  it('serves a running node and a stopped one', function()
    dir = helper.dir()
    local sink = helper.sink(('--http %s --smtp 127.0.0.1:0 --status-share 422=100'):format(helper.address()))
    helper.write(dir .. '/policy.lua', ([[
local kumo = require 'kumo'
require('policy-extras.log_hooks'):new_json { name = 'webhook', url = 'http://%s/log' }
require('policy-extras.log_hooks'):new {
  name = 'broken',
  constructor = function() end,
  log_parameters = { per_record = { Any = { enable = false }, Reception = { enable = true } } },
  filter = function() error 'it is broken' end,
}
kumo.on('init', function()
  kumo.define_spool { name = 'data', path = '%s/data' }
  kumo.define_spool { name = 'meta', path = '%s/meta' }
  kumo.start_esmtp_listener { listen = '127.0.0.1:0', relay_hosts = { '127.0.0.0/8' } }
  kumo.start_http_listener { listen = '127.0.0.1:0' }
end)
kumo.on('get_queue_config', function()
  return kumo.make_queue_config { protocol = { smtp = { mx_list = { '%s' } } } }
end)
]]):format(sink.http, dir, dir, sink.smtp))
    local run = helper.run(dir .. '/policy.lua')
    helper.inject(('--smtp %s --count 5'):format(run.smtp))
    local admin = '--admin http://' .. run.http
    local text
    helper.wait_for('ten dead letters', function()
      text = dead('list ' .. admin)
      return text:find('10 dead letters, 5 parked records', 1, true)
    end)
    assert.matches('broken  policy_error  0 attempts  .*it is broken', text)
    assert.matches('%x+  %d%d%d%d%-.*  webhook  rejected  1 attempt  500 422 ', text)
    local id = text:match '(%x+)  %S+  webhook'
    text = dead('show --id ' .. id .. ' ' .. admin)
    assert.matches('"event_id":"', text)
    assert.matches('1 dead letter\n', text)
    text = dead('purge --id ' .. id .. ' ' .. admin)
    assert.matches('1 dead letter dropped', text)
    local status
    text, status = dead('replay ' .. admin)
    assert.are.equal(1, status)
    assert.matches('say which letters: %-%-hook, .*%-%-all', text)
    assert.are.equal(0, run:stop())

    text = dead(('list --meta %s/meta --data %s/data'):format(dir, dir))
    assert.matches('9 dead letters, 5 parked records', text)
    text = dead(('replay --hook broken --limit 1 --meta %s/meta --data %s/data'):format(dir, dir))
    assert.are.equal('1 parked record is decided again at the next start\n', text)
    text = dead(('purge --reason policy_error --meta %s/meta --data %s/data'):format(dir, dir))
    assert.are.equal('5 parked records dropped\n', text)
    text = dead(('export --limit 2 --meta %s/meta --data %s/data'):format(dir, dir))
    local _, lines = text:gsub('\n', '')
    assert.are.equal(2, lines)
    assert.is_table(kumo.serde.json_parse(text:match '^[^\n]+'))
    text = dead(('replay --hook webhook --meta %s/meta --data %s/data'):format(dir, dir))
    assert.matches('9 dead letters are back in their queues', text)
    text, status = dead(('list --meta %s/nothing'):format(dir))
    assert.are.equal(1, status)
    assert.matches('there is no such directory', text)
    sink:stop 'INT'
    local good = helper.sink('--smtp 127.0.0.1:0 --http ' .. sink.http) -- the endpoint is mended
    run = helper.run(dir .. '/policy.lua')
    helper.wait_for('the replayed records', function()
      return dead('list --admin http://' .. run.http):find('0 dead letters', 1, true)
        and helper.sh(('curl -s http://%s/api/tailrace/ledger'):format(run.http)):find '"delivered":9'
    end)
    assert.are.equal(0, run:stop())
    assert.are.equal(9, helper.summary(good).http.records)
  end)
end)
