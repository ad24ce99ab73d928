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

-- --- character sets -----------------------------------------------------------------------------------------

local host = require 'tr.host'

local function check_set(name, charset, text)
  if type(charset) ~= 'string' or not charset:find '^[%w_.:%-]+$' then
    error(("%s: charset: a name such as 'iso-8859-1' is expected, got %s"):format(name, tostring(charset)), 3)
  elseif type(text) ~= 'string' then
    error(name .. ': parameter must be a string', 3)
  end
end

local function convert(name, from, to, charset, text, instead)
  local out, at = bytes.convert(from, to, text, instead)
  if out == nil then
    error(("%s: the charset '%s' is not known"):format(name, charset), 3)
  elseif not out then
    error(("%s: what stands at byte %d is not in the charset '%s'"):format(name, at, charset), 3)
  end
  return out
end

--- UTF-8 text in another character set: any name that the C library knows.
---@param charset string         e.g. 'iso-8859-1', 'windows-1252', 'shift_jis'
---@param text string            UTF-8
---@param ignore_errors? boolean default true: what the set lacks becomes '?'; false: it raises
---@return string bytes
function encode.charset_encode(charset, text, ignore_errors)
  check_set('charset_encode', charset, text)
  if not host.c.utf8_valid(text) then
    error('charset_encode: the text is not valid UTF-8', 2)
  end
  local instead = (ignore_errors == nil or ignore_errors) and '?' or nil
  return (convert('charset_encode', 'UTF-8', charset, charset, text, instead))
end

--- Bytes of a character set as UTF-8; those that mean nothing there become U+FFFD.
---@param charset string
---@param text string  bytes
---@return string  UTF-8
function encode.charset_decode(charset, text)
  check_set('charset_decode', charset, text)
  return (convert('charset_decode', charset, 'UTF-8', charset, text, '\239\191\189'))
end

return encode
