---@meta
-- Types of what runtime/queue/source_lua.c gives to policies. A duration is a number of seconds or a text such as "1h 30m".

---@class kumo
local kumo = {}

---@class (exact) kumo.SuspendTrigger
---@field Threshold string  "N/period": so many failures within the period

---@class (exact) kumo.SuspendRule
---@field trigger? 'Immediate'|kumo.SuspendTrigger  default Immediate
---@field duration kumo.DurationValue               how long the source is left alone

---@class (exact) kumo.EgressSourceOptions
---@field name string
---@field ehlo_domain? string                  when the path has none; default: the host's name
---@field source_address? string               IP address to send from
---@field remote_port? integer                 overrides every other port setting
---@field ha_proxy_server? string              "host:port" of a proxy that speaks HAProxy's protocol v2
---@field ha_proxy_source_address? string      address that it shall send from; goes together with the server
---@field socks5_proxy_server? string          "host:port"
---@field socks5_proxy_source_address? string
---@field socks5_proxy_username? string
---@field socks5_proxy_password? string|table  name of a file or { key_data = TEXT }
---@field suspend_when_unplumbed? kumo.SuspendRule        source_address is not on this machine
---@field suspend_when_proxy_unhealthy? kumo.SuspendRule
---@field ttl? kumo.DurationValue              default 1 minute: how long the answer is kept

--- Read-only view of the options, durations as text; `pairs` and `#` work.
--- Metatable: tr.egress_source
---@class kumo.EgressSource
---@field [string] any
local EgressSource = {}

--- The result for get_egress_source. Raises for unknown keys and wrong values.
---@param options kumo.EgressSourceOptions
---@return kumo.EgressSource
function kumo.make_egress_source(options) end

---@class (exact) kumo.EgressPoolEntry
---@field name string      of a source
---@field weight? integer  default 1; 0: not used

---@class (exact) kumo.EgressPoolOptions
---@field name string
---@field entries? kumo.EgressPoolEntry[]  default {}: nothing is sent
---@field ttl? kumo.DurationValue          default 1 minute: how long the answer is kept

--- Read-only view of the options, durations as text; `pairs` and `#` work.
--- Metatable: tr.egress_pool
---@class kumo.EgressPool
---@field [string] any
local EgressPool = {}

--- The result for get_egress_pool. Raises for unknown keys and wrong values.
---@param options kumo.EgressPoolOptions
---@return kumo.EgressPool
function kumo.make_egress_pool(options) end
