-- What policies written for Lua 5.4 expect of the standard library and LuaJIT has not: table.pack/unpack, utf8,
-- string.pack/unpack/packsize, math.type/tointeger. Syntax of 5.4 (`//`, `&`, `<const>`, integers) cannot be added.
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

-- --- string.pack, string.unpack, string.packsize ------------------------------------------------------
-- Formats: < > = ! b B h H l L j J T i[n] I[n] f d n s[n] z x and blanks. Integers beyond 2^53 lose low bits, as numbers
-- of LuaJIT do. Alignment (`!`, `X`) is not supported and raises.

local ok, ffi = pcall(require, 'ffi')
local SIZES = { b = 1, B = 1, h = 2, H = 2, l = 8, L = 8, j = 8, J = 8, T = 8, i = 4, I = 4 }

local function options(format)
  local at, little = 1, true
  return function()
    while at <= #format do
      local op = sub(format, at, at)
      local digits = format:match('^%d+', at + 1)
      at = at + 1
      if op == '<' or op == '=' then
        little = true
      elseif op == '>' then
        little = false
      elseif op ~= ' ' then
        local size = SIZES[op]
        if (op == 'i' or op == 'I' or op == 's' or op == 'c') and digits then
          at = at + #digits
          size = tonumber(digits)
        elseif op == 's' then
          size = 8
        end
        if not size and not op:find '[fdnzx]' then
          error(("invalid format option '%s'"):format(op), 3)
        end
        return op, size, little
      end
    end
  end
end

local function pack_integer(value, size, little)
  local bytes = {}
  value = floor(value)
  local negative = value < 0
  if negative then
    value = -value - 1
  end
  for i = 1, size do
    local low = value % 256
    value = floor(value / 256)
    bytes[little and i or size + 1 - i] = char(negative and 255 - low or low)
  end
  return table.concat(bytes)
end

local function unpack_integer(text, at, size, little, signed)
  local value = 0
  local top = byte(text, little and at + size - 1 or at)
  local negative = signed and top >= 128
  for i = size, 1, -1 do
    local b = byte(text, little and at + i - 1 or at + size - i)
    value = value * 256 + (negative and 255 - b or b)
  end
  return negative and -value - 1 or value
end

local function real(op)
  if not ok then
    error('floating-point formats need ffi', 3)
  end
  return op == 'f' and 'float' or 'double', op == 'f' and 4 or 8
end

function string.pack(format, ...)
  local values, n, out = { ... }, 0, {}
  for op, size, little in options(format) do
    if op == 'x' then
      out[#out + 1] = '\0'
    else
      n = n + 1
      local value = values[n]
      if op == 'z' then
        out[#out + 1] = value .. '\0'
      elseif op == 's' then
        out[#out + 1] = pack_integer(#value, size, little) .. value
      elseif op == 'c' then
        out[#out + 1] = value .. ('\0'):rep(size - #value)
      elseif op:find '[fdn]' then
        local kind, length = real(op)
        local text = ffi.string(ffi.new(kind .. '[1]', value), length)
        out[#out + 1] = little and text or text:reverse()
      else
        if type(value) ~= 'number' then
          error(("bad argument #%d to 'pack' (number expected, got %s)"):format(n + 1, type(value)), 2)
        end
        out[#out + 1] = pack_integer(value, size, little)
      end
    end
  end
  return table.concat(out)
end

function string.unpack(format, text, at)
  at = position(text, at, 1)
  local values, n = {}, 0
  local function need(length)
    if at + length - 1 > #text then
      error('data string too short', 3)
    end
  end
  for op, size, little in options(format) do
    if op == 'x' then
      need(1)
      at = at + 1
    else
      n = n + 1
      if op == 'z' then
        local stop = text:find('\0', at, true) or error('unfinished string for format \'z\'', 2)
        values[n], at = sub(text, at, stop - 1), stop + 1
      elseif op == 's' then
        need(size)
        local length = unpack_integer(text, at, size, little, false)
        at = at + size
        need(length)
        values[n], at = sub(text, at, at + length - 1), at + length
      elseif op == 'c' then
        need(size)
        values[n], at = sub(text, at, at + size - 1), at + size
      elseif op:find '[fdn]' then
        local kind, length = real(op)
        need(length)
        local bytes = sub(text, at, at + length - 1)
        local number = ffi.new(kind .. '[1]')
        ffi.copy(number, little and bytes or bytes:reverse(), length)
        values[n], at = tonumber(number[0]), at + length
      else
        need(size)
        values[n] = unpack_integer(text, at, size, little, op:find '[bhlji]' ~= nil)
        at = at + size
      end
    end
  end
  n = n + 1
  values[n] = at
  return unpack(values, 1, n)
end

function string.packsize(format)
  local size = 0
  for op, length in options(format) do
    if op == 's' or op == 'z' then
      error('variable-length format', 2)
    end
    size = size + (length or (op == 'x' and 1) or (op == 'f' and 4) or 8)
  end
  return size
end

return true
