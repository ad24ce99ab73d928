---@meta

--- The binding behind lua/kumo/dns.lua (runtime/net/dns_lua.c). Internal.
---@class tr.dns
local dns = {}

---@class (exact) tr.dns.Zone
---@field zone string     a master file
---@field secure boolean?

---@class (exact) tr.dns.ResolverSpec
---@field kind 'system'|'servers'|'test'|'aggregate'
---@field servers? string            "192.0.2.1:53,[2001:db8::1]:53"
---@field search? string             suffixes of short names, separated by blanks
---@field transport? 'udp_then_tcp'|'udp'|'tcp'
---@field bind_addr? string
---@field options? table<string, any>  of kumo.dns.configure_resolver; names and types are checked already
---@field zones? tr.dns.Zone[]       of a test resolver
---@field servfail? string[]
---@field children? userdata[]       of an aggregate

--- Makes a resolver. Raises what is wrong, naming `name`.
---@param name string  function that the user called
---@param spec tr.dns.ResolverSpec
---@return userdata resolver
function dns.resolver(name, spec) end

--- For all workers; without a name it is the resolver that is asked unless another is named.
---@param resolver userdata
---@param name? string
function dns.install(resolver, name) end

---@param at_once integer?
---@param timeout number|string|nil
---@param negative_ttl number|string|nil
function dns.mx_limits(at_once, timeout, negative_ttl) end

--- Records of a name as texts; none give an empty list.
---@async
---@param name string
---@param type 'A'|'AAAA'|'TXT'|'PTR'|'CNAME'|'NS'
---@param timeout_s number
---@param resolver? string
---@return string[]? records
---@return string? why
---@return string? code  "NXDOMAIN", "ETIMEDOUT", "EPROTO" ...
function dns.ask(name, type, timeout_s, resolver) end

---@async
---@param name string
---@param strategy string?  ip_lookup_strategy; nil: the resolver's
---@param timeout_s number
---@param resolver? string
---@return string[]? addresses
---@return string? why
---@return string? code
function dns.addrs(name, strategy, timeout_s, resolver) end

---@async
---@param domain string
---@param resolver? string
---@return table? mx  kumo.dns.MailExchanger without mta_sts
---@return string? why
---@return string? code
function dns.mx(domain, resolver) end

---@param address string
---@param with_zone boolean
---@return string? name
function dns.reverse(address, with_zone) end

--- Metatable: tr.dns.resolver
---@class tr.dns.Resolver
local resolver = {}

return dns
