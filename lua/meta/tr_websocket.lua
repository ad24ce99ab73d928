---@meta

--- The binding behind kumo.http.connect_websocket (runtime/transport/websocket_lua.c).
---@class tr.websocket
local core = {}

--- Begins to connect. Raises for a bad URL or option.
---@param url string
---@param options? kumo.http.WebsocketOptions
---@return tr.websocket.Stream
function core.new(url, options) end

--- Waits until the stream is open.
---@async
---@param stream tr.websocket.Stream
---@return integer? status
---@return string head   header lines; or the message of the failure
---@return string? code  of the failure
function core.opened(stream) end

--- Metatable: tr.websocket
---@class tr.websocket.Stream
local stream = {}

--- The next message: a text, a binary or the payload of a pong. `nil` when the stream has ended.
---@async
---@param timeout? number|string  ours; default: none, a silent peer is noticed by pings
---@return string? message
---@return string? error
---@return string? code  "ECLOSED": the peer closed it; "ETIMEDOUT": the timeout, or a dead peer; "EPROTO", "ETOOBIG" ...
function stream:recv(timeout) end

--- What comes within a time, all of which is waited for, unless the stream ends. Raises "websocket closed" if it has
--- ended and nothing was collected.
---@async
---@param duration number|string
---@return string[]
function stream:recv_batch(duration) end

--- Ours. Waits while the peer does not take what was sent before.
---@async
---@param data string
---@param kind? "text"|"binary"  default "text", which must be UTF-8
---@return true? ok
---@return string? error
---@return string? code
function stream:send(data, kind) end

--- Ours. The closing handshake; messages that have come can still be read.
---@async
---@return true? ok
---@return string? error
---@return string? code
function stream:close() end

return core
