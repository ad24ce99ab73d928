--- kumo.fs: files and directories. The work is done by other threads, the calling task waits: at most 60 s, then it is an
--- error. Errors name the function and the path. Contract lua-modules.md section 5.
local host = require 'tr.host'
local core = require 'tr.fs'
local expect = host.internal('kumo.options').expect
local c = host.c

---@class kumo.fs
local fs = {}

local GLOB_TTL_S = 60
local GLOBS_MAX = 128   -- patterns that are remembered
local BRACES_MAX = 1024 -- patterns that one with { } stands for

--- What the runtime says is wrong, as an error of the policy's line.
local function check(name, path, level, value, message)
  if value == nil then
    error(('%s: %s: %s'):format(name, path, message), level + 1)
  end
  return value
end

-- --- open files -----------------------------------------------------------------------------------------------

---@class kumo.File
local File = {}
local file_meta = { __index = File, __name = 'kumo.File' }

function file_meta:__tostring()
  return ('file (%s)'):format(rawget(self, '_path'))
end

local function of(self, name)
  if getmetatable(self) ~= file_meta then
    error(('file:%s: called without a file: use the colon'):format(name), 3)
  end
  return self._file
end

--- Reads up to `count` bytes: fewer only at the end of the file, '' there. Without `count` all that is left, which may be
--- 256 MiB.
---@async
---@param count? integer  0 to 268435456
---@return string bytes
function File:read(count)
  local file = of(self, 'read')
  if count ~= nil and (type(count) ~= 'number' or not (count >= 0 and count == math.floor(count))) then
    error('file:read: count: integer >= 0 expected, got ' .. tostring(count), 2)
  end
  return (check('file:read', self._path, 2, file:read(count)))
end

--- Writes all bytes.
---@async
---@param bytes string
function File:write(bytes)
  local file = of(self, 'write')
  expect('file:write', 'bytes', bytes, 'string')
  check('file:write', self._path, 2, file:write(bytes))
end

--- Moves the position.
---@async
---@param whence? 'set'|'cur'|'end'  default 'cur'
---@param offset? integer            bytes, default 0
---@return integer position  from the start of the file
function File:seek(whence, offset)
  local file = of(self, 'seek')
  if whence ~= nil and whence ~= 'set' and whence ~= 'cur' and whence ~= 'end' then
    error(("file:seek: whence: 'set', 'cur' or 'end' expected, got %s"):format(tostring(whence)), 2)
  elseif offset ~= nil and (type(offset) ~= 'number' or offset ~= math.floor(offset)) then
    error('file:seek: offset: integer expected, got ' .. tostring(offset), 2)
  end
  return (check('file:seek', self._path, 2, file:seek(whence, offset)))
end

--- Returns when what was written is on the disk.
---@async
function File:flush()
  check('file:flush', self._path, 2, of(self, 'flush'):flush())
end

--- A second close is no error; anything else afterwards is.
---@async
function File:close()
  of(self, 'close'):close()
end

--- Opens a file. As in the reference 'w' does not cut off what the file holds, only 'w+' does.
---@async
---@param path string
---@param mode? 'r'|'w'|'a'|'r+'|'w+'|'a+'  default 'r'; a 'b' behind it is accepted
---@return kumo.File
function fs.open(path, mode)
  expect('kumo.fs.open', 'path', path, 'string')
  local plain = mode == nil and 'r' or type(mode) == 'string' and mode:gsub('b', '', 1)
  if not plain or not plain:find '^[rwa]%+?$' then
    error(("kumo.fs.open: mode: 'r', 'w', 'a', 'r+', 'w+' or 'a+' expected, got %s"):format(tostring(mode)), 2)
  end
  local file = check('kumo.fs.open', path, 2, core.open(path, plain))
  return setmetatable({ _file = file, _path = path }, file_meta)
end

-- --- directories ------------------------------------------------------------------------------------------------

--- The entries of a directory as full paths, sorted, without `.` and `..`.
---@async
---@param path string
---@return string[] paths  at most 100,000
function fs.read_dir(path)
  expect('kumo.fs.read_dir', 'path', path, 'string')
  local paths = check('kumo.fs.read_dir', path, 2, core.list(path))
  table.sort(paths)
  return c.array(paths)
end

