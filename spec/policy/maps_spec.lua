local kumo = require 'kumo'

describe('kumo.domain_map', function()
  local map = kumo.domain_map.new {
    ['example.com'] = 'apex',
    ['*.example.com'] = 'wild',
    ['a.b.example.com'] = 'exact',
    ['*.deep.example.com'] = 'deeper',
  }
  for domain, value in pairs {
    ['example.com'] = 'apex',
    ['x.example.com'] = 'wild',
    ['y.x.example.com'] = 'wild',
    ['a.b.example.com'] = 'exact',
    ['x.deep.example.com'] = 'deeper',
    ['b.example.com'] = 'none', -- a node on the way without a value: no way back
    ['Example.com'] = 'none',
    ['com'] = 'none',
    ['example.org'] = 'none',
  } do
    it(('finds %s for %s'):format(value, domain), function()
      assert.are.equal(value, map[domain] or 'none')
    end)
  end
  it('can be written', function()
    local m = kumo.domain_map.new()
    m['*.org'] = 1
    assert.are.equal(1, m['x.org'])
  end)
end)

describe('kumo.cidr', function()
  local map = kumo.cidr.make_map {
    ['10.0.0.0/8'] = 'ten',
    ['10.1.0.0/16'] = 'ten-one',
    ['10.1.2.3'] = 'host',
    ['2001:db8::/32'] = 'doc',
    ['0.0.0.0/0'] = 'any',
  }
  for key, value in pairs {
    ['10.9.9.9'] = 'ten',
    ['10.1.9.9'] = 'ten-one',
    ['10.1.2.3'] = 'host',
    ['10.1.2.3:25'] = 'host',
    ['10.1.0.0/24'] = 'ten-one',
    ['192.0.2.1'] = 'any',
    ['2001:db8::1'] = 'doc',
    ['[2001:db8::1]:25'] = 'doc',
    ['[2001:db8::1]'] = 'doc',
    ['2001:db9::1'] = 'none',
  } do
    it(('finds %s for %s'):format(value, key), function()
      assert.are.equal(value, map[key] or 'none')
    end)
  end
  it('refuses names, and networks with host bits', function()
    assert.error_matches(function()
      return map['mail.example.com']
    end, 'is not an IP address')
    assert.error_matches(function()
      kumo.cidr.make_map { ['10.1.2.3/8'] = 1 }
    end, "did you mean '10.0.0.0/8'")
    assert.has_error(function()
      map['10.0.0.0/33'] = 1
    end)
  end)
end)
