---@meta
-- Types of runtime/policy/regex_lua.c, for lua/kumo/regex.lua, which makes `kumo.regex` of it. Internal.

---@class tr.regex
local regex = {}

--- Metatable: tr.regex
---@class tr.regex.Code
local Code = {}

---@param pattern string
---@return tr.regex.Code?
---@return string? message
function regex.compile(pattern) end

--- First match at or after `from`.
---@param code tr.regex.Code
---@param text string     UTF-8
---@param from? integer   default 1
---@param nonempty? boolean  an empty match at `from` does not count
---@return (integer|false)[]? bounds  first and last position of the match, then of each group; nil: no match, or an error
---@return string? message
function regex.exec(code, text, from, nonempty) end

---@param code tr.regex.Code
---@return table<string, integer> groups
function regex.names(code) end

return regex
