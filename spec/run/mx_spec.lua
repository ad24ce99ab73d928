-- Mail on its way by MX: the whole runtime under the virtual clock, zones of the test resolver, real sinks on loopback
-- addresses.
local helper = require 'helper'
local testing = require 'tr.testing'

local POLICY = [[
local kumo = require 'kumo'
local log_hooks = require 'policy-extras.log_hooks'
records, paths, contexts = {}, {}, {}
kumo.dns.configure_test_resolver { ZONES }
log_hooks:new {
  name = 'h',
  log_parameters = { per_record = { Reception = { enable = false }, Any = { enable = true } } },
  constructor = function()
    local conn = {}
    function conn:send(msg)
      records[#records + 1] = msg:get_meta 'log_record'
      return 'ok'
    end
    return conn
  end,
}
kumo.on('init', function()
  kumo.define_spool { name = 'data', path = DIR .. '/data' }
  kumo.define_spool { name = 'meta', path = DIR .. '/meta' }
end)
kumo.on('get_queue_config', function(domain)
  if domain == 'by-list.test' then
    return kumo.make_queue_config { protocol = { smtp = { mx_list = { 'one.hosts.test', 'two.hosts.test' } } } }
  end
  return kumo.make_queue_config { retry_interval = '20m' }
end)
kumo.on('get_egress_path_config', function(domain, source, site)
  if not domain:find '%.log_hook$' then
    paths[#paths + 1] = { domain, source, site }
  end
  return kumo.make_egress_path {
    smtp_port = PORT, enable_tls = 'Disabled', prohibited_hosts = PROHIBITED, skip_hosts = SKIP, connection_limit = LIMIT or 32,
    ip_lookup_strategy = STRATEGY, max_deliveries_per_connection = DELIVERIES or 1024,
  }
end)
kumo.on('requeue_message', function(msg, response, context)
  contexts[#contexts + 1] = context
end)
]]

local ZONES = [==[
[[
$ORIGIN test.
$TTL 300
a 300 MX 10 mx1.site
  300 MX 20 mx2.site
b 300 MX 5 mx1.site
  300 MX 15 mx2.site
mx1.site A 127.0.0.9
mx2.site A 127.0.0.2
single A 127.0.0.2
null MX 0 .
none MX 10 nowhere.hosts
equal MX 10 e1.hosts
equal MX 10 e2.hosts
equal MX 10 e3.hosts
e1.hosts A 127.0.0.2
e2.hosts A 127.0.0.3
e3.hosts A 127.0.0.4
one.hosts A 127.0.0.9
two.hosts CNAME alias.hosts
alias.hosts CNAME mx2.site
v6 MX 1 six.hosts
six.hosts AAAA ::1
six.hosts A 127.0.0.2
bad MX 1 good.hosts
bad MX 2 mx2.site
good.hosts A 10.1.2.3
]], { zone = '$ORIGIN secure.test.\n@ MX 1 mx2.site.test.', secure = true } ]==]

describe('mail by MX', function()
  local dir, rt

  local function start(settings)
    local text = ('DIR, PROHIBITED = %q, {}\n%s\n'):format(dir, settings or '')
    helper.write(dir .. '/policy.lua', text .. POLICY:gsub('ZONES', function()
      return ZONES
    end))
    rt = testing.start { policy = dir .. '/policy.lua', seed = 7 }
  end

  --- Sinks of one port on several addresses.
  local function listen(...)
    local port = helper.free_port()
    for _, addr in ipairs { ... } do
      helper.sink(('--smtp %s:%s --record %s/got-%s'):format(addr, port, dir, addr))
    end
    return 'PORT = ' .. port .. '\n'
  end

  local function send(to, count)
    for _ = 1, count or 1 do
      assert(rt:receive { to = to })
    end
    rt:advance(2)
  end

  --- Records of a type, in order.
  local function records(kind)
    local list = {}
    for _, record in ipairs(rt:eval 'return records') do
      if record.type == kind then
        list[#list + 1] = record
      end
    end
    return list
  end

  before_each(function()
    dir = helper.dir()
  end)
  after_each(function()
    if rt then
      local balances = rt:stop(1)
      rt = nil
      assert.is_true(balances)
    end
    helper.cleanup()
  end)

  it('takes all domains of one site to one ready queue, and asks policy for its path once', function()
    start(listen '127.0.0.2')
    send 'x@a.test'
    send 'x@b.test'
    local delivered = records 'Delivery'
    assert.are.equal(2, #delivered)
    assert.are.equal('unspecified->(mx1|mx2).site.test@smtp_client', delivered[1].site)
    assert.are.equal(delivered[1].site, delivered[2].site)
    assert.are.same({ { 'a.test', 'unspecified', '(mx1|mx2).site.test' } }, rt:eval 'return paths')
  end)

  it('goes to the next host when the first of the order is down', function()
    start(listen '127.0.0.2')
    send 'x@a.test'
    local delivered = records 'Delivery'
    assert.are.equal('mx2.site.test', delivered[1].peer_address.name)
    assert.matches('^127%.0%.0%.2', delivered[1].peer_address.addr)
    assert.are.same({}, records 'TransientFailure')
  end)

  it('says of each host why it was no use', function()
    start 'PORT = 1'
    send 'x@a.test'
    local failed = records 'TransientFailure'
    assert.are.equal(400, failed[1].response.code)
    assert.matches('failed to connect to any candidate hosts: mx1%.site%.test %[127%.0%.0%.9:1%]: connection refused, '
      .. 'mx2%.site%.test %[127%.0%.0%.2:1%]', failed[1].response.content) -- stylua: ignore
  end)

  it('spreads over the hosts of one preference', function()
    start(listen('127.0.0.2', '127.0.0.3', '127.0.0.4') .. 'DELIVERIES = 1')
    send('x@equal.test', 60)
    local used = {}
    for _, record in ipairs(records 'Delivery') do
      used[record.peer_address.name] = (used[record.peer_address.name] or 0) + 1
    end
    for _, name in ipairs { 'e1.hosts.test', 'e2.hosts.test', 'e3.hosts.test' } do
      assert.is_true((used[name] or 0) >= 3, name)
    end
  end)

  it('goes to the domain itself where there is no MX', function()
    start(listen '127.0.0.2')
    send 'x@single.test'
    assert.are.equal('unspecified->single.test@smtp_client', records('Delivery')[1].site)
  end)

  it('bounces what is for a domain with a null MX, all of it', function()
    start 'PORT = 1'
    send('x@null.test', 3)
    local bounced = records 'Bounce'
    assert.are.equal(3, #bounced)
    assert.are.equal(556, bounced[1].response.code)
    assert.are.same({ class = 5, subject = 1, detail = 10 }, bounced[1].response.enhanced_code)
    assert.are.equal('Recipient address has a null MX', bounced[1].response.content)
    assert.are.equal(3, rt:ledger().mail.bounced)
  end)

  it('keeps what is for a domain that does not exist, and tries again', function()
    start 'PORT = 1'
    send 'x@gone.test'
    local failed = records 'TransientFailure'
    assert.are.equal(451, failed[1].response.code)
    assert.are.same({ class = 4, subject = 4, detail = 4 }, failed[1].response.enhanced_code)
    assert.matches('MX look%-up of gone%.test failed: NXDOMAIN', failed[1].response.content)
    assert.are.equal(1, rt:figures().timers)
    rt:advance(1300)
    assert.are.equal(2, #records 'TransientFailure')
    assert.are.equal(0, rt:ledger().mail.bounced)
  end)

  it('finds a domain that came into being meanwhile', function()
    start(listen '127.0.0.2')
    send 'x@gone.test'
    rt:eval [[require('kumo').dns.configure_test_resolver { '$ORIGIN test.\ngone MX 1 mx2.site\nmx2.site A 127.0.0.2' }]]
    rt:advance(1300)
    assert.are.equal(1, #records 'Delivery')
  end)

  it('keeps what is for hosts without an address', function()
    start 'PORT = 1'
    send('x@none.test', 2)
    local failed = records 'TransientFailure'
    assert.are.equal(2, #failed)
    assert.are.equal(451, failed[1].response.code)
    assert.matches("MX didn't resolve to any hosts: nowhere%.hosts%.test: NXDOMAIN", failed[1].response.content)
    assert.are.same({ 'MxResolvedToZeroHosts', 'LoggedTransientFailure' }, rt:eval('return contexts')[1])
  end)

  it('bounces what would go to a prohibited host, one among many', function()
    start 'PORT, PROHIBITED = 1, { "10.0.0.0/8" }'
    send('x@bad.test', 2)
    local bounced = records 'Bounce'
    assert.are.equal(2, #bounced)
    assert.are.equal(550, bounced[1].response.code)
    assert.are.same({ class = 5, subject = 4, detail = 4 }, bounced[1].response.enhanced_code)
    assert.matches('good%.hosts%.test %[10%.1%.2%.3%]', bounced[1].response.content)
  end)

  it('prohibits the addresses of this machine unless it is told otherwise', function()
    start 'PORT, PROHIBITED = 1, nil'
    send 'x@single.test'
    send 'x@[127.0.0.1]'
    assert.are.equal(2, #records 'Bounce')
  end)

  it('leaves out hosts that are to be skipped', function()
    start(listen '127.0.0.2' .. 'SKIP = { "127.0.0.9" }')
    send 'x@a.test'
    assert.are.equal(1, #records 'Delivery')
  end)

  it('keeps what could only go to skipped hosts', function()
    start 'PORT, SKIP = 1, { "127.0.0.0/8" }'
    send 'x@a.test'
    local failed = records 'TransientFailure'
    assert.matches('all 2 addresses of the hosts are in skip_hosts', failed[1].response.content)
    assert.are.same({ 'MxWasSkipped', 'LoggedTransientFailure' }, rt:eval('return contexts')[1])
  end)

  it('asks for the addresses that the path wants', function()
    start(listen '127.0.0.2' .. 'STRATEGY = "Ipv4Only"')
    send 'x@v6.test'
    assert.matches('^127%.0%.0%.2', records('Delivery')[1].peer_address.addr)
  end)

  it('tries the hosts of an mx_list in its order, their aliases followed', function()
    start(listen '127.0.0.2')
    send 'x@by-list.test'
    local delivered = records 'Delivery'
    assert.are.equal('two.hosts.test', delivered[1].peer_address.name)
    assert.are.equal('unspecified->mx_list:one.hosts.test,two.hosts.test@smtp_client', delivered[1].site)
  end)

  it('follows a domain to its new site when the old answer has run out', function()
    start(listen '127.0.0.2')
    send 'x@a.test'
    rt:eval [[require('kumo').dns.configure_test_resolver { '$ORIGIN test.\n@ MX 1 x\na 60 MX 1 new.site\nnew.site A 127.0.0.2' }]]
    rt:advance(301)
    send 'x@a.test'
    local delivered = records 'Delivery'
    assert.are.equal('unspecified->new.site.test@smtp_client', delivered[2].site)
  end)

  it('sends nothing to the hosts of another site', function()
    start(listen '127.0.0.2')
    rt:eval [[require('kumo').dns.configure_test_resolver { '$ORIGIN test.\na 60 MX 1 old.site\nold.site A 127.0.0.2' }]]
    send 'x@a.test'
    -- the queue still believes in the old site, the resolver does not
    rt:eval [[require('kumo').dns.configure_test_resolver { '$ORIGIN test.\na 60 MX 1 new.site\nnew.site A 127.0.0.2' }]]
    rt:advance(10)
    send 'x@a.test'
    local delivered = records 'Delivery'
    assert.are.equal('unspecified->old.site.test@smtp_client', delivered[1].site)
    assert.are.equal('unspecified->new.site.test@smtp_client', delivered[2].site)
  end)

  it('does not look for the MX of a hook', function()
    start 'PORT = 1'
    send 'x@null.test'
    local before = rt:eval [[return require('kumo').dns and #records]]
    assert.is_true(before > 0) -- the hook got its records although h.log_hook is in no zone
  end)
end)
