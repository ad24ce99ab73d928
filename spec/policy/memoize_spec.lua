local kumo = require 'kumo'

local serial = 0
local function cached(fn, options)
  serial = serial + 1
  options = options or {}
  options.name = options.name or 'spec.' .. serial
  options.ttl = options.ttl or '1 hour'
  options.capacity = options.capacity or 10
  return kumo.memoize(fn, options)
end

describe('kumo.memoize', function()
  it('calls once a key', function()
    local calls = 0
    local f = cached(function(a, b)
      calls = calls + 1
      return tostring(a) .. tostring(b)
    end)
    assert.are.equal('1nil', f(1))
    assert.are.equal('1nil', f(1))
    assert.are.equal('12', f(1, 2))
    assert.are.equal('nilnil', f())
    assert.are.equal(3, calls)
  end)
  it('keeps nil, several values and nothing', function()
    local calls = 0
    local f = cached(function(n)
      calls = calls + 1
      if n == 0 then
        return
      end
      return nil, n
    end)
    assert.is_nil(f(0))
    assert.is_nil(f(0))
    local pair = f(5)
    assert.are.equal(5, pair[2])
    assert.are.equal(2, calls)
  end)
  it('gives tables as userdata whose writes are local', function()
    local f = cached(function()
      return { list = { 'a', 'b' }, n = 1 }
    end)
    local a, b = f(), f()
    assert.are.equal('userdata', type(a))
    a.n = 2
    assert.are.equal(1, b.n)
    assert.are.equal(1, f().n)
    local keys = {}
    for k in pairs(a) do
      keys[k] = true
    end
    assert.same({ list = true, n = true }, keys)
    local g = cached(function()
      return { 'x', 'y', 'z' }
    end)
    assert.are.equal(3, #g())
    local seen = {}
    for _, v in ipairs(g()) do
      seen[#seen + 1] = v
    end
    assert.same({ 'x', 'y', 'z' }, seen)
  end)
  it('keeps objects that know how', function()
    local f = cached(function()
      return { map = kumo.domain_map.new { ['*.a'] = 7 }, at = kumo.time.from_unix_timestamp(5) }
    end)
    assert.are.equal(7, f().map['x.a'])
    assert.are.equal(5, f().at.unix_timestamp)
  end)
  it('remembers errors as text', function()
    local calls = 0
    local f = cached(function()
      calls = calls + 1
      kumo.reject(450, 'not now')
    end)
    for _ = 1, 2 do
      local ok, err = pcall(f)
      assert.is_false(ok)
      assert.are.equal('string', type(err))
      assert.is_truthy(err:find '450 not now')
    end
    assert.are.equal(1, calls)
  end)
  it('refuses what cannot be kept', function()
    assert.error_matches(cached(function()
      return print
    end), 'a function cannot be memoized')
  end)
  it('drops the oldest use beyond its capacity', function()
    local calls = 0
    local f = cached(function(n)
      calls = calls + 1
      return n
    end, { capacity = 2 })
    f(1)
    f(2)
    f(1)
    f(3) -- 2 goes
    assert.are.equal(3, calls)
    f(1)
    assert.are.equal(3, calls)
    f(2)
    assert.are.equal(4, calls)
  end)
  it('forgets with the configuration epoch if asked to', function()
    local calls = 0
    local function count()
      calls = calls + 1
      return calls
    end
    local f, g = cached(count, { invalidate_with_epoch = true }), cached(count)
    assert.are.equal(1, f())
    assert.are.equal(2, g())
    kumo.bump_config_epoch()
    assert.are.equal(3, f())
    assert.are.equal(2, g())
  end)
  it('shares a cache by name, and replaces it when its settings differ', function()
    local f = cached(function()
      return 'f'
    end, { name = 'spec.shared' })
    local g = cached(function()
      return 'g'
    end, { name = 'spec.shared' })
    assert.are.equal('f', f())
    assert.are.equal('f', g())
    local h = cached(function()
      return 'h'
    end, { name = 'spec.shared', capacity = 11 })
    assert.are.equal('h', h())
  end)
  it('checks its options', function()
    for text, options in pairs {
      ["unknown field 'tttl'"] = { name = 'x', ttl = 1, capacity = 1, tttl = 1 },
      ["did you mean 'capacity'"] = { name = 'x', ttl = 1, capacit = 1 },
      ["missing field 'ttl'"] = { name = 'x', capacity = 1 },
      ["field 'capacity'"] = { name = 'x', ttl = 1, capacity = 0 },
      ['is built in'] = { name = 'dns_resolver_mx', ttl = 1, capacity = 1 },
      ['while processing'] = { name = 5, ttl = 1, capacity = 1 },
    } do
      assert.error_matches(function()
        kumo.memoize(print, options)
      end, text)
    end
    assert.error_matches(function()
      kumo.memoize('x', {})
    end, 'function expected')
  end)
end)
