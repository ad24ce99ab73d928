---@meta

--- The binding behind lua/smtp_client.lua (runtime/transport/smtp_client_lua.c). Internal: connections belong to the session loop.
---@class tr.smtp_client
local smtp = {}

--- Metatable: tr.smtp.connection
---@class tr.smtp_client.Connection
local connection = {}

--- Makes a connection object for the session. Nothing is looked up or connected yet.
---@param session userdata
---@return tr.smtp_client.Connection connection
function smtp.new(session) end

--- Looks up where the message in hand may go (the queue's mx_list, or the MX of its domain), and tries these hosts in order
--- until one has greeted.
---@async
---@param session userdata
---@return true? ok
---@return string|false|nil err   what was wrong with each; false: there is no host at all, see give_up()
function connection:connect(session) end

--- Ends or gives back what is in hand, as connect() has found.
---@param session userdata
---@return boolean all   the same is true of all that wait in the ready queue
function connection:give_up(session) end

--- Whether the source is left alone now, after a connect that failed for its address or its proxy.
---@param session tr.session
---@param text string  what connect() gave
---@return boolean
function connection:source_suspended(session, text) end

--- Sends the session's message in hand to all its recipients.
---@async
---@param session userdata
---@return boolean tried   false: the connection was found lost, no candidate is left, and nothing was sent
function connection:send(session) end

--- What the peer said to recipient `index` of the message sent last.
---@param index integer from 1
---@return string|false|nil line   "550 5.1.1 text"; false: 250, or nothing was said; nil: no such recipient
function connection:refusal(index) end

--- Policy's code in place of what the peer said.
---@param index integer from 1
---@param code integer 200 to 599
function connection:rewrite(index, code) end

--- Parts of the queue name of the message in hand.
---@param session userdata
---@return string domain
---@return string? tenant
---@return string? campaign
---@return string routing_domain   the domain if the name has none
function connection:queue(session) end

--- Reports the results as the outcome of the message in hand, which ends.
---@param session userdata
---@return boolean usable   another message may follow
function connection:report(session) end

--- Whether the message in hand, which was sent, is for the next host at once (try_next_host_on_transport_error).
---@param session userdata
---@return boolean
function connection:goes_on(session) end

--- Instead of report(): records tell what became of each recipient, and those that are kept stay in hand.
---@async
---@param session userdata
---@return boolean in_hand   false: it could not be stored, nothing is in hand
function connection:tell(session) end

--- Leaves the host and connects to the next candidate that answers.
---@async
---@return true? ok
---@return string? err   what was wrong with each
function connection:next_host() end

--- QUIT. May be called twice.
function connection:close() end

return smtp
