--- string.pack, string.unpack and string.packsize of Lua 5.4. Formats: < > = ![n] b B h H l L j J T i[n] I[n] f d n s[n] z cN
--- x X and blanks. Numbers are doubles here: integers of more than 53 bits lose their low ones when they are read, and what
--- does not fit a size is an error as in Lua.
local floor = math.floor
local byte, char, sub = string.byte, string.char, string.sub

local ffi -- loaded for the first floating-point format: it takes memory, and LuaJIT does not bear the want of it there
local SIZES = { b = 1, B = 1, h = 2, H = 2, l = 8, L = 8, j = 8, J = 8, T = 8, i = 4, I = 4, f = 4, d = 8, n = 8 }
local NATIVE_ALIGN = 8

local function power_of_two(n)
  return n == 1 or n == 2 or n == 4 or n == 8 or n == 16
end

-- Goes through the options of a format: option, size, little endian, alignment (1: none). `level` is for errors.
local function options(format, level)
  local at, little, max_align = 1, true, 1
  if type(format) ~= 'string' then
    error('format: string expected, got ' .. type(format), level + 1)
  end
  local function fail(text, ...)
    error(text:format(...), level + 2)
  end
  local function next_option()
    local op = sub(format, at, at)
    local digits = format:match('^%d+', at + 1)
    at = at + 1
    local size = SIZES[op]
    if (op == 'i' or op == 'I' or op == 's' or op == '!') and digits then
      at = at + #digits
      size = tonumber(digits)
      if size < 1 or size > 16 then
        fail('integral size (%s) out of limits [1,16]', digits)
      end
    elseif op == 'c' then
      if not digits then
        fail "missing size for format option 'c'"
      end
      at = at + #digits
      size = tonumber(digits)
    elseif op == 's' or op == '!' then
      size = NATIVE_ALIGN
    elseif not size and not op:find '[zxX<>= ]' then
      fail("invalid format option '%s'", op)
    end
    return op, size
  end
  return function()
    while at <= #format do
      local op, size = next_option()
      if op == '<' or op == '=' then
        little = true
      elseif op == '>' then
        little = false
      elseif op == '!' then
        max_align = size
      elseif op == 'X' then
        if at > #format then
          fail "invalid next option for option 'X'"
        end
        local next_op, next_size = next_option()
        if not next_size or next_op == 'c' then
          fail "invalid next option for option 'X'"
        end
        return 'X', 0, little, math.min(next_size, max_align)
      elseif op ~= ' ' then
        local aligned = size and op ~= 'c'
        local align = aligned and math.min(size, max_align) or 1
        if align > 1 and not power_of_two(align) then
          fail 'format asks for alignment not power of 2'
        end
        return op, size or 0, little, align
      end
    end
  end
end

local function pack_integer(value, size, little)
  local bytes = {}
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
  local negative = signed and byte(text, little and at + size - 1 or at) >= 128
  for i = size, 1, -1 do
    local b = byte(text, little and at + i - 1 or at + size - i)
    value = value * 256 + (negative and 255 - b or b)
  end
  return negative and -value - 1 or value
end

local function real_of(op)
  ffi = ffi or require 'ffi'
  return op == 'f' and 'float[1]' or 'double[1]'
end

local function integer(value, n, op, size)
  local function fail(text)
    error(("bad argument #%d to 'pack' (%s)"):format(n + 1, text), 3)
  end
  if type(value) ~= 'number' then
    fail('number expected, got ' .. type(value))
  elseif value ~= floor(value) or value - value ~= 0 then
    fail 'number has no integer representation'
  end
  local signed = op:find '[bhlji]'
  if size < 8 and (signed and (value < -2 ^ (size * 8 - 1) or value >= 2 ^ (size * 8 - 1))) then
    fail 'integer overflow'
  elseif size < 8 and not signed and (value < 0 or value >= 2 ^ (size * 8)) then
    fail 'unsigned overflow'
  end
  return value
