--- kumo.mpsc: queues between tasks, of all workers, by name: many send, one receives. What is in them is not kept over a
--- restart. Contract lua-modules.md section 2.4.
local host = require 'tr.host'
local core = require 'tr.channel'
local c = host.c

---@class kumo.mpsc
local mpsc = {}

---@class kumo.MpscQueue
local Queue = {}
local meta = { __index = Queue, __name = 'kumo.MpscQueue' }

local MANY_MAX = 100000

local function of(self, name)
  if getmetatable(self) ~= meta then
    error(('mpsc:%s: called without a queue: use the colon'):format(name), 3)
  end
  return self._core
end

local function check_seconds(name, seconds)
  if type(seconds) ~= 'number' or not (seconds >= 0) then -- luacheck: ignore (NaN)
    error(('mpsc:%s: seconds >= 0 expected, got %s'):format(name, tostring(seconds)), 3)
  end
  return c.mono() + seconds
end

-- One try: 'ok', 'full', or raises. `level` is that of the method.
local function put(channel, name, value, level)
  if value == nil then
    error(('mpsc:%s: nil cannot be sent: recv() says with it that the queue is closed'):format(name), level + 1)
  end
  local ok, frozen = pcall(host.freeze, value, 1)
  local state = ok and channel:send(frozen)
  if state == 'closed' then
    error(('mpsc:%s: cannot send to closed channel'):format(name), level + 1)
  elseif not state then
    error(('mpsc:%s: the value cannot be sent: %s'):format(name, ok and 'out of memory' or frozen), level + 1)
  end
  return state
end

local function send(channel, name, value, until_s)
  while put(channel, name, value, 3) == 'full' do
    local left_s = until_s and math.max(0, until_s - c.mono())
    if channel:wait('send', left_s) == false then
      error(('mpsc:%s: timed out: the queue is full'):format(name), 3)
    end
  end
end

--- Waits while the queue is full. Raises when it is closed, and for what cannot be memoized: functions, cycles, nil.
---@async
---@param value any
function Queue:send(value)
  send(of(self, 'send'), 'send', value)
end

--- As send; raises when there was no room in time.
---@async
---@param value any
---@param seconds number  >= 0
function Queue:send_timeout(value, seconds)
  local channel = of(self, 'send_timeout')
  send(channel, 'send_timeout', value, check_seconds('send_timeout', seconds))
end

--- Does not wait.
---@param value any
---@return boolean sent  false: the queue is full
function Queue:try_send(value)
  return put(of(self, 'try_send'), 'try_send', value, 2) == 'ok'
end

-- Waits until something is there: true; false: closed and empty; nil: the time is over.
local function await(channel, name, until_s)
  while channel:length() == 0 do
    if channel:closed() then
      return false
    end
    local state = channel:wait('receive', until_s and math.max(0, until_s - c.mono()))
    if state == nil then
      error(('mpsc:%s: another task is receiving from this queue'):format(name), 3)
    elseif state == false then
      return nil
    end
  end
  return true
end

-- The oldest, or nothing.
local function take(channel)
  local state, value = channel:receive()
  if state == 'ok' then
    return true, host.revive(value)
  end
  return false
end

local function receive(channel, name, until_s)
  while true do
    local state = await(channel, name, until_s)
    if not state then
      return state == nil and 'late' or 'closed'
    end
    local ok, value = take(channel)
    if ok then
      return 'ok', value
    end
  end
end

--- Waits for the oldest. One task may wait at a time: a second one is an error.
---@async
---@return any value  nil: the queue is closed and empty
function Queue:recv()
  local _, value = receive(of(self, 'recv'), 'recv')
  return value
end

--- Ours: as recv; raises when nothing came in time.
---@async
---@param seconds number  >= 0
---@return any value  nil: the queue is closed and empty
function Queue:recv_timeout(seconds)
  local channel = of(self, 'recv_timeout')
  local state, value = receive(channel, 'recv_timeout', check_seconds('recv_timeout', seconds))
  if state == 'late' then
    error('mpsc:recv_timeout: timed out: the queue is empty', 2)
  end
  return value
end

--- Does not wait.
---@return any value  nil: the queue is empty
function Queue:try_recv()
  local _, value = take(of(self, 'try_recv'))
  return value
end

--- Waits for at least one, and takes more that are there.
---@async
---@param n integer  1 to 100000
---@return any[] values  up to n; none: the queue is closed and empty
function Queue:recv_many(n)
  local channel = of(self, 'recv_many')
  if type(n) ~= 'number' or n ~= math.floor(n) or n < 1 or n > MANY_MAX then
    error(('mpsc:recv_many: 1 to %d expected, got %s'):format(MANY_MAX, tostring(n)), 2)
  end
  local values = {}
  local state, value = receive(channel, 'recv_many')
  local ok = state == 'ok'
  while ok do
    values[#values + 1] = value
    if #values == n then
      break
    end
    ok, value = take(channel)
  end
  return c.array(values)
end

---@return integer
function Queue:len()
  return (of(self, 'len'):length())
end

---@return boolean
function Queue:is_empty()
  return of(self, 'is_empty'):length() == 0
end

---@return boolean
function Queue:is_closed()
  return (of(self, 'is_closed'):closed())
end

--- What is in it can still be received. A name stays closed as long as somebody has the queue.
function Queue:close()
  of(self, 'close'):close()
end

--- Finds or makes the queue of a name; the limit of one that is there stays.
---@param name string
---@param limit? integer  >= 1; nil: none
---@return kumo.MpscQueue
function mpsc.define(name, limit)
  if type(name) ~= 'string' or name:find('\0', 1, true) then
    error('kumo.mpsc.define: name: string expected, got ' .. type(name), 2)
  elseif limit ~= nil and (type(limit) ~= 'number' or limit ~= math.floor(limit) or limit < 1 or limit > 2 ^ 53) then
    error('kumo.mpsc.define: limit: integer >= 1 expected, got ' .. tostring(limit), 2)
  end
  return setmetatable({ _core = core.open(name, limit) }, meta)
end

return mpsc
