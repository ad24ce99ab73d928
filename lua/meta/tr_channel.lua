---@meta
-- Types of runtime/policy/channel_lua.c, for lua/kumo/mpsc.lua. Internal.

---@class tr.channel
local channel = {}

--- Metatable: tr.channel
---@class tr.channel.Channel
local Channel = {}

---@param value any
---@return 'ok'|'full'|'closed'|nil state  nil: it cannot be kept
function Channel:send(value) end

---@return 'ok'|'empty'|'closed' state
---@return any value
function Channel:receive() end

---@async
---@param what 'send'|'receive'
---@param seconds? number
---@return boolean? again  false: the time is over; nil: another one waits to receive
function Channel:wait(what, seconds) end

---@return integer
function Channel:length() end

---@return boolean
function Channel:closed() end

function Channel:close() end

---@param name string
---@param limit? integer
---@return tr.channel.Channel
function channel.open(name, limit) end

return channel
