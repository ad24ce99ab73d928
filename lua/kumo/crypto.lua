--- kumo.crypto: AES and the signatures of AWS. Contract lua-modules.md section 4.
local host = require 'tr.host'
local bytes = require 'tr.bytes'
local aws = host.internal 'kumo.aws'
local digest = host.internal 'kumo.digest'
local options = host.internal 'kumo.options'
local secrets = host.internal('kumo.secrets').secrets

---@class kumo.crypto
local crypto = {}

local IV_BYTES = 16

---@alias kumo.AesMode 'Ecb'|'Cbc'

local function prepare(name, algorithm, data, params)
  if algorithm ~= 'Ecb' and algorithm ~= 'Cbc' then
    error(("%s: algorithm: 'Ecb' or 'Cbc' expected, got %s"):format(name, tostring(algorithm)), 3)
  end
  options.expect(name, 'data', data, 'string', 4)
  local values = options.check(params, name, { key = { 'key_source', required = true } }, 4)
  local key = secrets.load(values.key)
  if #key ~= 16 and #key ~= 32 then
    error(('%s: key: 16 or 32 bytes expected, got %d'):format(name, #key), 3)
  end
  return algorithm:lower(), key
end

--- AES with 128 or 256 bits and the padding of PKCS 7. With 'Cbc' the random vector of 16 bytes stands before the result. It
--- hides and does not protect: who can change the bytes can change what they say.
---@async
---@param algorithm kumo.AesMode
---@param data string
---@param params { key: kumo.KeySource }  16 or 32 bytes
---@return string bytes
function crypto.aes_encrypt_block(algorithm, data, params)
  local mode, key = prepare('kumo.crypto.aes_encrypt_block', algorithm, data, params)
  local iv = mode == 'cbc' and bytes.random(IV_BYTES) or ''
  return iv .. bytes.aes(mode, true, key, iv, data)
end

--- The reverse. Raises when the bytes were not made with this key, as far as the padding tells.
---@async
---@param algorithm kumo.AesMode
---@param data string
---@param params { key: kumo.KeySource }
---@return kumo.Digest result  `.bytes` and its encodings
function crypto.aes_decrypt_block(algorithm, data, params)
  local mode, key = prepare('kumo.crypto.aes_decrypt_block', algorithm, data, params)
  local iv = mode == 'cbc' and data:sub(1, IV_BYTES) or ''
  local whole = #data >= #iv + IV_BYTES and (mode == 'ecb' or #iv == IV_BYTES)
  local plain = whole and bytes.aes(mode, false, key, iv, data:sub(#iv + 1))
  if not plain then
    error('kumo.crypto.aes_decrypt_block: the data were not made with this key', 2)
  end
  return digest._make(plain)
end

---@class (exact) kumo.AwsSignV4
---@field access_key kumo.KeySource
---@field secret_key kumo.KeySource
---@field region string
---@field service string         's3' also signs x-amz-content-sha256
---@field method string
---@field uri string             path, or a URL, whose host is signed unless `headers` has one and whose query counts, too
---@field query_params? table<string, string>
---@field headers? table<string, string>  x-amz-date is added
---@field payload? string        the body; default ''
---@field timestamp? string      RFC 3339; default now
---@field session_token? string  signed as x-amz-security-token

local KNOWN = {
  access_key = { 'key_source', required = true },
  secret_key = { 'key_source', required = true },
  region = { 'string', required = true },
  service = { 'string', required = true },
  method = { 'string', required = true },
  uri = { 'string', required = true },
  query_params = 'table',
  headers = 'table',
  payload = { 'string', default = '' },
  timestamp = 'string',
  session_token = 'string',
}

local function texts(name, map)
  for key, value in pairs(map or {}) do
    if type(key) ~= 'string' or type(value) ~= 'string' then
      error(('kumo.crypto.aws_sign_v4: %s: names and values are strings'):format(name), 3)
    end
  end
  return map or {}
end

local function key_of(source)
  return (secrets.load(source):gsub('[\r\n]+$', '')) -- of a file
end

--- Signs a request for AWS, version 4.
---@async
---@param params kumo.AwsSignV4
---@return { authorization: string, timestamp: string, canonical_request: string, string_to_sign: string, signature: string }
function crypto.aws_sign_v4(params)
  -- without the keys in the text of an error
  local shown = {}
  for key, value in pairs(type(params) == 'table' and params or {}) do
    shown[key] = (key == 'access_key' or key == 'secret_key') and type(value) == 'table' and {} or value
  end
  local values = options.check(type(params) == 'table' and shown or params, 'kumo.crypto.aws_sign_v4', KNOWN)
  local authority, path, query = aws.parts(values.uri)
  local headers = {}
  for name, value in pairs(texts('headers', values.headers)) do
    headers[name] = value
    authority = name:lower() ~= 'host' and authority or nil
  end
  headers.host = authority or headers.host
  for name, value in pairs(texts('query_params', values.query_params)) do
    query[#query + 1] = { name, value }
  end
  local s
  if values.timestamp then
    s = host.c.rfc3339_parse(values.timestamp)
    if not s then
      error(('kumo.crypto.aws_sign_v4: timestamp: RFC 3339 expected, got %q'):format(values.timestamp), 2)
    end
  end
  local access_key, secret_key = key_of(params.access_key), key_of(params.secret_key)
  local ok, result = pcall(aws.sign, {
    access_key = access_key,
    secret_key = secret_key,
    region = values.region,
    service = values.service,
    method = values.method,
    path = path,
    query = query,
    headers = headers,
    payload = values.payload,
    session_token = values.session_token,
    s = s,
  })
  if not ok then
    error('kumo.crypto.aws_sign_v4: ' .. tostring(result), 2)
  end
  return result
end

return crypto
