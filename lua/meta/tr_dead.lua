---@meta

--- The binding behind lua/dead.lua (runtime/queue/dead_lua.c), which checks what it is given.
---@class tr.dead
local core = {}

---@class tr.dead.Job
---@field action 'look'|'replay'|'purge'
---@field hook? string
---@field ids? string[]      32 hexadecimal digits each
---@field since_s? number    when it died, seconds since 1970
---@field until_s? number
---@field reason? string
---@field kind? 'all'|'letters'|'parked'
---@field after_seq? integer
---@field limit? integer
---@field payload? boolean   of look: with the record's text

--- Goes through the letters, the oldest of each hook first.
---@async
---@param job tr.dead.Job
---@return integer? matched  nil: message and code follow
---@return integer unreadable
---@return integer parked    of those that matched
---@return string|integer? json   of look: an array; else how many the disk refused, if it did
---@return integer|string? shown  of look: letters in it; fewer than matched when it would be too large; else why it refused
---@param spool? tr.dead.Spool of a stopped node; nil: the running one's
function core.run(job, spool) end

---@param spool? tr.dead.Spool
---@return string json  names of the hooks that have letters
function core.hooks(spool) end

--- Opens the spool of a node that does not run.
---@param meta string
---@param data string
---@return tr.dead.Spool?
---@return string? message
---@return string? code
function core.open(meta, data) end

--- Metatable: tr.dead.spool
---@class tr.dead.Spool
local Spool = {}

--- Commits what waits and gives the spool free.
function Spool:close() end

return core
