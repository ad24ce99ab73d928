---@meta
-- Types of runtime/policy/psl_lua.c, for kumo.string. Internal.

---@class tr.psl
local psl = {}

---@param domain string  lower case, no dot at the end
---@return string?
function psl.registrable(domain) end

---@param domain string
---@return string?
function psl.suffix(domain) end

return psl
