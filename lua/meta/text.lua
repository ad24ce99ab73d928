---@meta
-- Types of what lua/kumo/{encode,digest,serde,string}.lua make in loops, and of names that are not supported yet.

---@class kumo
local kumo = {}

---@class kumo.encode
kumo.encode = {}

--- Bytes as base32 of RFC 4648.
---@param bytes string
---@return string
function kumo.encode.base32_encode(bytes) end

--- The bytes of base32 of RFC 4648, with or without padding. Raises with the position of what does not fit.
---@param text string
---@return string bytes
function kumo.encode.base32_decode(text) end

--- Bytes as base32 of RFC 4648, without padding.
---@param bytes string
---@return string
function kumo.encode.base32_nopad_encode(bytes) end

--- The bytes of base32 of RFC 4648, with or without padding. Raises with the position of what does not fit.
---@param text string
---@return string bytes
function kumo.encode.base32_nopad_decode(text) end

--- Bytes as base32 of RFC 4648 with the extended hex alphabet.
---@param bytes string
---@return string
function kumo.encode.base32hex_encode(bytes) end

--- The bytes of base32 of RFC 4648 with the extended hex alphabet, with or without padding. Raises with the position of what does not fit.
---@param text string
---@return string bytes
function kumo.encode.base32hex_decode(text) end

--- Bytes as base32 of RFC 4648 with the extended hex alphabet, without padding.
---@param bytes string
---@return string
function kumo.encode.base32hex_nopad_encode(bytes) end

--- The bytes of base32 of RFC 4648 with the extended hex alphabet, with or without padding. Raises with the position of what does not fit.
---@param text string
---@return string bytes
function kumo.encode.base32hex_nopad_decode(text) end

--- Bytes as base64.
---@param bytes string
---@return string
function kumo.encode.base64_encode(bytes) end

--- The bytes of base64, with or without padding. Raises with the position of what does not fit.
---@param text string
---@return string bytes
function kumo.encode.base64_decode(text) end

--- Bytes as base64, without padding.
---@param bytes string
---@return string
function kumo.encode.base64_nopad_encode(bytes) end

--- The bytes of base64, with or without padding. Raises with the position of what does not fit.
---@param text string
---@return string bytes
function kumo.encode.base64_nopad_decode(text) end

--- Bytes as base64 for URLs and file names.
---@param bytes string
---@return string
function kumo.encode.base64url_encode(bytes) end

--- The bytes of base64 for URLs and file names, with or without padding. Raises with the position of what does not fit.
---@param text string
---@return string bytes
function kumo.encode.base64url_decode(text) end

--- Bytes as base64 for URLs and file names, without padding.
---@param bytes string
---@return string
function kumo.encode.base64url_nopad_encode(bytes) end

--- The bytes of base64 for URLs and file names, with or without padding. Raises with the position of what does not fit.
---@param text string
---@return string bytes
function kumo.encode.base64url_nopad_decode(text) end

--- Bytes as hexadecimal digits in lower case.
---@param bytes string
---@return string
function kumo.encode.hex_encode(bytes) end

--- The bytes of hexadecimal digits. Raises with the position of what does not fit.
---@param text string
---@return string bytes
function kumo.encode.hex_decode(text) end

---@class kumo.digest
kumo.digest = {}

--- SHA-1.
---@param ... any  strings as they are, other values as JSON; joined
---@return kumo.Digest
function kumo.digest.sha1(...) end

--- SHA-224.
---@param ... any  strings as they are, other values as JSON; joined
---@return kumo.Digest
function kumo.digest.sha224(...) end

--- SHA-256.
---@param ... any  strings as they are, other values as JSON; joined
---@return kumo.Digest
function kumo.digest.sha256(...) end

--- SHA-384.
---@param ... any  strings as they are, other values as JSON; joined
---@return kumo.Digest
function kumo.digest.sha384(...) end

--- SHA-512.
---@param ... any  strings as they are, other values as JSON; joined
---@return kumo.Digest
function kumo.digest.sha512(...) end

--- SHA-512/256.
---@param ... any  strings as they are, other values as JSON; joined
---@return kumo.Digest
function kumo.digest.sha512_256(...) end

--- SHA3-256.
---@param ... any  strings as they are, other values as JSON; joined
---@return kumo.Digest
function kumo.digest.sha3_256(...) end

--- SHA3-384.
---@param ... any  strings as they are, other values as JSON; joined
---@return kumo.Digest
function kumo.digest.sha3_384(...) end

--- SHA3-512.
---@param ... any  strings as they are, other values as JSON; joined
---@return kumo.Digest
function kumo.digest.sha3_512(...) end

--- HMAC with SHA-1.
---@async
---@param key kumo.KeySource
---@param message string
---@return kumo.Digest
function kumo.digest.hmac_sha1(key, message) end

--- HMAC with SHA-224.
---@async
---@param key kumo.KeySource
---@param message string
---@return kumo.Digest
function kumo.digest.hmac_sha224(key, message) end

--- HMAC with SHA-256.
---@async
---@param key kumo.KeySource
---@param message string
---@return kumo.Digest
function kumo.digest.hmac_sha256(key, message) end

--- HMAC with SHA-384.
---@async
---@param key kumo.KeySource
---@param message string
---@return kumo.Digest
function kumo.digest.hmac_sha384(key, message) end

--- HMAC with SHA-512.
---@async
---@param key kumo.KeySource
---@param message string
---@return kumo.Digest
function kumo.digest.hmac_sha512(key, message) end

---@class kumo.serde
kumo.serde = {}

--- A table as TOML, keys sorted. Raises for what TOML cannot hold.
---@param value table
---@return string
function kumo.serde.toml_encode(value) end

--- The same with arrays over several lines. Raises for what TOML cannot hold.
---@param value table
---@return string
function kumo.serde.toml_encode_pretty(value) end

--- The same with short arrays in one line. Raises for what TOML cannot hold.
---@param value table
---@return string
function kumo.serde.toml_encode_pretty_compact(value) end

--- The old name of kumo.serde.toml_encode.
---@param value table
---@return string
function kumo.toml_encode(value) end

--- The old name of kumo.serde.toml_encode_pretty.
---@param value table
---@return string
function kumo.toml_encode_pretty(value) end
