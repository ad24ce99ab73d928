-- kumo.regex in whole, kumo.regex_set_map, and what of kumo.string needs lists and templates.
local kumo = require 'kumo'

describe('kumo.regex', function()
  local compile = kumo.regex.compile

  it('knows look-around, back references, named groups and classes of Unicode', function()
    assert.are.equal('b', compile('(?<=a)b(?=c)'):find 'xbabc')
    assert.is_true(compile([[^(\w+) \1$]]):is_match 'abc abc')
    assert.is_false(compile([[^(\w+) \1$]]):is_match 'abc abd')
    local captures = compile([[(?P<user>[^@]+)@(?<domain>\S+)]]):captures 'to joe@example.com'
    assert.same({ [0] = 'to joe@example.com', 'to joe', 'example.com', user = 'to joe', domain = 'example.com' }, captures)
    assert.are.equal(2, #captures)
    assert.are.equal('é', compile([[\p{L}]]):find '1é')
    assert.is_true(compile([[(?i)straße]]):is_match 'STRAßE')
    assert.is_nil(compile('(a)|(b)'):captures('b')[1])
    assert.is_nil(compile('x'):captures 'y')
    assert.is_nil(compile('x'):find 'y')
  end)

  it('finds, replaces and splits', function()
    local digits = compile [[(\d)(?<second>\d)?]]
    assert.same({ '12', '3' }, digits:find_all 'a12b3')
    assert.same({}, digits:find_all 'x')
    assert.are.equal('a<1><2>b34', digits:replace('a12b34', '<$1><${second}>'))
    assert.are.equal('a$b$', digits:replace_all('a12b34', '$$'))
    assert.are.equal('a..b34', digits:replacen('a12b34', 1, '..'))
    assert.are.equal('a..b..', digits:replacen('a12b34', 0, '..'))
    assert.are.equal('-a-é-', compile(''):replace_all('aé', '-'))
    assert.same({ 'a', 'b', '', 'c' }, compile(','):split 'a,b,,c')
    assert.same({ '' }, compile(','):split '')
    assert.same({ '', 'a', 'é', '' }, compile(''):split 'aé')
    assert.are.equal('a.b', compile(kumo.regex.escape 'a.b'):find 'axb a.b')
  end)

  it('bounds what a pattern may cost', function()
    assert.error_matches(function()
      compile('^(a+)+$'):is_match(('a'):rep(40) .. 'b')
    end, 'limit')
    assert.is_true(compile('(?:a|b)*c'):is_match(('ab'):rep(100000) .. 'c'))
  end)

  it('says what is wrong', function()
    assert.error_matches(function()
      compile 'a('
    end, 'regex.compile: .*position')
    for _, bad in ipairs { 5, {}, print } do
      assert.has_error(function()
        compile(bad)
      end)
      assert.has_error(function()
        compile('a'):find(bad)
      end)
    end
    assert.error_matches(function()
      compile('a'):is_match '\255'
    end, 'not valid UTF%-8')
    assert.error_matches(function()
      compile('a'):replace('a', 5)
    end, 'replacement: string expected')
    for _, limit in ipairs { -1, 1.5, 'x', 0 / 0 } do
      assert.error_matches(function()
        compile('a'):replacen('a', limit, 'b')
      end, 'limit: integer >= 0 expected')
    end
    assert.error_matches(function()
      compile('a').find 'x'
    end, 'use the colon')
  end)
end)

describe('kumo.regex_set_map', function()
  it('gives the value of a pattern that matches', function()
    local map = kumo.regex_set_map.new { ['^mx\\d+\\.'] = 'mx', ['google\\.com$'] = { name = 'G' }, ['.*nothing'] = false }
    assert.are.equal('mx', map['mx1.example.com'])
    assert.are.equal('G', map['smtp.google.com'].name)
    assert.is_nil(map['other'])
    assert.are.equal(false, map['xnothing'])
    local count = 0
    for pattern, value in pairs(map) do
      count = count + (type(pattern) == 'string' and value ~= nil and 1 or 0)
    end
    assert.are.equal(3, count)
  end)

  it('can be memoized', function()
    local get = kumo.memoize(function()
      return kumo.regex_set_map.new { ['^a'] = 1 }
    end, { name = 'spec.regex_set_map', ttl = 60, capacity = 1 })
    assert.are.equal(1, get()['abc'])
    assert.are.equal(1, get()['abc'])
  end)

  it('says what is wrong', function()
    for message, patterns in pairs {
      ["pattern 'a%('"] = { ['a('] = 1 },
      ['patterns are strings, got number'] = { [1] = 'a' },
      ['a table of values by pattern is expected'] = 'a',
    } do
      assert.error_matches(function()
        kumo.regex_set_map.new(patterns)
      end, message)
    end
    local map = kumo.regex_set_map.new { ['^(a+)+$'] = 1 }
    assert.error_matches(function()
      return map[('a'):rep(40) .. 'b']
    end, 'regex_set_map: pattern')
    assert.has_error(function()
      return map[5]
    end)
    assert.has_error(function()
      map.x = 1
    end)
  end)
end)

describe('kumo.string', function()
  local str = kumo.string

  it('knows the public suffix list', function()
    for domain, case in pairs {
      ['www.Example.co.uk'] = { 'Example.co.uk', 'co.uk' },
      ['example.com'] = { 'example.com', 'com' },
      ['a.b.example.com.'] = { 'example.com', 'com' },
      ['co.uk'] = { nil, 'co.uk' },
      ['www.city.kawasaki.jp'] = { 'city.kawasaki.jp', 'kawasaki.jp' },
      ['a.b.kobe.jp'] = { 'a.b.kobe.jp', 'b.kobe.jp' },
      ['x.unlisted'] = { 'x.unlisted', 'unlisted' },
      [''] = {},
      ['.'] = {},
    } do
      assert.are.equal(case[1], str.psl_domain(domain), domain)
      assert.are.equal(case[2], str.psl_suffix(domain), domain)
    end
    assert.has_error(function()
      str.psl_domain(5)
    end)
  end)

  it('fills in templates, escaped by their name', function()
    local context = { name = '<b>"', list = { 1, 2 }, deep = { x = true } }
    assert.are.equal('Hi <b>"!', str.eval_template('greeting', 'Hi {{ name }}!', context))
    assert.are.equal('&lt;b&gt;', str.eval_template('a.html', '{{ name }}', context):sub(1, 9))
    assert.are.equal('{"n":"<b>\\"","l":[1,2]}', str.eval_template('a.json', '{"n":{{ name }},"l":{{ list }}}', context))
    assert.are.equal('{{ name }}', str.eval_template('a', '{{ name }}', context, 'Static'))
    assert.are.equal('12', str.eval_template('a', '{% for i in list %}{{ i }}{% endfor %}', context, 'Jinja'))
    for message, case in pairs {
      ['eval_template: bad:1: '] = { 'bad', '{{ ', {} },
      ["'Jinja' or 'Static' expected, got Handlebars"] = { 'a', '', {}, 'Handlebars' },
      ['context: table expected, got nil'] = { 'a', '' },
      ['argument 2: string expected'] = { 'a', 5, {} },
    } do
      assert.error_matches(function()
        str.eval_template(unpack(case))
      end, message)
    end
  end)

  it('makes responses of one kind alike', function()
    for text, normal in pairs {
      ['550 5.1.1 <joe.b+x@example.com>: unknown'] = '550 5.1.1 <{email}>: unknown',
      ['450 4.7.1 [10.0.0.1] and 2001:db8::1 blocked'] = '450 4.7.1 [{ipaddr}] and {ipaddr} blocked',
      ['peer 192.0.2.1:25 at 18:00'] = 'peer {ipaddr}:25 at 18:00',
      ['id 123e4567-e89b-12d3-a456-426614174000 ok'] = 'id {uuid} ok',
      ['queued as d41d8cd98f00b204e9800998ecf8427e'] = 'queued as {hash}',
      ['ok 1795630930 d2e1a72fcca58-72f1a2b3c4dsi123456abc.5 - gsmtp'] = 'ok {timestamp} {base64}.5 - gsmtp',
      ['at 2026-11-25T18:00:00Z and Wed, 25 Nov 2026 18:00:00 +0000'] = 'at {timestamp} and {timestamp}',
      ['421 4.3.0 Temporary System Problem.  Try again later'] = '421 4.3.0 Temporary System Problem.  Try again later',
      ['see https://support.example.com/answer/81126'] = 'see https://support.example.com/answer/81126',
    } do
      assert.are.equal(normal, str.normalize_smtp_response(text))
      assert.are.equal(normal, str.normalize_smtp_response(normal))
    end
  end)

  it('refuses limits that make no sense', function()
    for _, limit in ipairs { -1, 1.5, 'x', 0 / 0 } do
      for _, fn in ipairs { 'splitn', 'rsplitn' } do
        assert.has_error(function()
          str[fn]('a,b', limit, ',')
        end)
      end
      assert.has_error(function()
        str.replacen('a', 'a', 'b', limit)
      end)
      assert.has_error(function()
        str.wrap('a b', limit)
      end)
    end
    assert.has_error(function()
      str.wrap('a b', 0, 0)
    end)
  end)
end)
