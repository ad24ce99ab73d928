-- What policies for Lua 5.4 find in the standard library here.
describe('the standard library', function()
  it('has table.pack, unpack and move', function()
    assert.are.equal(3, table.pack(1, nil, nil).n)
    assert.same({ 1, 2 }, { table.unpack { 1, 2 } })
    assert.same({ 1, 1, 2, 3 }, table.move({ 1, 2, 3 }, 1, 3, 2))
  end)
  it('honours __pairs, and __index in ipairs', function()
    local proxy = setmetatable({}, {
      __pairs = function()
        return next, { a = 1 }, nil
      end,
      __index = function(_, i)
        return i < 3 and i or nil
      end,
    })
    for k, v in pairs(proxy) do
      assert.same({ 'a', 1 }, { k, v })
    end
    local n = 0
    for _, v in ipairs(proxy) do
      n = n + v
    end
    assert.are.equal(3, n)
  end)
  it('has utf8', function()
    local text = 'a\195\169\226\130\172\240\159\152\128'
    assert.are.equal(text, utf8.char(0x61, 0xE9, 0x20AC, 0x1F600))
    assert.same({ 0x61, 0xE9, 0x20AC, 0x1F600 }, { utf8.codepoint(text, 1, -1) })
    assert.are.equal(4, utf8.len(text))
    assert.same({ nil, 2 }, { utf8.len 'a\255' })
    assert.is_nil((utf8.len '\237\160\128')) -- a surrogate
    assert.are.equal(4, utf8.offset(text, 3))
    assert.are.equal(7, utf8.offset(text, -1))
    local at = {}
    for p, code in utf8.codes(text) do
      at[#at + 1] = p .. ':' .. code
    end
    assert.are.equal('1:97 2:233 4:8364 7:128512', table.concat(at, ' '))
    local n = 0
    for _ in text:gmatch(utf8.charpattern) do
      n = n + 1
    end
    assert.are.equal(4, n)
  end)
  it('has math.type and tointeger', function()
    assert.are.equal('integer', math.type(3.0))
    assert.are.equal('float', math.type(3.5))
    assert.is_nil(math.type '3')
    assert.are.equal(3, math.tointeger(3.0))
    assert.is_nil(math.tointeger(3.5))
    assert.is_nil(math.tointeger(1 / 0))
  end)
  it('has string.pack and unpack', function()
    local text = string.pack('>I2 <i4 s1 z B d', 258, -2, 'ab', 'cd', 255, 0.5)
    assert.are.equal('\1\2\254\255\255\255\2abcd\0\255\0\0\0\0\0\0\224\63', text)
    assert.same({ 258, -2, 'ab', 'cd', 255, 0.5, #text + 1 }, { string.unpack('>I2 <i4 s1 z B d', text) })
    assert.are.equal(7, string.packsize 'I2 i4 B')
    assert.has_error(function()
      string.unpack('I4', 'abc')
    end)
  end)
  it('sorts with a comparator, in a stable way, and survives a bad one', function()
    local list = {}
    for i = 1, 100 do
      list[i] = { key = i * 37 % 10, at = i }
    end
    table.sort(list, function(a, b)
      return a.key < b.key
    end)
    for i = 2, 100 do
      local a, b = list[i - 1], list[i]
      assert.is_true(a.key < b.key or a.key == b.key and a.at < b.at)
    end
    table.sort(list, function()
      return true
    end)
    assert.are.equal(100, #list)
  end)
  it('gives no place of its own to an error of the caller of pcall', function()
    local ok, err = pcall(function()
      error('text', 2)
    end)
    assert.same({ false, 'text' }, { ok, err })
    assert.are.equal('text', select(2, pcall(error, 'text')))
  end)
  it('replaces with functions as before', function()
    for _, case in ipairs {
      { 'abc', '%w', string.upper },
      { 'hello world', 'o', function() end },
      { 'abc', '', function() return '-' end },
      { 'abc', '%w*', function() return 'x' end },
      { 'a1b2', '(%a)(%d)', function(a, d) return d .. a end },
      { 'aaa', '^a', function() return 'b' end },
      { 'aaa', 'a', function() return 1 end, 2 },
      { 'THE (quick) fox', '%f[%a]%a+', string.lower },
      { '', 'x*', function() return 'y' end },
    } do -- stylua: ignore
      -- a table as replacement takes LuaJIT's own way: it must agree
      local memo = setmetatable({}, { __index = function(_, whole) return case[3](whole) end }) -- stylua: ignore
      local mine = { case[1]:gsub(case[2], case[3], case[4]) }
      if not case[2]:find '%(%%a%)' then
        assert.same({ case[1]:gsub(case[2], memo, case[4]) }, mine)
      else
        assert.same({ '1a2b', 2 }, mine)
      end
    end
    assert.error_matches(function()
      return ('x'):gsub('x', function()
        return {}
      end)
    end, 'invalid replacement value')
  end)
end)
