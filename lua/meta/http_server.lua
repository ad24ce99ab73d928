---@meta
-- Types of what runtime/ingress/http_server_lua.c and lua/api.lua add to `kumo`.

---@class kumo
local kumo = {}

---@class (exact) kumo.HttpListenerOptions
---@field listen? string             default '127.0.0.1:8000'; port 0 takes a free one
---@field hostname? string           meta `hostname` of injected messages; default: the system's
---@field use_tls? boolean           true is not supported yet
---@field tls_certificate? any
---@field tls_private_key? any
---@field trusted_hosts? string[]    addresses and CIDR blocks; default { '127.0.0.1', '::1' }
---@field request_body_limit? integer bytes, default 2 MiB

--- Listens for injection and administration; docs/http-listener.md. Only in the event `init`. Raises when it cannot bind.
---@param options kumo.HttpListenerOptions
---@return string? address as bound; nil while validating
function kumo.start_http_listener(options) end

--- Stores a message made by kumo.make_message and puts it into its queue; returns after the commit. No Reception record.
--- Raises when it cannot be stored or its queue cannot be configured.
---@async
---@param message kumo.Message
---@param deferred_spool? boolean accepted; it is stored in any case
function kumo.inject_message(message, deferred_spool) end

--- Configurations of queues and paths are asked for again.
function kumo.bump_config_epoch() end

return kumo
