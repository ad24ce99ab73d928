-- kumo.dns in a policy: look-ups, resolvers, mistakes. The zones are a test resolver's, so there is no network in it.
local helper = require 'helper'
local testing = require 'tr.testing'

local ZONES = [==[
{ [[
$ORIGIN test.
$TTL 60
@ SOA ns root 1 2 3 4 30
a MX 20 mx2.site
a MX 10 mx1.site
a MX 20 Amx.site
null MX 0 .
plain A 192.0.2.1
plain AAAA 2001:db8::1
alias CNAME plain
loop CNAME loop
txt TXT "v=spf1 " "-all"
txt TXT second
*.wild A 192.0.2.9
1.2.0.192.in-addr.arpa. PTR plain
2.0.0.127.rbl A 127.0.0.4
2.0.0.127.rbl TXT "listed, see http://rbl.test/"
xn--bcher-kva MX 1 mx1.site
]], { zone = '$ORIGIN secure.test.\n@ MX 1 mx', secure = true } }
]==]

describe('kumo.dns', function()
  local rt, dir

  local function start(code)
    dir = helper.dir()
    local policy = ([[
local kumo = require 'kumo'
local dns = kumo.dns
results = {}
local function note(name, ...)
  results[name] = { ... }
end
-- What a call gives, or how it fails.
local function try(name, fn, ...)
  local r = { pcall(fn, ...) }
  if r[1] then
    note(name, unpack(r, 2, 9))
  else
    results[name] = { error = tostring(r[2]) }
  end
end
ZONES = %s
kumo.on('init', function()
  kumo.define_spool { name = 'data', path = %q }
  kumo.define_spool { name = 'meta', path = %q }
  %s
end)]]):format(ZONES, dir .. '/data', dir .. '/meta', code)
    helper.write(dir .. '/policy.lua', policy)
    rt = testing.start { policy = dir .. '/policy.lua' }
    return rt:eval 'return results'
  end

  after_each(function()
    if rt then
      rt:stop(1)
      rt = nil
    end
    helper.cleanup()
  end)

  it('looks up mail exchangers', function()
    local got = start [[
      dns.configure_test_resolver(ZONES)
      for _, name in ipairs { 'a.test', 'A.TEST.', 'plain.test', 'null.test', '[192.0.2.7]', 'secure.test', 'gone.test', 'loop.test',
        'b\195\188cher.test' } do
        try(name, dns.lookup_mx, name)
      end]]
    local mx = got['a.test'][1]
    assert.are.equal('a.test.', mx.domain_name)
    assert.are.equal('(mx1|amx|mx2).site.test', mx.site_name)
    assert.are.same({ 'mx1.site.test.', 'amx.site.test.', 'mx2.site.test.' }, mx.hosts)
    assert.are.same({ ['10'] = { 'mx1.site.test.' }, ['20'] = { 'amx.site.test.', 'mx2.site.test.' } }, mx.by_pref)
    assert.is_true(mx.is_mx)
    assert.is_false(mx.is_domain_literal)
    assert.is_false(mx.is_secure)
    assert.are.equal('None', mx.mta_sts)
    assert.are.same(mx, got['A.TEST.'][1])
    assert.are.same({ 'plain.test.' }, got['plain.test'][1].hosts)
    assert.is_false(got['plain.test'][1].is_mx)
    assert.are.same({ '.' }, got['null.test'][1].hosts)
    assert.are.equal('192.0.2.7', got['[192.0.2.7]'][1].site_name)
    assert.is_true(got['[192.0.2.7]'][1].is_domain_literal)
    assert.is_true(got['secure.test'][1].is_secure)
    assert.are.equal('xn--bcher-kva.test.', got['b\195\188cher.test'][1].domain_name)
    assert.matches('MX look%-up of gone%.test failed: NXDOMAIN', got['gone.test'].error)
    assert.matches('failed: a loop of CNAMEs', got['loop.test'].error)
  end)

  it('looks up addresses by a strategy', function()
    local got = start [[
      dns.configure_test_resolver(ZONES)
      for _, strategy in ipairs { 'Ipv4AndIpv6', 'Ipv4Only', 'Ipv6Only', 'Ipv6ThenIpv4', 'Ipv4ThenIpv6' } do
        try(strategy, dns.lookup_addr, 'alias.test', nil, strategy)
      end
      try('wild', dns.lookup_addr, 'x.wild.test', nil, 'Ipv6ThenIpv4')
      try('none', dns.lookup_addr, 'txt.test')
      try('gone', dns.lookup_addr, 'gone.test')
      try('literal', dns.lookup_addr, '::1')
      try('bad', dns.lookup_addr, 'a.test', nil, 'Ipv5')]]
    assert.are.same({ '192.0.2.1', '2001:db8::1' }, got.Ipv4AndIpv6[1])
    assert.are.same({ '192.0.2.1' }, got.Ipv4Only[1])
    assert.are.same({ '2001:db8::1' }, got.Ipv6Only[1])
    assert.are.same({ '2001:db8::1' }, got.Ipv6ThenIpv4[1])
    assert.are.same({ '192.0.2.1' }, got.Ipv4ThenIpv6[1])
    assert.are.same({ '192.0.2.9' }, got.wild[1])
    assert.are.same({}, got.none[1])
    assert.matches('look%-up of gone%.test failed: NXDOMAIN', got.gone.error)
    assert.are.same({ '::1' }, got.literal[1])
    assert.matches("strategy: one of 'Ipv4AndIpv6', .* expected, got Ipv5", got.bad.error)
  end)

  it('looks up texts, names of addresses and block lists', function()
    local got = start [[
      dns.configure_test_resolver(ZONES)
      try('txt', dns.lookup_txt, 'txt.test')
      try('ptr', dns.lookup_ptr, '192.0.2.1')
      try('no_ptr', dns.lookup_ptr, '192.0.2.99')
      try('bad_ptr', dns.lookup_ptr, 'plain.test')
      try('listed', dns.rbl_lookup, '127.0.0.2', 'rbl.test')
      note('unlisted', dns.rbl_lookup('127.0.0.3', 'rbl.test'))
      note('names', dns.ptr_host '127.0.0.2', dns.reverse_ip '127.0.0.2', dns.ptr_host '2001:db8::1')]]
    assert.are.same({ 'v=spf1 -all', 'second' }, got.txt[1])
    assert.are.same({ 'plain.test.' }, got.ptr[1])
    assert.matches('PTR look%-up of 192%.0%.2%.99 failed: NXDOMAIN', got.no_ptr.error)
    assert.matches('an IP address is expected, got plain%.test', got.bad_ptr.error)
    assert.are.same({ '127.0.0.4', 'listed, see http://rbl.test/' }, got.listed)
    assert.is_nil(got.unlisted[1])
    assert.are.same({
      '2.0.0.127.in-addr.arpa',
      '2.0.0.127',
      '1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa',
    }, got.names)
  end)

  it('knows resolvers by name, one after the other, and names that fail', function()
    local got = start [[
      dns.configure_resolver { Test = { zones = ZONES, servfail = { 'broken.test' } } }
      dns.define_resolver('other', { Test = { zones = { 'a.test. 60 MX 1 other.test.' } } })
      dns.define_resolver('both', { Aggregate = { { Test = { zones = { 'b.test. 60 MX 1 both.test.' } } }, { Test = { zones = ZONES } } } })
      try('main', dns.lookup_mx, 'a.test')
      try('other', dns.lookup_mx, 'a.test', 'other')
      try('first', dns.lookup_mx, 'b.test', 'both')
      try('second', dns.lookup_mx, 'a.test', 'both')
      try('unknown', dns.lookup_mx, 'a.test', 'nobody')
      try('broken', dns.lookup_txt, 'x.broken.test')]]
    assert.are.equal('mx1.site.test.', got.main[1].hosts[1])
    assert.are.equal('other.test.', got.other[1].hosts[1])
    assert.are.equal('both.test.', got.first[1].hosts[1])
    assert.are.equal('mx1.site.test.', got.second[1].hosts[1])
    assert.matches("there is no resolver 'nobody'", got.unknown.error)
    assert.matches('SERVFAIL', got.broken.error)
  end)

  it('takes what the reference documents for resolvers', function()
    local got = start [[
      for name, config in pairs {
        system = 'HickorySystemConfig',
        hickory = { Hickory = { name_servers = { '192.0.2.53:53' } } },
        unbound = { Unbound = { name_servers = { '[2001:db8::53]:5353' } } },
        full = { name_servers = { { socket_addr = '192.0.2.53', protocol = 'tcp', trust_negative_responses = true, bind_addr = '127.0.0.1' },
          { socket_addr = '2001:db8::53', protocol = 'tcp' } }, domain = 'a.test', search = { 'b.test' },
          options = { attempts = 3, cache_size = 10, edns0 = false, ip_strategy = 'Ipv4Only', ndots = 2, timeout = '1s',
            positive_max_ttl = 30, negative_min_ttl = '1s', use_hosts_file = 'Never', server_ordering_strategy = 'RoundRobin',
            num_concurrent_reqs = 2, preserve_intermediates = true, recursion_desired = true, validate = false } },
      } do
        try(name, dns.define_resolver, name, config)
      end
      dns.set_mx_concurrency_limit(10)
      dns.set_mx_timeout '3s'
      dns.set_mx_negative_cache_ttl(60)
      dns.set_mta_sts_enabled(false)]]
    for _, name in ipairs { 'system', 'hickory', 'unbound', 'full' } do
      assert.is_nil(got[name].error)
    end
  end)

  it('names mistakes', function()
    local cases = {
      { 'dns.configure_resolver(1)', "a table or 'HickorySystemConfig' is expected, got 1" },
      { 'dns.configure_resolver { nameservers = {} }', "unknown field 'nameservers', .*did you mean 'name_servers'" },
      { 'dns.configure_resolver { name_servers = {} }', 'name_servers: at least one server is expected' },
      { "dns.configure_resolver { name_servers = { 'dns.test' } }", "'ip' or 'ip:port' is expected, got 'dns%.test'" },
      { 'dns.configure_resolver { options = { atempts = 1 } }', "options: unknown field 'atempts', .*did you mean 'attempts'" },
      { 'dns.configure_resolver { options = { attempts = -1 } }', 'options%.attempts: integer >= 0 expected, got %-1' },
      { "dns.configure_resolver { options = { timeout = 'soon' } }", 'timeout' },
      { "dns.configure_resolver { options = { ip_strategy = 'Ipv5' } }", "options%.ip_strategy: one of 'Ipv4AndIpv6'" },
      { "dns.configure_resolver { options = { use_hosts_file = 'no' } }", "use_hosts_file: one of 'Always', 'Auto', 'Never' expected" },
      { 'dns.configure_resolver { Test = {}, options = {} }', '' },
      { "dns.configure_resolver { Test = { zones = { 'a A 1.2.3.4' } } }", 'zone 1, line 1: a name without its dot' },
      { "dns.configure_resolver { Test = { servfail = { 'a b' } } }", "servfail: 'a b' is not a name" },
      { 'dns.configure_resolver { Aggregate = {} }', 'Aggregate: at least one resolver is expected' },
      { 'dns.configure_test_resolver { 1 }', 'configure_test_resolver%[1%]: table expected, got number' },
      { "dns.configure_test_resolver { '$ORIGIN a.test.\\n@ MX 10' }", 'configure_test_resolver: zone 1, line 2: MX: a preference and a host' },
      { 'dns.lookup_mx(1)', 'kumo%.dns%.lookup_mx: domain: string expected, got number' },
      { 'dns.set_mx_concurrency_limit(0)', 'integer >= 1 expected, got 0' },
      { 'dns.set_mx_timeout(-1)', 'set_mx_timeout' },
      { 'dns.load_resolv_conf()', 'load_resolv_conf is not supported' },
    }
    local code = {}
    for i, case in ipairs(cases) do
      code[i] = ('try("%d", function() return %s end)'):format(i, case[1])
    end
    local got = start(table.concat(code, '\n'))
    for i, case in ipairs(cases) do
      local text = got[tostring(i)].error
      assert.is_string(text, case[1])
      assert.matches(case[2], text)
    end
  end)

  it('holds for the whole runtime when pre_init configures it', function()
    dir = helper.dir()
    helper.write(dir .. '/policy.lua', ([[
local kumo = require 'kumo'
kumo.on('pre_init', function()
  kumo.dns.configure_resolver { Test = { zones = { 'a.test. 60 MX 1 mx.test.' } } }
end)
kumo.on('init', function()
  kumo.define_spool { name = 'data', path = %q }
  kumo.define_spool { name = 'meta', path = %q }
  site = kumo.dns.lookup_mx('a.test').site_name
end)]]):format(dir .. '/data', dir .. '/meta'))
    rt = testing.start { policy = dir .. '/policy.lua' }
    assert.are.equal('mx.test', rt:eval 'return site')
  end)
end)
