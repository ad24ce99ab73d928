-- kumo.secrets: reads a key source: a file's path, { key_data = BYTES } or { event_name = NAME, event_args = { ... } }.
local host = require 'tr.host'

local secrets = {}

local KEYS = { 'key_data', 'event_name', 'event_args' }
local KNOWN = { key_data = true, event_name = true, event_args = true }

---@async
---@param source string|table
---@return string bytes
function secrets.load(source)
  if type(source) == 'string' then
    local file, err = io.open(source, 'rb')
    if not file then
      error('secrets.load: ' .. err, 2)
    end
    local data = file:read '*a'
    file:close()
    if not data then
      error('secrets.load: cannot read ' .. source, 2)
    end
    return data
  elseif type(source) ~= 'table' then
    error('secrets.load: key source: string or table expected, got ' .. type(source), 2)
  elseif source.vault_path then
    error('secrets.load: keys from a vault are not supported by Tailrace', 2)
  end
  for key in pairs(source) do
    if not KNOWN[key] then
      error(("secrets.load: unknown field '%s', expected one of '%s'"):format(tostring(key), table.concat(KEYS, "', '")), 2)
    end
  end
  if source.event_name then
    if not host.has_handler(source.event_name) then
      error(("secrets.load: event '%s' is not registered"):format(tostring(source.event_name)), 2)
    end
    local args = source.event_args or {}
    local data = host.dispatch(source.event_name, unpack(args, 1, #args))
    if type(data) ~= 'string' then
      error(("secrets.load: event '%s' returned a %s, not a string"):format(source.event_name, type(data)), 2)
    end
    return data
  elseif type(source.key_data) ~= 'string' then
    error("secrets.load: field 'key_data': string expected, got " .. type(source.key_data), 2)
  end
  return source.key_data
end

return { secrets = secrets }
