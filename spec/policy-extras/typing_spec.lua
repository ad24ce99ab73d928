local typing = require 'policy-extras.typing'

local raised = require('helper').raised

local Point = typing.record('Point', {
  x = typing.number,
  y = typing.default(typing.number, 0),
  label = typing.option(typing.string),
})

describe('typing', function()
  it('gives the value that fits', function()
    assert.are.equal('a', typing.string 'a')
    assert.are.equal(1, typing.number(1))
    assert.are.equal(false, typing.boolean(false))
    assert.are.same({ 1, 2 }, typing.list(typing.number) { 1, 2 })
    assert.are.same({ a = 1 }, typing.map(typing.string, typing.number) { a = 1 })
    assert.are.equal('red', typing.enum('Color', 'red', 'green') 'red')
    assert.is_nil(typing.option(typing.string)(nil))
    assert.are.equal(5, typing.variant(typing.string, typing.number)(5))
    local fn = function() end
    assert.are.equal(fn, typing.Function(fn))
  end)

  it('fills in defaults of records', function()
    local p = Point { x = 1 }
    assert.are.equal(0, p.y)
    assert.is_nil(p.label)
  end)

  it('copies a default table for each use', function()
    local Tags = typing.record('Tags', { list = typing.default(typing.list(typing.string), {}) })
    local a, b = Tags {}, Tags {}
    a.list[1] = 'x'
    assert.are.same({}, b.list)
  end)

  local cases = {
    { typing.string, 1, 'string expected, got number' },
    { Point, 'p', 'Point: table expected, got string' },
    { Point, {}, "Point: missing field 'x' (number)" },
    { Point, { x = 'a' }, "Point: field 'x': number expected, got string" },
    { Point, { x = 1, labl = 'a' }, "Point: unknown field 'labl', expected one of 'label', 'x', 'y' (did you mean 'label'?)" },
    { typing.list(typing.string), { 'a', 2 }, 'element 2: string expected, got number' },
    { typing.list(typing.string), { a = 'b' }, 'list expected, got a table with other keys than 1 to 1' },
    { typing.map(typing.string, typing.number), { [1] = 1 }, 'key 1: string expected, got number' },
    { typing.map(typing.string, typing.number), { a = 'b' }, '["a"]: number expected, got string' },
    {
      typing.enum('Color', 'red', 'green'),
      'gren',
      "Color: one of 'red', 'green' expected, got \"gren\" (did you mean 'green'?)",
    },
    { typing.variant(typing.string, typing.number), true, 'string or number expected, got boolean' },
  }
  for _, case in ipairs(cases) do
    it('refuses: ' .. case[3], function()
      local err = raised(case[1], case[2])
      assert.truthy(err:find(', while processing ', 1, true))
      assert.are.equal(case[3], typing.extract_deserialize_error(err))
      local value, text = case[1]:check(case[2])
      assert.is_nil(value)
      assert.are.equal(case[3], text)
    end)
  end

  it('refuses new fields of a record later', function()
    local p = Point { x = 1 }
    assert.truthy(raised(function()
      p.z = 1
    end):find("unknown field 'z'", 1, true))
    assert.truthy(raised(function()
      p.label = 1
    end):find("field 'label': string expected", 1, true))
  end)

  it('asks _dynamic about other keys', function()
    local Open = typing.record('Open', {
      _dynamic = function(key, value)
        return value ~= 0, key .. ' is 0'
      end,
    })
    assert.are.same({ a = 1 }, { a = Open({ a = 1 }).a })
    assert.are.equal("Open: field 'b': b is 0", typing.extract_deserialize_error(raised(Open, { b = 0 })))
  end)

  it('places the error where the policy calls', function()
    assert.truthy(raised(function()
      Point {}
    end):find 'typing_spec.lua:%d+:')
  end)
end)
