-- policy-extras.sources, and sources and pools of a policy, in a whole runtime on the virtual clock.
local helper = require 'helper'
local testing = require 'tr.testing'

--- Mail goes to a connection of the policy, which counts by ready queue.
local POLICY = [[
local kumo = require 'kumo'
sent, failures = {}, {}
kumo.on('init', function()
  kumo.define_spool { name = 'data', path = DIR .. '/data' }
  kumo.define_spool { name = 'meta', path = DIR .. '/meta' }
  kumo.configure_log_disposition_hook { name = 'seen' }
end)
kumo.on('log_disposition_seen', function(_, record)
  if record.type == 'Delivery' then
    local from = record.egress_pool .. '/' .. record.egress_source
    sent[from] = (sent[from] or 0) + 1
    assert(record.site == record.egress_source .. '->x.test@lua:make.peer', record.site)
  elseif record.type == 'TransientFailure' then
    failures[#failures + 1] = record.response.code .. ' ' .. record.response.content
  end
end)
kumo.on('get_queue_config', function()
  return kumo.make_queue_config {
    retry_interval = '1m', max_retry_interval = '1m', egress_pool = POOL, protocol = { custom_lua = { constructor = 'make.peer' } },
  }
end)
kumo.on('make.peer', function()
  return { send = function() return 'ok' end, close = function() end }
end)
]]

local function inject(rt, count)
  for i = 1, count do
    assert(rt:receive { to = ('u%d@x.test'):format(i) })
  end
end

local FILE = [[
[source."ip-1"]
source_address = "127.0.0.1"
[source."ip-2"]
ehlo_domain = "two.test"
suspend_when_unplumbed = { trigger = { Threshold = "3/min" }, duration = "5m" }
[source."ip-3"]

[pool."p"."ip-1"]
weight = 2
[pool."p"."ip-2"]
[pool."p"."ip-3"]
weight = 1
[pool."empty"]
]]

describe('policy-extras.sources', function()
  local dir, rt

  local function start(text, pool, more)
    dir = dir or helper.dir()
    helper.write(dir .. '/sources.toml', text)
    helper.write(
      dir .. '/policy.lua',
      ('DIR, POOL = %q, %q\n'):format(dir, pool or 'p')
        .. POLICY
        .. (more or "sources = require 'policy-extras.sources'\nsources:setup { DIR .. '/sources.toml' }\n")
    )
    rt = testing.start { policy = dir .. '/policy.lua' }
  end

  after_each(function()
    if rt then
      rt:stop()
      rt = nil
    end
    dir = nil
    helper.cleanup()
  end)

  it('sends by the weights of the pool, to the message', function()
    start(FILE)
    inject(rt, 1000)
    rt:advance(5)
    assert.are.equal(500, rt:eval "return sent['p/ip-1']")
    assert.are.equal(250, rt:eval "return sent['p/ip-2']")
    assert.are.equal(250, rt:eval "return sent['p/ip-3']")
  end)

  it('fails each attempt of an empty pool', function()
    start(FILE, 'empty')
    inject(rt, 1)
    rt:advance(5)
    assert.are.equal(1, rt:eval 'return #failures')
    assert.are.equal('451 KumoMTA internal: the pool has no sources', rt:eval 'return failures[1]')
    rt:advance(60)
    assert.are.equal(2, rt:eval 'return #failures')
  end)

  it('takes changes of the files after their time, and keeps the last good ones', function()
    start(FILE)
    inject(rt, 4)
    rt:advance(5)
    helper.write(dir .. '/sources.toml', '[source."ip-9"]\n[pool."p"."ip-9"]\n')
    rt:advance(600)
    inject(rt, 10)
    rt:advance(5)
    assert.are.equal(10, rt:eval "return sent['p/ip-9']")
    helper.write(dir .. '/sources.toml', '[source."ip-9"]\nsource_adress = 7\n')
    rt:advance(600)
    inject(rt, 10)
    rt:advance(5)
    assert.are.equal(20, rt:eval "return sent['p/ip-9']")
  end)

  it('merges sources of several files and appends to pools', function()
    start(
      FILE,
      'p',
      [[
sources = require 'policy-extras.sources'
sources:setup { DIR .. '/sources.toml', { source = { ['ip-1'] = { ttl = '9m' } }, pool = { p = { ['ip-1'] = { weight = 7 } } } } }
]]
    )
    local source = rt:eval "return require 'kumo'.invoke_get_egress_source 'ip-1'"
    assert.are.equal('127.0.0.1', source.source_address)
    assert.are.equal('9m', source.ttl)
    local pool = rt:eval "return require 'kumo'.invoke_get_egress_pool 'p'"
    assert.are.same({
      { name = 'ip-1', weight = 2 }, { name = 'ip-2', weight = 1 }, { name = 'ip-3', weight = 1 }, { name = 'ip-1', weight = 7 },
    }, pool.entries) -- stylua: ignore
    local two = rt:eval "return require 'kumo'.invoke_get_egress_source 'ip-2'"
    assert.are.same({ trigger = { Threshold = '3/60s' }, duration = '5m' }, two.suspend_when_unplumbed)
    assert.is_true(rt:eval "return sources.has 'ip-3'")
    assert.is_false(rt:eval "return sources.has 'ip-4'")
  end)

  for text, expected in pairs {
    ['[source."a"]\nsource_adress = "127.0.0.1"\n'] = [[sources.toml:1: [source."a"]: unknown field 'source_adress']],
    ['\n[source."a"]\nsource_address = "1.2.3"\n'] = [[sources.toml:2: [source."a"]: source_address = '1.2.3': an IP address is expected]],
    ['[sources."a"]\n'] = 'sources.toml:1: [sources]: there is no such section',
    ['[pool."p"."a"]\nweigth = 2\n'] = [[[pool."p"."a"]: there is no option 'weigth']],
    ['[pool."p"."a"]\nweight = 1.5\n'] = [[sources.toml:2: [pool."p"."a"]: weight: a whole number is expected]],
    ['[pool."p"\n'] = 'sources.toml:1',
  } do
    it('refuses ' .. text:gsub('%s+', ' '), function()
      local ok, err = pcall(start, text)
      assert.is_false(ok)
      assert.truthy(tostring(err):find(expected, 1, true), tostring(err))
    end)
  end

  it('tells all that is wrong, not the first alone', function()
    local ok, err = pcall(start, '[source."a"]\nx = 1\n[source."b"]\ny = 1\n')
    assert.is_false(ok)
    assert.truthy(tostring(err):find("unknown field 'x'", 1, true) and tostring(err):find("unknown field 'y'", 1, true), err)
  end)

  for code, expected in pairs {
    ["require 'policy-extras.sources':setup '/x.toml'"] = "a list of files is expected, got string: write sources:setup { '/x.toml' }",
    ["local s = require 'policy-extras.sources' s:setup {} s:setup {}"] = 'it has been called already',
    ["require 'policy-extras.sources':setup { source = {} }"] = "a list is expected, not the key 'source'",
    ["require 'policy-extras.sources'.setup {}"] = 'call it with a colon',
  } do
    it('refuses ' .. code, function()
      local ok, err = pcall(start, FILE, 'p', code)
      assert.is_false(ok)
      assert.truthy(tostring(err):find(expected, 1, true), tostring(err))
    end)
  end
end)

describe('sources and pools of a policy', function()
  local dir, rt

  local function start(more, pool)
    dir = helper.dir()
    helper.write(dir .. '/policy.lua', ('DIR, POOL = %q, %q\n'):format(dir, pool or 'p') .. POLICY .. more)
    rt = testing.start { policy = dir .. '/policy.lua' }
  end

  after_each(function()
    if rt then
      rt:stop()
      rt = nil
    end
    helper.cleanup()
  end)

  it('are asked for by name, once in their time', function()
    start [[
local kumo = require 'kumo'
asked = { pool = 0, source = 0 }
kumo.on('get_egress_pool', function(name)
  asked.pool = asked.pool + 1
  kumo.sleep(1)
  return kumo.make_egress_pool { name = name, entries = { { name = 'a' }, { name = 'b' } }, ttl = '5m' }
end)
kumo.on('get_egress_source', function(name)
  asked.source = asked.source + 1
  kumo.sleep(1)
  return kumo.make_egress_source { name = name, ttl = '5m' }
end)
]]
    inject(rt, 10)
    rt:advance(10)
    assert.are.equal(5, rt:eval "return sent['p/a']")
    assert.are.same({ pool = 1, source = 2 }, rt:eval 'return asked')
    rt:advance(240)
    assert.are.same({ pool = 1, source = 2 }, rt:eval 'return asked')
    rt:advance(240)
    assert.are.same({ pool = 2, source = 4 }, rt:eval 'return asked')
  end)

  it('refuse what goes to a queue whose pool is unknown', function()
    start ''
    local id, why = rt:receive { to = 'a@x.test' }
    assert.is_nil(id)
    assert.truthy(why:find("egress_pool 'p': there is no handler: kumo.on('get_egress_pool'", 1, true), why)
  end)

  it('refuse it when the handler gives something else', function()
    start "require 'kumo'.on('get_egress_pool', function() return { name = 'p' } end)"
    local _, why = rt:receive { to = 'a@x.test' }
    assert.truthy(why:find('get_egress_pool returned table; the object of kumo.make_egress_pool{...} is expected', 1, true), why)
    local ok, err = pcall(rt.eval, rt, "return require 'kumo'.invoke_get_egress_pool 'p'") -- remembered
    assert.is_false(ok)
    assert.truthy(tostring(err):find('get_egress_pool returned table', 1, true), err)
  end)

  it('are not asked for the one that is built in', function()
    start('', 'unspecified')
    inject(rt, 3)
    rt:advance(1)
    assert.are.equal(3, rt:eval "return sent['unspecified/unspecified']")
    assert.are.same({ { name = 'unspecified', weight = 1 } }, rt:eval "return require 'kumo'.invoke_get_egress_pool().entries")
  end)
end)
