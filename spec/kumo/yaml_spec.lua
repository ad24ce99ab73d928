-- kumo.serde.yaml_parse, yaml_load, yaml_encode
local helper = require 'helper'
local kumo = require 'kumo'

local parse, encode = kumo.serde.yaml_parse, kumo.serde.yaml_encode

describe('kumo.serde.yaml_parse', function()
  -- scalars of YAML 1.2 section 10.3.2, and what only looks like them
  for text, value in pairs {
    ['1'] = 1, ['-17'] = -17, ['+3'] = 3, ['0'] = 0, ['0x1F'] = 31, ['0o17'] = 15, ['0b101'] = 5,
    ['1.5'] = 1.5, ['.5'] = 0.5, ['1e3'] = 1000, ['-1.25e-2'] = -0.0125, ['.inf'] = math.huge, ['-.INF'] = -math.huge,
    ['9007199254740993'] = 9007199254740992,
    ['true'] = true, ['FALSE'] = false,
    ['yes'] = 'yes', ['no'] = 'no', ['on'] = 'on', ['007'] = '007', ['1_000'] = '1_000', ['1e'] = '1e', ['0x'] = '0x',
    ['.'] = '.', ['1.2.3'] = '1.2.3', ['2026-11-25'] = '2026-11-25', ['12:30'] = '12:30', ['0b2'] = '0b2', ['nan'] = 'nan',
    ['"1"'] = '1', ["'true'"] = 'true', ["'it''s'"] = "it's", ['"\\u00e9\\n\\0"'] = 'é\n\0',
    ['!!str 5'] = '5', ['!!int "5"'] = 5, ['!!float 5'] = 5, ['! 5'] = '5', ['!!bool "true"'] = true,
    ['|\n  a\n  b\n'] = 'a\nb\n', ['>-\n  a\n  b\n'] = 'a b', ['|+\n  a\n\n'] = 'a\n\n',
  } do -- stylua: ignore
    it(('reads %q'):format(text), function()
      assert.are.equal(value, parse(text))
    end)
  end

  it('reads null as nil, and NaN', function()
    for _, text in ipairs { '', '~', 'null', '# only a comment', '---\n...' } do
      assert.is_nil(parse(text), text)
    end
    local nan = parse '.nan'
    assert.is_true(nan ~= nan) -- luacheck: ignore
  end)

  it('reads lists and mappings, flow and block', function()
    assert.same({ a = { 1, 2, { b = 'x' } }, c = {}, d = {} }, parse 'a: [1, 2, {b: x}]\nc: []\nd: {}\n')
    assert.same({ list = { 'a', { k = 1, l = 2 } } }, parse 'list:\n- a\n- k: 1\n  l: 2\n')
    assert.are.equal('{"c":[]}', kumo.serde.json_encode(parse 'c: []'))
    assert.same({ [1] = 'one', [true] = 'yes', x = 1 }, parse '1: one\ntrue: "yes"\nx: 1')
    local holes = parse '[1, null, 3]'
    assert.same({ 1, nil, 3 }, { holes[1], holes[2], holes[3] })
  end)

  it('copies what an alias stands for', function()
    local value = parse 'a: &x {k: [1]}\nb: *x\nn: &n ~\nm: *n\n'
    assert.same({ a = { k = { 1 } }, b = { k = { 1 } } }, value)
    value.b.k[1] = 2
    assert.are.equal(1, value.a.k[1])
    assert.same({ ['<<'] = { a = 1 }, b = 2 }, parse '<<: {a: 1}\nb: 2') -- no merging, as in YAML 1.2
  end)

  for text, message in pairs {
    ['a: [1'] = "expected ',' or ']' at line 2",
    ['a: 1\nb: @x'] = 'line 2 column 4',
    ['a: 1\na: 2'] = 'the key is there already at line 2 column 1',
    ['[1]: 2'] = 'a key must be a text',
    ['~: 2'] = 'a key must be a text',
    ['.nan: 2'] = 'NaN cannot be a key',
    ['a: *x'] = 'anchor that is not known',
    ['&a [*a]'] = 'anchor that is not known',
    ['--- 1\n--- 2'] = 'a second document begins at line 2',
    ['!!int x'] = 'a tag that is not known',
    ['!mine {a: 1}'] = 'a tag that is not known',
    ['a: \255'] = 'at byte',
    ['\t- x'] = 'at line 1',
    [('['):rep(200)] = 'nested deeper than 128',
  } do
    it('refuses ' .. ('%q'):format(text:sub(1, 20)), function()
      local ok, err = pcall(parse, text)
      assert.is_false(ok)
      assert.is_truthy(err:find('yaml_parse: invalid YAML: ', 1, true), err)
      assert.is_truthy(err:find(message, 1, true), err)
    end)
  end

  it('bounds what aliases multiply', function()
    local lines = { 'a0: &a0 [x, x, x, x, x, x, x, x, x, x]' }
    for i = 1, 8 do
      lines[#lines + 1] = ('a%d: &a%d [%s]'):format(i, i, ('*a%d, '):format(i - 1):rep(10))
    end
    assert.error_matches(function()
      parse(table.concat(lines, '\n'))
    end, 'more than 1000000 values')
  end)

  it('refuses what is no text', function()
    assert.error_matches(function()
      parse {}
    end, 'string expected, got table')
  end)

  it('reads files, and names them', function()
    local path = helper.write(helper.dir() .. '/a.yaml', 'a: 1')
    assert.same({ a = 1 }, kumo.serde.yaml_load(path))
    helper.write(path, 'a: [')
    assert.error_matches(function()
      kumo.serde.yaml_load(path)
    end, 'yaml_load: .*a.yaml: invalid YAML: .* at line')
    assert.has_error(function()
      kumo.serde.yaml_load '/not/there'
    end)
    helper.cleanup()
  end)
end)

describe('kumo.serde.yaml_encode', function()
  it('writes sorted keys, lists under their key', function()
    assert.are.equal(
      [[
a: 1
b:
- x
- k: 1
  l:
  - 2
- - 3
c: {}
d: []
f:
  g: true
text: |
  one
  two
]],
      encode {
        a = 1,
        b = { 'x', { k = 1, l = { 2 } }, { 3 } },
        c = {},
        d = kumo.serde.json_parse '[]',
        f = { g = true },
        text = 'one\ntwo\n',
      }
    )
  end)

  it('gives back what it wrote', function()
    local texts = {
      '', ' ', 'a', 'a b', '-', '- a', '?', ':', 'a: b', 'a:', 'a #b', '#a', '"', "'", "it's", '\\', '{', '[', ']', '*a', '&a', '!a',
      '|', '>', '%', '@', '`', 'null', '~', 'true', 'Yes', 'no', 'on', 'y', '1', '-1', '1.5', '.5', '1e3', '0x1', '.inf', '.nan', 'nan',
      '007', '2026-11-25', '12:30:00', '...', '---', '--- a', 'é', '€ x', '\t', 'a\tb', 'a\n', 'a\nb', 'a\nb\n', 'a\n\nb\n\n', ' a\nb',
      '\na', 'a \nb', 'a\r\nb', '\0', '\27[0m', '\127', '\194\133', 'x\226\128\168y', '\239\187\191', 'a\n b',
      ', ', 'a, b', '=', '<<', ('x'):rep(2000), ('x y '):rep(500),
    } -- stylua: ignore
    for _, text in ipairs(texts) do
      assert.are.equal(text, parse(encode(text)), ('%q'):format(text))
      assert.same({ [text] = { text, { [text] = text } } }, parse(encode { [text] = { text, { [text] = text } } }))
    end
    for _, number in ipairs { 0, -1, 1.5, 0.1, 1e100, -1e-7, 2 ^ 53, 123456789012, 1 / 3, math.huge, -math.huge } do
      assert.are.equal(number, parse(encode(number)))
    end
    assert.are.equal('.nan\n', encode(0 / 0))
    assert.are.equal('1\n', encode(1.0))
    assert.same({ [1.5] = 'x', [true] = 'y' }, parse(encode { [1.5] = 'x', [true] = 'y' }))
  end)

  it('says what it cannot write', function()
    local cycle = {}
    cycle.a = cycle
    for message, value in pairs {
      ['a function cannot be written'] = { x = print },
      ['deeper than 128'] = cycle,
      ['the value%.x: the text is not valid UTF%-8'] = { x = '\255' },
      ['the key table'] = { [{}] = 1 },
    } do
      assert.error_matches(function()
        encode(value)
      end, message)
    end
  end)
end)
