-- kumo.dns: look-ups, and which resolver makes them. Resolvers belong to the whole process: what pre_init configures holds
-- for all workers, for the MX of queues and for the SMTP client; the HTTP client asks the system.
-- Source: contract lua-modules.md section 6; differences: docs/dns.md.
local host = require 'tr.host'
local tr_dns = require 'tr.dns'
local c = host.c

---@class kumo.dns
local dns = {}

local LOOKUP_S = 15 -- a task must not wait for ever; MX look-ups have set_mx_timeout()

local STRATEGIES = { Ipv4AndIpv6 = true, Ipv4Only = true, Ipv6Only = true, Ipv6ThenIpv4 = true, Ipv4ThenIpv6 = true }
local PROTOCOLS = { udp_then_tcp = true, udp = true, tcp = true }
local ORDERS = { QueryStatistics = true, RoundRobin = true, UserProvidedOrder = true }
local HOSTS_FILE = { Always = true, Auto = true, Never = true }
local OPTIONS = { -- name -> type; 'd' is a duration, which C reads
  attempts = 'number',
  cache_size = 'number',
  case_randomization = 'boolean',
  edns0 = 'boolean',
  ip_strategy = STRATEGIES,
  ndots = 'number',
  negative_max_ttl = 'd',
  negative_min_ttl = 'd',
  num_concurrent_reqs = 'number',
  positive_max_ttl = 'd',
  positive_min_ttl = 'd',
  preserve_intermediates = 'boolean',
  recursion_desired = 'boolean',
  server_ordering_strategy = ORDERS,
  timeout = 'd',
  trust_anchor_file = 'string',
  try_tcp_on_error = 'boolean',
  use_hosts_file = HOSTS_FILE,
  validate = 'boolean',
}
local WITHOUT_EFFECT = { -- what a policy could expect something of
  case_randomization = 'names are asked in lower case',
  trust_anchor_file = 'DNSSEC is not checked here; the servers that are asked may do it',
  try_tcp_on_error = 'TCP is used for truncated replies alone',
  validate = 'DNSSEC is not checked here; the servers that are asked may do it',
}

-- --- checks ----------------------------------------------------------------------------------------

local function fail(level, text, ...)
  error(text:format(...), level + 1)
end

