--- The module `sqlite`: SQLite databases. Statements run in other threads, the calling task waits. Contract
--- nats-redis-sqlite.md section 3.
local host = require 'tr.host'
local core = require 'tr.sqlite'
local c = host.c

---@class sqlite
local sqlite = {}

---@class sqlite.Connection
local Connection = {}
local meta = { __index = Connection, __name = 'sqlite.Connection' }

local LIMIT_S = 60
local WRONG_VALUE = 'only numbers, strings and nil can be passed as parameter values'

function meta:__tostring()
  return ('sqlite (%s)'):format(rawget(self, '_path'))
end

local function check_value(value, level)
  local kind = type(value)
  if value == c.NULL then
    return nil
  elseif kind ~= 'number' and kind ~= 'string' and kind ~= 'nil' then
    error(('sqlite:execute: %s, got %s'):format(WRONG_VALUE, kind), level + 1)
  elseif kind == 'string' and not c.utf8_valid(value) then
    error('sqlite:execute: a text is not valid UTF-8: encode bytes, as hex for example', level + 1)
  end
  return value
end

-- Values, their number, and names (nil: by position) from what stands behind the statement.
local function parameters(...)
  local count, first = select('#', ...), (...)
  local list = { ... }
  if count == 1 and type(first) == 'table' then
    list = first
    local name = next(first)
    if type(name) == 'string' then
      local values, names = {}, {}
      for key, value in pairs(first) do
        if type(key) ~= 'string' or key:find('\0', 1, true) then
          error('sqlite:execute: a list or a table of names is expected, got both', 3)
        end
        names[#names + 1] = key
        values[#names] = check_value(value, 3)
      end
      return values, #names, names
    end
    count = 0
    for key in pairs(first) do
      if type(key) ~= 'number' or key < 1 or key ~= math.floor(key) or key > 32766 then
        error('sqlite:execute: a list or a table of names is expected', 3)
      end
      count = math.max(count, key)
    end
  elseif count == 1 and first == nil then
    count = 0
  end
  local values = {}
  for i = 1, count do
    values[i] = check_value(list[i], 3)
  end
  return values, count
end

--- Runs one statement; what follows the first is ignored. Values are numbers, UTF-8 texts and nil: one or several, a list, or
--- a table of names (key `k` is `:k` in the statement).
---@async
---@param sql string
---@param ... any
---@return number|any[]|table[] result
---  statements without columns: how many rows they changed; one column: the list of its values (NULL leaves a hole); several:
---  a list of { column = value }, NULL missing. Blobs are bytes. Integers are exact up to 2^53.
function Connection:execute(sql, ...)
  if getmetatable(self) ~= meta then
    error('sqlite:execute: called without a connection: use the colon', 2)
  elseif type(sql) ~= 'string' or sql:find('\0', 1, true) then
    error('sqlite:execute: sql: string without NUL expected, got ' .. type(sql), 2)
  elseif not self._core then
    error('sqlite:execute: connection was closed', 2)
  end
  local values, count, names = parameters(...)
  local result, message = self._core:execute(sql, self._limit_s, count, values, names)
  if result == nil then
    error(('sqlite:execute: %s: %s'):format(self._path, message), 2)
  end
  return result
end

--- Statements that are under way come to their end; later ones are errors. A second close is none.
function Connection:close()
  if getmetatable(self) ~= meta then
    error('sqlite:close: called without a connection: use the colon', 2)
  end
  if self._core then
    self._core:close()
    self._core = nil
  end
end

--- Opens a database, and makes the file if it is not there.
---@async
---@param path string              ':memory:' is private to this connection
---@param busy_timeout_ms? integer how long a statement waits for the lock of another connection, 0 to 3600000; default 500
---@param timeout? number|string   ours: longest run of a statement, seconds or text; default 60 s
---@return sqlite.Connection
function sqlite.open(path, busy_timeout_ms, timeout)
  local busy_ms = busy_timeout_ms == nil and 500 or busy_timeout_ms
  if type(path) ~= 'string' or path:find('\0', 1, true) then
    error('sqlite.open: path: string without NUL expected, got ' .. type(path), 2)
  elseif type(busy_ms) ~= 'number' or busy_ms ~= math.floor(busy_ms) or busy_ms < 0 or busy_ms > 3600000 then
    error('sqlite.open: busy_timeout_ms: integer 0 to 3600000 expected, got ' .. tostring(busy_ms), 2)
  end
  local limit_s = LIMIT_S
  if timeout ~= nil then
    local s, ns = c.duration(timeout, 'sqlite.open', 'timeout')
    limit_s = s + ns / 1e9
    if limit_s <= 0 then
      error('sqlite.open: timeout: more than 0 expected', 2)
    end
  end
  local db, message = core.open(path, busy_ms)
  if not db then
    error(('sqlite.open: %s: %s'):format(path, message), 2)
  end
  return setmetatable({ _core = db, _path = path, _limit_s = limit_s }, meta)
end

return sqlite
