--- kumo.secrets: reads a key source. Contract lua-modules.md section 6.
local host = require 'tr.host'

---@class kumo.secrets
local secrets = {}

--- Where a secret comes from: the path of a file, or a table with one of
---  * key_data: the bytes themselves;
---  * event_name, event_args: the event is fired with the arguments, what its handler returns are the bytes;
---  * vault_path, vault_mount, vault_key, vault_address, vault_token: a field of HashiCorp Vault's KV store, version 2;
---  * env_name (ours): an environment variable.
---@class (exact) kumo.KeySourceTable
---@field key_data? string
---@field event_name? string
---@field event_args? any[]
---@field vault_mount? string    where the KV store is mounted
---@field vault_path? string     of the secret in it
---@field vault_key? string      of the field; default 'key'
---@field vault_address? string  URL; default: the environment variable VAULT_ADDR
---@field vault_token? string    default: the environment variable VAULT_TOKEN
---@field env_name? string

---@alias kumo.KeySource string|kumo.KeySourceTable

local NAME = 'kumo.secrets.load'
local VAULT_TIMEOUT_S = 10
local KNOWN = {
  key_data = 'string',
  event_name = 'string',
  event_args = 'table',
  vault_mount = 'string',
  vault_path = 'string',
  vault_key = 'string',
  vault_address = 'string',
  vault_token = 'string',
  env_name = 'string',
}

local function from_event(source, level)
  local name = source.event_name
  if not host.has_handler(name) then
    error(("%s: event '%s' is not registered"):format(NAME, name), level + 1)
  end
  local args = source.event_args or {}
  local data = host.dispatch(name, unpack(args, 1, #args))
  if type(data) ~= 'string' then
    error(("%s: event '%s' returned a %s, not a string"):format(NAME, name, type(data)), level + 1)
  end
  return data
end

-- A segment of a URL's path.
local function escaped(text)
  return (text:gsub('[^%w%-._~/]', function(byte)
    return ('%%%02X'):format(byte:byte())
  end))
end

-- https://developer.hashicorp.com/vault/api-docs/secret/kv/kv-v2: data.data holds the fields.
local function from_vault(source, level)
  local function fail(text)
    error(('%s: vault: %s'):format(NAME, text), level + 2)
  end
  local address = source.vault_address or os.getenv 'VAULT_ADDR' or fail 'vault_address or VAULT_ADDR is needed'
  local token = source.vault_token or os.getenv 'VAULT_TOKEN' or fail 'vault_token or VAULT_TOKEN is needed'
  local mount = source.vault_mount or fail "missing field 'vault_mount'"
  local path, key = source.vault_path, source.vault_key or 'key'
  if not package.preload['tr.http'] then
    fail 'this program has no HTTP client'
  end
  local url = ('%s/v1/%s/data/%s'):format(address:gsub('/+$', ''), escaped(mount), escaped(path))
  local client = host.internal('kumo.http').build_client { timeout = VAULT_TIMEOUT_S }
  local request = client:get(url)
  request:header('X-Vault-Token', token)
  local response = request:send()
  local text = response:text()
  client:close()
  if response:status_code() ~= 200 then -- without the body, which is not ours to show
    fail(('%s/%s: the server answered %d'):format(mount, path, response:status_code()))
  end
  local ok, answer = pcall(host.internal('kumo.serde').serde.json_parse, text)
  local fields = ok and type(answer) == 'table' and type(answer.data) == 'table' and answer.data.data
  if type(fields) ~= 'table' then
    fail(('%s/%s: the answer is not one of a KV store, version 2'):format(mount, path))
  end
  local value = fields[key]
  if type(value) ~= 'string' then
    fail(("%s/%s: there is no text under the key '%s'"):format(mount, path, key))
  end
  return value
end

-- `level`: of the function that the policy has called.
local function load(source, level)
  if type(source) == 'string' then
    local data, err = host.read_file(source)
    if not data then
      error(('%s: %s'):format(NAME, err), level + 1)
    end
    return data
  elseif type(source) ~= 'table' then
    error(('%s: key source: string or table expected, got %s'):format(NAME, type(source)), level + 1)
  end
  -- secrets must not be shown in errors: the check of options would
  local kinds = 0
  for key, value in pairs(source) do
    if not KNOWN[key] then
      local names = {}
      for name in pairs(KNOWN) do
        names[#names + 1] = name
      end
      table.sort(names)
      local near = type(key) == 'string' and host.c.nearest(key, names)
      error(
        ("%s: unknown field '%s', expected one of '%s'%s"):format(
          NAME,
          tostring(key),
          table.concat(names, "', '"),
          near and (" (did you mean '%s'?)"):format(near) or ''
        ),
        level + 1
      )
    elseif type(value) ~= KNOWN[key] then
      error(("%s: field '%s': %s expected, got %s"):format(NAME, key, KNOWN[key], type(value)), level + 1)
    end
  end
  for _, key in ipairs { 'key_data', 'event_name', 'vault_path', 'env_name' } do
    kinds = kinds + (source[key] ~= nil and 1 or 0)
  end
  if kinds ~= 1 then
    error(NAME .. ": one of 'key_data', 'event_name', 'vault_path' and 'env_name' is needed", level + 1)
  elseif source.event_name then
    return (from_event(source, level + 1))
  elseif source.vault_path then
    return (from_vault(source, level + 1))
  elseif source.env_name then
    return os.getenv(source.env_name)
      or error(("%s: the environment variable '%s' is not set"):format(NAME, source.env_name), level + 1)
  end
  return source.key_data
end

--- The bytes of a key source. Raises when they cannot be had. Not remembered: wrap it in kumo.memoize where that is wanted.
---@async
---@param source kumo.KeySource
---@return string bytes
function secrets.load(source)
  return (load(source, 2))
end

return { secrets = secrets }
