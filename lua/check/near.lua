--- Names like the one that was written.
local host = require 'tr.host'
local c = host.c

local near = {}

--- "did you mean 'NAME'?"; nil: none of the names is near.
---@param name string
---@param names string[]   is sorted
---@return string?
function near.remedy(name, names)
  table.sort(names)
  local found = c.nearest(name, names)
  return found and ("did you mean '%s'?"):format(found)
end

--- The public keys of a table.
---@param from table
---@return string[]
function near.keys(from)
  local out = {}
  for key in next, from do
    if type(key) == 'string' and not key:find '^_' then
      out[#out + 1] = key
    end
  end
  return out
end

return near
