-- kumo.counter_series and kumo.mpsc
local helper = require 'helper'
local kumo = require 'kumo'
local testing = require 'tr.testing'

describe('kumo.counter_series', function()
  local define = kumo.counter_series.define

  it('adds, takes away and sets', function()
    local series = define { name = 'spec.a', num_buckets = 5, bucket_size = '1 hour', initial_value = 3 }
    assert.are.equal(3, series:sum())
    series:increment(4)
    series:delta(-2)
    assert.are.equal(5, series:sum())
    series:delta(-100) -- saturates
    assert.are.equal(0, series:sum())
    series:observe(7)
    assert.are.equal(7, series:sum_over '1 hour')
    assert.are.equal(7, series:sum_over(0))
  end)

  it('is one by its name and shape', function()
    local shape = { name = 'spec.b', num_buckets = 2, bucket_size = 1.2 }
    define(shape):increment(1)
    assert.are.equal(1, define({ name = 'spec.b', num_buckets = 2, bucket_size = 2, initial_value = 9 }):sum())
    assert.are.equal(0, define({ name = 'spec.b', num_buckets = 3, bucket_size = 2 }):sum())
  end)

  it('forgets with time', function()
    local dir = helper.dir()
    local runtime = testing.start {
      policy = helper.write(
        dir .. '/policy.lua',
        ([[
        local kumo = require 'kumo'
        kumo.on('init', function()
          kumo.define_spool { name = 'meta', path = %q }
          kumo.define_spool { name = 'data', path = %q }
        end)
        series = kumo.counter_series.define { name = 'spec.time', num_buckets = 3, bucket_size = 10 }]]):format(
          dir .. '/meta',
          dir .. '/data'
        )
      ),
    }
    local function sums()
      return runtime:eval 'return { series:sum(), series:sum_over(10), series:sum_over "15s" }'
    end
    runtime:eval 'series:increment(1)'
    runtime:advance(10)
    runtime:eval 'series:increment(2)'
    assert.same({ 3, 2, 3 }, sums())
    runtime:advance(10)
    runtime:eval 'series:increment(4)'
    assert.same({ 7, 4, 6 }, sums())
    runtime:advance(10)
    assert.same({ 6, 0, 4 }, sums())
    runtime:advance(100)
    assert.same({ 0, 0, 0 }, sums())
    runtime:stop(1)
    helper.cleanup()
  end)

  it('refuses what makes no sense', function()
    for message, options in pairs {
      ["missing field 'name'"] = { num_buckets = 1, bucket_size = 1 },
      ["unknown field 'num_bucket'.*did you mean 'num_buckets'"] = { name = 'x', num_bucket = 1 },
      ['1 to 255 expected, got 256'] = { name = 'x', num_buckets = 256, bucket_size = 1 },
      ['1 to 255 expected, got 0'] = { name = 'x', num_buckets = 0, bucket_size = 1 },
      ["'num_buckets': integer >= 0 expected, got 1.5"] = { name = 'x', num_buckets = 1.5, bucket_size = 1 },
      ['bucket_size'] = { name = 'x', num_buckets = 1, bucket_size = 'long' },
      ['table of options expected'] = 'x',
    } do
      assert.error_matches(function()
        define(options)
      end, message)
    end
    local series = define { name = 'spec.c', num_buckets = 1, bucket_size = 1 }
    for _, bad in ipairs { -1, 1.5, 0 / 0, 'x', {} } do
      assert.has_error(function()
        series:increment(bad)
      end)
    end
    assert.has_error(function()
      series:sum_over 'x'
    end)
    assert.error_matches(function()
      series.sum()
    end, 'use the colon')
  end)
end)

