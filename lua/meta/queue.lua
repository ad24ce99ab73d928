---@meta
-- Types of what runtime/queue/*_lua.c gives to policies. A duration is a number of seconds or a text such as "1h 30m".

---@class kumo
local kumo = {}

---@alias kumo.DurationValue number|string

---@class (exact) kumo.MxEntry
---@field name string
---@field addr string  "ip" or "ip:port"

---@class (exact) kumo.SmtpProtocol
---@field mx_list? (string|kumo.MxEntry)[]  "host", "host:port", "[ip]", "[ip]:port", tried in order
---@field treat_mx_list_as_secure? boolean  accepted, without effect

---@class (exact) kumo.CustomLuaProtocol
---@field constructor string                       event that makes the connection object
---@field batch_size? integer                      default 1: `send`; more: `send_batch`
---@field min_batch_size? integer                  default 1
---@field max_batch_latency? kumo.DurationValue    default 0: how long a partial batch may wait
---@field max_batch_bytes? integer                 ours: of message bodies; the first is always taken; default 0: no bound

---@class (exact) kumo.Protocol  one of the two
---@field smtp? kumo.SmtpProtocol
---@field custom_lua? kumo.CustomLuaProtocol

---@class (exact) kumo.QueueConfigOptions
---@field retry_interval? kumo.DurationValue       default 20 minutes; doubles with each attempt
---@field max_retry_interval? kumo.DurationValue   default: none
---@field max_age? kumo.DurationValue              default 7 days
---@field egress_pool? string                      default `unspecified`: get_egress_pool is asked for any other
---@field max_message_rate? string                 of this queue: "100/min", "local:10/s,max_burst=1"
---@field protocol? kumo.Protocol                  default { smtp = {} }
---@field reap_interval? kumo.DurationValue        default 10 minutes
---@field refresh_interval? kumo.DurationValue     default 1 minute
---@field refresh_strategy? 'Ttl'|'Epoch'          default Ttl
---@field strategy? 'TimerWheel'|'SkipList'|'SingletonTimerWheel'|'SingletonTimerWheelV2'  checked, without effect
---@field timerwheel_tick_interval? kumo.DurationValue  checked, without effect
---@field provider_name? string
---@field shrink_policy? table                     accepted, without effect
---@field max_waiting? integer                     log records that may wait; ours, as are the next two
---@field max_waiting_bytes? integer               the same in stored bytes
---@field overflow? 'spill'|'shed_oldest'          what happens beyond it: they wait on disk (default), or the oldest are dropped

--- Read-only view of the options, durations as text; `pairs` and `#` work.
--- Metatable: tr.queue_config
---@class kumo.QueueConfig
---@field [string] any
local QueueConfig = {}

--- The result for get_queue_config. Raises for unknown keys and wrong values.
---@param options kumo.QueueConfigOptions
---@return kumo.QueueConfig
function kumo.make_queue_config(options) end

---@class (exact) kumo.ConnectionLimit
---@field limit integer
---@field force_local? boolean

---@class (exact) kumo.EgressPathOptions
---@field connection_limit? integer|string|kumo.ConnectionLimit   default 32; log hooks 10
---@field additional_connection_limits? table<string, integer|string|kumo.ConnectionLimit>  shared by all paths that use the name
---@field max_connection_rate? string                             "100/min", "local:10/s,max_burst=1"; default none; log hooks "local:1000/s"
---@field max_message_rate? string                                one for each `send` or `send_batch`
---@field additional_message_rate_throttles? table<string, string>  shared by all paths that use the name
---@field source_selection_rate? string
---@field additional_source_selection_rates? table<string, string>
---@field gate_failures? integer                                  in a row that close the gate; 0: it never closes. Default 0; log hooks 5
---@field gate_backoff? kumo.DurationValue                        first closing, doubled by each; default 1 s
---@field gate_max_backoff? kumo.DurationValue                    default 60 s
---@field gate_max_retry_after? kumo.DurationValue                most that a peer's Retry-After closes it for; default 1 h
---@field max_ready? integer                                      default 1024; log hooks 10000
---@field max_deliveries_per_connection? integer                  default 1024; log hooks 8192
---@field max_recipients_per_batch? integer                       default 100
---@field consecutive_connection_failures_before_delay? integer   default 100
---@field idle_timeout? kumo.DurationValue                        default 5 s; log hooks 60 s
---@field connect_timeout? kumo.DurationValue                     default 60 s
---@field banner_timeout? kumo.DurationValue                      default 60 s
---@field auth_timeout? kumo.DurationValue                        default 60 s
---@field ehlo_timeout? kumo.DurationValue                        default 300 s
---@field mail_from_timeout? kumo.DurationValue                   default 300 s
---@field rcpt_to_timeout? kumo.DurationValue                     default 300 s
---@field data_timeout? kumo.DurationValue                        default 300 s
---@field data_dot_timeout? kumo.DurationValue                    default 300 s
---@field rset_timeout? kumo.DurationValue                        default 5 s
---@field starttls_timeout? kumo.DurationValue                    default 5 s
---@field system_shutdown_timeout? kumo.DurationValue             grace of running sends when the service stops
---@field dispatcher_progress_watchdog_timeout? kumo.DurationValue  default 600 s
---@field refresh_strategy? 'Ttl'|'Epoch'                         default Ttl
---@field refresh_interval? kumo.DurationValue                    default 60 s
---@field provider_name? string
---@field enable_pipelining? boolean                              default true
---@field enable_rset? boolean                                    default true
---@field use_lmtp? boolean                                       default false
---@field smtp_port? integer                                      default 25
---@field ehlo_domain? string                                     default: the system's name
---@field ignore_8bit_checks? boolean                             default false
---@field ip_lookup_strategy? 'Ipv4AndIpv6'|'Ipv4Only'|'Ipv6Only'|'Ipv6ThenIpv4'|'Ipv4ThenIpv6'  default Ipv4AndIpv6
---@field prohibited_hosts? string[]  addresses and blocks; default { '127.0.0.0/8', '::1', '0.0.0.0', '::' }
---@field skip_hosts? string[]        the same; default {}
---@field enable_tls? 'Opportunistic'|'OpportunisticInsecure'|'Required'|'RequiredInsecure'|'Disabled'  Required ones are refused: no TLS yet
---@field reconnect_strategy? 'TerminateSession'|'ReconnectSameHost'|'ConnectNextHost'  where the next message goes when the connection is lost; default ConnectNextHost
---@field try_next_host_on_transport_error? boolean  after 421, silence or a broken connection the message goes on to the next host at once; default false
---@field enable_mta_sts? boolean   checked and named by a warning: there is no TLS yet; so are those up to allow_smtp_auth_plain_without_valid_certificate
---@field enable_dane? boolean
---@field tls_certificate? kumo.KeySource
---@field tls_private_key? kumo.KeySource
---@field openssl_cipher_list? string
---@field openssl_cipher_suites? string
---@field openssl_options? string
---@field remember_broken_tls? kumo.DurationValue
---@field opportunistic_tls_reconnect_on_failed_handshake? boolean
---@field smtp_auth_plain_username? string
---@field smtp_auth_plain_password? kumo.KeySource
---@field allow_smtp_auth_plain_without_tls? boolean
---@field allow_smtp_auth_plain_without_valid_certificate? boolean
---@field dispatcher_wakeup_strategy? string                      checked and named by a warning: without effect; so are those below
---@field maintainer_wakeup_strategy? string
---@field aggressive_connection_opening? boolean
---@field readyq_pool_name? string
---@field low_memory_reduction_policy? string
---@field no_memory_reduction_policy? string
---@field tls_prefer_openssl? boolean
---@field rustls_cipher_suites? string[]

---@class (exact) kumo.KeySourceTable
---@field key_data? string      the bytes themselves
---@field event_name? string    event of the policy that returns them
---@field event_args? any[]

--- A file's path, or a table.
---@alias kumo.KeySource string|kumo.KeySourceTable

--- Read-only view of the options, durations as text; `pairs` and `#` work.
--- Metatable: tr.path_config
---@class kumo.EgressPath
---@field [string] any
local EgressPath = {}

--- The result for get_egress_path_config. Raises for unknown keys and wrong values.
---@param options kumo.EgressPathOptions
---@return kumo.EgressPath
function kumo.make_egress_path(options) end
