-- kumo.encode: base64, base32 and hex.
local bytes = require 'tr.bytes'

local encode = {}

for _, name in ipairs { 'base32', 'base32hex', 'base64', 'base64url', 'hex' } do
  local function decode(text)
    if type(text) ~= 'string' then
      error(name .. '_decode: parameter must be a string', 2)
    end
    local value, at = bytes.decode(name, text)
    if not value then
      error(('%s_decode: invalid text at position %d'):format(name, at), 2)
    end
    return value
  end
  for _, suffix in ipairs(name == 'hex' and { '' } or { '', '_nopad' }) do
    encode[name .. suffix .. '_encode'] = function(value)
      if type(value) ~= 'string' then
        error(name .. suffix .. '_encode: parameter must be a string', 2)
      end
      return bytes.encode(name, value, suffix == '')
    end
    encode[name .. suffix .. '_decode'] = decode
  end
end

return encode
