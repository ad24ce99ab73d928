--- The standard library as it was before the policy ran. A policy may have taken parts of it away or replaced them; what is said
--- about it at the end must not suffer from that.
local rawset, rawget, next = rawset, rawget, next
local setmetatable_of, metatable_of = debug.setmetatable, debug.getmetatable

local restore = {}

local kept = {} -- table -> its fields
local strings -- the metatable of texts
local globals = _G

local function keep(from)
  local fields = {}
  for key, value in next, from do
    fields[key] = value
  end
  kept[from] = fields
end

--- Remembers.
function restore.keep()
  keep(globals)
  for _, name in ipairs { 'string', 'table', 'math', 'os', 'io', 'debug', 'coroutine', 'package', 'bit' } do
    keep(globals[name])
  end
  strings = metatable_of ''
end

--- Puts everything back; what the policy has added stays.
function restore.all()
  setmetatable_of(globals, nil)
  setmetatable_of('', strings)
  setmetatable_of(nil, nil)
  strings.__index = globals.string
  for from, fields in next, kept do
    for key, value in next, fields do
      if rawget(from, key) ~= value then
        rawset(from, key, value)
      end
    end
  end
  strings.__index = globals.string
end

return restore
