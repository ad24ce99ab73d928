---@meta
-- Types of runtime/policy/{library,timelib,frozen,error}.c: the table `c` of require('tr.host'). Internal, but for
-- kumo.Rejection.

--- What kumo.reject and kumo.disconnect raise. `tostring` and `..` give "CODE TEXT". A table with it as field `cause` counts
--- as a rejection, too.
--- Metatable: tr.rejection
---@class kumo.Rejection
---@field code integer
---@field message string
local Rejection = {}

---@class tr.host
---@field c tr.host.c
---@field entry table<string, function>            what C starts by name
---@field thaw table<string, fun(data: any): any>  makes memoized objects again
---@field CANCELLED lightuserdata

--- Metatable: tr.latch
---@class tr.host.Latch
local Latch = {}

---@async
---@param seconds? number
---@return boolean open  false when the time is over
function Latch:wait(seconds) end

function Latch:open() end

--- Metatable: tr.memo
---@class tr.host.Memo
local Memo = {}

---@class tr.host.c
---@field PARK lightuserdata
---@field CANCELLED lightuserdata
---@field NULL lightuserdata
---@field share_dir string
---@field policy? string
---@field validating boolean
---@field worker integer
local c = {}

---@alias tr.host.Level 'trace'|'debug'|'info'|'warn'|'error'

---@param args lightuserdata
---@return any ...
function c.push_args(args) end

---@return boolean
function c.isyieldable() end

--- 1 before and -1 behind the resume of a policy's coroutine by code that cannot yield.
---@param by integer
function c.block(by) end

---@return lightuserdata task
function c.current() end

---@param err any
---@param traceback string
function c.remember(err, traceback) end

---@async
---@param seconds number
function c.sleep(seconds) end

---@return tr.host.Latch
function c.latch() end

--- The event has a handler.
---@param event string
function c.handled(event) end

--- Raises a kumo.Rejection.
---@param code integer
---@param text string
---@param mode integer  enum tr_disconnect
function c.reject(code, text, mode) end

---@param level tr.host.Level
---@param text string
function c.log(level, text) end

---@param level tr.host.Level
---@return boolean
function c.log_enabled(level) end

---@param spec string
---@return boolean ok
function c.log_filter(spec) end

---@return number seconds  of the wall clock
function c.wall() end

---@return number seconds  monotonic
function c.mono() end

---@param text string
---@param null_sentinel? boolean  null becomes c.NULL, not nil
---@return boolean ok
---@return any value  or the position of the error
function c.json_parse(text, null_sentinel) end

---@param value any
---@param pretty? boolean
---@return string?
---@return string? what  cannot be encoded
function c.json_encode(value, pretty) end

--- The table is a JSON array even when it is empty.
---@generic T: table
---@param list T
---@return T
function c.array(list) end

---@param name string
---@param names string[]
---@return string?  the likely meant one
function c.nearest(name, names) end

---@param text string
---@return boolean
function c.utf8_valid(text) end

---@return integer
function c.cpus() end

--- Queues are open.
---@return boolean
function c.has_engine() end

---@param metatable table
---@return userdata
function c.userdata(metatable) end

-- Moments and spans are whole seconds and 0 to 999999999 nanoseconds.

---@return integer s
---@return integer ns
function c.now() end

---@param s integer
---@param ns integer
---@return string
function c.rfc3339(s, ns) end

---@param text string
---@return integer? s
---@return integer? ns
function c.rfc3339_parse(text) end

---@param s integer
---@param ns integer
---@return string
function c.rfc2822(s, ns) end

---@param value number|string
---@param fn string    for the error
---@param what string  for the error
---@return integer s
---@return integer ns
function c.duration(value, fn, what) end

---@param s integer
---@param ns integer
---@return string  "1m 30s"
function c.human(s, ns) end

---@param text string
---@return string? bytes  4 or 16
function c.ip_parse(text) end

---@param bytes string
---@return string
function c.ip_text(bytes) end

---@param bytes string
---@param prefix integer
---@return string bytes
function c.ip_mask(bytes, prefix) end

---@param label string
---@param seconds number
function c.observe_latency(label, seconds) end

--- A cache that all workers share.
---@param name string
---@param ttl_s number
---@param capacity integer
---@param with_epoch? boolean
---@param stale? boolean
---@return tr.host.Memo
function c.memo_open(name, ttl_s, capacity, with_epoch, stale) end

---@param cache tr.host.Memo
---@param key string
---@return 'miss'|'value'|'stale'|'error' state
---@return any value  or the text of the error
function c.memo_get(cache, key) end

---@param cache tr.host.Memo
---@param key string
---@param value any
---@param is_error boolean
---@param ttl_s? number
---@return boolean kept
function c.memo_put(cache, key, value, is_error, ttl_s) end

---@return number epoch  the new one
function c.epoch_bump() end

---@return number
function c.epoch() end

---@return number  another one after a new epoch or a change of the board
function c.changes() end

--- Changes with every change of the board: texts under names, which all workers share.
---@return number
function c.board_version() end

---@param name string
---@return string? text
---@return number version  0: there is none
function c.board_get(name) end

--- Sets a text if its version is still this one.
---@param name string
---@param version number
---@param text string
---@return boolean swapped
function c.board_swap(name, version, text) end

--- Counts an event; how many of the last `limit` ones of the key lie within the window that ends now.
---@param key string
---@param limit integer    1 to 10,000
---@param window_s number
---@param now_s number
---@return integer
function c.tally(key, limit, window_s, now_s) end

--- Starts a task in this state. Errors are logged.
---@param fn fun()
---@param event string     for the traceback
function c.spawn(fn, event) end
