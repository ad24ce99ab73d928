---@meta
-- Types of what runtime/record/record_lua.c adds to `kumo`.

---@class kumo
local kumo = {}

---@alias kumo.RecordType 'Any'|'Reception'|'Delivery'|'Bounce'|'TransientFailure'|'Expiration'|'AdminBounce'|'OOB'|'Feedback'|'Rejection'|'AdminRebind'|'DeferredInjectionRebind'|'Delayed'|'XferOut'|'XferIn'

---@class (exact) kumo.PerRecord
---@field enable? boolean         default true
---@field suffix? string          of local logs: appended to the segment's name
---@field log_dir? string         of local logs
---@field segment_header? string  of local logs: written when a record of this type opens a segment
---@field template? string        replaces the JSON line; docs/log-records.md

---@class (exact) kumo.DeadLetterBounds  beyond them the oldest are dropped, and counted
---@field max_count? integer         default 1,000,000; 0: no bound
---@field max_bytes? integer         default 1 GiB; 0: no bound
---@field max_age? kumo.DurationValue default 30 days; 0: no bound

---@class (exact) kumo.LogHookParameters
---@field back_pressure? integer    default 128000: handlers of should_enqueue_log_record that may wait at once
---@field meta? string[]            names, or prefixes with a trailing '*'
---@field headers? string[]         the same, in any case
---@field per_record? table<kumo.RecordType, kumo.PerRecord>
---@field deferred_spool? boolean   accepted; records are always stored with their cause
---@field dead_letters? boolean|kumo.DeadLetterBounds  default true: what is refused for good or expires is kept

---@class (exact) kumo.LogHookOptions : kumo.LogHookParameters
---@field name string               unique over all hooks; 1 to 58 characters, not beginning with `dead:`

--- A log hook; call it in pre_init or init. Raises for options that it does not know and for a name that is taken.
---@param options kumo.LogHookOptions
function kumo.configure_log_hook(options) end

--- Says that HANDLER, a registered handler of should_enqueue_log_record, does nothing for the records of this hook but set
--- meta `queue` to QUEUE and return true. If no handler before it could answer, it is not called for them any more, which
--- makes each record cheaper. Call it at the top level, after kumo.on.
---@param hook string
---@param queue string
---@param handler fun(msg: kumo.Message, hook_name: string): boolean?
---@return boolean declared   false: another handler is asked first, so all goes on as before
function kumo.declare_hook_queue(hook, queue, handler) end

---@class (exact) kumo.LogDispositionHookOptions
---@field name string
---@field per_record? table<kumo.RecordType, kumo.PerRecord>

--- Fires `log_disposition_NAME(message, record)` for each record of a message; call it in pre_init or init.
---@param options kumo.LogDispositionHookOptions
function kumo.configure_log_disposition_hook(options) end

---@class (exact) kumo.LocalLogsOptions
---@field log_dir string
---@field max_file_size? integer                 uncompressed bytes; default 1000000000
---@field max_segment_duration? number|string    seconds, or a text such as "10s"; default: none
---@field compression_level? integer             0 to 22; default 0: the library's
---@field back_pressure? integer                 default 128000 records
---@field meta? string[]
---@field headers? string[]
---@field per_record? table<kumo.RecordType, kumo.PerRecord>
---@field filter_event? string                   event with the message; only true writes
---@field min_free_space? string|integer         "10%" or bytes
---@field min_free_inodes? string|integer

--- Local log segments; call it in init, more than once for independent logs.
---@param options kumo.LocalLogsOptions
function kumo.configure_local_logs(options) end
