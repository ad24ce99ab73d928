---@meta
-- Types of what runtime/message/*_lua.c gives to lua/message.lua and lua/address_header.lua beside `kumo`. Internal.

---@class tr.message
---@field kumo table<string, function>
---@field methods table<string, function>  of all messages
local message = {}

---@param msg kumo.Message
---@param name string
---@return string? value  of the first header of that name, folds included
function message.raw_header(msg, name) end

---@param raw string
---@return string text  unfolded, RFC 2047 decoded
function message.decode_header(raw) end

return message
