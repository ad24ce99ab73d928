---@meta
-- Types of runtime/net/scripted_lua.c: a network that a script plays. lua/scripted.lua speaks HTTP and SMTP on it.

---@class tr.scripted
local scripted = {}

---@alias tr.scripted.Kind
---| 'real'     # the real network
---| 'open'     # answers
---| 'refused'  # connection refused
---| 'silent'   # connecting does not end

--- Makes the network of this thread a scripted one. `serve` runs as a task for each connection; the connection ends with
--- it. Raises if one is set already.
---@param serve async fun(conn: tr.scripted.Connection, address: string)
---@return tr.scripted.Binding
function scripted.new(serve) end

--- Metatable: tr.scripted
---@class tr.scripted.Binding
local Binding = {}

--- What is at an address.
---@param address string "ip:port"
---@param kind tr.scripted.Kind
function Binding:set(address, kind) end

--- What is at addresses that were not set; 'refused' at first. With 'open' each name has an address, too.
---@param kind tr.scripted.Kind
function Binding:otherwise(kind) end

--- Gives a name an address; without one it gets one of its own, unless it has some.
---@param name string
---@param address? string
---@return string address  its first
function Binding:name(name, address) end

--- Adds a master file (MX, TXT, CNAME ...), for names that have no address of the script's own.
---@param text string
function Binding:zone(text) end

--- Says that there is no such name: no stray, if it is asked for.
---@param name string
function Binding:no_name(name) end

--- Connects as a client of the outside, to a listener of this process or to a scripted peer. The calling task's.
---@param address string
---@param client? string  address that it comes from
---@return tr.scripted.Connection? conn
---@return string? err
function Binding:connect(address, client) end

--- Where this process listens, a line each.
---@return string? lines
function Binding:listeners() end

--- What was asked for in vain since the last call, a line each.
---@return string? lines
function Binding:strays() end

--- The real network again; open connections end, their tasks are cancelled. May be called twice.
function Binding:close() end

--- Metatable: tr.scripted.conn
---@class tr.scripted.Connection
local Connection = {}

--- What has come, at least a byte; waits for it.
---@async
---@param seconds? number  at most; 0: what is there
---@return string? bytes
---@return string? why     'closed' or 'timeout'
function Connection:read(seconds) end

---@param bytes string
---@return boolean open  false: the client has gone
function Connection:write(bytes) end

--- The end, once everything is written.
function Connection:close() end

--- The client reads a reset.
function Connection:reset() end

---@return string address  "ip:port" of the client
function Connection:client() end

return scripted
