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

return bytes