-- All patterns that one with { } stands for.
local function expand(pattern, out, name)
  local open, inner, close = pattern:match '()%{([^{}]*)%}()'
  if not open then
    out[#out + 1] = pattern
    return out
  end
  for part in (inner .. ','):gmatch '([^,]*),' do
    if #out >= BRACES_MAX then
      error(('%s: the pattern stands for more than %d'):format(name, BRACES_MAX), 4)
    end
    expand(pattern:sub(1, open - 1) .. part .. pattern:sub(close), out, name)
  end
  return out
end

local function glob(name, pattern, base)
  local seen, paths = {}, {}
  for _, plain in ipairs(expand(pattern, {}, name)) do
    if plain ~= '' then
      for _, path in ipairs(check(name, pattern, 3, core.glob(plain, base))) do
        if not seen[path] then
          seen[path] = true
          paths[#paths + 1] = path
        end
      end
    end
  end
  table.sort(paths)
  return c.array(paths)
end

local function check_glob(name, pattern, base)
  expect(name, 'pattern', pattern, 'string', 4)
  if base ~= nil then
    expect(name, 'base', base, 'string', 4)
  end
  return base == nil and '.' or base
end

--- The paths that match, sorted: `*`, `?`, `[a-z]`, `{a,b}`, and `**` for any number of directories (links are not
--- followed there). Hidden files only where the pattern says the dot. Paths begin with `base`, unless that is '.'.
---@async
---@param pattern string
---@param base? string  default '.'
---@return string[] paths  at most 100,000
function fs.uncached_glob(pattern, base)
  return (glob('kumo.fs.uncached_glob', pattern, check_glob('kumo.fs.uncached_glob', pattern, base)))
end

local globs, glob_count = {}, 0 -- of this worker: key -> { paths or error, until }

--- As uncached_glob, but the answer, an error too, is remembered by this worker.
---@async
---@param pattern string
---@param base? string             default '.'
---@param ttl? number|string       seconds or text, default 60; 0: not remembered
---@return string[] paths
function fs.glob(pattern, base, ttl)
  local from = check_glob('kumo.fs.glob', pattern, base)
  local ttl_s = GLOB_TTL_S
  if ttl ~= nil then
    local s, ns = c.duration(ttl, 'kumo.fs.glob', 'ttl')
    ttl_s = s + ns / 1e9
  end
  local key, now = pattern .. '\0' .. from, c.mono()
  local known = globs[key]
  if not known or known.until_s <= now then
    local ok, result = pcall(glob, 'kumo.fs.glob', pattern, from)
    if not known and glob_count >= GLOBS_MAX then
      globs, glob_count = {}, 0
    end
    glob_count = glob_count + (globs[key] and 0 or 1)
    known = { ok = ok, result = result, until_s = c.mono() + ttl_s }
    globs[key] = known
  end
  if not known.ok then
    error(known.result, 2)
  end
  local paths = {} -- the caller may change its list
  for i, path in ipairs(known.result) do
    paths[i] = path
  end
  return c.array(paths)
end

-- --- metadata ----------------------------------------------------------------------------------------------------

---@class kumo.Metadata
---@field is_file boolean
---@field is_dir boolean
---@field is_symlink boolean  only of symlink_metadata_for_path
---@field readonly boolean    nobody may write
---@field len integer         bytes
---@field size integer        the same
---@field dev integer
---@field ino integer
---@field mode integer        type and permission bits
---@field nlink integer
---@field uid integer
---@field gid integer
---@field rdev integer
---@field blksize integer     bytes
---@field blocks integer      of 512 bytes
---@field atime kumo.Time     last read
---@field mtime kumo.Time     last change of the contents
---@field ctime kumo.Time     last change of contents or metadata

local function metadata(name, path, follow)
  expect(name, 'path', path, 'string', 4)
  local fields = check(name, path, 3, core.stat(path, follow))
  local time = host.internal('kumo.time').time
  for _, field in ipairs { 'atime', 'mtime', 'ctime' } do
    fields[field] = time._make(fields[field], fields[field .. '_ns'])
    fields[field .. '_ns'] = nil
  end
  return fields
end

--- Of what the path leads to. Raises if it is not there.
---@async
---@param path string
---@return kumo.Metadata
function fs.metadata_for_path(path)
  return (metadata('kumo.fs.metadata_for_path', path, true))
end

--- Of the link itself, if the path is one.
---@async
---@param path string
---@return kumo.Metadata
function fs.symlink_metadata_for_path(path)
  return (metadata('kumo.fs.symlink_metadata_for_path', path, false))
end

return fs
