---@meta
-- Types of what runtime/queue/queue_lua.c gives to lua/kumo/invoke.lua beside `kumo`. Internal.

---@class tr.queue
---@field kumo table<string, function>
local queue = {}

--- What kumo.make_* object a value is.
---@param value any
---@return 'queue'|'path'|nil
function queue.config_kind(value) end

--- A source or pool as the process-wide cache holds it; nil and the remembered error; nothing: policy must be asked.
---@param name string
---@return table|nil definition
---@return string|nil error
function queue.cached_source(name) end

---@param name string
---@return table|nil definition
---@return string|nil error
function queue.cached_pool(name) end

--- What policy answered: an object, or the error that is to be remembered.
---@param name string
---@param object any
---@param error? string  unless object is what kumo.make_egress_source gave
---@return table|nil definition
function queue.cache_source(name, object, error) end

---@param name string
---@param object any
---@param error? string  unless object is what kumo.make_egress_pool gave
---@return table|nil definition
function queue.cache_pool(name, object, error) end

return queue
