--- kumo.jsonl: segments of JSON lines, compressed with zstd, as local logs are: written, and read while they grow. Contract
--- lua-modules.md section 5.
local host = require 'tr.host'
local core = require 'tr.jsonl'
local options = host.internal 'kumo.options'
local c = host.c

---@class kumo.jsonl
local jsonl = {}

-- --- writing ---------------------------------------------------------------------------------------------------

---@class kumo.JsonlWriter
local Writer = {}
local writer_meta = { __index = Writer, __name = 'kumo.JsonlWriter' }

local function of(self, meta, name)
  if getmetatable(self) ~= meta then
    error(('%s: called without its object: use the colon'):format(name), 3)
  elseif self._closed then
    error(name .. ': it is closed', 3)
  end
  return self
end

local function write(self, name, text)
  local ok, message = self._core:write(text .. '\n')
  if not ok then
    error(('%s: %s: %s'):format(name, self._dir, message), 3)
  end
end

--- Adds a line, which readers see within a second.
---@async
---@param line string  UTF-8 without line end
function Writer:write_line(line)
  of(self, writer_meta, 'writer:write_line')
  options.expect('writer:write_line', 'line', line, 'string')
  if line:find '[\r\n]' or not c.utf8_valid(line) then
    error('writer:write_line: a line of UTF-8 without line end is expected', 2)
  end
  write(self, 'writer:write_line', line)
end

--- Adds a value as a line of JSON.
---@async
---@param record any
function Writer:write_record(record)
  of(self, writer_meta, 'writer:write_record')
  local ok, text = pcall(host.internal('kumo.serde').serde.json_encode, record)
  if not ok then
    error('writer:write_record: ' .. tostring(text), 2)
  end
  write(self, 'writer:write_record', text)
end

--- Finishes the segment. A second close is no error.
---@async
function Writer:close()
  if getmetatable(self) ~= writer_meta then
    error('writer:close: called without a writer: use the colon', 2)
  elseif not self._closed then
    self._closed = true
    local ok, message = self._core:finish()
    if not ok then
      error(('writer:close: %s: %s'):format(self._dir, message), 2)
    end
  end
end

---@class (exact) kumo.JsonlWriterOptions
---@field log_dir string                       is made if it is not there
---@field max_file_size? integer               bytes before compression, default 128 MiB
---@field compression_level? integer           0 to 22, default 3
---@field max_segment_duration? number|string  seconds or text; default: none
---@field suffix? string                       of the files' names
---@field tz? 'UTC'                            names are in UTC

local WRITER = {
  log_dir = { 'string', required = true },
  max_file_size = { 'integer', default = 128 * 1024 * 1024 },
  compression_level = { 'integer', default = 3 },
  max_segment_duration = 'duration',
  suffix = { 'string', default = '' },
  tz = { 'string', default = 'UTC' },
}

--- Files are named by the moment of their start, and become read-only when they are finished.
---@param params kumo.JsonlWriterOptions
---@return kumo.JsonlWriter
function jsonl.new_writer(params)
  local NAME = 'kumo.jsonl.new_writer'
  local values = options.check(params, NAME, WRITER)
  if values.tz ~= 'UTC' then
    error(("%s: tz: only 'UTC' is supported, got %q"):format(NAME, values.tz), 2)
  elseif values.compression_level > 22 then
    error(('%s: compression_level: 0 to 22 expected, got %d'):format(NAME, values.compression_level), 2)
  elseif values.max_file_size < 1 then
    error(NAME .. ': max_file_size: at least 1 expected', 2)
  elseif values.suffix:find '[/%z]' or values.log_dir:find '%z' then
    error(NAME .. ': suffix: a part of a file name is expected', 2)
  end
  local writer, message = core.writer(
    values.log_dir,
    values.suffix,
    values.max_file_size,
    values.max_segment_duration or 0,
    values.compression_level,
    not c.validating -- `tailrace check` leaves nothing behind
  )
  if not writer then
    error(('%s: %s: %s'):format(NAME, values.log_dir, message), 2)
  end
  return setmetatable({ _core = writer, _dir = values.log_dir }, writer_meta)
end

-- --- reading: batches ------------------------------------------------------------------------------------------

--- Records that belong together, for one consumer.
---@class kumo.LogBatch
local Batch = {}
local batch_meta = { __index = Batch, __name = 'kumo.LogBatch' }

