-- policy-extras.listener_domains: look-up, and a session that relays by it.
local helper = require 'helper'
local kumo = require 'kumo'

local FILE = [[
["example.com"]
relay_to = true
["*.example.com"]
relay_from = ["10.0.0.0/24"]
["deep.a.example.com"]
relay_from = ["10.0.1.0/24"]
["*"]
relay_from = ["10.0.9.0/24"]
[listener."192.0.2.1:25"."*"]
relay_from_authz = ["joe"]
[listener."192.0.2.1:25"."example.net"]
relay_to = true
]]

local function conn(meta)
  return {
    get_meta = function(_, name)
      return meta[name]
    end,
  }
end

describe('policy-extras.listener_domains', function()
  local module, dir
  before_each(function()
    package.loaded['policy-extras.listener_domains'] = nil
    module = require 'policy-extras.listener_domains'
    dir = helper.dir()
  end)
  after_each(helper.cleanup)

  local function setup_files(files)
    local on = kumo.on
    kumo.on = function() end -- validate_config would stay registered
    local ok, result = pcall(module.setup, module, files)
    kumo.on = on
    if not ok then
      error(result, 0)
    end
    return result
  end

  it('looks up listener, name and wildcard', function()
    local handler = setup_files { helper.write(dir .. '/d.toml', FILE), { ['example.com'] = { relay_from = { '192.0.2.7' } } } }
    local here = conn { received_from = '198.51.100.9:1234', authz_id = 'joe' }
    local function ask(domain, listener)
      local found = handler(domain, listener or '127.0.0.1:25', here)
      return found and ('%s %s'):format(tostring(found.relay_to), kumo.serde.json_encode(found.relay_from))
    end
    assert.is_truthy(ask('Example.COM'):find '^true %["192%.0%.2%.7')
    assert.is_truthy(ask('x.y.example.com'):find('10.0.0.0/24', 1, true))
    assert.is_truthy(ask('deep.a.example.com'):find('10.0.1.0/24', 1, true))
    assert.is_truthy(ask('other.org'):find('10.0.9.0/24', 1, true))
    assert.is_truthy(ask(''):find('10.0.9.0/24', 1, true))
    assert.is_truthy(ask('example.net', '192.0.2.1:25'):find '^true')
    assert.is_truthy(ask('example.com', '192.0.2.1:25'):find('198.51.100.9', 1, true)) -- the listener's own `*` first
    here = conn { received_from = '[2001:db8::9]:1234', authz_id = 'joe' }
    assert.is_truthy(ask('any.org', '192.0.2.1:25'):find('2001:db8::9', 1, true))
    here = conn { received_from = '198.51.100.9:1234', authz_id = 'other' }
    assert.is_nil(ask('any.org', '192.0.2.1:25'):find('198.51.100.9', 1, true))
  end)

  it('says nothing of domains that no section is for', function()
    local handler = setup_files { { ['example.com'] = { relay_to = true } } }
    assert.is_nil(handler('example.org', '127.0.0.1:25', conn {}))
    assert.is_nil(handler('sub.example.com', '127.0.0.1:25', conn {}))
  end)

  it('names all that is wrong, with file and line', function()
    local path = helper.write(dir .. '/d.toml', '["a.com"]\nrelay_too = true\n["b.com"]\nrelay_from = ["x"]\n[listener]\nl = 5\n')
    local ok, err = pcall(setup_files, { path, 5, { ['c.com'] = 7 } })
    assert.is_false(ok)
    for _, text in ipairs {
      'd.toml:1: ["a.com"]: unknown field \'relay_too\'',
      'd.toml:3: ["b.com"]: ',
      '[listener."l"]: a table is expected',
      'entry 2 of setup: a path or a table is expected',
      'table 3 of setup: ["c.com"]: a table of options is expected',
    } do
      assert.is_truthy(err:find(text, 1, true), text .. '\n' .. err)
    end
    assert.is_true(#module.check { path } >= 3)
    assert.error_matches(function()
      setup_files '/one/path'
    end, "write listener_domains:setup { '/one/path' }")
    assert.error_matches(function()
      setup_files { '/not/there.toml' }
    end, '/not/there.toml')
  end)

  it('can be set up once', function()
    setup_files { {} }
    assert.error_matches(function()
      setup_files { {} }
    end, 'called already')
  end)
end)
