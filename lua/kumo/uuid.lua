-- kumo.uuid: RFC 9562. Versions 1 and 6 take a random node and clock sequence.
local host = require 'tr.host'
local bytes = require 'tr.bytes'
local now = host.c.now

local uuid = {}

--- `tostring` gives the hyphenated form.
---@class kumo.Uuid
---@field hyphenated string
---@field simple string
---@field braced string
---@field urn string
---@field bytes string       16 bytes
local meta = { __name = 'kumo.Uuid' }

local function hyphenated(raw)
  local hex = bytes.encode('hex', raw)
  return ('%s-%s-%s-%s-%s'):format(hex:sub(1, 8), hex:sub(9, 12), hex:sub(13, 16), hex:sub(17, 20), hex:sub(21))
end

local FIELDS = {
  hyphenated = hyphenated,
  simple = function(raw)
    return bytes.encode('hex', raw)
  end,
  braced = function(raw)
    return '{' .. hyphenated(raw) .. '}'
  end,
  urn = function(raw)
    return 'urn:uuid:' .. hyphenated(raw)
  end,
}
function meta:__index(field)
  local make = FIELDS[field]
  return make and make(rawget(self, 'bytes')) or nil
end
function meta:__tostring()
  return self.hyphenated
end
function meta.__eq(a, b)
  return a.bytes == b.bytes
end

local function make(raw, version)
  local list = { raw:byte(1, 16) }
  list[7] = list[7] % 16 + version * 16
  list[9] = list[9] % 64 + 128
  return setmetatable({ bytes = string.char(unpack(list)) }, meta)
end

-- The `count` lowest bytes of a whole number, most significant first.
local function big_endian(value, count)
  local out = {}
  for i = count, 1, -1 do
    out[i] = value % 256
    value = math.floor(value / 256)
  end
  return string.char(unpack(out))
end

-- 100 ns steps since 1582-10-15 as (high 28 bits, low 32 bits): more than a double holds.
local function gregorian()
  local seconds, nanos = now()
  seconds = seconds + 12219292800
  local low = (seconds % 2 ^ 32) * 10000000 + math.floor(nanos / 100)
  local high = math.floor(seconds / 2 ^ 32) * 10000000 + math.floor(low / 2 ^ 32)
  return high, low % 2 ^ 32
end

--- Of the time, with a random node and clock sequence.
---@return kumo.Uuid
function uuid.new_v1()
  local high, low = gregorian()
  local random = bytes.random(8)
  -- low, mid, high; the multicast bit marks a node that is no hardware address
  local node = string.char(random:byte(3) % 2 == 0 and random:byte(3) + 1 or random:byte(3)) .. random:sub(4, 8)
  local stamp = big_endian(low, 4) .. big_endian(high % 65536, 2) .. big_endian(math.floor(high / 65536), 2)
  return make(stamp .. random:sub(1, 2) .. node, 1)
end

--- Version 1 in an order that sorts by time.
---@return kumo.Uuid
function uuid.new_v6()
  local high, low = gregorian()
  local random = bytes.random(8)
  local top = high * 16 + math.floor(low / 2 ^ 28) -- the upper 32 of the 60 bits
  local rest = low % 2 ^ 28
  return make(big_endian(top, 4) .. big_endian(math.floor(rest / 4096), 2) .. big_endian(rest % 4096, 2) .. random, 6)
end

--- Random.
---@return kumo.Uuid
function uuid.new_v4()
  return make(bytes.random(16), 4)
end

--- Milliseconds since 1970 and random bits: sorts by time.
---@return kumo.Uuid
function uuid.new_v7()
  local seconds, nanos = now()
  return make(big_endian(seconds * 1000 + math.floor(nanos / 1000000), 6) .. bytes.random(10), 7)
end

--- Raises for what is no UUID.
---@param text string  hyphenated, simple, braced or urn
---@return kumo.Uuid
function uuid.parse(text)
  if type(text) ~= 'string' then
    error('uuid.parse: string expected, got ' .. type(text), 2)
  end
  local inner = text:match '^{(.*)}$' or text:match '^urn:uuid:(.*)$' or text
  local hex = inner:match '^%x+$'
  if not hex and inner:find '^%x%x%x%x%x%x%x%x%-%x%x%x%x%-%x%x%x%x%-%x%x%x%x%-%x+$' then
    hex = inner:gsub('-', '')
  end
  if not hex or #hex ~= 32 then
    error(('uuid.parse: %q is not a UUID'):format(text), 2)
  end
  return setmetatable({ bytes = bytes.decode('hex', hex) }, meta)
end

return uuid
