-- policy-extras.queue in a whole runtime: resolution, tenants, rates, and the order of handlers.
local helper = require 'helper'
local testing = require 'tr.testing'

local POLICY = [[
local kumo = require 'kumo'
sent = {}
kumo.on('init', function()
  kumo.define_spool { name = 'data', path = DIR .. '/data' }
  kumo.define_spool { name = 'meta', path = DIR .. '/meta' }
end)
kumo.on('get_egress_pool', function(name)
  return kumo.make_egress_pool { name = name, entries = { { name = 'unspecified' } } }
end)
kumo.on('make.peer', function()
  local conn = {}
  function conn:send(msg) sent[#sent + 1] = { queue = msg:queue_name(), at = os.time() } return 'ok' end
  function conn:close() end
  return conn
end)
BEFORE()
queues = require('policy-extras.queue'):setup_with_options(OPTIONS)
AFTER()
function resolve(domain, tenant, campaign)
  local config = queues:resolve_config(domain, tenant, campaign)
  config.protocol = nil
  return config
end
function apply(headers, meta)
  local msg = kumo.make_message('a@x.test', 'b@d.test', headers .. '\r\nx\r\n')
  for name, value in pairs(meta or {}) do msg:set_meta(name, value) end
  local ok, err = pcall(queues.apply, queues, msg)
  return { ok = ok, err = tostring(err), queue = msg:queue_name(), tenant = msg:get_meta 'tenant', data = msg:get_data() }
end
]]

local FILE = [=[
scheduling_header = "X-Schedule"
tenant_header = "X-Tenant"
remove_tenant_header = true
campaign_header = "X-Campaign"
default_tenant = "free"

[tenant.free]
egress_pool = "pool-free"
overall_max_message_rate = "2/hour"
[tenant.paid]
egress_pool = "pool-paid"
require_authz = ["mallory", "alice"]
campaigns.news.overall_max_message_rate = "1/hour"

[queue.default]
egress_pool = "pool-default"
max_age = "1 day"
protocol.custom_lua.constructor = "make.peer"

[queue."d.test"]
max_age = "2 days"
retry_interval = "5m"
routing_domain = "relay.test"
[queue."d.test".paid]
retry_interval = "6m"
[queue."d.test".paid.news]
retry_interval = "7m"

[queue."*.wild.test"]
max_age = "3 days"
[queue."own.wild.test"]
max_age = "4 days"
]=]

describe('policy-extras.queue', function()
  local dir, rt

  local function start(options, before, after)
    dir = dir or helper.dir()
    helper.write(dir .. '/queues.toml', options.text or FILE)
    helper.write(
      dir .. '/policy.lua',
      ('DIR = %q\nOPTIONS = { %s }\nfunction BEFORE() %s end\nfunction AFTER() %s end\n'):format(
        dir, options[1] or 'file_names = { DIR .. "/queues.toml" }', before or '', after or ''
      ) .. POLICY
    )
    rt = testing.start { policy = dir .. '/policy.lua', seed = 7 }
    return rt
  end

  after_each(function()
    if rt then
      assert.is_true((rt:stop(1)))
      rt = nil
    end
    dir = nil
    helper.cleanup()
  end)

  local function resolve(...)
    local args = {}
    for i, value in ipairs { ... } do
      args[i] = ('%q'):format(value)
    end
    return rt:eval(('return resolve(%s)'):format(table.concat(args, ', ')))
  end

  describe('resolves', function()
    local cases = {
      { 'what is not listed by the default', { 'x.test' }, { egress_pool = 'pool-default', max_age = '1 day' } },
      { 'a domain', { 'd.test' }, { egress_pool = 'pool-default', max_age = '2 days', retry_interval = '5m' } },
      { 'a tenant over a domain', { 'd.test', 'free' }, { egress_pool = 'pool-free', max_age = '2 days', retry_interval = '5m' } },
      { "a domain's tenant", { 'd.test', 'paid' }, { egress_pool = 'pool-paid', max_age = '2 days', retry_interval = '6m' } },
      { 'a campaign', { 'd.test', 'paid', 'news' }, { egress_pool = 'pool-paid', max_age = '2 days', retry_interval = '7m' } },
      { 'a wildcard', { 'a.b.wild.test' }, { egress_pool = 'pool-default', max_age = '3 days' } },
      { 'the exact name before a wildcard', { 'own.wild.test' }, { egress_pool = 'pool-default', max_age = '4 days' } },
    }
    for _, case in ipairs(cases) do
      it(case[1], function()
        start {}
        local expected = { refresh_strategy = 'Epoch' }
        for key, value in pairs(case[3]) do
          expected[key] = value
        end
        assert.are.same(expected, resolve(unpack(case[2])))
      end)
    end

    it('inline tables, whose shape names its levels, and merges all of them', function()
      start {
        [[file_names = { DIR .. '/queues.toml', {
          tenants = { extra = { max_age = '9 days' } },
          queues = { ['d.test'] = { tenants = { paid = { campaigns = { news = { retry_interval = '8m' } } } } } },
        } }]],
      }
      assert.are.equal('9 days', resolve('x.test', 'extra').max_age)
      assert.are.equal('8m', resolve('d.test', 'paid', 'news').retry_interval)
      assert.are.equal('6m', resolve('d.test', 'paid').retry_interval)
    end)
  end)

  describe('apply', function()
    local function apply(headers, meta)
      return rt:eval(('return apply(%q, { %s })'):format(headers, meta or ''))
    end

    it('takes tenant, campaign and routing from headers and files', function()
      start {}
      local got = apply('X-Tenant: paid\r\nX-Campaign: news\r\nX-Schedule: {"first_attempt":"2030-01-01T00:00:00Z"}\r\n', 'authz_id = "alice"')
      assert.is_true(got.ok, got.err)
      assert.are.equal('news:paid@d.test!relay.test', got.queue)
      assert.are.equal('X-Campaign: news\r\n\r\nx\r\n', got.data) -- the others were to be removed
    end)

    it('has a default tenant', function()
      start {}
      assert.are.equal('free', apply('').tenant)
    end)

    it('refuses a tenant that is not defined', function()
      start {}
      local got = apply 'X-Tenant: nobody\r\n'
      assert.is_false(got.ok)
      assert.are.equal("500 tenant 'nobody' is not defined", got.err)
    end)

    for meta, ok in pairs { [''] = false, ['authz_id = "eve"'] = false, ['authz_id = "alice"'] = true } do
      it(('asks who may be a tenant: {%s}'):format(meta), function()
        start {}
        local got = apply('X-Tenant: paid\r\n', meta)
        assert.are.equal(ok, got.ok)
        assert.are.equal(ok and 'paid' or nil, got.tenant)
      end)
    end
  end)

  describe('the overall rate', function()
    it('of a tenant holds for all of its queues', function()
      start {}
      for i = 1, 4 do
        rt:receive { to = ('a@%d.test'):format(i), meta = { tenant = 'free' } }
      end
      rt:receive { to = 'a@1.test', meta = { tenant = 'paid' } }
      rt:advance(10)
      assert.are.equal(3, rt:eval 'return #sent') -- two of four, and the other tenant's
      rt:advance(4 * 3600)
      assert.are.equal(5, rt:eval 'return #sent')
    end)

    it('of a campaign is its own', function()
      start {}
      for i = 1, 3 do
        rt:receive { to = ('a@%d.test'):format(i), meta = { tenant = 'paid', campaign = 'news' } }
        rt:receive { to = ('a@%d.test'):format(i), meta = { tenant = 'paid', campaign = 'other' } }
      end
      rt:advance(10)
      assert.are.equal(4, rt:eval 'return #sent')
      rt:advance(4 * 3600)
      assert.are.equal(6, rt:eval 'return #sent')
    end)
  end)

  describe('among other handlers', function()
    local HOOK = "require('policy-extras.log_hooks'):new { name = 'h', constructor = function() return { send = function() return 'ok' end } end }"
    local OTHER = "require('kumo').on('get_queue_config', function() end)"
    local QUEUE = "local q = require('kumo').invoke_get_queue_config('h.log_hook') return q.protocol"

    for name, place in pairs { before = 1, behind = 2 } do
      it('leaves log hooks alone that come ' .. name, function()
        start({}, place == 1 and HOOK or '', place == 2 and HOOK or '')
        rt:receive { to = 'a@d.test' }
        rt:advance(5)
        assert.are.equal('make.h.log_hook', rt:eval(QUEUE).custom_lua.constructor)
      end)
    end

    local function log_of(before, after)
      dir = helper.dir()
      helper.write(dir .. '/queues.toml', FILE)
      helper.write(
        dir .. '/policy.lua',
        ('DIR = %q\nOPTIONS = { file_names = { DIR .. "/queues.toml" } }\nfunction BEFORE() %s end\nfunction AFTER() %s end\n'):format(
          dir, before, after
        ) .. POLICY
      )
      local text, status = helper.sh(
        ('%s explain d.test --log warn --policy %s/policy.lua'):format(helper.quote(helper.TAILRACE), helper.quote(dir))
      )
      assert.are.equal(0, status, text)
      return text
    end

    it('names a handler that is never asked', function()
      local text = log_of('', OTHER)
      assert.truthy(text:find 'the queue helper at [^ ]*policy.lua:%d+ answers for every domain', text)
      assert.truthy(text:find 'the handler of get_queue_config at [^ ]*policy.lua:%d+ is never asked', text)
    end)

    it('names a log hook that comes too late for the reference', function()
      assert.truthy(log_of('', HOOK):find 'before the log hook at [^ ]*policy.lua:%d+')
    end)

    it('has nothing to say when it comes last', function()
      assert.falsy(log_of(HOOK .. OTHER, ''):find('the queue helper', 1, true))
    end)
  end)

  describe('refuses', function()
    local cases = {
      { '[queue.default]\nmax_agee = "1d"\n', 'queues.toml:2: queue.default max_agee: there is no such option' },
      { '[queue.default]\nmax_age = "soon"\n', 'queues.toml:2: queue.default max_age: ' },
      { '[queue."d.test".t.c]\nmax_age = -1\n', 'queues.toml:2: queue.d.test.t.c max_age: ' },
      { '[queue."d.test".t.c.x]\nmax_age = 1\n', 'queues.toml:1: queue.d.test.t.c x: there is no such option' },
      { '[tenant.t]\nrequire_authz = "x"\n', 'queues.toml:2: tenant.t require_authz: a list of identities' },
      { '[tenant.t]\noverall_max_message_rate = "5"\n', 'queues.toml:2: tenant.t overall_max_message_rate: ' },
      { '[tenant.t.campaigns.c]\noverall_max_message_rate = "5"\n', 'tenant.t.campaigns.c overall_max_message_rate: ' },
      { 'tenant_header = 5\n', 'queues.toml:1: tenant_header: string expected, got number' },
      { 'tenants = 5\n', 'queues.toml:1: tenants: there is no such key; there are: ' },
      { 'default_tenant = "t"\n', "default_tenant = 't': there is no such tenant" },
      { '[queue\n', 'queues.toml:1: ' },
      { 'queue.x = 5\n', 'queues.toml:1: queue.x: a table is expected, got number' },
    }
    for _, case in ipairs(cases) do
      it(('%q'):format(case[1]), function()
        local ok, err = pcall(start, { text = case[1] })
        assert.is_false(ok)
        assert.truthy(tostring(err):find(case[2], 1, true), err)
      end)
    end

    for options, text in pairs {
      ['file_names = 5'] = "field 'file_names'",
      ['files = {}'] = "unknown field 'files'",
      ['file_names = { 5 }'] = 'file 1: a path or a table is expected, got number',
      ['file_names = { DIR .. "/none.toml" }'] = 'none.toml: No such file',
      ['file_names = { { queue = {} } }'] = 'table 1: queue: there is no such key',
    } do
      it('options: ' .. options, function()
        local ok, err = pcall(start, { options })
        assert.is_false(ok)
        assert.truthy(tostring(err):find(text, 1, true), err)
      end)
    end

    it('a second setup, and says where the first one is', function()
      local ok, err = pcall(start, {}, "require('policy-extras.queue'):setup { DIR .. '/queues.toml' }")
      assert.is_false(ok)
      assert.truthy(tostring(err):find 'it has been called already, at [^ ]*policy.lua:%d+', err)
    end)
  end)

  it('follows a changed file, and keeps what it has when that is wrong', function()
    start {}
    helper.write(dir .. '/queues.toml', '[queue.default]\nmax_age = \n')
    rt:advance(60)
    assert.are.equal('1 day', resolve('x.test').max_age)
    helper.write(dir .. '/queues.toml', '[queue.default]\nmax_age = "5 days"\n')
    rt:advance(60)
    assert.are.equal('5 days', resolve('x.test').max_age)
  end)
end)
