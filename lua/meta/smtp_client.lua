---@meta tr.smtp_client
-- Types of runtime/transport/smtp_client_lua.c, for lua/smtp_client.lua. Internal.

---@class tr.smtp_client
local smtp_client = {}

--- Candidates are the queue's mx_list, or the address literal that its routing domain is.
---@param session tr.session.Session
---@return tr.smtp_client.Connection?
---@return string? message
---@return string? code
function smtp_client.new(session) end

--- Metatable: tr.smtp.connection
---@class tr.smtp_client.Connection
local Connection = {}

--- Tries the candidates in order.
---@async
---@return true?
---@return string? message
function Connection:connect() end

--- Sends the message in hand.
---@async
---@param session tr.session.Session
---@return boolean tried  false: the connection was lost before, and no candidate is left
function Connection:send(session) end

---@param index integer  recipient, from 1
---@return string|false|nil line  what the peer said; false: 250 or nothing; nil: there is no such recipient
function Connection:refusal(index) end

---@param index integer
---@param code integer  200 to 599, in place of the peer's
function Connection:rewrite(index, code) end

--- Of the message in hand.
---@param session tr.session.Session
---@return string domain
---@return string? tenant
---@return string? campaign
---@return string routing_domain
function Connection:queue(session) end

--- Ends the message in hand with its recipients' outcomes.
---@param session tr.session.Session
---@return boolean usable  another message may go over the connection
function Connection:report(session) end

--- Says QUIT. May be called twice.
function Connection:close() end

return smtp_client
