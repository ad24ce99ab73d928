-- kumo.domain_map: values by domain name, with wildcards. The look-up walks from the top-level label down and does not back
-- up: with entries *.example.com and a.b.example.com, b.example.com has no value. Case counts.
local host = require 'tr.host'

local domain_map = {}

local meta = { __name = 'kumo.DomainMap' }

-- A node is { children = {}, value = , wildcard = }; the root is kept under a key that no domain has.
local ROOT, ENTRIES = {}, {}

local function labels_of(domain)
  local list = {}
  for label in domain:gmatch '[^.]+' do
    list[#list + 1] = label
  end
  return list
end

local function set(map, domain, value)
  if type(domain) ~= 'string' then
    error('domain_map: key: string expected, got ' .. type(domain), 3)
  end
  local labels, node = labels_of(domain), rawget(map, ROOT)
  for i = #labels, 1, -1 do
    if i == 1 and labels[1] == '*' then
      node.wildcard = value
      rawget(map, ENTRIES)[domain] = value
      return
    end
    local child = node.children[labels[i]]
    if not child then
      child = { children = {} }
      node.children[labels[i]] = child
    end
    node = child
  end
  node.value = value
  rawget(map, ENTRIES)[domain] = value
end

function meta.__index(map, domain)
  if type(domain) ~= 'string' then
    return nil
  end
  local labels, node = labels_of(domain), rawget(map, ROOT)
  for i = #labels, 1, -1 do
    local child = node.children[labels[i]]
    if not child then
      return node.wildcard
    end
    node = child
  end
  return node.value
end
meta.__newindex = set
function meta.__pairs(map)
  return next, rawget(map, ENTRIES), nil
end
function meta.__freeze(map)
  return 'domain_map', rawget(map, ENTRIES)
end

--- Values by domain. "*.example.com" is for all that is below; an exact name counts more. Names are compared as they are
--- written. The look-up goes down from the top and does not back up: with *.example.com and a.b.example.com there is nothing
--- for b.example.com.
---@param entries? table<string, any>
---@return table<string, any>
function domain_map.new(entries)
  local map = setmetatable({ [ROOT] = { children = {} }, [ENTRIES] = {} }, meta)
  if entries ~= nil then
    for domain, value in pairs(entries) do
      set(map, domain, value)
    end
  end
  return map
end
host.thaw.domain_map = domain_map.new

return { domain_map = domain_map }
