---@meta
-- Types of runtime/cli/repl_module.c: what the prompt (lua/repl.lua) needs of C. Internal.

---@class kumo
local kumo = {}

---@class (exact) kumo.ReplSocketOptions
---@field path string                    absolute; made with mode 0600
---@field time_limit? number|string      longest run of an input between two waits, default 1s, at most 5s
---@field timeout? number|string         of an input with its waits, default 30s

--- In pre_init or init only. Opens the socket for `tailrace repl --attach PATH`: see docs/repl.md. Raises if it cannot be
--- bound.
---@param options kumo.ReplSocketOptions
function kumo.start_repl_socket(options) end

---@class tr.repl
local repl = {}

--- Text for the other end of a session. A session that is gone takes nothing.
---@param id integer
---@param text string
function repl.write(id, text) end

--- The process ends with this status when the input has; for scripts.
---@param code integer
function repl.exit(code) end

--- The real network is asked, or not any more: virtual time goes along with real time while an answer is awaited.
---@param live boolean
function repl.set_live(live) end

--- Seconds of the real clock, whatever the virtual one says.
---@return number
function repl.real_s() end

--- Each task of this state, with what it waits for and its traceback.
---@return string
function repl.tasks() end

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

--- The handler of xpcall: keeps the traceback of where the error was raised.
---@generic T
---@param err T
---@return T
function repl.keep_trace(err) end

--- What keep_trace kept last.
---@return string?
function repl.take_trace() end

return repl
