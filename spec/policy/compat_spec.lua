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
  it('packs as Lua 5.4', function()
    for _, case in ipairs { -- format, bytes (as lua5.4 gives them), values
      { '!4 b i4', '\1\0\0\0\2\0\0\0', 1, 2 },
      { '!8 b Xd d', '\1' .. ('\0'):rep(7) .. '\0\0\0\0\0\0\240\63', 1, 1.0 },
      { '!2 b i4', '\1\0\2\0\0\0', 1, 2 },
      { '>i3', '\255\255\254', -2 },
      { '<I3', '\254\255\255', 0xFFFFFE },
      { '<j', '\255\255\255\255\255\255\255\255', -1 },
      { 'c5', 'abc\0\0', 'abc\0\0' },
      { '>s2', '\0\3abc', 'abc' },
      { '<f', '\0\0\192\63', 1.5 },
      { 'b x b', '\1\0\2', 1, 2 },
    } do
      local bytes = string.pack(case[1], unpack(case, 3))
      assert.are.equal(case[2], bytes, case[1])
      local values = { string.unpack(case[1], bytes) }
      assert.are.equal(#bytes + 1, table.remove(values))
      assert.same({ unpack(case, 3) }, values)
    end
    assert.are.equal(16, string.packsize '!8 b d')
    assert.are.equal(2, select(2, string.unpack('b', '\5\6', 1)))
    assert.are.equal(6, (string.unpack('b', '\5\6', -1)))
    for message, fn in pairs {
      ['integer overflow'] = { string.pack, 'b', 128 },
      ['unsigned overflow'] = { string.pack, 'B', -1 },
      ['no integer representation'] = { string.pack, 'i4', 1.5 },
      ['number expected, got nil'] = { string.pack, 'i4' },
      ['string contains zeros'] = { string.pack, 'z', 'a\0b' },
      ['string longer than given size'] = { string.pack, 'c1', 'ab' },
      ['length does not fit'] = { string.pack, 's1', ('x'):rep(256) },
      ['data string too short'] = { string.unpack, 's4', '\255\255\255\255x' },
      ['unfinished string'] = { string.unpack, 'z', 'abc' },
      ['invalid format option'] = { string.pack, 'q', 1 },
      ['out of limits'] = { string.pack, 'i17', 1 },
      ["missing size for format option 'c'"] = { string.pack, 'c', 'x' },
      ['not power of 2'] = { string.pack, '!4 i3', 1 },
      ['position out of string'] = { string.unpack, 'b', 'a', 3 },
      ['variable%-length'] = { string.packsize, 's' },
      ["next option for option 'X'"] = { string.packsize, 'X' },
    } do
      assert.error_matches(function()
        fn[1](unpack(fn, 2))
      end, message)
    end
  end)
  it('has the small things of 5.4', function()
    assert.are.equal(2, rawlen { 1, 2 })
    assert.are.equal(3, rawlen 'abc')
    assert.are.equal('incremental', collectgarbage 'generational')
    assert.is_true(collectgarbage 'count' > 0)
    warn('@off')
    assert.has_error(function()
      warn {}
    end)
    assert.are.equal('5', load('return x', 'chunk', 't', { x = '5' })())
    local seen = {}
    for i = 1, 4 do
      if i % 2 == 0 then
        goto continue
      end
      seen[#seen + 1] = i
      ::continue::
    end
    assert.same({ 1, 3 }, seen)
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

describe('syntax of Lua 5.4', function()
  local helper = require 'helper'
  for source, remedy in pairs {
    ['local x = 7 // 2'] = 'math.floor(a / b)',
    ['return 6 & 3'] = 'bit.band(a, b)',
    ['return 6 | 3'] = 'bit.bor(a, b)',
    ['if a ~ b then end'] = 'bit.bxor(a, b)',
    ['return ~5'] = 'bit.bnot(a)',
    ['return 1 << 4'] = 'bit.lshift(a, n)',
    ['return 16 >> 2'] = 'bit.rshift(a, n)',
    ['local x <const> = 1'] = 'leave <const> out',
    ['local f < close > = io.open "x"'] = 'leave <close> out',
    ['local s = "// &"\n-- // \n--[[ & ]] local t = [==[ | ]==]\nreturn s // 2'] = 'math.floor(a / b)',
    ["local s = 'it\\'s // not'\nreturn s ~= 1 and 5 & 6"] = 'bit.band(a, b)',
    ['x = a\n// b'] = 'math.floor(a / b)',
  } do
    it(('is named with its remedy: %q'):format(source), function()
      local chunk, message = load(source, '=policy.lua')
      assert.is_nil(chunk)
      assert.is_truthy(message:find('policy.lua:', 1, true), message)
      assert.is_truthy(message:find('LuaJIT of Tailrace: ', 1, true), message)
      assert.is_truthy(message:find(remedy, 1, true), message)
      local parts = { source:sub(1, 5), source:sub(6) }
      assert.are.equal(message, select(2, load(function()
        return table.remove(parts, 1)
      end, '=policy.lua')))
      assert.is_truthy(select(2, loadstring(source)):find(remedy, 1, true))
    end)
  end

  for source in pairs {
    ['return 1 +'] = true,
    ['x = = 2 -- // &'] = true,
    ['return "a // b" ..'] = true,
    ['local t = { 1, 2'] = true,
    ['if a < b then'] = true,
    ['return "unfinished'] = true,
    ['return [[ // '] = true,
  } do
    it(('gives other mistakes no remedy: %q'):format(source), function()
      local _, message = load(source)
      assert.is_nil(message:find('LuaJIT of', 1, true), message)
    end)
  end

  it('is named in policies and in modules, too', function()
    local dir = helper.dir()
    helper.write(dir .. '/badmod.lua', 'local M = {}\nM.half = function(x) return x // 2 end\nreturn M')
    local path = package.path
    package.path = dir .. '/?.lua;' .. path
    local ok, err = pcall(require, 'badmod')
    package.path = path
    assert.is_false(ok)
    assert.is_truthy(err:find("error loading module 'badmod' from file", 1, true))
    assert.is_truthy(err:find('badmod.lua:2: ', 1, true) and err:find('math.floor(a / b)', 1, true), err)
    assert.is_truthy(select(2, loadfile(dir .. '/badmod.lua')):find('math.floor(a / b)', 1, true))
    assert.is_truthy(select(2, loadfile '/not/there.lua'):find('/not/there.lua', 1, true))
    assert.is_truthy(select(2, pcall(require, 'not.there')):find("no file '", 1, true))
    helper.write(dir .. '/policy.lua', 'local kumo = require "kumo"\nlocal LIMIT <const> = 5\n')
    local text = helper.sh(helper.quote(helper.TAILRACE) .. ' lua ' .. helper.quote(dir .. '/policy.lua'))
    assert.is_truthy(text:find('policy.lua:2: ', 1, true) and text:find('leave <const> out', 1, true), text)
    helper.cleanup()
  end)
end)