---@return table[] records
function Batch:records()
  return self._records
end

---@return fun(): table?
function Batch:iter_records()
  local i = 0
  return function()
    i = i + 1
    return self._records[i]
  end
end

---@return string name  'default' of a tailer for one
function Batch:consumer_name()
  return self._consumer.name
end

--- Notes how far the consumer is, in the file `.NAME` beside the segments. Without `checkpoint_name` nothing is noted; a
--- second commit does nothing.
---@async
function Batch:commit()
  local consumer = self._consumer
  if self._committed or not consumer.checkpoint then
    return
  end
  self._committed = true
  local text = c.json_encode { file = self._at.file, line = self._at.line }
  local new = consumer.checkpoint .. '.new'
  local file = host.internal('kumo.fs').open(new, 'w+')
  file:write(text)
  file:flush()
  file:close()
  local ok, err = os.rename(new, consumer.checkpoint)
  if not ok then
    error('batch:commit: ' .. tostring(err), 2)
  end
end

-- --- reading: tailers ------------------------------------------------------------------------------------------

---@class kumo.JsonlTailer
local Tailer = {}
local tailer_meta = { __index = Tailer, __name = 'kumo.JsonlTailer' }

local POLL_S = 0.2
local CHUNK = 1000          -- lines of one read
local ABANDONED_S = 300     -- a segment that nobody finished and that does not grow: its writer is gone

-- a before b, as { file, line }; nil is before all.
local function before(a, b)
  if not a or not b then
    return a == nil and b ~= nil
  end
  return a.file < b.file or a.file == b.file and a.line < b.line
end

local function next_file(tailer, after)
  local best
  for _, path in ipairs(host.internal('kumo.fs').uncached_glob(tailer.pattern, tailer.dir)) do
    local name = path:match '[^/]+$'
    if name:sub(1, 1) ~= '.' and (not after or name > after) and (not best or name < best) then
      best = name
    end
  end
  return best
end

local function open(tailer, name)
  local reader, message = core.reader(tailer.dir .. '/' .. name)
  if not reader then
    error(('%s: %s/%s: %s'):format(tailer.name, tailer.dir, name, message), 0)
  end
  tailer.reader, tailer.file, tailer.line, tailer.idle_since = reader, name, 0, c.mono()
end

