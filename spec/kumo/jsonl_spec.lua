-- kumo.jsonl: writers, tailers, checkpoints.
local helper = require 'helper'
local kumo = require 'kumo'

local jsonl = kumo.jsonl

describe('kumo.jsonl', function()
  local dir
  before_each(function()
    dir = helper.dir()
  end)
  after_each(helper.cleanup)

  local function files()
    local list = {}
    for _, path in ipairs(kumo.fs.read_dir(dir)) do
      if not path:find '/%.[^/]*$' then
        list[#list + 1] = path
      end
    end
    return list
  end

  local function writer(options)
    options = options or {}
    options.log_dir = dir
    return jsonl.new_writer(options)
  end

  local function write(from, to, options)
    local out = writer(options)
    for i = from, to do
      out:write_record { n = i }
    end
    out:close()
  end

  --- Numbers of all records that there are now.
  local function numbers(tailer, count)
    local list = {}
    for batch in tailer:batches() do
      for record in batch:iter_records() do
        list[#list + 1] = record.n
      end
      if #list >= count then
        tailer:close()
      end
    end
    return list
  end

  local function range(from, to)
    local list = {}
    for i = from, to do
      list[#list + 1] = i
    end
    return list
  end

  it('writes segments that zstd reads, read-only when they are finished', function()
    local out = writer { suffix = '.jsonl', compression_level = 9 }
    out:write_line '{"n":1}'
    out:write_record { n = 2, text = 'é\n' }
    assert.is_false(kumo.fs.metadata_for_path(files()[1]).readonly)
    out:close()
    out:close()
    local list = files()
    assert.are.equal(1, #list)
    assert.is_truthy(list[1]:find '/%d%d%d%d%d%d%d%d%-%d%d%d%d%d%d[.%d]*%.jsonl$', list[1])
    assert.is_true(kumo.fs.metadata_for_path(list[1]).readonly)
    assert.are.equal('{"n":1}\n', (helper.sh('zstd -dc < ' .. list[1] .. ' | head -1')))
    assert.error_matches(function()
      out:write_line 'x'
    end, 'it is closed')
  end)

  it('begins a new segment by size', function()
    write(1, 50, { max_file_size = 100 })
    assert.is_true(#files() > 3)
    assert.same(range(1, 50), numbers(jsonl.new_tailer { directory = dir, max_batch_latency = 0.01 }, 50))
  end)

  it('makes lines visible without another one, and finishes by age', function()
    local out = writer { max_segment_duration = 0.3 }
    out:write_record { n = 1 }
    assert.same({ 1 }, numbers(jsonl.new_tailer { directory = dir, max_batch_latency = 0.01 }, 1))
    helper.wait_for('the segment to be finished', function()
      return kumo.fs.metadata_for_path(files()[1]).readonly
    end)
    out:close()
  end)

  it('makes lines visible while others keep coming', function()
    local out, number = writer(), 0
    helper.wait_for('a visible line', function() -- far more often than a line a second
      number = number + 1
      out:write_record { n = number }
      local path = files()[1]
      return path and helper.sh(('zstd -dcq %s 2>/dev/null'):format(path)):find '"n":1%f[%D]'
    end)
    out:close()
  end)

  it('reads what is there and what comes, in batches', function()
    write(1, 25)
    local tailer = jsonl.new_tailer { directory = dir, max_batch_size = 10, max_batch_latency = '1 hour' }
    local sizes, seen = {}, 0
    for batch in tailer:batches() do
      assert.are.equal('default', batch:consumer_name())
      sizes[#sizes + 1] = #batch:records()
      seen = seen + #batch:records()
      if seen == 20 then
        write(26, 33)
      elseif seen == 30 then
        tailer:close()
      end
    end
    assert.same({ 10, 10, 10 }, { sizes[1], sizes[2], sizes[3] })
    assert.is_true(seen <= 33) -- the last three may have been read before the end
  end)

  it('gives what it has when a batch has waited long enough', function()
    write(1, 25)
    local tailer = jsonl.new_tailer { directory = dir, max_batch_latency = '10ms' }
    assert.same(range(1, 25), numbers(tailer, 25))
  end)

  it('goes on behind its checkpoint', function()
    write(1, 10, { max_file_size = 40 })
    local options = { directory = dir, max_batch_size = 4, max_batch_latency = '1 hour', checkpoint_name = 'spec' }
    local first = {}
    local tailer = jsonl.new_tailer(options)
    for batch in tailer:batches() do
      for _, record in ipairs(batch:records()) do
        first[#first + 1] = record.n
      end
      batch:commit()
      batch:commit()
      tailer:close()
    end
    local checkpoint = kumo.serde.json_load(dir .. '/.spec')
    assert.same({ #first, 4 }, { 4, checkpoint.line }) -- five records are in a segment
    options.max_batch_latency = 0.01
    assert.same(range(#first + 1, 10), numbers(jsonl.new_tailer(options), 10 - #first))
    -- nothing was committed since
    assert.same(range(#first + 1, 10), numbers(jsonl.new_tailer(options), 10 - #first))
    -- the file of the checkpoint is gone
    os.remove(dir .. '/' .. checkpoint.file)
    assert.same(range(6, 10), numbers(jsonl.new_tailer(options), 5))
  end)

  it('filters, and commits what was filtered, too', function()
    write(1, 10)
    local options = { directory = dir, max_batch_latency = '1 hour', checkpoint_name = 'odd' }
    local tailer
    tailer = jsonl.new_tailer(options, function(record)
      if record.n == 10 then
        tailer:close() -- with what was read so far as the last batch
      end
      return record.n % 2 == 1
    end)
    for batch in tailer:batches() do
      assert.same({ { n = 1 }, { n = 3 }, { n = 5 }, { n = 7 }, { n = 9 } }, batch:records())
      batch:commit()
    end
    assert.are.equal(10, kumo.serde.json_load(dir .. '/.odd').line)
  end)

  it('begins at the end with tail', function()
    write(1, 5)
    local tailer = jsonl.new_tailer { directory = dir, tail = true, max_batch_latency = 0.01 }
    local last, over = 5, false
    kumo.on('spec.jsonl.more', function()
      while not over do -- it may find the end later than we begin
        last = last + 1
        write(last, last)
        kumo.sleep(0.01)
      end
      over = nil
    end)
    kumo.spawn_task { event_name = 'spec.jsonl.more' }
    local got = numbers(tailer, 2)
    over = true
    helper.wait_for('the end of the writing', function()
      return over == nil
    end)
    assert.is_true(got[1] > 5, got[1])
    assert.same(range(got[1], got[1] + #got - 1), got)
  end)

  it('serves several consumers', function()
    write(1, 6)
    local tailer = jsonl.new_multi_tailer {
      directory = dir,
      pattern = '*',
      consumers = {
        { name = 'all', max_batch_size = 2, max_batch_latency = 0.05, checkpoint_name = 'all' },
        {
          name = 'big',
          max_batch_latency = 0.05,
          filter = function(record)
            return record.n > 4
          end,
        },
      },
    }
    local seen = { all = {}, big = {} }
    for batches in tailer:batches() do
      for _, batch in ipairs(batches) do
        for record in batch:iter_records() do
          table.insert(seen[batch:consumer_name()], record.n)
        end
        batch:commit()
      end
      if #seen.all == 6 and #seen.big == 2 then
        tailer:close()
      end
    end
    assert.same({ all = range(1, 6), big = { 5, 6 } }, seen)
    assert.is_nil(helper.read(dir .. '/.big'))
    assert.are.equal(6, kumo.serde.json_load(dir .. '/.all').line)
  end)

  it('leaves out what is no JSON, and a segment from its damage on', function()
    local out = writer()
    out:write_record { n = 1 }
    out:write_line 'no json'
    out:write_record { n = 2 }
    out:close()
    helper.sh(('printf "garbage" > %s/20990101-000000; chmod 444 %s/20990101-000000'):format(dir, dir))
    helper.sh(('printf \'{"n":3}\\n\' | zstd -q > %s/20990102-000000; chmod 444 %s/20990102-000000'):format(dir, dir))
    assert.same({ 1, 2, 3 }, numbers(jsonl.new_tailer { directory = dir, max_batch_latency = 0.01 }, 3))
  end)

  it('refuses what makes no sense', function()
    for message, fn in pairs {
      ["missing field 'log_dir'"] = function()
        jsonl.new_writer {}
      end,
      ["unknown field 'max_size'"] = function()
        jsonl.new_writer { log_dir = dir, max_size = 1 }
      end,
      ['compression_level: 0 to 22'] = function()
        jsonl.new_writer { log_dir = dir, compression_level = 30 }
      end,
      ["tz: only 'UTC'"] = function()
        jsonl.new_writer { log_dir = dir, tz = 'Europe/Berlin' }
      end,
      ['suffix: a part of a file name'] = function()
        jsonl.new_writer { log_dir = dir, suffix = '/x' }
      end,
      ['/dev/null/x: '] = function()
        jsonl.new_writer { log_dir = '/dev/null/x' }
      end,
      ["missing field 'directory'"] = function()
        jsonl.new_tailer {}
      end,
      ['filter: function expected'] = function()
        jsonl.new_tailer({ directory = dir }, 5)
      end,
      ['max_batch_size: at least 1'] = function()
        jsonl.new_tailer { directory = dir, max_batch_size = 0 }
      end,
      ["consumers%[1%]: missing field 'name'"] = function()
        jsonl.new_multi_tailer { directory = dir, consumers = { {} } }
      end,
      ['consumers: at least one'] = function()
        jsonl.new_multi_tailer { directory = dir, consumers = {} }
      end,
      ['the name "a" is there already'] = function()
        jsonl.new_multi_tailer { directory = dir, consumers = { { name = 'a' }, { name = 'a' } } }
      end,
      ['is not a checkpoint'] = function()
        helper.write(dir .. '/.bad', '[]')
        jsonl.new_tailer { directory = dir, checkpoint_name = 'bad' }
      end,
      ['a line of UTF%-8 without line end'] = function()
        writer():write_line 'a\nb'
      end,
      ['cannot encode function'] = function()
        writer():write_record { print }
      end,
      ['use the colon'] = function()
        writer().write_line 'x'
      end,
    } do
      local ok, err = pcall(fn)
      assert.is_false(ok, message)
      assert.is_truthy(tostring(err):find(message), message .. ': ' .. tostring(err))
    end
    local tailer = jsonl.new_tailer { directory = dir }
    tailer:batches()
    assert.error_matches(function()
      tailer:batches()
    end, 'another loop')
  end)
end)