end

local function string_of(value, n)
  if type(value) == 'number' then
    return tostring(value)
  elseif type(value) ~= 'string' then
    error(("bad argument #%d to 'pack' (string expected, got %s)"):format(n + 1, type(value)), 3)
  end
  return value
end

function string.pack(format, ...)
  local values, n, out, length = { ... }, 0, {}, 0
  local function add(text)
    out[#out + 1] = text
    length = length + #text
  end
  for op, size, little, align in options(format, 2) do
    add(('\0'):rep(-length % align))
    if op == 'x' then
      add '\0'
    elseif op ~= 'X' then
      n = n + 1
      local value = values[n]
      if op == 'z' then
        value = string_of(value, n)
        if value:find('\0', 1, true) then
          error(("bad argument #%d to 'pack' (string contains zeros)"):format(n + 1), 2)
        end
        add(value .. '\0')
      elseif op == 's' then
        value = string_of(value, n)
        if size < 7 and #value >= 2 ^ (size * 8) then
          error(("bad argument #%d to 'pack' (string length does not fit in given size)"):format(n + 1), 2)
        end
        add(pack_integer(#value, size, little) .. value)
      elseif op == 'c' then
        value = string_of(value, n)
        if #value > size then
          error(("bad argument #%d to 'pack' (string longer than given size)"):format(n + 1), 2)
        end
        add(value .. ('\0'):rep(size - #value))
      elseif op:find '[fdn]' then
        if type(value) ~= 'number' then
          error(("bad argument #%d to 'pack' (number expected, got %s)"):format(n + 1, type(value)), 2)
        end
        local kind = real_of(op)
        local text = ffi.string(ffi.new(kind, value), size)
        add(little and text or text:reverse())
      else
        add(pack_integer(integer(value, n, op, size), size, little))
      end
    end
  end
  return table.concat(out)
end

function string.unpack(format, text, at)
  if type(text) ~= 'string' then
    error("bad argument #2 to 'unpack' (string expected, got " .. type(text) .. ')', 2)
  end
  at = at or 1
  at = at < 0 and #text + 1 + at or at
  if at < 1 or at > #text + 1 then
    error("bad argument #3 to 'unpack' (initial position out of string)", 2)
  end
  local values, n = {}, 0
  local function take(length)
    local start = at
    if at + length - 1 > #text then
      error("bad argument #2 to 'unpack' (data string too short)", 3)
    end
    at = at + length
    return start
  end
  for op, size, little, align in options(format, 2) do
    take(-(at - 1) % align)
    if op == 'x' then
      take(1)
    elseif op ~= 'X' then
      n = n + 1
      if op == 'z' then
        local stop = text:find('\0', at, true) or error("bad argument #2 to 'unpack' (unfinished string for format 'z')", 2)
        values[n], at = sub(text, at, stop - 1), stop + 1
      elseif op == 's' then
        local length = unpack_integer(text, take(size), size, little, false)
        local start = take(length)
        values[n] = sub(text, start, start + length - 1)
      elseif op == 'c' then
        local start = take(size)
        values[n] = sub(text, start, start + size - 1)
      elseif op:find '[fdn]' then
        local start = take(size)
        local bytes = sub(text, start, start + size - 1)
        local kind = real_of(op)
        local number = ffi.new(kind)
        ffi.copy(number, little and bytes or bytes:reverse(), size)
        values[n] = tonumber(number[0])
      else
        values[n] = unpack_integer(text, take(size), size, little, op:find '[bhlji]' ~= nil)
      end
    end
  end
  n = n + 1
  values[n] = at
  return unpack(values, 1, n)
end

function string.packsize(format)
  local length = 0
  for op, size, _, align in options(format, 2) do
    if op == 's' or op == 'z' then
      error('variable-length format', 2)
    end
    length = length + -length % align + (op == 'x' and 1 or size)
  end
  return length
end

return true
