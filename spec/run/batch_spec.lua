-- How a session builds batches: contract queues.md section 3 on the real engine, under the virtual clock.
local helper = require 'helper'
local testing = require 'tr.testing'

--- Each call of send_batch is noted in `calls` (when, how many, which session) with the path and queue of the spec.
local POLICY = [[
local kumo = require 'kumo'
calls, made, closed = {}, 0, 0
local start = kumo.time.now()
function seconds() return (kumo.time.now() - start).seconds end
kumo.on('init', function()
  kumo.define_spool { name = 'data', path = DIR .. '/data' }
  kumo.define_spool { name = 'meta', path = DIR .. '/meta' }
end)
kumo.on('get_queue_config', function()
  BATCH.constructor = 'make.it'
  return kumo.make_queue_config { protocol = { custom_lua = BATCH } }
end)
kumo.on('get_egress_path_config', function() return kumo.make_egress_path(PATH) end)
kumo.on('make.it', function()
  made = made + 1
  local number = made
  local function note(count)
    table.insert(calls, { at = seconds(), count = count, session = number })
    if SLOW then kumo.sleep(SLOW) end
    return 'ok'
  end
  return {
    send = function() return note(1) end,
    send_batch = function(_, messages) return note(#messages) end,
    close = function() closed = closed + 1 end,
  }
end)
]]

describe('a batch', function()
  local dir, rt

  --- Starts with custom_lua options and a path; returns what sends N messages.
  local function start(batch, path, extra)
    dir = helper.dir()
    helper.write(dir .. '/policy.lua', ('DIR = %q\nBATCH = %s\nPATH = %s\n%s\n'):format(dir, batch, path or '{ connection_limit = 1 }',
      extra or '') .. POLICY)
    rt = testing.start { policy = dir .. '/policy.lua' }
    return function(count)
      for _ = 1, count do
        assert(rt:receive { to = 'a@example.org' })
      end
    end
  end

  local function counts()
    local list = {}
    for i, call in ipairs(rt:eval 'return calls') do
      list[i] = call.count
    end
    return list
  end

  local function at(index)
    return rt:eval('return calls[' .. index .. '].at')
  end

  after_each(function()
    if rt then
      local balances, text = rt:stop(1)
      rt = nil
      assert.is_true(balances, text)
    end
    helper.cleanup()
  end)

  it('that is full goes at once, the rest after max_batch_latency', function()
    local send = start("{ batch_size = 10, min_batch_size = 10, max_batch_latency = '20s' }",
      "{ connection_limit = 1, idle_timeout = '60s' }")
    send(25)
    rt:advance(1)
    assert.are.same({ 10, 10 }, counts())
    rt:advance(18)
    assert.are.same({ 10, 10 }, counts())
    rt:advance(2)
    assert.are.same({ 10, 10, 5 }, counts())
  end)

  it('of min_batch_size does not wait for more', function()
    local send = start("{ batch_size = 10, min_batch_size = 3, max_batch_latency = '20s' }")
    send(3)
    rt:advance(1)
    assert.are.same({ 3 }, counts())
  end)

  it('without a latency is what there is', function()
    local send = start '{ batch_size = 10 }'
    send(1)
    rt:advance(0.1)
    assert.are.same({ 1 }, counts())
  end)

  it('of one is given to send_batch', function()
    local send = start '{ batch_size = 2 }'
    send(1)
    rt:advance(0.1)
    assert.are.same({ 1 }, counts())
  end)

  it('that becomes full while it waits goes then', function()
    local send = start("{ batch_size = 10, min_batch_size = 10, max_batch_latency = '20s' }",
      "{ connection_limit = 1, idle_timeout = '60s' }")
    send(4)
    rt:advance(5)
    send(5)
    rt:advance(5)
    assert.are.same({}, counts())
    send(1)
    rt:advance(0.1)
    assert.are.same({ 10 }, counts())
  end)

  it('is never kept longer than the latency, however many come one by one', function()
    local send = start("{ batch_size = 1000, min_batch_size = 1000, max_batch_latency = '10s' }",
      "{ connection_limit = 1, idle_timeout = '60s' }")
    for _ = 1, 19 do
      send(1)
      rt:advance(1)
    end
    rt:advance(2)
    local first = at(1)
    assert.is_true(first <= 10.2, 'sent after ' .. first)
    assert.are.equal(19, rt:ledger().mail.delivered + rt:figures().in_flight + rt:figures().ready)
  end)

  it('with a min_batch_size above its size is bounded by its size', function()
    local send = start("{ batch_size = 5, min_batch_size = 50, max_batch_latency = '10s' }")
    send(12)
    rt:advance(11)
    local sum = 0
    for _, count in ipairs(counts()) do
      assert.is_true(count <= 5)
      sum = sum + count
    end
    assert.are.equal(12, sum)
  end)

  it('does not go over max_deliveries_per_connection', function()
    local send = start("{ batch_size = 10 }", '{ connection_limit = 1, max_deliveries_per_connection = 25 }')
    send(100)
    rt:advance(5)
    local by, sum = {}, 0
    for _, call in ipairs(rt:eval 'return calls') do
      by[call.session] = (by[call.session] or 0) + call.count
      sum = sum + call.count
      assert.is_true(call.count <= 10)
    end
    assert.are.equal(100, sum)
    for _, count in ipairs(by) do
      assert.is_true(count <= 25, count .. ' by one session')
    end
    rt:advance(120)
    assert.are.equal(rt:eval 'return made', rt:eval 'return closed')
  end)

  it('leaves no session behind when nothing comes for idle_timeout', function()
    local send = start('{ batch_size = 10 }', "{ connection_limit = 1, idle_timeout = '30s' }")
    send(1)
    rt:advance(29)
    assert.are.equal(1, rt:figures().sessions)
    rt:advance(2)
    assert.are.equal(0, rt:figures().sessions)
    assert.are.equal(1, rt:eval 'return closed')
  end)

  it('takes what came meanwhile when the one before was slow', function()
    local send = start('{ batch_size = 10 }', nil, 'SLOW = 5')
    send(1)
    rt:advance(1)
    send(30)
    rt:advance(30)
    assert.are.same({ 1, 10, 10, 10 }, counts())
  end)

  it('that waits is in the spool when the process stops, and sent after', function()
    local send = start("{ batch_size = 10, min_batch_size = 10, max_batch_latency = '60s' }")
    send(4)
    rt:advance(1)
    assert.is_true((rt:stop(5)))
    rt = testing.start { policy = dir .. '/policy.lua', wall = 1785000100 }
    rt:advance(70)
    assert.are.same({ 4 }, counts())
    assert.are.equal(4, rt:ledger().mail.delivered)
  end)
end)
