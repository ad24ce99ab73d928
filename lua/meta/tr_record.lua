---@meta

--- The binding behind lua/kumo/hook_check.lua (runtime/record/record_lua.c).
---@class tr.record
local core = {}

--- kumo.configure_log_hook without the note of where it was called.
---@param options kumo.LogHookOptions
function core.configure_log_hook(options) end

return core