-- More lines into tailer.lines; false: there are none now.
local function refill(tailer)
  if not tailer.reader then
    local name = next_file(tailer, tailer.file)
    if not name then
      return false
    end
    open(tailer, name)
  end
  local lines, state = tailer.reader:read(CHUNK)
  if not lines then
    error(('%s: %s/%s: %s'):format(tailer.name, tailer.dir, tailer.file, state), 0)
  end
  local now = c.mono()
  if #lines > 0 then
    tailer.idle_since = now
  end
  local over = state == 'finished'
  if state:find '^damaged' then
    c.log('error', ('%s: %s/%s behind line %d: %s'):format(tailer.name, tailer.dir, tailer.file, tailer.line + #lines, state))
    over = true
  elseif state == 'end' and now - tailer.idle_since > ABANDONED_S and next_file(tailer, tailer.file) then
    c.log('warn', ('%s: %s/%s was never finished'):format(tailer.name, tailer.dir, tailer.file))
    over = true
  end
  if over then
    tailer.reader:close()
    tailer.reader = nil
  end
  tailer.lines, tailer.next_line = lines, 1
  return #lines > 0 or over
end

-- One line to all consumers that have not had it.
local function hand_out(tailer, text, now)
  tailer.line = tailer.line + 1
  local at = { file = tailer.file, line = tailer.line }
  local ok, record = c.json_parse(text, false)
  if not ok then
    c.log('warn', ('%s: %s/%s:%d is not JSON'):format(tailer.name, tailer.dir, at.file, at.line))
  end
  for _, consumer in ipairs(tailer.consumers) do
    if before(consumer.start, at) then
      consumer.at = at
      if ok and (not consumer.filter or consumer.filter(record)) then
        local list = consumer.pending
        if #list == 0 then
          consumer.since = now
        end
        list[#list + 1] = record
      end
    end
  end
end

local function full(consumer, now)
  local count = #consumer.pending
  return count >= consumer.max_batch_size or count > 0 and now - consumer.since >= consumer.max_batch_latency
end

local function take_ready(tailer, now, all)
  local batches = {}
  for _, consumer in ipairs(tailer.consumers) do
    if full(consumer, now) or all and #consumer.pending > 0 then
      batches[#batches + 1] = setmetatable({ _records = consumer.pending, _at = consumer.at, _consumer = consumer }, batch_meta)
      consumer.pending = {}
    end
  end
  return batches
end

-- Goes to the last line that is there now, without handing anything out.
local function skip_to_end(tailer)
  local last
  repeat
    local name = next_file(tailer, last)
    last = name or last
  until not name
  if not last then
    return
  end
  open(tailer, last)
  while true do
    local lines, state = tailer.reader:read(CHUNK)
    tailer.line = tailer.line + (lines and #lines or 0)
    if not lines or state ~= 'more' then
      break
    end
  end
  for _, consumer in ipairs(tailer.consumers) do
    consumer.start = consumer.start or { file = last, line = tailer.line }
  end
  tailer.reader:close()
  tailer.reader, tailer.file, tailer.line = nil, nil, 0
end

-- From the earliest place that a consumer wants: lines before are read again, and not handed out.
local function begin(tailer)
  tailer.begun = true
  local missing = false
  for _, consumer in ipairs(tailer.consumers) do
    missing = missing or not consumer.start
  end
  if tailer.tail and missing then
    skip_to_end(tailer)
  end
  local first = tailer.consumers[1].start
  for _, consumer in ipairs(tailer.consumers) do
    if before(consumer.start, first) then
      first = consumer.start
    end
  end
  if first then
    local found = host.internal('kumo.fs').uncached_glob(first.file, tailer.dir)
    if found[1] then
      open(tailer, first.file)
    else
      tailer.file = first.file -- it was removed: the next one
    end
  end
end

local function next_batches(tailer)
  if not tailer.begun then
    begin(tailer)
  end
  while true do
    local now = c.mono()
    local batches = take_ready(tailer, now, tailer.closed)
    if #batches > 0 then
      return batches
    elseif tailer.closed then
      if tailer.reader then
        tailer.reader:close()
        tailer.reader = nil
      end
      return nil
    end
    local lines = tailer.lines
    if lines and tailer.next_line <= #lines then
      local text = lines[tailer.next_line]
      tailer.next_line = tailer.next_line + 1
      hand_out(tailer, text, now)
    elseif not refill(tailer) then
      local wait_s = POLL_S
      for _, consumer in ipairs(tailer.consumers) do
        if #consumer.pending > 0 then
          wait_s = math.min(wait_s, math.max(0.001, consumer.since + consumer.max_batch_latency - now))
        end
      end
      c.sleep(wait_s)
    end
  end
end

--- Batches as they come; waits for more at the end. The loop ends after close(). One loop at a time.
---@async
---@return fun(): kumo.LogBatch?|kumo.LogBatch[]?  of new_multi_tailer: a list, one of each consumer that has records
function Tailer:batches()
  local tailer = of(self, tailer_meta, 'tailer:batches')._tailer
  if tailer.looping then
    error('tailer:batches: another loop reads this tailer', 2)
  end
  tailer.looping = true
  local waiting = {} -- of one consumer there may be more than one batch to give
  return function()
    if tailer.multi then
      local batches = next_batches(tailer)
      return batches and c.array(batches)
    end
    if #waiting == 0 then
      waiting = next_batches(tailer) or {}
    end
    return table.remove(waiting, 1)
  end
end

--- Ends the loop over batches(), with what was read so far as last batches.
function Tailer:close()
  if getmetatable(self) ~= tailer_meta then
    error('tailer:close: called without a tailer: use the colon', 2)
  end
  self._tailer.closed = true
end

local CONSUMER = {
  name = { 'string', required = true },
  max_batch_size = { 'integer', default = 100 },
  max_batch_latency = { 'duration', default = 1 },
  checkpoint_name = 'string',
  filter = 'function',
}

local function read_checkpoint(name, path)
  local text = host.read_file(path)
  if not text then
    return nil -- none yet
  end
  local ok, at = c.json_parse(text, false)
  if not ok or type(at) ~= 'table' or type(at.file) ~= 'string' or type(at.line) ~= 'number' then
    error(('%s: %s is not a checkpoint'):format(name, path), 4)
  end
  return at
end

local function consumer_of(name, values, dir)
  if values.max_batch_size < 1 then
    error(name .. ': max_batch_size: at least 1 expected', 4)
  elseif values.checkpoint_name and values.checkpoint_name:find '[/%z]' then
    error(name .. ': checkpoint_name: a part of a file name is expected', 4)
  end
  local checkpoint = values.checkpoint_name and ('%s/.%s'):format(dir, values.checkpoint_name)
  return {
    name = values.name,
    max_batch_size = values.max_batch_size,
    max_batch_latency = values.max_batch_latency,
    filter = values.filter,
    checkpoint = checkpoint,
    start = checkpoint and read_checkpoint(name, checkpoint),
    pending = {},
  }
end

local function make(name, values, consumers, multi)
  return setmetatable({
    _tailer = {
      name = name,
      dir = values.directory:gsub('(.)/+$', '%1'),
      pattern = values.pattern,
      tail = values.tail,
      consumers = consumers,
      multi = multi,
    },
  }, tailer_meta)
end

---@class (exact) kumo.JsonlTailerOptions
---@field directory string
---@field pattern? string                   of the files' names, default '*'; hidden files do not count
---@field max_batch_size? integer           default 100
---@field max_batch_latency? number|string  longest wait of a record for its batch; seconds or text, default 1 s
---@field checkpoint_name? string           without it every tailer begins anew
---@field poll_watcher? any                 accepted: the directory is looked at 5 times a second
---@field tail? boolean                     without checkpoint: begin with what comes from now on; default false

--- Reads the records of a directory in the order of the files' names, and then what is added. A file is left when it is
--- finished (read-only). Lines that are not JSON are named in the log and left out.
---@async
---@param params kumo.JsonlTailerOptions
---@param filter? fun(record: table): boolean  which records count
---@return kumo.JsonlTailer
function jsonl.new_tailer(params, filter)
  local NAME = 'kumo.jsonl.new_tailer'
  local values = options.check(params, NAME, {
    directory = { 'string', required = true },
    pattern = { 'string', default = '*' },
    max_batch_size = CONSUMER.max_batch_size,
    max_batch_latency = CONSUMER.max_batch_latency,
    checkpoint_name = 'string',
    poll_watcher = 'any',
    tail = { 'boolean', default = false },
  })
  if filter ~= nil and type(filter) ~= 'function' then
    error(NAME .. ': filter: function expected, got ' .. type(filter), 2)
  end
  values.name, values.filter = 'default', filter
  local consumer = consumer_of(NAME, values, values.directory)
  return (make(NAME, values, { consumer }, false))
end

---@class (exact) kumo.JsonlConsumer
---@field name string
---@field max_batch_size? integer           default 100
---@field max_batch_latency? number|string  default 1 s
---@field checkpoint_name? string
---@field filter? fun(record: table): boolean

---@class (exact) kumo.JsonlMultiTailerOptions
---@field directory string
---@field pattern? string
---@field poll_watcher? any
---@field tail? boolean
---@field consumers kumo.JsonlConsumer[]

--- One reader for several consumers, each with its own batches and checkpoint. `batches()` gives lists.
---@async
---@param params kumo.JsonlMultiTailerOptions
---@return kumo.JsonlTailer
function jsonl.new_multi_tailer(params)
  local NAME = 'kumo.jsonl.new_multi_tailer'
  local values = options.check(params, NAME, {
    directory = { 'string', required = true },
    pattern = { 'string', default = '*' },
    poll_watcher = 'any',
    tail = { 'boolean', default = false },
    consumers = { 'table', required = true },
  })
  local consumers, names = {}, {}
  for i, given in ipairs(values.consumers) do
    local one = options.check(given, ('%s: consumers[%d]'):format(NAME, i), CONSUMER)
    if names[one.name] then
      error(('%s: consumers[%d]: the name %q is there already'):format(NAME, i, one.name), 2)
    end
    names[one.name] = true
    consumers[i] = consumer_of(NAME, one, values.directory)
  end
  if #consumers == 0 then
    error(NAME .. ': consumers: at least one is expected', 2)
  end
  return (make(NAME, values, consumers, true))
end

return jsonl
