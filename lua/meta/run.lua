---@meta
-- Types of what runtime/ingress/{run,smtp_server,smtp_options}_lua.c add to `kumo`; HTTP is in http_server.lua.

---@class kumo
local kumo = {}

---@class (exact) kumo.SpoolOptions
---@field name 'meta'|'data'               both are needed: the log lives in `meta`, large bodies in `data`
---@field path string                      directory
---@field flush? boolean                   default true; false on `meta`: receptions are answered before the sync
---@field min_free_space? string|number    of `meta`: "10%" or bytes
---@field min_free_inodes? string|number   of `meta`
---@field kind? 'LocalDisk'|'RocksDB'      accepted: there is one kind of spool
---@field rocks_params? table              accepted, without effect

--- In pre_init or init only.
---@param options kumo.SpoolOptions
function kumo.define_spool(options) end

---@class (exact) kumo.TraceHeaderOptions
---@field received_header? boolean         default true
---@field supplemental_header? boolean     default true
---@field header_name? string              default X-KumoRef
---@field include_meta_names? string[]     default none

--- What a session of the ESMTP listener follows; the result of smtp_server_get_dynamic_parameters.
---@class (exact) kumo.EsmtpSessionOptions
---@field hostname? string                        default: the system's
---@field banner? string                          default KumoMTA
---@field relay_hosts? string[]                   addresses and CIDR blocks; default 127.0.0.1 and ::1
---@field batch_handling? 'BifurcateAlways'|'BatchByDomain'  default BifurcateAlways
---@field client_timeout? number|string           duration, default 1 minute
---@field data_processing_timeout? number|string  duration, default 5 minutes
---@field max_messages_per_connection? integer    default 10000
---@field max_recipients_per_message? integer     default 1024
---@field max_message_size? integer               bytes, default 20 MiB
---@field data_buffer_size? integer               bytes, default 128 KiB
---@field line_length_hard_limit? integer         default 998
---@field invalid_line_endings? 'Deny'|'Allow'|'Fix'  default Deny
---@field trace_headers? kumo.TraceHeaderOptions
---@field meta? table<string, kumo.Json>          merged into the connection's
---@field tls_certificate? nil                    not supported yet: refused; so are those below (false is fine)
---@field tls_private_key? nil
---@field tls_required_client_ca? nil
---@field deferred_queue? false
---@field allow_xclient? false
---@field require_proxy_protocol? false
---@field deferred_spool? boolean                 accepted: messages are stored all the same
---@field peer? table<string, kumo.EsmtpSessionOptions>  by address or CIDR block of the client; the longest prefix counts
---@field via? table<string, kumo.EsmtpSessionOptions>   by our own address

---@class (exact) kumo.EsmtpListenerOptions : kumo.EsmtpSessionOptions
---@field listen? string             default 127.0.0.1:2025; port 0: a free one
---@field max_connections? integer   default 32768

--- In pre_init or init only. Raises if it cannot be bound.
---@param options kumo.EsmtpListenerOptions
---@return string? address  as bound
function kumo.start_esmtp_listener(options) end

---@class (exact) kumo.ListenerDomainOptions
---@field relay_to? boolean            anyone may send to this domain; default false
---@field relay_from? string[]         addresses and CIDR blocks that may send from this domain to anywhere
---@field log_oob? 'Ignore'|false      other values are not supported yet
---@field log_arf? 'Ignore'|false
---@field ttl? number|string           accepted, without effect

--- Metatable: tr.smtp_domain
---@class kumo.ListenerDomain
---@field relay_to boolean
---@field relay_from string[]
---@field log_oob 'Ignore'
---@field log_arf 'Ignore'
local ListenerDomain = {}

--- The result for get_listener_domain.
---@param options kumo.ListenerDomainOptions
---@return kumo.ListenerDomain
function kumo.make_listener_domain(options) end

---@class kumo.AuthInfo
---@field peer_address? string
---@field identities { identity: string, context: string }[]
---@field groups string[]

--- Metadata of an SMTP connection: copied into each of its messages. Valid until the connection ends.
--- Metatable: tr.conn_meta
---@class kumo.ConnMeta
local ConnMeta = {}

---@param name string
---@return kumo.Json
function ConnMeta:get_meta(name) end

---@param name string
---@param value kumo.Json
function ConnMeta:set_meta(name, value) end

---@return kumo.AuthInfo
function ConnMeta:auth_info() end
