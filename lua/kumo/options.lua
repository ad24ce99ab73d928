--- Tables of options that Lua reads: each key known, each value of its kind. The texts are those of the C side.
local c = require('tr.host').c

local options = {}

---@alias tr.options.Kind 'string'|'number'|'integer'|'boolean'|'table'|'function'|'duration'|'key_source'|'any'

--- A list of names as an error shows it.
local function joined(names)
  return "'" .. table.concat(names, "', '") .. "'"
end

--- Raises for an unknown key (with the nearest known one), a value of another kind and a missing key; gives a copy with
--- durations as seconds. Integers are >= 0.
---@param given any
---@param name string     the function, for errors
---@param known table<string, tr.options.Kind|{ [1]: tr.options.Kind, required: true }|{ [1]: tr.options.Kind, default: any }>
---@param level? integer  of the caller; default 3: who called the function that checks
---@return table values
function options.check(given, name, known, level)
  level = (level or 3) + 1
  if type(given) ~= 'table' then
    error(('%s: table of options expected, got %s'):format(name, type(given)), level - 1)
  end
  local names = {}
  for key in pairs(known) do
    names[#names + 1] = key
  end
  table.sort(names)
  local function fail(text)
    error(('%s: %s, while processing %s'):format(name, text, c.json_encode(given) or '{...}'), level)
  end
  local values = {}
  for key, value in pairs(given) do
    local rule = known[key]
    if not rule then
      local near = type(key) == 'string' and c.nearest(key, names)
      local hint = near and (" (did you mean '%s'?)"):format(near) or ''
      fail(("unknown field '%s', expected one of %s%s"):format(tostring(key), joined(names), hint))
    end
    local kind = type(rule) == 'table' and rule[1] or rule
    local actual = type(value)
    if kind == 'duration' then
      local ok, seconds, ns = pcall(c.duration, value, name, key)
      if not ok then
        error(seconds, level - 1)
      end
      value = seconds + ns / 1e9
    elseif kind == 'integer' then
      if actual ~= 'number' or value < 0 or value ~= math.floor(value) or value > 2 ^ 53 then
        fail(("field '%s': integer >= 0 expected, got %s"):format(key, actual == 'number' and tostring(value) or actual))
      end
    elseif kind == 'key_source' then
      if actual ~= 'string' and actual ~= 'table' then
        fail(("field '%s': key source (path or table) expected, got %s"):format(key, actual))
      end
    elseif kind ~= 'any' and actual ~= kind then
      fail(("field '%s': %s expected, got %s"):format(key, kind, actual))
    end
    values[key] = value
  end
  for _, key in ipairs(names) do
    local rule = known[key]
    if type(rule) == 'table' and values[key] == nil then
      if rule.required then
        fail(("missing field '%s'"):format(key))
      end
      values[key] = rule.default
    end
  end
  return values
end

--- Raises unless the value is of the kind that Lua calls `kind`.
---@param name string
---@param what string
---@param value any
---@param kind string
---@param level? integer  default 3
function options.expect(name, what, value, kind, level)
  if type(value) ~= kind then
    error(('%s: %s: %s expected, got %s'):format(name, what, kind, type(value)), level or 3)
  end
end

return options
