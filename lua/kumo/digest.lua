-- kumo.digest: digests of any values, and HMACs. A result shows itself as hex; its fields are the encodings.
local host = require 'tr.host'
local bytes = require 'tr.bytes'
local secrets = host.internal('kumo.secrets').secrets
local serde = host.internal('kumo.serde').serde

local digest = {}

local ENCODINGS = {}
for _, name in ipairs { 'base32', 'base32hex', 'base64', 'base64url' } do
  ENCODINGS[name] = { name, true }
  ENCODINGS[name .. '_nopad'] = { name, false }
end
ENCODINGS.hex = { 'hex', false }

--- `tostring` gives the hex form.
---@class kumo.Digest
---@field bytes string
---@field hex string
---@field base32 string
---@field base32_nopad string
---@field base32hex string
---@field base32hex_nopad string
---@field base64 string
---@field base64_nopad string
---@field base64url string
---@field base64url_nopad string
local result = {}
function result:__index(field)
  local encoding = ENCODINGS[field]
  return encoding and bytes.encode(encoding[1], rawget(self, 'bytes'), encoding[2]) or nil
end
function result:__tostring()
  return self.hex
end

local function make(value)
  return setmetatable({ bytes = value }, result)
end

--- For modules of the runtime.
digest._make = make

local function joined(...)
  local parts = {}
  for i = 1, select('#', ...) do
    local value = select(i, ...)
    parts[i] = type(value) == 'string' and value or serde.json_encode(value)
  end
  return table.concat(parts)
end

-- Our name -> OpenSSL's.
local DIGESTS = {
  sha1 = 'SHA1',
  sha224 = 'SHA224',
  sha256 = 'SHA256',
  sha384 = 'SHA384',
  sha512 = 'SHA512',
  sha512_256 = 'SHA512-256',
  sha3_256 = 'SHA3-256',
  sha3_384 = 'SHA3-384',
  sha3_512 = 'SHA3-512',
}
for name, openssl in pairs(DIGESTS) do
  digest[name] = function(...)
    return make(bytes.digest(openssl, joined(...)))
  end
end

--- CRC-32 of IEEE 802.3.
---@param ... any  strings as they are, other values as JSON; joined
---@return kumo.Digest
function digest.crc32(...)
  return make(bytes.crc32(joined(...)))
end

for _, name in ipairs { 'sha1', 'sha224', 'sha256', 'sha384', 'sha512' } do
  digest['hmac_' .. name] = function(key, message)
    if type(message) ~= 'string' then
      error(('hmac_%s: message: string expected, got %s'):format(name, type(message)), 2)
    end
    return make(bytes.hmac(DIGESTS[name], secrets.load(key), message))
  end
end

return digest
