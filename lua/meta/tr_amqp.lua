---@meta

--- The binding behind lua/kumo/amqp.lua (runtime/transport/amqp_lua.c).
---@class tr.amqp
local core = {}

--- Connections are pooled by these settings, a worker for itself.
---@class kumo.amqp.Connection
---@field host? string        also the TLS server name; or hosts
---@field hosts? string[]     "host" or "host:port", tried in order from the one that worked last; at most 16
---@field port? integer       default 5672, also with TLS
---@field username? string|table default guest; a key source table of kumo.secrets
---@field password? string|table default guest
---@field vhost? string       default /
---@field connection_name? string shown by the broker; default tailrace
---@field heartbeat? integer  seconds; default 60; 0: off
---@field enable_tls? boolean default false
---@field root_ca_cert? string PEM file; default: the system's
---@field client_cert? string  PEM file
---@field client_private_key? string PEM file
---@field confirm_select? boolean accepted: confirms are always awaited
---@field pool_size? integer  connections of a worker; default 4
---@field connect_timeout? number|string a host's connect and login; default 30 s
---@field recycle_timeout? number|string accepted: an idle connection is watched, not asked
---@field wait_timeout? number|string for a free connection; default 60 s
---@field publish_timeout? number|string up to the confirm; default 60 s
---@field idle_timeout? number|string an unused connection is closed; default 5 minutes

---@class kumo.amqp.Message
---@field connection? kumo.amqp.Connection of basic_publish
---@field routing_key string at most 255 bytes, as all texts but the payload
---@field payload string|kumo.Message bytes; a message's are not copied
---@field exchange? string default: the default exchange
---@field mandatory? boolean what cannot be routed fails; default false
---@field immediate? boolean
---@field app_id? string
---@field cluster_id? string
---@field content_encoding? string
---@field content_type? string
---@field correlation_id? string
---@field expiration? string milliseconds
---@field message_id? string
---@field message_type? string
---@field reply_to? string
---@field user_id? string
---@field delivery_mode? integer 2: persistent
---@field priority? integer
---@field timestamp? integer seconds since 1970
---@field headers? table<string, any> strings, booleans, numbers, nested tables and lists

---@class kumo.amqp.Failure
---@field index integer      of the message in the list
---@field status 'Nack'|'Returned'|'Failed'
---@field text string
---@field reply_code integer of AMQP; 0: none
---@field permanent boolean  the broker refused this very message and would again
---@field code? string       of status Failed: "ETIMEDOUT" ...

--- Publishes and waits for the confirms.
---@async
---@param connection kumo.amqp.Connection
---@param messages kumo.amqp.Message[]|kumo.Message[]
---@param template? kumo.amqp.Message of kumo.Message objects: all but their payload, message_id and attempt
---@return kumo.amqp.Failure[]
function core.publish(connection, messages, template) end

--- Raises what publish would of a connection, and makes nothing. Works at the load of a policy.
---@param connection kumo.amqp.Connection
function core.check(connection) end

return core
