-- order_by: records with one key go one by one and in order, whatever their receiver answers; the others flow.
local helper = require 'helper'
local testing = require 'tr.testing'

--- Hook `h` gives the Subject "KEY NUMBER" of each reception to the global `answer(key, number, msg)`; `done` are those
--- that were delivered, in the order of their delivery, `tried` all attempts.
local POLICY = [[
local kumo = require 'kumo'
local log_hooks = require 'policy-extras.log_hooks'
done, tried, largest = {}, {}, 0
local function subject(record) return record.headers.Subject end
local function one(msg)
  local key, number = subject(msg:get_meta 'log_record'):match '^(%S+) (%d+)$'
  table.insert(tried, key .. ' ' .. number)
  return answer(key, tonumber(number), msg), { key, tonumber(number) }
end
local function tell(text, what)
  if type(text) == 'string' then table.insert(done, what) end
  return text
end
log_hooks:new {
  name = 'h',
  order_by = function(record)
    local key = subject(record):match '^(%S+)'
    if wrong_key then return {} end
    return key ~= 'any' and key or nil
  end,
  queue_config = QUEUE,
  batch_size = BATCH,
  log_parameters = { headers = { 'Subject' }, per_record = { Any = { enable = false }, Reception = { enable = true } } },
  constructor = function()
    local conn = {}
    function conn:send(msg) return tell(one(msg)) end
    function conn:send_batch(messages)
      local list, what, seen = {}, {}, {}
      largest = math.max(largest, #messages)
      for i, msg in ipairs(messages) do
        local key = msg:order_key()
        assert(not key or not seen[key], 'two of one key in a batch')
        seen[key or 0] = true
        list[i], what[i] = one(msg) -- may raise: then none is delivered
      end
      for i in ipairs(list) do tell(list[i], what[i]) end
      return list
    end
    return conn
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
kumo.on('get_egress_path_config', function() return kumo.make_egress_path(PATH) end)
kumo.on('ask', function(args) answered = { assert(loadstring(args[1]))() } end)
]]

describe('order_by', function()
  local dir, rt, seed

  --- options: answer (text of the function), queue, path, batch
  local function start(options)
    dir = dir or helper.dir()
    seed = (seed or 10) + 1
    helper.write(dir .. '/policy.lua', ("DIR = %q\nQUEUE = %s\nPATH = %s\nBATCH = %s\n%s\nlocal kumo = require 'kumo'\n%s"):format(dir,
      options.queue or '{}', options.path or '{}', options.batch or '1', POLICY, options.answer))
    rt = testing.start { policy = dir .. '/policy.lua', seed = seed }
  end

  local function stop()
    local balances, text = rt:stop(1)
    rt = nil
    assert.is_true(balances, text)
  end

  local counts -- key -> last number
  local function receive(key, count)
    for _ = 1, count or 1 do
      counts[key] = (counts[key] or 0) + 1
      assert(rt:receive { to = 'a@example.org', data = ('Subject: %s %d\r\n\r\nx'):format(key, counts[key]) })
    end
  end

  --- Asserts that each key's records of `list` are in their order, none twice, none missing up to `last`.
  local function check_order(list, last)
    local at = {}
    for _, item in ipairs(list) do
      local key, number = item[1], item[2]
      if key ~= 'any' then
        assert.are.equal((at[key] or 0) + 1, number, 'of key ' .. key)
      end
      at[key] = (at[key] or 0) + 1
    end
    assert.are.same(last, at)
  end

  local function column(name)
    return rt:ledger().h[name]
  end

  before_each(function()
    counts = {}
  end)

  after_each(function()
    if rt then
      stop()
    end
    dir = nil
    helper.cleanup()
  end)

  it('lets the records of a key wait behind the retry of one, and the others flow', function()
    start {
      answer = "function answer(key, n) if key == 'a' and n == 2 and refuse ~= false then return kumo.transient(450, '') end return 'ok' end",
    }
    for _, key in ipairs { 'a', 'a', 'a', 'b', 'b', 'any', 'a', 'any' } do
      receive(key)
    end
    rt:advance(5)
    assert.are.same({ a = 1, b = 2, any = 2 }, rt:eval [=[local at = {} for _, d in ipairs(done) do at[d[1]] = (at[d[1]] or 0) + 1 end return at]=])
    assert.are.equal(3, column 'waiting')
    rt:eval 'refuse = false'
    rt:advance(65)
    check_order(rt:eval 'return done', counts)
    assert.are.equal(0, column 'waiting')
  end)

  local RANDOM = [[
    local state = SEED or 1
    local function random() state = (state * 48271) % 2147483647 return state / 2147483647 end
    function answer(key, n)
      local dice = random()
      if dice < 0.15 then return kumo.transient(450, 'later') end
      if dice < 0.2 then error 'oops' end
      return 'ok'
    end]]

  it('keeps the order of every key under failures at random', function()
    start {
      answer = RANDOM,
      batch = '5',
      queue = "{ retry_interval = '2s', max_retry_interval = '10s' }",
      path = '{ max_ready = 7, connection_limit = 3, gate_failures = 0 }',
    }
    for i = 1, 300 do
      receive(i % 9 == 0 and 'any' or 'k' .. (i * 7 + i % 5) % 12)
      if i % 50 == 0 then
        rt:advance(1)
      end
    end
    rt:advance(3600)
    check_order(rt:eval 'return done', counts)
    assert.are.equal(300, column 'delivered')
    assert.is_true(rt:eval 'return #tried' > 330)
    assert.is_true(rt:eval 'return largest' > 1)
  end)

  it('keeps it over restarts, and what has no key flows', function()
    local done = {}
    local options = { answer = RANDOM, queue = "{ retry_interval = '20s' }", path = '{ max_ready = 3, gate_failures = 0 }' }
    for round = 1, 5 do
      options.answer = ('SEED = %d\n%s'):format(round * 17, RANDOM)
      start(options)
      for i = 1, round < 5 and 60 or 0 do
        receive(i % 9 == 0 and 'any' or 'k' .. i % 4)
      end
      rt:advance(round < 5 and 15 or 7200)
      for _, item in ipairs(rt:eval 'return done') do
        done[#done + 1] = item
      end
      stop()
    end
    check_order(done, counts)
  end)

  it('sends a dead letter out of the way', function()
    start { answer = "function answer(key, n) if n == 2 then return kumo.permanent(550, 'no') end return 'ok' end" }
    receive('a', 4)
    rt:advance(5)
    assert.are.equal(3, rt:eval 'return #done')
    assert.are.equal(1, column 'dead')
    assert.are.equal(0, column 'waiting')
  end)

  it('lets a dead letter that is replayed come last of its key', function()
    start {
      answer = [[function answer(key, n)
        if n == 2 and refuse ~= false then return kumo.permanent(550, 'no') end
        if n > 4 and refuse ~= false then return kumo.transient(450, 'later') end
        return 'ok'
      end]],
    }
    receive('a', 6)
    rt:advance(5)
    assert.are.equal(2, column 'waiting')
    rt:eval [[action = "require('kumo').api.admin.dead_letters.replay { all = true }"]]
    rt:eval [[require('kumo').spawn_task { event_name = 'ask', args = { action } }]]
    rt:advance(1)
    assert.are.equal(3, column 'waiting')
    rt:eval 'refuse = false'
    rt:advance(120)
    local numbers = {}
    for i, item in ipairs(rt:eval 'return done') do
      numbers[i] = item[2]
    end
    assert.are.same({ 1, 3, 4, 5, 6, 2 }, numbers)
  end)

  it('ends all that have expired behind one, and goes on with the next', function()
    start {
      answer = "function answer(key, n) if n < 9 then return kumo.transient(450, 'later') end return 'ok' end",
      queue = "{ retry_interval = '10m', max_age = '1 hour' }",
    }
    receive('a', 8)
    rt:advance(1800)
    receive('a', 2)
    assert.are.equal(10, column 'waiting')
    rt:advance(3600)
    assert.are.equal(8, column 'dead')
    assert.are.same({ { 'a', 9 }, { 'a', 10 } }, rt:eval 'return done')
    assert.are.equal(0, column 'waiting')
  end)

  it('bounces what waits behind a key on an administrator\'s word', function()
    start { answer = "function answer(key, n) return kumo.transient(450, 'later') end" }
    receive('a', 5)
    receive('b', 5)
    rt:advance(5)
    assert.are.equal(10, column 'waiting')
    rt:eval [[rule = "require('kumo').api.admin.bounce.bounce { domain = 'h.log_hook', reason = 'x' }"]]
    rt:eval [[require('kumo').spawn_task { event_name = 'ask', args = { rule } }]]
    rt:advance(1900) -- a rule of a policy acts on what comes due
    assert.are.equal(0, column 'waiting')
    assert.are.equal(10, column 'bounced')
  end)

  it('parks a record whose key is no text, and tells why', function()
    dir = helper.dir()
    start { answer = "wrong_key = true function answer() return 'ok' end" }
    receive('a')
    rt:advance(1)
    assert.are.equal(1, column 'waiting')
    assert.are.equal(1, rt:figures().parked)
    stop()
    start { answer = "function answer() return 'ok' end" }
    rt:advance(1)
    assert.are.same({ { 'a', 1 } }, rt:eval 'return done')
  end)
end)
