--- The module `redis`: commands to a Redis server. Contract nats-redis-sqlite.md section 2. Handles of one configuration
--- share a connection of the worker, on which commands are pipelined; it is made with the first command, and again when it
--- was lost.
local host = require 'tr.host'
local core = require 'tr.redis'
local bytes = require 'tr.bytes'
local c = host.c

---@class redis
local redis = {}

---@class redis.Connection
local Connection = {}
local meta = { __index = Connection, __name = 'redis.Connection' }

local DEPTH_MAX = 16
local ARGUMENTS_MAX = 1000000

-- They would change the connection that others use, or its answers.
local REFUSED = {}
for name in ('subscribe psubscribe ssubscribe monitor quit reset select auth hello client'):gmatch '%S+' do
  REFUSED[name] = true
end

local clients = setmetatable({}, { __mode = 'v' }) -- configuration as JSON -> client

local function number_text(value, level)
  if value ~= value or value == math.huge or value == -math.huge then -- luacheck: ignore
    error('redis:query: a number is not finite', level + 1)
  elseif value == math.floor(value) and math.abs(value) <= 2 ^ 53 then
    return ('%.0f'):format(value)
  end
  return ('%.17g'):format(value)
end

-- Adds a value as arguments: nil none, booleans 1 and 0, lists flat, tables as key and value.
local function add(out, value, depth, level)
  local kind = type(value)
  if kind == 'nil' or value == c.NULL then
    return
  elseif #out >= ARGUMENTS_MAX then
    error(('redis:query: more than %d arguments'):format(ARGUMENTS_MAX), level + 1)
  elseif kind == 'string' then
    out[#out + 1] = value
  elseif kind == 'number' then
    out[#out + 1] = number_text(value, level + 1)
  elseif kind == 'boolean' then
    out[#out + 1] = value and '1' or '0'
  elseif kind ~= 'table' and not (kind == 'userdata' and (debug.getmetatable(value) or {}).__pairs) then
    error('redis:query: a ' .. kind .. ' cannot be an argument', level + 1)
  elseif depth > DEPTH_MAX then
    error('redis:query: a table nested deeper than 16 (or in itself)', level + 1)
  elseif value[1] ~= nil then
    for _, member in ipairs(value) do
      add(out, member, depth + 1, level + 1)
    end
  else
    for key, member in pairs(value) do
      add(out, key, depth + 1, level + 1)
      add(out, member, depth + 1, level + 1)
    end
  end
end

--- Sends one command and waits for its answer: nil, a number, `true` for OK, a string (bytes), or a list of these with holes
--- for nil. Raises what the server says is an error, and when it cannot be asked in time (`response_timeout`, 5 s). Arguments:
--- nil is left out, booleans are 1 and 0, lists are flattened, other tables become key and value. Scripts: EVAL, EVALSHA.
---@async
---@param command string
---@param ... any
---@return any reply
function Connection:query(command, ...)
  if getmetatable(self) ~= meta then
    error('redis:query: called without a connection: use the colon', 2)
  elseif type(command) ~= 'string' or command == '' then
    error('redis:query: command: string expected, got ' .. type(command), 2)
  elseif REFUSED[command:lower()] then
    error(('redis:query: %s is not supported: handles share a connection'):format(command:upper()), 2)
  end
  local argv = { command }
  for i = 1, select('#', ...) do
    add(argv, (select(i, ...)), 1, 2)
  end
  local ok, reply = self._client:query(argv)
  if not ok then
    error('redis:query: ' .. reply, 2)
  end
  return reply
end

---@class redis.Options
---@field node string|string[]        'redis://[user][:password@]host[:port][/db]' or 'unix:PATH[?db=N]'; of a list the first
---@field cluster? boolean            true is refused, and so is a list of several without false
---@field read_from_replicas? boolean without effect
---@field username? string            default: of the URL
---@field password? string            default: of the URL
---@field pool_size? integer          without effect: one connection a worker
---@field connect_timeout? number|string  seconds or text; default 30 s
---@field wait_timeout? number|string     of a command for the connection; default 30 s
---@field response_timeout? number|string of a command for its answer; default 5 s
---@field recycle_timeout? number|string  without effect

--- Checks the options; the connection is made with the first command. Unknown options are ignored with a warning.
---@param options redis.Options
---@return redis.Connection
function redis.open(options)
  if type(options) ~= 'table' then
    error('redis.open: table of options expected, got ' .. type(options), 2)
  end
  local key = c.json_encode(options, true) -- sorted; nil for what cannot be: the check says so
  local client = key and clients[key]
  if not client then
    local node = type(options.node) == 'table' and options.node[1] or options.node
    local name = type(node) == 'string' and node:gsub('^[%w+]*:/*', ''):gsub('^.*@', '') or ''
    local user = type(options.username) == 'string' and options.username .. '@' or ''
    local ok, made = pcall(core.open, options, ('%s%s-%s'):format(user, name, bytes.encode('hex', bytes.crc32(key or ''))))
    if not ok then
      error(made, 2)
    end
    client = made
    if key then
      clients[key] = client
    end
  end
  return setmetatable({ _client = client }, meta)
end

return redis
