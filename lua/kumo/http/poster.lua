--- What posts of records to one URL have in common, prepared once.
local core = require 'tr.http'
local encode = require 'kumo.encode'
local host = require 'tr.host'
local values = host.internal 'kumo.http.values'

---@class (exact) kumo.http.PosterOptions
---@field url string
---@field content_type? string           default "application/json"
---@field headers? table<string, string> more headers of each request
---@field identify? boolean              default true: Tailrace-Event-Id and Tailrace-Attempt of a record; Tailrace-Batch-Id and
---                                      Tailrace-Batch-Size of a list
---@field compression? 'gzip'|'zstd'     of the body, with its Content-Encoding
---@field secrets? string[]              sign as Standard Webhooks: "whsec_BASE64", or the key's bytes; two while one replaces
---                                      the other

local WHSEC = 'whsec_'

local function secret_key(secret, i)
  if type(secret) ~= 'string' or secret == '' then
    error(('poster: secrets[%d]: string expected, got %s'):format(i, secret == '' and 'an empty one' or type(secret)), 4)
  elseif secret:sub(1, #WHSEC) ~= WHSEC then
    return secret
  end
  local ok, key = pcall(encode.base64_decode, secret:sub(#WHSEC + 1))
  if not ok or key == '' then
    error(('poster: secrets[%d]: what follows whsec_ is not base64'):format(i), 4)
  end
  return key
end

local POSTER_KEYS = { url = true, content_type = true, headers = true, identify = true, compression = true, secrets = true }
-- What frames a request, and what says who signed it: a second line would leave it to the receiver which one holds.
local OWN_HEADERS = {
  ['content-length'] = true,
  ['transfer-encoding'] = true,
  ['tailrace-event-id'] = true,
  ['tailrace-attempt'] = true,
  ['tailrace-batch-id'] = true,
  ['tailrace-batch-size'] = true,
  ['webhook-id'] = true,
  ['webhook-timestamp'] = true,
  ['webhook-signature'] = true,
}
local COMPRESSIONS = { gzip = true, zstd = true }

---@class kumo.http.Poster
---@field package core userdata
local poster = {}
poster.__index = poster

--- Posts a message's bytes, or the messages of a list as one JSON array. Any answer is an answer; what the network did is
--- returned and not raised.
---@async
---@param what kumo.Message|kumo.Message[]
---@return integer? status
---@return string? reason        the registered phrase; or the message of the failure
---@return string text           body of the answer; or the failure's code
---@return string? retry_after   the header of that name, of an answer from 300 on
function poster:post(what)
  return core.post(self.core, what)
end

--- To be called in tail position: errors are the caller's caller's.
---@param client userdata   of tr.http
---@param options kumo.http.PosterOptions
---@return kumo.http.Poster
return function(client, options)
  values.check_table(options, 'poster: options')
  for name in pairs(options) do
    if not POSTER_KEYS[name] then
      error(("poster: unknown field '%s'"):format(tostring(name)), 2)
    end
  end
  local denied = core.url_denied(client, values.check_string(options.url, 'poster: url'))
  if denied then -- a name is looked at when it is connected to
    error(('poster: url: %s is no public address (deny_private_addresses)'):format(denied), 2)
  end
  local compression = options.compression
  if compression ~= nil and not COMPRESSIONS[compression] then
    error(("poster: compression: 'gzip' or 'zstd' expected, got %s"):format(tostring(compression)), 2)
  end
  local headers = { 'Content-Type', values.check_string(options.content_type or 'application/json', 'poster: content_type') }
  if compression then
    headers[3], headers[4] = 'Content-Encoding', compression
  end
  for name, value in pairs(options.headers or {}) do
    name, value = values.check_string(name, 'poster: headers'), values.check_string(value, 'poster: headers: ' .. tostring(name))
    local lower = name:lower()
    if OWN_HEADERS[lower] then
      error(("poster: headers: '%s' is the runtime's own"):format(name), 2)
    elseif lower == 'content-encoding' and compression then
      error(("poster: headers: '%s' comes from compression"):format(name), 2)
    elseif lower == 'content-type' then -- in place of the default: two lines would leave it open which one holds
      headers[2] = value
    else
      headers[#headers + 1], headers[#headers + 2] = name, value
    end
  end
  for i = 1, #headers, 2 do
    if not core.header_ok(headers[i], headers[i + 1]) then
      error(('poster: headers: %q is no header, or its value has a control byte'):format(headers[i]), 2)
    end
  end
  local secrets = {}
  for i, secret in ipairs(options.secrets or {}) do
    secrets[i] = secret_key(secret, i)
  end
  if #secrets > 2 then
    error('poster: secrets: at most two', 2)
  end
  return setmetatable({
    core = core.poster(client, {
      url = values.check_string(options.url, 'poster: url'),
      headers = headers,
      identify = options.identify ~= false,
      compression = compression,
      secrets = secrets,
    }),
  }, poster)
end
