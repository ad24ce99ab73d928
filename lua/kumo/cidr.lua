-- kumo.cidr: values by network; the longest prefix wins.
local host = require 'tr.host'
local c = host.c

local cidr = {}

local meta = { __name = 'kumo.CidrMap' }
local NETS, ENTRIES = {}, {}

-- Bytes and prefix length of an address, a network, ip:port, [ip] or [ip]:port.
local function parse(key, level)
  if type(key) ~= 'string' then
    error('cidr: key: string expected, got ' .. type(key), level + 1)
  end
  local text, length = key:match '^(.-)/(%d+)$'
  if not text then
    text = key:match '^%[(.*)%]$' or key:match '^%[(.*)%]:%d+$' or key:match '^([%d.]+):%d+$' or key
  end
  local bytes = c.ip_parse(text)
  length = tonumber(length) or bytes and #bytes * 8
  if not bytes or length > #bytes * 8 then
    error(("cidr: '%s' is not an IP address or network"):format(key), level + 1)
  end
  local masked = c.ip_mask(bytes, length)
  if masked ~= bytes then
    error(("cidr: '%s' has bits set behind its prefix: did you mean '%s/%d'?"):format(key, c.ip_text(masked), length), level + 1)
  end
  return bytes, length
end

local function set(map, key, value)
  local bytes, length = parse(key, 3)
  local nets = rawget(map, NETS)[#bytes]
  local net = nets[length]
  if not net then
    net = {}
    nets[length] = net
    local lengths = nets.lengths
    lengths[#lengths + 1] = length
    table.sort(lengths, function(a, b)
      return a > b
    end)
  end
  net[bytes] = value
  rawget(map, ENTRIES)[c.ip_text(bytes) .. '/' .. length] = value
end

function meta.__index(map, key)
  local bytes, length = parse(key, 2)
  local nets = rawget(map, NETS)[#bytes]
  for _, prefix in ipairs(nets.lengths) do
    if prefix <= length then
      local value = nets[prefix][c.ip_mask(bytes, prefix)]
      if value ~= nil then
        return value
      end
    end
  end
  return nil
end
meta.__newindex = set
function meta.__pairs(map)
  return next, rawget(map, ENTRIES), nil
end
function meta.__freeze(map)
  return 'cidr', rawget(map, ENTRIES)
end

--- Values by network. An index with an address ("10.0.0.1", "10.0.0.1:25", "[::1]") gives the value of the longest prefix
--- that holds it; `pairs` goes over the entries. Raises for what is no network.
---@param entries? table<string, any>  by "10.0.0.0/8", "10.0.0.1", "::1/128" ...
---@return table<string, any>
function cidr.make_map(entries)
  local map = setmetatable({ [NETS] = { [4] = { lengths = {} }, [16] = { lengths = {} } }, [ENTRIES] = {} }, meta)
  if entries ~= nil then
    for key, value in pairs(entries) do
      set(map, key, value)
    end
  end
  return map
end
host.thaw.cidr = cidr.make_map

return { cidr = cidr }
