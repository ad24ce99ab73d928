local core = require 'tr.toml'
local helper = require 'helper'
local kumo = require 'kumo'
local serde = kumo.serde

local raised = helper.raised

describe('kumo.serde.toml_parse', function()
  local cases = {
    ['a = 1'] = { a = 1 },
    ['a = -1.5e3'] = { a = -1500 },
    ['a = 1_000'] = { a = 1000 },
    ['a = 0x1F'] = { a = 31 },
    ['a = true'] = { a = true },
    ['a = "x\\ty"'] = { a = 'x\ty' },
    ["a = 'C:\\x'"] = { a = 'C:\\x' },
    ['a = [1, [2, "x"]]'] = { a = { 1, { 2, 'x' } } },
    ['a = { b = 1, c = { d = 2 } }'] = { a = { b = 1, c = { d = 2 } } },
    ['["example.com"]\nx = 1\n["example.com".sources."s-1"]\ny = 2'] = {
      ['example.com'] = { x = 1, sources = { ['s-1'] = { y = 2 } } },
    },
    ['[[r]]\nx = 1\n[[r]]\nx = 2'] = { r = { { x = 1 }, { x = 2 } } },
    ['t = 2026-11-25T22:00:00Z'] = { t = '2026-11-25T22:00:00Z' },
  }
  for text, value in pairs(cases) do
    it(('reads %q'):format(text), function()
      assert.are.same(value, serde.toml_parse(text))
    end)
  end

  it('reads nothing as an empty table, and an empty array as an array', function()
    assert.are.same({}, serde.toml_parse '')
    assert.are.equal('{"a":[]}', serde.json_encode(serde.toml_parse 'a = []'))
  end)

  for text, why in pairs {
    ['a = '] = 'line 1 column',
    ['a = 1\nb = "half'] = 'line 2 column',
    ['a = 1\na = 2'] = 'redefine',
    ['\n\n[x'] = 'line 3',
  } do
    it(('tells where %q is wrong'):format(text), function()
      local err = raised(serde.toml_parse, text)
      assert.truthy(err:find('toml_parse: invalid TOML at line', 1, true), err)
      assert.truthy(err:find(why, 1, true), err)
    end)
  end

  it('takes a text only', function()
    assert.truthy(raised(serde.toml_parse, {}):find('string expected, got table', 1, true))
  end)
end)

describe('kumo.serde.toml_load', function()
  after_each(helper.cleanup)

  it('reads a file, and names it in errors', function()
    local path = helper.write(helper.dir() .. '/a.toml', 'a = 1\n')
    assert.are.same({ a = 1 }, serde.toml_load(path))
    assert.are.same({ a = 1 }, kumo.toml_load(path))
    helper.write(path, 'a == 1\n')
    assert.truthy(raised(serde.toml_load, path):find(path .. ': invalid TOML at line 1', 1, true))
    assert.truthy(raised(serde.toml_load, path .. '.no'):find('No such file', 1, true))
  end)
end)

describe('kumo.serde.toml_encode', function()
  local values = {
    { a = 1, b = 'x', c = true, d = 1.25, e = { 1, 2 }, f = {} },
    { ['example.com'] = { mx_rollup = true, sources = { ['s 1'] = { x = '"\\\n\1\127' } } } },
    { r = { { x = 1, t = { y = 1 } }, { x = 2 } }, mixed = { 1, { x = 1 } } },
    { n = 2 ^ 53, m = -2 ^ 40, h = math.huge, tiny = 1e-9, big = 1e300 },
    { nested = { { { 1 } }, {} }, ['k.e.y'] = { ['ü'] = 'ü' } },
  }
  for i, value in ipairs(values) do
    for _, name in ipairs { 'toml_encode', 'toml_encode_pretty', 'toml_encode_pretty_compact' } do
      it(('%s writes what is read again (%d)'):format(name, i), function()
        assert.are.same(value, serde.toml_parse(serde[name](value)))
      end)
    end
  end

  it('sorts keys, and has a line for each element in the pretty form', function()
    local value = { b = { 1, 2 }, a = 1, t = {}, s = { x = 1 } }
    assert.are.equal('a = 1\nb = [1, 2]\n\n[s]\nx = 1\n\n[t]\n', serde.toml_encode(value))
    assert.are.equal('a = 1\nb = [\n    1,\n    2,\n]\nt = {}\n\n[s]\nx = 1\n', serde.toml_encode_pretty_compact(value))
  end)

  it('writes the objects of kumo.make_egress_path', function()
    local text = serde.toml_encode(kumo.make_egress_path { max_ready = 7 })
    assert.are.equal(7, serde.toml_parse(text).max_ready)
  end)

  local loop = {}
  loop.loop = loop
  for name, case in pairs {
    ['a function'] = { { f = print }, 'f: a function cannot be written' },
    ['a list at the top'] = { { 1, 2 }, 'a table with keys is expected' },
    ['a number as key'] = { { x = { [1.5] = 1 } }, 'x: the key 1.5 is a number' },
    ['no UTF-8'] = { { x = '\255' }, 'x: the text is not valid UTF-8' },
    ['a table in itself'] = { loop, 'nested deeper' },
    ['a text'] = { 'x', 'a table with keys' },
  } do
    it('refuses ' .. name, function()
      local err = raised(serde.toml_encode, case[1])
      assert.truthy(err:find(case[2], 1, true), err)
    end)
  end
end)

describe('places', function()
  local TOML = '# top\na = 1\n\n["b.c"]\nx = { y = 1,\n  }\n'
  local JSON = '{\n "z": [1,\n  {"k\\u0041": true}],\n\n "a": null }'

  it('of TOML are the lines of the keys, with the order of the file', function()
    local good, _, places = core.parse('z = 1\na = 1\n\n["b.c"]\nx = { y = 1, b = 2 }\nl = [\n1,\n{ q = 1 },\n]\n', true)
    assert.is_true(good)
    assert.are.same({
      [0] = 1,
      [-1] = { 'z', 'a', 'b.c' },
      z = 1,
      a = 2,
      ['b.c'] = {
        [0] = 4,
        [-1] = { 'x', 'l' },
        x = { [0] = 5, [-1] = { 'y', 'b' }, y = 5, b = 5 },
        l = { [0] = 6, 7, { [0] = 8, [-1] = { 'q' }, q = 8 } },
      },
    }, places)
    assert.is_false((core.parse(TOML, true))) -- an inline table ends in its line
  end)

  it('of JSON are the lines of the keys, with the order of the file', function()
    assert.are.same({
      [0] = 1,
      [-1] = { 'z', 'a' },
      z = { [0] = 2, 2, { [0] = 3, [-1] = { 'kA' }, kA = 3 } },
      a = 5,
    }, core.json_places(JSON))
    assert.are.equal(3, core.json_places '\n\n1')
    assert.truthy(raised(core.json_places, '{'):find('valid JSON', 1, true))
  end)

  it('can be left out', function()
    local good, value, places = core.parse('a = [1]', false)
    assert.is_true(good)
    assert.are.same({ a = { 1 } }, value)
    assert.is_nil(places)
  end)
end)
