---@meta
-- Types of runtime/cli/tool.c: what commands that look at a policy ask of files. Nothing here changes one.

---@class tr.tool
local tool = {}

--- Names in a directory, in no order.
---@param directory string
---@return string[]? names
---@return string? message
---@return string? code
function tool.list(directory) end

---@param path string
---@return 'file'|'directory'|'other'|nil kind
---@return string? message
---@return string? code
function tool.kind(path) end

--- Whether the process may make files in a directory.
---@param directory string
---@return true? yes
---@return string? message
---@return string? code
function tool.writable(directory) end

--- Whether what only pre_init and init may do is allowed now. In a validating command only.
---@param yes boolean
function tool.configuring(yes) end

return tool
