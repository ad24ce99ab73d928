---@meta
-- Types of what runtime/queue/queue_lua.c gives to lua/kumo/invoke.lua beside `kumo`. Internal.

---@class tr.queue
---@field kumo table<string, function>
local queue = {}

--- What kumo.make_* object a value is.
---@param value any
---@return 'queue'|'path'|nil
function queue.config_kind(value) end

return queue
