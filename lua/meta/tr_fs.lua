---@meta
-- Types of runtime/policy/fs_lua.c, for lua/kumo/fs.lua. Internal. All of it waits at most 60 s, in threads of the runtime,
-- and gives nil, message, code for what the file system says.

---@class tr.fs
local fs = {}

--- Metatable: tr.file
---@class tr.fs.File
local File = {}

---@async
---@param count? integer  0 to 268435456; none: all, at most so much
---@return string? bytes
---@return string? message
---@return string? code
function File:read(count) end

---@async
---@param bytes string
---@return true? done
---@return string? message
---@return string? code
function File:write(bytes) end

---@async
---@param whence? 'set'|'cur'|'end'
---@param offset? integer
---@return integer? position
---@return string? message
---@return string? code
function File:seek(whence, offset) end

---@async
---@return true? done
---@return string? message
---@return string? code
function File:flush() end

function File:close() end

---@async
---@param path string
---@param mode 'r'|'w'|'a'|'r+'|'w+'|'a+'
---@return tr.fs.File?
---@return string? message
---@return string? code
function fs.open(path, mode) end

--- All bytes of a file.
---@async
---@param path string
---@return string? bytes
---@return string? message
---@return string? code
function fs.load(path) end

---@async
---@param path string
---@param follow boolean  what a link leads to
---@return table? fields
---@return string? message
---@return string? code
function fs.stat(path, follow) end

---@async
---@param path string
---@return string[]? paths  in no order
---@return string? message
---@return string? code
function fs.list(path) end

---@async
---@param pattern string  without { }
---@param base string
---@return string[]? paths  in no order
---@return string? message
---@return string? code
function fs.glob(pattern, base) end

return fs
