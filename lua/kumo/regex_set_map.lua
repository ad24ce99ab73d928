--- kumo.regex_set_map: values by patterns. Contract lua-modules.md section 4.
local host = require 'tr.host'
local regex = host.internal 'kumo.regex'

---@class kumo.regex_set_map
local regex_set_map = {}

--- `map[text]` is the value of a pattern that matches, or nil. When several do, it is that of the first pattern in the order
--- of their bytes.
---@class kumo.RegexSetMap
---@field [string] any
local meta = { __name = 'kumo.RegexSetMap' }
local LIST, ENTRIES = {}, {}

function meta.__index(map, text)
  if type(text) ~= 'string' then
    error('regex_set_map: string expected, got ' .. type(text), 2)
  end
  for _, entry in ipairs(rawget(map, LIST)) do
    local ok, found = pcall(entry.regex.is_match, entry.regex, text)
    if not ok then
      error(('regex_set_map: pattern %q: %s'):format(entry.pattern, tostring(found)), 2)
    elseif found then
      return entry.value
    end
  end
  return nil
end
function meta.__newindex()
  error('regex_set_map: the map cannot be changed', 2)
end
function meta.__pairs(map)
  return next, rawget(map, ENTRIES), nil
end
function meta.__freeze(map)
  return 'regex_set_map', rawget(map, ENTRIES)
end

--- Raises for a pattern that is not right, with the pattern.
---@param patterns table<string, any>  value by pattern
---@return kumo.RegexSetMap
function regex_set_map.new(patterns)
  if type(patterns) ~= 'table' then
    error('regex_set_map.new: a table of values by pattern is expected, got ' .. type(patterns), 2)
  end
  local list, entries = {}, {}
  for pattern, value in pairs(patterns) do
    if type(pattern) ~= 'string' then
      error('regex_set_map.new: patterns are strings, got ' .. type(pattern), 2)
    end
    local ok, compiled = pcall(regex.compile, pattern)
    if not ok then
      error('regex_set_map.new: ' .. tostring(compiled):gsub('^.-regex%.compile: ', ''), 2)
    end
    list[#list + 1] = { pattern = pattern, regex = compiled, value = value }
    entries[pattern] = value
  end
  table.sort(list, function(a, b)
    return a.pattern < b.pattern
  end)
  return setmetatable({ [LIST] = list, [ENTRIES] = entries }, meta)
end
host.thaw.regex_set_map = regex_set_map.new

return regex_set_map
