---@meta
-- Types of runtime/record/jsonl_lua.c, for lua/kumo/jsonl.lua. Internal.

---@class tr.jsonl
local jsonl = {}

--- Metatable: tr.jsonl_writer
---@class tr.jsonl.Writer
local Writer = {}

---@async
---@param line string  with its end
---@return true? done
---@return string? message
---@return string? code
function Writer:write(line) end

---@async
---@return true? done
---@return string? message
---@return string? code
function Writer:finish() end

--- Metatable: tr.jsonl_reader
---@class tr.jsonl.Reader
local Reader = {}

---@async
---@param max integer  1 to 1000000
---@return string[]? lines
---@return string state  'more', 'end' (of what is there), 'finished', 'damaged: WHY'; or a message
---@return string? code
function Reader:read(max) end

function Reader:close() end

---@param dir string
---@param suffix string
---@param max_bytes integer
---@param max_age_s number  0: none
---@param level integer
---@return tr.jsonl.Writer?
---@return string? message
---@return string? code
function jsonl.writer(dir, suffix, max_bytes, max_age_s, level) end

---@param path string
---@return tr.jsonl.Reader?
---@return string? message
---@return string? code
function jsonl.reader(path) end

return jsonl
