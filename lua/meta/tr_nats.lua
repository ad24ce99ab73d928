---@meta

--- The binding behind lua/kumo/nats.lua (runtime/transport/nats_lua.c).
---@class tr.nats
local core = {}

--- A key source is a file's path or a table of kumo.secrets, e.g. { key_data = 'secret' }.
---@class kumo.nats.Auth
---@field username? string|table key source; with password
---@field password? string|table key source
---@field token? string|table   key source
---@field credentials? string   path of a credentials file: a user's JWT and seed. Not in the reference

--- Clients of one configuration share a connection a worker.
---@class kumo.nats.Config
---@field servers string[]        "host:port", "nats://host:port" or "tls://host:port"; at most 32
---@field auth? kumo.nats.Auth
---@field name? string            shown by the server
---@field no_echo? boolean
---@field max_reconnects? integer in a row, then the client fails for good; default 0: no limit
---@field connection_timeout? number|string of a server; default 5 s
---@field tls_required? boolean
---@field tls_first? boolean      true raises: not supported
---@field certificate? string     PEM file of roots; default: the system's
---@field client_cert? string     PEM file
---@field client_key? string      PEM file
---@field ping_interval? number|string|table default 60 s; a table of the reference: { secs =, nanos = }
---@field client_capacity? integer messages that await their acknowledgement, more wait; default 2048
---@field sender_capacity? integer another name of client_capacity
---@field inbox_prefix? string    default _INBOX
---@field request_timeout? number|string of a call, up to its last acknowledgement; default 5 s
---@field retry_on_initial_connect? boolean connect in the background
---@field ignore_discovered_servers? boolean
---@field retain_servers_order? boolean default: random order

---@class kumo.nats.Message
---@field subject string
---@field payload string|kumo.Message bytes; a message's are not copied through Lua
---@field headers? table<string, string> at most 64; Nats-Msg-Id: the stream drops what it has seen already
---@field await_ack? boolean      default true; false: handed over is enough, and nothing is guaranteed

---@class kumo.nats.Ack empty without await_ack
---@field stream string
---@field sequence integer
---@field domain string
---@field duplicate boolean       the stream had it already
---@field value string            of a counter stream; else empty

---@class kumo.nats.Failure
---@field index integer           of the message in the list
---@field text string
---@field permanent boolean       this very message is refused and would be again: too large ...
---@field err_code integer        of JetStream; 0: none
---@field code string             "ETIMEDOUT" ...

--- Metatable: tr.nats.client
---@class kumo.nats.Client
local client = {}

--- Publishes one message and waits for the stream's acknowledgement. Raises when there is none: then it may have
--- arrived all the same, unless the text says that it was refused.
---@async
---@param message kumo.nats.Message
---@return kumo.nats.Ack
function client:publish(message) end

--- Publishes messages in order and waits for all acknowledgements. A message that is not valid raises before any is
--- sent. Not in the reference.
---@async
---@param list kumo.nats.Message[]
---@return kumo.nats.Failure[] failed in ascending order of `index`; empty: the streams have all
function client:publish_batch(list) end

--- Publishes messages of a queue to one subject, in order, each with its event_id as Nats-Msg-Id and the header attempt,
--- and waits for all acknowledgements. Cheaper than a list of tables. Not in the reference.
---@async
---@param subject string
---@param messages kumo.Message[]
---@param headers? table<string, string> beside those, of all
---@return kumo.nats.Failure[]? failed nil: the stream has all; else in ascending order of `index`
function client:publish_messages(subject, messages, headers) end

--- Drops the handle; later calls raise `client was closed`. What is under way goes on.
function client:close() end

--- Raises for what is wrong with the configuration.
---@param config kumo.nats.Config but auth
---@param auth? table<string, string> what auth's key sources hold
---@return kumo.nats.Client
function core.open(config, auth) end

--- Raises what open would, and makes nothing. Works at the load of a policy.
---@param config kumo.nats.Config but auth
---@param auth? table<string, string>
function core.check(config, auth) end

--- What is wrong with a text as the subject of a message; nil: nothing.
---@param subject string
---@return string? error
function core.subject_error(subject) end

--- Waits until it is connected; raises when that fails.
---@async
---@param client kumo.nats.Client
function core.connect(client) end

return core
