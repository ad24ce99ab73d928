---@meta
-- Types of runtime/policy/sqlite_lua.c, for lua/kumo/sqlite.lua. Internal.

---@class tr.sqlite
local core = {}

--- Metatable: tr.sqlite
---@class tr.sqlite.Database
local Database = {}

---@async
---@param sql string
---@param limit_s number  > 0
---@param count integer
---@param values any[]
---@param names? string[]
---@return number|table|nil result
---@return string? message
---@return string? code
function Database:execute(sql, limit_s, count, values, names) end

function Database:close() end

---@async
---@param path string
---@param busy_ms integer
---@return tr.sqlite.Database?
---@return string? message
---@return string? code
function core.open(path, busy_ms) end

return core
