---@meta
-- Types of runtime/policy/bytes_lua.c, for kumo.encode, kumo.digest and kumo.uuid. Internal.

---@class tr.bytes
local bytes = {}

---@alias tr.bytes.Encoding 'base64'|'base64url'|'base32'|'base32hex'|'hex'

---@param encoding tr.bytes.Encoding
---@param value string
---@param pad? boolean
---@return string
function bytes.encode(encoding, value, pad) end

--- '=' at the end does not count.
---@param encoding tr.bytes.Encoding
---@param text string
---@return string? value
---@return integer? at  1-based position of what is wrong
function bytes.decode(encoding, text) end

---@param name string  OpenSSL's
---@param value string
---@return string  raw
function bytes.digest(name, value) end

---@param name string  OpenSSL's
---@param key string
---@param value string
---@return string  raw
function bytes.hmac(name, key, value) end

---@param value string
---@return string  4 bytes, big-endian
function bytes.crc32(value) end

---@param count integer  0 to 1024
---@return string
function bytes.random(count) end

--- AES with the padding of PKCS 7.
---@param mode 'ecb'|'cbc'
---@param encrypt boolean
---@param key string    16 or 32 bytes
---@param iv string     16 bytes, '' for ecb
---@param value string
---@return string?  nil: it was not made with this key
function bytes.aes(mode, encrypt, key, iv, value) end

--- Between character sets, by iconv.
---@param from string
---@param to string
---@param value string
---@param instead? string  stands for what cannot be converted
---@return string|false|nil  nil: a set is unknown; false: see the position
---@return integer? at
function bytes.convert(from, to, value, instead) end

return bytes
