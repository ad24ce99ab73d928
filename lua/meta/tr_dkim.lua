---@meta
-- Types of runtime/policy/dkim_lua.c, for lua/kumo/dkim.lua. Internal.

---@class tr.dkim
local dkim = {}

--- Metatable: tr.dkim_key
---@class tr.dkim.Key
local Key = {}

---@async
---@param data string
---@return string? signature
---@return string? message
---@return string? code
function Key:sign(data) end

--- SHA-256 of the canonical body.
---@async
---@param text string     a message
---@param start integer   where the body begins
---@param relaxed boolean
---@return string? hash
---@return integer|string|nil length_or_message
function dkim.body_hash(text, start, relaxed) end

---@param kind 'rsa'|'ed25519'
---@param bytes string  PEM, or the 32 bytes of Ed25519
---@return tr.dkim.Key?
---@return string? message
function dkim.key(kind, bytes) end

return dkim