describe('kumo.mpsc', function()
  local function spawn(fn)
    local name = 'spec.mpsc.' .. tostring(fn)
    kumo.on(name, fn)
    kumo.spawn_task { event_name = name }
  end

  it('keeps the order, and copies', function()
    local queue = kumo.mpsc.define 'spec.order'
    local table_value = { a = { 1, 2 }, b = 'x\0y' }
    queue:send(1)
    queue:send(table_value)
    queue:send(false)
    table_value.a[1] = 9
    assert.same({ 3, false, false }, { queue:len(), queue:is_empty(), queue:is_closed() })
    assert.are.equal(1, queue:recv())
    assert.same({ a = { 1, 2 }, b = 'x\0y' }, queue:recv())
    assert.are.equal(false, queue:recv())
    assert.is_nil(queue:try_recv())
    assert.is_true(queue:is_empty())
  end)

  it('carries objects of kumo', function()
    local queue = kumo.mpsc.define 'spec.objects'
    queue:send { at = kumo.time.from_unix_timestamp(5), nets = kumo.cidr.make_map { ['10.0.0.0/8'] = 'x' } }
    local value = queue:recv()
    assert.are.equal('1970-01-01T00:00:05Z', value.at.rfc3339)
    assert.are.equal('x', value.nets['10.1.1.1'])
  end)

  it('is the same for all by its name', function()
    kumo.mpsc.define('spec.name', 2):send 'x'
    assert.are.equal('x', kumo.mpsc.define('spec.name'):recv())
  end)

  it('waits for something to receive', function()
    local queue, got = kumo.mpsc.define 'spec.wait', {}
    spawn(function()
      for _ = 1, 3 do
        got[#got + 1] = queue:recv()
      end
      got[#got + 1] = 'end'
    end)
    assert.error_matches(function()
      queue:recv()
    end, 'another task is receiving')
    for i = 1, 3 do
      queue:send(i)
      kumo.sleep(0)
    end
    helper.wait_for('the receiver', function()
      return got[4]
    end)
    assert.same({ 1, 2, 3, 'end' }, got)
  end)

  it('waits for room', function()
    local queue, sent = kumo.mpsc.define('spec.full', 1), 0
    for i = 1, 3 do
      spawn(function()
        queue:send(i)
        sent = sent + 1
      end)
    end
    assert.are.equal(1, sent)
    assert.is_false(queue:try_send 'no')
    assert.error_matches(function()
      queue:send_timeout('no', 0.01)
    end, 'timed out')
    local got = {}
    for i = 1, 3 do
      got[i] = queue:recv()
    end
    table.sort(got)
    assert.same({ 1, 2, 3 }, got)
    helper.wait_for('the senders', function()
      return sent == 3
    end)
  end)

  it('receives many', function()
    local queue = kumo.mpsc.define 'spec.many'
    for i = 1, 5 do
      queue:send(i)
    end
    assert.same({ 1, 2, 3 }, queue:recv_many(3))
    assert.same({ 4, 5 }, queue:recv_many(10))
    queue:close()
    assert.same({}, queue:recv_many(10))
  end)

  it('closes: what is in it is received, who waits is told', function()
    local queue, ended = kumo.mpsc.define 'spec.close', false
    queue:send 'last'
    queue:close()
    assert.is_true(queue:is_closed())
    assert.error_matches(function()
      queue:send(1)
    end, 'cannot send to closed channel')
    assert.are.equal('last', queue:recv())
    assert.is_nil(queue:recv())
    assert.is_nil(queue:recv_timeout(5))

    local second, full = kumo.mpsc.define 'spec.close2', kumo.mpsc.define('spec.close3', 1)
    full:send(1)
    local err
    spawn(function()
      ended = second:recv() == nil
    end)
    spawn(function()
      local _, text = pcall(full.send, full, 2)
      err = text
    end)
    second:close()
    full:close()
    helper.wait_for('both', function()
      return ended and err
    end)
    assert.is_truthy(err:find 'closed channel')
  end)

  it('tells when nothing came in time', function()
    assert.error_matches(function()
      kumo.mpsc.define('spec.late'):recv_timeout(0.01)
    end, 'timed out')
  end)

  it('refuses what cannot travel', function()
    local queue, cycle = kumo.mpsc.define 'spec.bad', {}
    cycle[1] = cycle
    for message, value in pairs { ['a function cannot'] = print, ['nested so deep'] = cycle, ['a thread'] = coroutine.create(print) } do
      assert.error_matches(function()
        queue:send(value)
      end, message)
    end
    assert.error_matches(function()
      queue:send(nil)
    end, 'nil cannot be sent')
    for _, limit in ipairs { 0, -1, 1.5, 'x' } do
      assert.has_error(function()
        kumo.mpsc.define('spec.bad2', limit)
      end)
    end
    assert.has_error(function()
      kumo.mpsc.define {}
    end)
    assert.has_error(function()
      queue:recv_many(0)
    end)
    assert.has_error(function()
      queue:send_timeout(1, -1)
    end)
  end)
end)
