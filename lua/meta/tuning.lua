---@meta
-- Settings of the reference that lua/kumo/tuning.lua checks and that mean nothing here.

---@class kumo
local kumo = {}

--- Accepted, without effect.
---@param value integer  >= 0
function kumo.set_httpinject_threads(value) end

--- Accepted, without effect.
---@param value integer  >= 0
function kumo.set_logging_threads(value) end

--- Accepted, without effect.
---@param value integer  >= 0
function kumo.set_qmaint_threads(value) end

--- Accepted, without effect.
---@param value integer  >= 0
function kumo.set_ready_qmaint_threads(value) end

--- Accepted, without effect.
---@param value integer  >= 0
function kumo.set_readyq_threads(value) end

--- Accepted, without effect.
---@param value integer  >= 0
function kumo.set_smtpsrv_threads(value) end

--- Accepted, without effect.
---@param value integer  >= 0
function kumo.set_spoolin_threads(value) end

--- Accepted, without effect.
---@param value integer  >= 0
function kumo.set_max_lua_context_use_count(value) end

--- Accepted, without effect.
---@param value integer  >= 0
function kumo.set_max_spare_lua_contexts(value) end

--- Accepted, without effect.
---@param value integer  >= 0
function kumo.set_lua_gc_on_put(value) end

--- Accepted, without effect.
---@param value integer  >= 0
function kumo.set_max_lua_context_age(value) end

--- Accepted, without effect.
---@param value integer  >= 0
function kumo.set_memory_hard_limit(value) end

--- Accepted, without effect.
---@param value integer  >= 0
function kumo.set_memory_soft_limit(value) end

--- Accepted, without effect.
---@param value integer  >= 0
function kumo.set_memory_low_thresh(value) end

--- Accepted, without effect.
---@param value boolean
function kumo.enable_memory_callstack_tracking(value) end

--- Accepted, without effect.
---@param value boolean
function kumo.set_timeq_spawn_reinsertion(value) end

--- Accepted, without effect.
---@param value boolean
function kumo.suspend_delivery_when_spool_unhealthy(value) end

--- Bounds of memory are the runtime's own.
---@return nil
function kumo.get_memory_hard_limit() end

--- Bounds of memory are the runtime's own.
---@return nil
function kumo.get_memory_soft_limit() end

--- Bounds of memory are the runtime's own.
---@return nil
function kumo.get_memory_low_thresh() end
