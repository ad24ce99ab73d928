-- kumo.serde, kumo.string, kumo.regex
local kumo = require 'kumo'

describe('kumo.serde', function()
  it('reads JSON with comments', function()
    local value = kumo.serde.json_parse '{ // one\n "a": "x//y#z", # two\n "b": [1, /* three \n */ 2], "c": null, "d": "\\"//" }'
    assert.same({ a = 'x//y#z', b = { 1, 2 }, d = '"//' }, value)
  end)
  it('says where it is wrong', function()
    assert.error_matches(function()
      kumo.serde.json_parse '{\n  /* c */ "a": x }'
    end, 'line 2 column 16')
    assert.error_matches(function()
      kumo.serde.json_load '/nonexistent.json'
    end, '/nonexistent.json')
  end)
  it('keeps arrays and objects apart', function()
    assert.are.equal('{"a":[]}', kumo.serde.json_encode(kumo.serde.json_parse '{"a":[]}'))
    assert.are.equal('{}', kumo.serde.json_encode {})
  end)
  it('sorts the pretty form', function()
    assert.are.equal(
      '{\n  "a": [\n    1,\n    2\n  ],\n  "b": {}\n}',
      kumo.serde.json_encode_pretty { b = {}, a = { 1, 2 } }
    )
  end)
  it('encodes objects with __pairs and names what it cannot encode', function()
    local proxy = kumo.memoize(function()
      return { a = { 1 } }
    end, { name = 'spec.serde', ttl = 60, capacity = 2 })()
    assert.are.equal('userdata', type(proxy))
    assert.are.equal('{"a":[1]}', kumo.serde.json_encode(proxy))
    assert.error_matches(function()
      kumo.serde.json_encode { print }
    end, 'cannot encode function')
  end)
  it('has the old names', function()
    assert.are.equal(kumo.serde.json_parse, kumo.json_parse)
    assert.are.equal(kumo.serde.toml_encode_pretty, kumo.toml_encode_pretty)
  end)
end)

describe('kumo.string', function()
  local s = kumo.string
  for name, case in pairs {
    replace = { { 'a.b.c', '.', '--' }, 'a--b--c' },
    replacen = { { 'a.b.c', '.', '-', 1 }, 'a-b.c' },
    trim = { { ' \t\194\160x y\226\128\168\n' }, 'x y' },
    trim_start = { { '  x ' }, 'x ' },
    trim_end = { { '  x ' }, '  x' },
  } do
    it(name, function()
      assert.are.equal(case[2], s[name](unpack(case[1])))
    end)
  end
  it('splits from both ends', function()
    assert.same({ 'a', 'b', '', 'c' }, s.split('a,b,,c', ','))
    assert.same({ 'a', 'b,,c' }, s.splitn('a,b,,c', 2, ','))
    assert.same({ 'c', '', 'b', 'a' }, s.rsplit('a,b,,c', ','))
    assert.same({ 'c', 'a,b,' }, s.rsplitn('a,b,,c', 2, ','))
    assert.same({ '', 'a', 'b', '' }, s.split('ab', ''))
    assert.same({ '' }, s.split('', ','))
    assert.same({ 'a', 'b', 'c' }, s.split_whitespace ' a\194\160b\n c ')
    assert.same({ 'a\194\160b', 'c' }, s.split_ascii_whitespace ' a\194\160b\n c ')
  end)
  it('looks at the ends', function()
    assert.is_true(s.starts_with('abc', 'ab'))
    assert.is_false(s.starts_with('abc', 'b'))
    assert.is_true(s.ends_with('abc', 'bc'))
    assert.is_true(s.ends_with('abc', ''))
    assert.is_false(s.ends_with('abc', 'xabc'))
  end)
  it('wraps', function()
    assert.are.equal('aaa bbb\r\n\tccc', s.wrap('aaa bbb ccc', 8))
    assert.are.equal('aaaa\r\n\ta', s.wrap('aaaaa', 3, 4))
  end)
  it('refuses what is no string', function()
    assert.error_matches(function()
      s.split(nil, ',')
    end, 'argument 1: string expected, got nil')
  end)
end)

describe('kumo.regex', function()
  local function re(pattern)
    return kumo.regex.compile(pattern)
  end
  it('captures by number from 0 and by name', function()
    local got = re('(?<user>[^@]+)@(x)?(.*)'):captures 'me@there'
    assert.same({ [0] = 'me@there', 'me', nil, 'there', user = 'me' }, got)
    assert.is_nil(re('x'):captures 'y')
  end)
  it('finds', function()
    assert.is_true(re('^a(?=b)'):is_match 'ab')
    assert.is_false(re('^a(?!b)'):is_match 'ab')
    assert.are.equal('bb', re('b+'):find 'abbc')
    assert.is_nil(re('x'):find 'abbc')
    assert.same({ 'b', 'bb' }, re('b+'):find_all 'abcbb')
    assert.same({ '', '', '' }, re('x*'):find_all '\195\169a')
    assert.same({ 'aa' }, re('(.)\\1'):find_all 'aab')
  end)
  it('replaces', function()
    assert.are.equal('<a>bab', re('a'):replace('abab', '<$0>'))
    assert.are.equal('b=a d=c', re('(\\w)=(?<v>\\w)'):replace_all('a=b c=d', '${v}=$1'))
    assert.are.equal('$ $ c', re('\\w'):replacen('a b c', 2, '$$'))
    assert.are.equal('-a-b-', re(''):replace_all('ab', '-'))
    assert.are.equal('xbx', re('[ac]'):replacen('abc', 0, 'x'))
  end)
  it('splits and escapes', function()
    assert.same({ 'a', 'b', '' }, re('[,;]'):split 'a,b;')
    assert.is_true(re('^' .. kumo.regex.escape 'a.b*(c)[d]' .. '$'):is_match 'a.b*(c)[d]')
  end)
  it('refuses bad patterns, texts that are not UTF-8, and endless matches', function()
    assert.error_matches(function()
      re '(a'
    end, "position %d+ of the pattern '%(a'")
    assert.error_matches(function()
      re('a'):is_match '\255'
    end, 'not valid UTF%-8')
    assert.error_matches(function()
      re('^(a+)+$'):is_match(('a'):rep(40) .. 'b')
    end, 'limit')
  end)
end)
