-- What policies written for Lua 5.4 expect of the standard library and LuaJIT has not: table.pack/unpack, utf8,
-- math.type/tointeger, rawlen, warn. string.pack is in pack.lua. Syntax of 5.4 (`//`, `&`, `<const>`, integers) cannot be
-- added: syntax.lua says what to write instead.
local floor = math.floor

table.unpack = table.unpack or unpack
table.pack = table.pack or function(...)
  return { n = select('#', ...), ... }
end
table.move = table.move
  or function(from, first, last, at, to)
    to = to or from
    if at > first then
      for i = last - first, 0, -1 do
        to[at + i] = from[first + i]
      end
    else
      for i = 0, last - first do
        to[at + i] = from[first + i]
      end
    end
    return to
  end

math.maxinteger, math.mininteger = 9007199254740992, -9007199254740992 -- what a double holds exactly
function math.tointeger(value)
  if type(value) == 'string' then
    value = tonumber(value)
  end
  if type(value) == 'number' and value == floor(value) and value - value == 0 then
    return value
  end
  return nil
end
function math.type(value)
  if type(value) ~= 'number' then
    return nil
  end
  return math.tointeger(value) and 'integer' or 'float'
end
function math.ult(a, b)
  return a % 2 ^ 64 < b % 2 ^ 64
end

-- --- utf8 -------------------------------------------------------------------------------------

local utf8 = { charpattern = '[%z\1-\127\194-\253][\128-\191]*' }
local byte, char, sub = string.byte, string.char, string.sub

local function encode(code)
  if type(code) ~= 'number' or code < 0 or code > 0x10FFFF or code ~= floor(code) then
    error("bad argument to 'char' (value out of range)", 3)
  end
  if code < 0x80 then
    return char(code)
  elseif code < 0x800 then
    return char(0xC0 + floor(code / 64), 0x80 + code % 64)
  elseif code < 0x10000 then
    return char(0xE0 + floor(code / 4096), 0x80 + floor(code / 64) % 64, 0x80 + code % 64)
  end
  return char(0xF0 + floor(code / 262144), 0x80 + floor(code / 4096) % 64, 0x80 + floor(code / 64) % 64, 0x80 + code % 64)
end

-- Code point and length in bytes of the character at `at`; nil if it is not valid UTF-8.
local LEAST = { 0, 0x80, 0x800, 0x10000 }
local function decode(text, at)
  local first = byte(text, at)
  if not first then
    return nil
  elseif first < 0x80 then
    return first, 1
  end
  local length, code
  if first >= 0xC2 and first < 0xE0 then
    length, code = 2, first - 0xC0
  elseif first >= 0xE0 and first < 0xF0 then
    length, code = 3, first - 0xE0
  elseif first >= 0xF0 and first < 0xF5 then
    length, code = 4, first - 0xF0
  else
    return nil
  end
  for i = 1, length - 1 do
    local next_byte = byte(text, at + i)
    if not next_byte or next_byte < 0x80 or next_byte > 0xBF then
      return nil
    end
    code = code * 64 + next_byte - 0x80
  end
  if code < LEAST[length] or code > 0x10FFFF or (code >= 0xD800 and code < 0xE000) then
    return nil
  end
  return code, length
end

local function position(text, at, default)
  at = at or default
  return at < 0 and #text + 1 + at or at
end

function utf8.char(...)
  local parts = { ... }
  for i = 1, #parts do
    parts[i] = encode(parts[i])
  end
  return table.concat(parts)
end

function utf8.codepoint(text, first, last)
  first = position(text, first, 1)
  last = position(text, last, first)
  local codes = {}
  while first <= last do
    local code, length = decode(text, first)
    if not code then
      error('invalid UTF-8 code', 2)
    end
    codes[#codes + 1] = code
    first = first + length
  end
  return unpack(codes)
end

function utf8.len(text, first, last)
  first, last = position(text, first, 1), position(text, last, -1)
  local count = 0
  while first <= last do
    local code, length = decode(text, first)
    if not code then
      return nil, first
    end
    first, count = first + length, count + 1
  end
  return count
end

local function continues(text, at)
  local value = byte(text, at)
  return value and value >= 0x80 and value < 0xC0
end

function utf8.offset(text, n, at)
  at = position(text, at, n > 0 and 1 or #text + 1)
  if n == 0 then
    while at > 1 and continues(text, at) do
      at = at - 1
    end
    return at
  end
  if continues(text, at) then
    error('initial position is a continuation byte', 2)
  end
  while n < 0 and at > 1 do
    repeat
      at = at - 1
    until at <= 1 or not continues(text, at)
    n = n + 1
  end
  if n > 0 then
    n = n - 1
    while n > 0 and at <= #text do
      repeat
        at = at + 1
      until not continues(text, at)
      n = n - 1
    end
  end
  return n == 0 and at or nil
end

function utf8.codes(text)
  local at = 1
  return function()
    if at > #text then
      return nil
    end
    local code, length = decode(text, at)
    if not code then
      error('invalid UTF-8 code', 2)
    end
    local here = at
    at = at + length
    return here, code
  end
end

rawset(_G, 'utf8', utf8)

-- --- small things ---------------------------------------------------------------------------------------

--- Length without metamethods.
rawset(_G, 'rawlen', rawlen or function(value)
  if type(value) ~= 'table' and type(value) ~= 'string' then
    error('table or string expected', 2)
  elseif type(value) == 'string' then
    return #value
  end
  return #value -- LuaJIT asks no __len of tables
end)

local raw_collect = collectgarbage
--- The modes of 5.4 are accepted without effect: there is one collector.
function collectgarbage(option, ...) -- luacheck: ignore
  if option == 'generational' or option == 'incremental' then
    return 'incremental'
  end
  return raw_collect(option, ...)
end

local host_log
--- As a line of the log; '@on' and '@off' are accepted without effect.
rawset(_G, 'warn', function(...)
  local parts = { ... }
  for i = 1, select('#', ...) do
    if type(parts[i]) ~= 'string' and type(parts[i]) ~= 'number' then
      error(("bad argument #%d to 'warn' (string expected, got %s)"):format(i, type(parts[i])), 2)
    end
  end
  local text = table.concat(parts)
  if sub(text, 1, 1) ~= '@' then
    host_log = host_log or require('tr.host').c.log
    host_log('warn', text)
  end
end)

return true
