---@meta
-- Types of runtime/cli/repl_module.c: what the prompt (lua/repl.lua) needs of C. Internal.

---@class tr.repl
local repl = {}

--- Text for the other end of a session. A session that is gone takes nothing.
---@param id integer
---@param text string
function repl.write(id, text) end

--- The process ends with this status when the input has; for scripts.
---@param code integer
function repl.exit(code) end

--- Seconds of the real clock, whatever the virtual one says.
---@return number
function repl.real_s() end

---@return boolean
function repl.is_virtual() end

--- Counts of the queues of all workers.
---@return tr.testing.Figures
function repl.figures() end

---@class tr.repl.Event
---@field type string                 of a record
---@field sender string
---@field recipient string
---@field data string                 of its message
---@field queue? string
---@field meta? table<string, string>
---@field num_attempts? integer
---@field site? string
---@field code? integer               of the response
---@field content? string
---@field command? string
---@field peer_name? string
---@field peer_addr? string
---@field egress_pool? string
---@field egress_source? string
---@field delivery_protocol? string
---@field provider? string
---@field session_id? string

--- Makes the records of an event that did not happen, for all hooks that want it. Returns when they are stored.
---@async
---@param event tr.repl.Event
---@return boolean stored
---@return string? message
function repl.emit(event) end

return repl
