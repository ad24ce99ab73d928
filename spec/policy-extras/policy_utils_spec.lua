local utils = require 'policy-extras.policy_utils'

local raised = require('helper').raised

describe('policy_utils', function()
  it('compares deeply', function()
    assert.is_true(utils.equals({ a = { 1, 2 } }, { a = { 1, 2 } }))
    assert.is_false(utils.equals({ a = 1 }, { a = 1, b = 2 }))
    assert.is_false(utils.equals({ a = 1, b = 2 }, { a = 1 }))
    assert.is_false(utils.equals(1, '1'))
    assert.is_false(utils.equals({ a = { 1 } }, { a = { 2 } }))
  end)

  it('asserts', function()
    utils.assert_eq({ 1 }, { 1 })
    utils.assert_ne({ 1 }, { 2 })
    utils.assert_matches('abc123', '^[a-z]+\\d+$')
    assert.truthy(raised(utils.assert_eq, 1, 2, 'why'):find('why: expected equal values, got 1 and 2', 1, true))
    assert.truthy(raised(utils.assert_ne, 1, 1):find('expected different values', 1, true))
    assert.truthy(raised(utils.assert_matches, 'abc', '^x'):find('to match', 1, true))
  end)

  it('merges', function()
    assert.are.same({ a = { x = 1 }, b = 2 }, utils.merge_into({ a = { x = 1 } }, { a = { y = 2 }, b = 2 }))
    assert.are.same({ a = { x = 1, y = 2 }, b = 2 }, utils.recursive_merge_into({ a = { x = 1 } }, { a = { y = 2 }, b = 2 }))
  end)

  it('knows lists and tables', function()
    assert.is_true(utils.table_contains({ 'a', 'b' }, 'b'))
    assert.is_false(utils.table_contains({ 'a', 'b' }, 'c'))
    local keys = utils.table_keys { a = 1, b = 2 }
    table.sort(keys)
    assert.are.same({ 'a', 'b' }, keys)
    assert.is_true(utils.table_is_empty {})
    assert.is_false(utils.table_is_empty { false })
  end)

  it('looks at texts', function()
    assert.is_true(utils.starts_with('abc', 'ab'))
    assert.is_false(utils.starts_with('abc', 'b'))
    assert.is_true(utils.ends_with('abc', 'bc'))
    assert.is_true(utils.ends_with('abc', ''))
    assert.is_false(utils.ends_with('abc', 'ab'))
    assert.are.same({ '127.0.0.1', 25 }, { utils.split_ip_port '127.0.0.1:25' })
    assert.are.same({ '::1', 25 }, { utils.split_ip_port '[::1]:25' })
    assert.are.same({ '::1', 25 }, { utils.split_ip_port '::1:25' })
    assert.is_nil(utils.split_ip_port '127.0.0.1')
  end)

  it('dumps with sorted keys, and tables in themselves', function()
    local t = { b = 1, a = { 'x' }, ['odd key'] = true }
    t.me = t
    assert.are.equal('{\n  a = {\n    [1] = "x",\n  },\n  b = 1,\n  me = { ... },\n  ["odd key"] = true,\n}', utils.dumps(t))
  end)

  it('loads JSON files by suffix', function()
    local path = os.tmpname()
    local file = assert(io.open(path .. '.json', 'w'))
    file:write '{"a": [1, 2]}'
    file:close()
    assert.are.equal(2, utils.load_json_or_toml_file(path .. '.json').a[2])
    os.remove(path .. '.json')
    os.remove(path)
    assert.truthy(raised(utils.load_json_or_toml_file, 'x.yaml'):find('neither', 1, true))
  end)
end)
