---@meta
-- Types of runtime/cli/testing.c: a whole runtime inside a spec; lua/kumo/test.lua is made of it. See docs/testing.md.

---@class tr.testing
local testing = {}

---@class (exact) tr.testing.Options
---@field policy string               file
---@field seed? integer               of jitter, default 1
---@field clock? 'virtual'|'real'     default virtual
---@field wall? integer               unix seconds at the start of the virtual clock, default 1785000000
---@field offline? string             an empty directory for the spool, whatever the policy says; no local logs
---@field scripted? boolean           the network is (tr.scripted): ESMTP listeners are bound there, ids follow from the seed
---@field log? 'error'|'warn'|'info'|'debug'|'trace'  lines from here on are kept for take_log(); nil: errors are printed
---@field spool_sizes? tr.testing.SpoolSizes  in place of its defaults

---@class (exact) tr.testing.SpoolSizes as in struct tr_spool_config
---@field segment_bytes? integer      default 1 MiB
---@field change_bytes? integer
---@field group_bytes? integer
---@field pending_bytes? integer
---@field reserve_bytes? integer
---@field floor_bytes? integer
---@field body_file_bytes? integer
---@field first_segment? integer      number of the first segment of an empty log
---@field first_generation? integer

--- Loads the policy, fires pre_init and init, opens the spool. Raises what went wrong. One at a time.
---@async
---@param options tr.testing.Options
---@return tr.testing.Runtime
function testing.start(options) end

--- Metatable: tr.testing
---@class tr.testing.Runtime
local Runtime = {}

--- Lets time pass: everything that becomes due in it happens before the call returns.
---@async
---@param seconds number >= 0
function Runtime:advance(seconds) end

--- The wall clock jumps; monotonic time does not.
---@param seconds number  maybe negative
function Runtime:step_clock(seconds) end

---@class tr.testing.Message
---@field from? string                default sender@example.com
---@field to? string|string[]         default rcpt@example.org
---@field data? string                header and body
---@field meta? table<string, string>

--- A message comes in, as if by ESMTP, but without the smtp_server_* events. Returns after its commit.
---@async
---@param message tr.testing.Message
---@return string? id
---@return string? message  why it was refused
function Runtime:receive(message) end

--- A log record comes to be, as if something had happened to a message: the hooks are asked, local logs write it.
---@async
---@param record table  type, from, to, data, meta, queue, site, response, ...
---@return true? ok
---@return string? err
---@return string? code
function Runtime:event(record) end

--- Runs code in the policy's state; it may wait. What it returns must fit into JSON.
---@async
---@param code string
---@return any
function Runtime:eval(code) end

---@class tr.testing.Account
---@field offered integer      hooks: records that the policy was asked about
---@field filtered integer     hooks: records that it did not want
---@field accepted integer
---@field moved_in integer
---@field delivered integer
---@field bounced integer
---@field dead integer
---@field dropped integer
---@field expired integer
---@field moved_out integer
---@field waiting integer
---@field dropped_by table<string, integer>
---@field filtered_by table<string, integer>

---@return table<string, tr.testing.Account> accounts  `mail`, and each hook by its name
function Runtime:ledger() end

---@return table<string, tr.testing.Account> accounts  `mail`, and each hook by its name
function Runtime:ledger() end

---@return boolean balances
---@return string differences
function Runtime:balances() end

---@class tr.testing.Figures
---@field line integer       due, without room
---@field timers integer     not due
---@field ready integer
---@field in_flight integer
---@field undecided integer  records whose handler waits
---@field parked integer     records whose handler failed
---@field sessions integer

---@return tr.testing.Figures
function Runtime:figures() end

--- Counts of the log, as of struct tr_spool_figures; `accepts`: intake is taken, `pressure`: nothing new is begun.
---@return table<string, number|boolean>
function Runtime:spool() end

--- What of the policy runs or waits, with tracebacks.
---@return string text
function Runtime:tasks() end

--- JSON lines since the last call: all records, those about records of hooks, too.
---@param list string[]  gets them at its end
function Runtime:take_records(list) end

--- Lines of the log since the last call.
---@param list string[]  gets them at its end
function Runtime:take_log(list) end

--- Stops in order and goes back to the real clock.
---@async
---@param seconds? number  deadline, default 20
---@return boolean balances
---@return string ledger  as text
function Runtime:stop(seconds) end

return testing
