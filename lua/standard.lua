-- Standard functions as a policy has them: table.sort and string.gsub call functions that may wait, which LuaJIT's cannot;
-- what nothing can interrupt is bounded; pairs and ipairs are those of Lua 5.4; the clock is the process's, which may be
-- virtual. What waits by itself (pcall, coroutines, require) is in host.lua, what LuaJIT has not at all in kumo/compat.lua.
local c = require('tr.host').c
local find, sub, raw_getmetatable = string.find, string.sub, debug.getmetatable

-- --- table.sort and string.gsub with functions, and bounds of the others ---------------------------

local MAX_SUBJECT_BYTES = 16 * 1024 * 1024 -- a pattern function runs in C, where nothing can interrupt it
local MAX_RESULT_BYTES = 64 * 1024 * 1024

-- A stable merge sort: `less` may wait, and an inconsistent one cannot do harm.
local raw_sort = table.sort
function table.sort(list, less)
  if less == nil then
    return raw_sort(list)
  end
  local n = #list
  local from, to, width = list, {}, 1
  while width < n do
    for low = 1, n, 2 * width do
      local mid, high = math.min(low + width, n + 1), math.min(low + 2 * width, n + 1)
      local i, j = low, mid
      for k = low, high - 1 do
        if i < mid and (j >= high or not less(from[j], from[i])) then
          to[k], i = from[i], i + 1
        else
          to[k], j = from[j], j + 1
        end
      end
    end
    from, to, width = to, from == list and {} or from, width * 2
  end
  if from ~= list then
    for i = 1, n do
      list[i] = from[i]
    end
  end
end

local function bounded(name, fn)
  return function(subject, ...)
    if type(subject) == 'string' and #subject > MAX_SUBJECT_BYTES then
      error(('string.%s: the subject has %d bytes, at most %d are allowed'):format(name, #subject, MAX_SUBJECT_BYTES), 2)
    end
    return fn(subject, ...)
  end
end
local raw_gsub, raw_rep = string.gsub, string.rep
string.find, string.match, string.gmatch =
  bounded('find', string.find), bounded('match', string.match), bounded('gmatch', string.gmatch)

local function pack(...)
  return { n = select('#', ...), ... }
end

local function gsub_calling(subject, pattern, fn, limit)
  local out, at, count, len = {}, 1, 0, #subject
  local anchored = sub(pattern, 1, 1) == '^'
  limit = limit or math.huge
  while count < limit and at <= len + 1 do
    local found = pack(find(subject, pattern, at))
    local first, last = found[1], found[2]
    if not first then
      break
    end
    count = count + 1
    out[#out + 1] = sub(subject, at, first - 1)
    local whole = sub(subject, first, last)
    local value
    if found.n == 2 then
      value = fn(whole)
    else
      value = fn(unpack(found, 3, found.n))
    end
    if not value then
      value = whole
    elseif type(value) ~= 'string' and type(value) ~= 'number' then
      error('invalid replacement value (a ' .. type(value) .. ')', 3)
    end
    out[#out + 1] = value
    at = last + 1
    if last < first then -- an empty match: go on behind the next character
      out[#out + 1] = sub(subject, at, at)
      at = at + 1
    end
    if anchored then
      break
    end
  end
  out[#out + 1] = sub(subject, at)
  return table.concat(out), count
end

local bounded_gsub = bounded('gsub', raw_gsub)
function string.gsub(subject, pattern, replacement, limit)
  if type(replacement) ~= 'function' or type(subject) ~= 'string' or type(pattern) ~= 'string' then
    return bounded_gsub(subject, pattern, replacement, limit)
  end
  if #subject > MAX_SUBJECT_BYTES then
    error(('string.gsub: the subject has %d bytes, at most %d are allowed'):format(#subject, MAX_SUBJECT_BYTES), 2)
  end
  return gsub_calling(subject, pattern, replacement, limit)
end

function string.rep(text, n, separator)
  local length = (#tostring(text) + #(separator or '')) * (tonumber(n) or 0)
  if length > MAX_RESULT_BYTES then
    error(('string.rep: the result would have %.0f bytes, at most %d are allowed'):format(length, MAX_RESULT_BYTES), 2)
  end
  return raw_rep(text, n, separator)
end

-- --- pairs and ipairs as in Lua 5.4: __pairs, and ipairs that respects __index ---------------------

local raw_pairs, raw_ipairs = pairs, ipairs
function pairs(object) -- luacheck: ignore
  local meta = raw_getmetatable(object)
  local handler = meta and meta.__pairs
  if handler then
    local fn, state, first = handler(object)
    return fn, state, first
  end
  return raw_pairs(object)
end

local function next_index(object, i)
  i = i + 1
  local value = object[i]
  if value ~= nil then
    return i, value
  end
end
function ipairs(object) -- luacheck: ignore
  if type(object) == 'table' and not raw_getmetatable(object) then
    return raw_ipairs(object)
  elseif object == nil then
    error("bad argument #1 to 'ipairs' (table expected, got nil)", 2)
  end
  return next_index, object, 0
end

-- --- our clock ----------------------------------------------------------------------------------------

local raw_time, raw_date, started = os.time, os.date, c.mono()
function os.time(fields)
  if fields == nil then
    return math.floor(c.wall())
  end
  return raw_time(fields)
end
function os.date(format, moment)
  return raw_date(format or '%c', moment or math.floor(c.wall()))
end
function os.clock()
  return c.mono() - started
end

-- Ends the process at once, with what was written flushed. The state is not closed: the caller runs in it.
local raw_exit = os.exit
function os.exit(code)
  io.stdout:flush()
  io.stderr:flush()
  raw_exit(code == nil and 0 or code)
end