local function sorted_names(set)
  local names = {}
  for name in pairs(set) do
    names[#names + 1] = name
  end
  table.sort(names)
  return names
end

local function check_keys(where, given, known, level)
  for key in pairs(given) do
    if known[key] == nil then
      local names = sorted_names(known)
      local near = type(key) == 'string' and c.nearest(key, names)
      fail(level + 1, "%s: unknown field '%s', expected one of '%s'%s", where, tostring(key), table.concat(names, "', '"),
        near and (" (did you mean '%s'?)"):format(near) or '') -- stylua: ignore
    end
  end
end

local function check_type(where, value, expected, level)
  if type(expected) == 'table' then
    if not expected[value] then
      fail(level + 1, "%s: one of '%s' expected, got %s", where, table.concat(sorted_names(expected), "', '"), tostring(value))
    end
  elseif type(value) ~= expected then
    fail(level + 1, '%s: %s expected, got %s', where, expected, type(value))
  end
end

local function check_name(name, value, level)
  if type(value) ~= 'string' then
    fail(level + 1, '%s: string expected, got %s', name, type(value))
  end
end

-- --- look-ups ----------------------------------------------------------------------------------------

---@class kumo.dns.MailExchanger
---@field domain_name string             "example.com."; a literal as it was asked for
---@field hosts string[]                 by preference, then by name; "mx1.example.com."; { "." } takes no mail
---@field by_pref table<integer, string[]>
---@field site_name string               "(mx1|mx2).example.com"
---@field is_mx boolean                  false: the domain itself is the host
---@field is_domain_literal boolean
---@field is_secure boolean              the resolver says that it has checked DNSSEC
---@field mta_sts string                 always "None"

--- The mail exchangers of a domain, in the order of delivery.
---@async
---@param domain string  "example.com", "[192.0.2.1]"
---@param resolver? string  name given to define_resolver()
---@return kumo.dns.MailExchanger mx
function dns.lookup_mx(domain, resolver)
  check_name('kumo.dns.lookup_mx: domain', domain, 2)
  local mx, why = tr_dns.mx(domain, resolver)
  if not mx then
    error(('MX look-up of %s failed: %s'):format(domain, why), 2)
  end
  mx.mta_sts = 'None' -- policies of MTA-STS are not fetched
  return mx
end

--- Addresses of a name, its aliases followed, the hosts file included. A name without addresses gives an empty list.
---@async
---@param name string
---@param resolver? string
---@param strategy? 'Ipv4AndIpv6'|'Ipv4Only'|'Ipv6Only'|'Ipv6ThenIpv4'|'Ipv4ThenIpv6'
---@return string[] addresses
function dns.lookup_addr(name, resolver, strategy)
  check_name('kumo.dns.lookup_addr: name', name, 2)
  if strategy ~= nil then
    check_type('kumo.dns.lookup_addr: strategy', strategy, STRATEGIES, 2)
  end
  local addresses, why = tr_dns.addrs(name, strategy, LOOKUP_S, resolver)
  if not addresses then
    error(('look-up of %s failed: %s'):format(name, why), 2)
  end
  return addresses
end

--- Texts of a name, each with its parts in a row. A name without texts gives an empty list.
---@async
---@param name string
---@param resolver? string
---@return string[] texts
function dns.lookup_txt(name, resolver)
  check_name('kumo.dns.lookup_txt: name', name, 2)
  local texts, why = tr_dns.ask(name, 'TXT', LOOKUP_S, resolver)
  if not texts then
    error(('TXT look-up of %s failed: %s'):format(name, why), 2)
  end
  return texts
end

local function reversed(ip, with_zone, what, level)
  local name = type(ip) == 'string' and tr_dns.reverse(ip, with_zone)
  if not name then
    fail(level + 1, '%s: an IP address is expected, got %s', what, tostring(ip))
  end
  return name
end

--- Names of an address.
---@async
---@param ip string
---@param resolver? string
---@return string[] names
function dns.lookup_ptr(ip, resolver)
  local name = reversed(ip, true, 'kumo.dns.lookup_ptr', 2)
  local names, why = tr_dns.ask(name, 'PTR', LOOKUP_S, resolver)
  if not names then
    error(('PTR look-up of %s failed: %s'):format(ip, why), 2)
  end
  return names
end

--- The name that an address's PTR record has: "1.2.0.192.in-addr.arpa".
---@param ip string
---@return string name
function dns.ptr_host(ip)
  return reversed(ip, true, 'kumo.dns.ptr_host', 2)
end

--- The same without its zone: "1.2.0.192".
---@param ip string
---@return string labels
function dns.reverse_ip(ip)
  return reversed(ip, false, 'kumo.dns.reverse_ip', 2)
end

--- What a block list says about an address: its answer's address and text. Nothing if the address is not listed.
---@async
---@param ip string
---@param zone string  "zen.example.org"
---@param resolver? string
---@return string? address
---@return string? text
function dns.rbl_lookup(ip, zone, resolver)
  check_name('kumo.dns.rbl_lookup: zone', zone, 2)
  local name = reversed(ip, false, 'kumo.dns.rbl_lookup', 2) .. '.' .. zone
  local addresses, why, code = tr_dns.ask(name, 'A', LOOKUP_S, resolver)
  if not addresses then
    if code == 'NXDOMAIN' then
      return nil, nil
    end
    error(('look-up of %s failed: %s'):format(name, why), 2)
  end
  if #addresses == 0 then
    return nil, nil
  end
  local texts = tr_dns.ask(name, 'TXT', LOOKUP_S, resolver)
  return addresses[1], texts and texts[1]
end

-- --- resolvers ----------------------------------------------------------------------------------------------

local function with_port(where, text, level)
  if text:match '^%d+%.%d+%.%d+%.%d+$' then
    return text .. ':53'
  elseif text:match '^%d+%.%d+%.%d+%.%d+:%d+$' or text:match '^%[[%x:.]+%]:%d+$' then
    return text
  elseif text:match '^%x*:[%x:.]*$' then
    return '[' .. text .. ']:53'
  end
  fail(level + 1, "%s: 'ip' or 'ip:port' is expected, got '%s'", where, text)
end

local SERVER = { socket_addr = 'string', protocol = PROTOCOLS, trust_negative_responses = 'boolean', bind_addr = 'string' }

--- name_servers -> "ip:port,ip:port", protocol, bind address. c-ares has one protocol for all servers.
local function read_servers(where, list, level)
  local servers, protocol, bind = {}, nil, nil
  check_type(where, list, 'table', level + 1)
  for i, server in ipairs(list) do
    local at = ('%s[%d]'):format(where, i)
    if type(server) == 'string' then
      server = { socket_addr = server }
    end
    check_type(at, server, 'table', level + 1)
    check_keys(at, server, SERVER, level + 1)
    for key, value in pairs(server) do
      check_type(at .. '.' .. key, value, SERVER[key], level + 1)
    end
    if not server.socket_addr then
      fail(level + 1, "%s: the field 'socket_addr' is missing", at)
    end
    servers[i] = with_port(at, server.socket_addr, level + 1)
    local own = server.protocol or 'udp_then_tcp'
    if protocol and protocol ~= own then
      fail(level + 1, '%s: all servers of a resolver must have the same protocol, got %s and %s', at, protocol, own)
    end
    protocol, bind = own, server.bind_addr or bind
  end
  if #servers == 0 then
    fail(level + 1, '%s: at least one server is expected', where)
  end
  return table.concat(servers, ','), protocol, bind
end

local function read_options(where, options, level)
  check_type(where, options, 'table', level + 1)
  check_keys(where, options, OPTIONS, level + 1)
  for name, value in pairs(options) do
    if OPTIONS[name] ~= 'd' then
      check_type(where .. '.' .. name, value, OPTIONS[name], level + 1)
    end
    if type(value) == 'number' and (value < 0 or value % 1 ~= 0) and OPTIONS[name] == 'number' then
      fail(level + 1, '%s.%s: integer >= 0 expected, got %s', where, name, tostring(value))
    end
    if WITHOUT_EFFECT[name] and value then
      c.log('warn', ('%s.%s: %s'):format(where, name, WITHOUT_EFFECT[name]))
    end
  end
  return options
end

local function read_zones(where, list, level)
  local zones = {}
  check_type(where, list, 'table', level + 1)
  for i, zone in ipairs(list) do
    local at = ('%s[%d]'):format(where, i)
    if type(zone) == 'string' then
      zone = { zone = zone }
    end
    check_type(at, zone, 'table', level + 1)
    check_keys(at, zone, { zone = true, secure = true }, level + 1)
    check_type(at .. '.zone', zone.zone, 'string', level + 1)
    zones[i] = zone
  end
  return zones
end

local PLAIN = { name_servers = true, domain = true, search = true, options = true }
local make

local function make_plain(function_name, config, level)
  local spec = { kind = 'system' }
  check_keys(function_name, config, PLAIN, level + 1)
  if config.name_servers then
    spec.kind = 'servers'
    spec.servers, spec.transport, spec.bind_addr = read_servers(function_name .. ': name_servers', config.name_servers, level + 1)
  end
  local search = {}
  if config.domain ~= nil then
    check_type(function_name .. ': domain', config.domain, 'string', level + 1)
    search[1] = config.domain
  end
  if config.search ~= nil then
    check_type(function_name .. ': search', config.search, 'table', level + 1)
    for i, suffix in ipairs(config.search) do
      check_type(('%s: search[%d]'):format(function_name, i), suffix, 'string', level + 1)
      search[#search + 1] = suffix
    end
  end
  if #search > 0 or spec.kind == 'servers' then
    spec.search = table.concat(search, ' ')
  end
  spec.options = config.options and read_options(function_name .. ': options', config.options, level + 1)
  return tr_dns.resolver(function_name, spec)
end

local VARIANTS = {
  Hickory = make_plain,
  Unbound = function(function_name, config, level)
    c.log('warn', function_name .. ': Unbound: DNSSEC is not checked here; the servers that are asked may do it')
    return make_plain(function_name, config, level + 1)
  end,
  Test = function(function_name, config, level)
    check_keys(function_name .. ': Test', config, { zones = true, servfail = true }, level + 1)
    return tr_dns.resolver(function_name, {
      kind = 'test',
      zones = read_zones(function_name .. ': Test.zones', config.zones or {}, level + 1),
      servfail = config.servfail,
    })
  end,
  Aggregate = function(function_name, config, level)
    local children = {}
    for i, child in ipairs(config) do
      children[i] = make(function_name, child, level + 1)
    end
    if #children == 0 then
      fail(level + 1, '%s: Aggregate: at least one resolver is expected', function_name)
    end
    return tr_dns.resolver(function_name, { kind = 'aggregate', children = children })
  end,
}

--- A resolver of what configure_resolver() and define_resolver() take.
function make(function_name, config, level)
  if config == 'HickorySystemConfig' then
    return tr_dns.resolver(function_name, { kind = 'system' })
  elseif type(config) ~= 'table' then
    fail(level + 1, "%s: a table or 'HickorySystemConfig' is expected, got %s", function_name, tostring(config))
  end
  local variant = next(config)
  if VARIANTS[variant] then
    if next(config, variant) ~= nil then
      fail(level + 1, "%s: '%s' stands alone in its table", function_name, variant)
    elseif type(config[variant]) ~= 'table' then
      fail(level + 1, '%s: %s: table expected, got %s', function_name, variant, type(config[variant]))
    end
    return VARIANTS[variant](function_name, config[variant], level + 1)
  end
  return make_plain(function_name, config, level + 1)
end

--- Sets the resolver that everything asks unless another is named. To be called in pre_init or when the policy loads.
---@param config table|'HickorySystemConfig'  see docs/dns.md
function dns.configure_resolver(config)
  tr_dns.install(make('kumo.dns.configure_resolver', config, 2))
end

--- Adds a resolver that look-ups can name.
---@param name string
---@param config table|'HickorySystemConfig'
function dns.define_resolver(name, config)
  check_name('kumo.dns.define_resolver: name', name, 2)
  tr_dns.install(make('kumo.dns.define_resolver', config, 2), name)
end

--- Answers from zones in memory, without any network: for tests.
---@param zones (string|{zone: string, secure: boolean?})[]  master files
function dns.configure_test_resolver(zones)
  tr_dns.install(tr_dns.resolver('kumo.dns.configure_test_resolver', {
    kind = 'test',
    zones = read_zones('kumo.dns.configure_test_resolver', zones, 2),
  }))
end

-- --- settings -------------------------------------------------------------------------------------------------

--- How many MX look-ups may be under way at once; default 128.
---@param limit integer >= 1
function dns.set_mx_concurrency_limit(limit)
  if type(limit) ~= 'number' or limit < 1 or limit % 1 ~= 0 or limit > 1000000 then
    fail(2, 'kumo.dns.set_mx_concurrency_limit: integer >= 1 expected, got %s', tostring(limit))
  end
  tr_dns.mx_limits(limit)
end

--- How long one MX look-up may take; default 5 s.
---@param timeout number|string  a duration
function dns.set_mx_timeout(timeout)
  tr_dns.mx_limits(nil, timeout)
end

--- How long it is remembered that a domain does not exist; default 5 min. Failures are remembered for a minute at most.
---@param ttl number|string  a duration
function dns.set_mx_negative_cache_ttl(ttl)
  tr_dns.mx_limits(nil, nil, ttl)
end

--- Accepted: policies of MTA-STS are not fetched, so there is nothing to turn off.
---@param enabled boolean
function dns.set_mta_sts_enabled(enabled)
  check_type('kumo.dns.set_mta_sts_enabled', enabled, 'boolean', 2)
end

--- Accepted with a warning: policies of MTA-STS are not acted on.
---@param policies table<string, string>
function dns.configure_test_mta_sts(policies)
  check_type('kumo.dns.configure_test_mta_sts', policies, 'table', 2)
  c.log('warn', 'kumo.dns.configure_test_mta_sts: policies of MTA-STS are not acted on')
end

for _, name in ipairs { 'configure_unbound_resolver', 'load_resolv_conf' } do
  dns[name] = function()
    error(('kumo.dns.%s is not supported by Tailrace'):format(name), 2)
  end
end

return dns
