---@meta
-- Types of runtime/transport/redis_lua.c.

---@class kumo
local kumo = {}

---@class kumo.RedisThrottles
---@field node string|string[]        'redis://[user][:password@]host[:port][/db]' or 'unix:PATH[?db=N]'; of a list the first
---@field cluster? boolean            true is refused, and so is a list of several without false
---@field read_from_replicas? boolean without effect
---@field username? string            default: of the URL
---@field password? string            default: of the URL
---@field pool_size? integer          without effect: one connection a worker
---@field connect_timeout? number|string  seconds or text; default 30 s
---@field wait_timeout? number|string     default 30 s
---@field response_timeout? number|string default 5 s
---@field recycle_timeout? number|string  without effect
---@field fallback? 'hold'|'local'    while Redis does not answer; default 'hold'

--- Shares all throttles and connection limits without "local:" with the other nodes that use this Redis. Once, in `init`;
--- raises if the server does not answer.
---@async
---@param options kumo.RedisThrottles
function kumo.configure_redis_throttles(options) end

---@class tr.redis
local core = {}

--- Metatable: tr.redis_client
---@class tr.redis.Client
local Client = {}

---@async
---@param arguments string[]
---@return true? good
---@return any reply_or_message
---@return string? code
function Client:query(arguments) end

function Client:close() end

--- For lua/kumo/redis.lua. Internal.
---@param options redis.Options
---@param service string  in metrics
---@return tr.redis.Client
function core.open(options, service) end

return core
