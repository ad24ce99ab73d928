--- `kumo.http`: the HTTP client that policies use. The bytes are moved by runtime/transport/http.c; here are the objects
--- of the interface: clients, requests, responses.
--- Source: contract of the reference's `kumo.http`; RFC 9110, RFC 7578 (multipart), WHATWG URL (form encoding).
local core = require 'tr.http'
local encode = require 'kumo.encode'
local websocket = require 'tr.websocket'

---@class kumo.http
local http = {}

-- A character outside of ALPHA / DIGIT / "*-._" is percent-encoded, a blank becomes "+".
local function form_encode(text)
  return (text:gsub('[^%w%*%-%._ ]', function(c)
    return ('%%%02X'):format(c:byte())
  end):gsub(' ', '+'))
end

local function check_string(value, what, level)
  local kind = type(value)
  if kind == 'string' then
    return value
  elseif kind ~= 'number' then
    error(('%s: string expected, got %s'):format(what, kind), (level or 1) + 2)
  end
  return tostring(value)
end

local function check_table(value, what)
  if type(value) ~= 'table' then
    error(('%s: table expected, got %s'):format(what, type(value)), 3)
  end
end

local function encode_pairs(params, what)
  local out = {}
  for name, value in pairs(params) do
    name = check_string(name, what .. ' key', 2)
    out[#out + 1] = form_encode(name) .. '=' .. form_encode(check_string(value, what .. ' ' .. name, 2))
  end
  return table.concat(out, '&')
end

--- Appends PARAMS to BASE as a form-encoded query.
---@param base string
---@param params table<string, string>
---@return string url
function http.build_url(base, params)
  base = check_string(base, 'build_url: base')
  check_table(params, 'build_url: params')
  local ok, err = core.url_check(base)
  if not ok then
    error(('build_url: %q: %s'):format(base, err), 2)
  end
  local rest, fragment = base:match '^([^#]*)(.*)$'
  local front, query = rest:match '^([^?]*)%??(.*)$'
  if front:match '^%a[%w+.-]*://[^/]*$' then
    front = front .. '/'
  end
  local more = encode_pairs(params, 'build_url: params')
  local joint = query ~= '' and more ~= '' and '&' or ''
  return front .. '?' .. query .. joint .. more .. fragment
end

-- Header map ------------------------------------------------------------------------------------------------------

local header_map = {}

function header_map.__index(map, name)
  return type(name) == 'string' and core.header(rawget(map, 1), name) or nil
end

--- Each line once, in the order of the wire, names in lower case.
function header_map.__pairs(map)
  local head, at = rawget(map, 1), 0
  return function()
    local name, value
    at, name, value = core.header_next(head, at or #head)
    if at then
      return name:lower(), value
    end
  end
end

function header_map.__newindex()
  error('response headers cannot be changed', 2)
end

header_map.__metatable = 'kumo.http.HeaderMap'

-- Response --------------------------------------------------------------------------------------------------------

--- An answer. Its body can be read once: `bytes` or `text`.
---@class kumo.http.Response
---@field status_is_informational fun(self: kumo.http.Response): boolean  1xx
---@field status_is_success fun(self: kumo.http.Response): boolean        2xx
---@field status_is_redirection fun(self: kumo.http.Response): boolean    3xx
---@field status_is_client_error fun(self: kumo.http.Response): boolean   4xx
---@field status_is_server_error fun(self: kumo.http.Response): boolean   5xx
local response = {}
response.__index = response

local function unread(self)
  if self._read then
    error('broken response wrapper', 3)
  end
end

---@return integer
function response:status_code()
  return self._status
end

--- The registered phrase of the status.
---@return string?
function response:status_reason()
  return core.reason(self._status)
end

for class, name in pairs { 'informational', 'success', 'redirection', 'client_error', 'server_error' } do
  response['status_is_' .. name] = function(self)
    return math.floor(self._status / 100) == class
  end
end

--- By name in any case; `pairs` gives each line once, names in lower case.
---@return table<string, string>
function response:headers()
  unread(self)
  return setmetatable({ self._head }, header_map)
end

---@return integer?
function response:content_length()
  unread(self)
  local text = core.header(self._head, 'content-length')
  return text and text:match '^%d+$' and tonumber(text) or nil
end

local function take_body(self)
  self._read = true
  local body = self._body
  self._body, self._head = nil, nil
  return body
end

---@return string
function response:bytes()
  unread(self)
  return take_body(self)
end

--- The body as UTF-8; bytes that are none become U+FFFD.
---@return string
function response:text()
  unread(self)
  return core.utf8_lossy(take_body(self))
end

-- Request ---------------------------------------------------------------------------------------------------------

-- core.perform() reads _method, _url, _headers, _body and _timeout, in C.

--- A request that is put together and then sent, once. All but the senders return it, so that calls can be chained.
---@class kumo.http.Request
local request = {}
request.__index = request

local function unsent(self)
  if self._sent then
    error('broken request builder', 3)
  end
end

local function add_header(self, name, value)
  if not core.header_ok(name, value) then
    self._bad = self._bad or ('invalid header %q'):format(name) -- as in the reference, `send` reports it
    return
  end
  local headers = self._headers
  headers[#headers + 1] = name
  headers[#headers + 1] = value
end

local function has_header(self, wanted)
  for i = 1, #self._headers, 2 do
    if self._headers[i]:lower() == wanted then
      return true
    end
  end
  return false
end

--- Adds a header line; the same name again gives a second line.
---@param name string
---@param value string
---@return kumo.http.Request self
function request:header(name, value)
  unsent(self)
  add_header(self, check_string(name, 'header: name'), check_string(value, 'header: value'))
  return self
end

--- Adds several header lines.
---@param map table<string, string>
---@return kumo.http.Request self
function request:headers(map)
  unsent(self)
  check_table(map, 'headers')
  local list = {}
  for name, value in pairs(map) do
    list[#list + 1] = check_string(name, 'headers: name')
    list[#list + 1] = check_string(value, 'headers: value')
  end
  for i = 1, #list, 2 do
    add_header(self, list[i], list[i + 1])
  end
  return self
end

--- Any bytes; sets Content-Length and no Content-Type. The string is sent from where it lies.
---@param body string
---@return kumo.http.Request self
function request:body(body)
  unsent(self)
  self._body, self._message = check_string(body, 'body'), nil
  return self
end

--- Ours: the complete bytes of a message as the body, sent from where they lie. The message must still be the caller's
--- when the request is sent.
---@param message kumo.Message
---@return kumo.http.Request self
function request:body_of(message)
  unsent(self)
  message:id() -- raises for what is no message
  self._message = message
  return self
end

---@param user string
---@param password? string
---@return kumo.http.Request self
function request:basic_auth(user, password)
  unsent(self)
  user = check_string(user, 'basic_auth: user')
  password = password == nil and '' or check_string(password, 'basic_auth: password')
  add_header(self, 'Authorization', 'Basic ' .. core.base64(user .. ':' .. password))
  return self
end

---@param token string
---@return kumo.http.Request self
function request:bearer_auth(token)
  unsent(self)
  add_header(self, 'Authorization', 'Bearer ' .. check_string(token, 'bearer_auth: token'))
  return self
end

--- Total time of this request: seconds or a text such as "1m 30s".
---@param duration number|string
---@return kumo.http.Request self
function request:timeout(duration)
  unsent(self)
  self._timeout = core.duration_s(duration)
  return self
end

--- Form fields as the body.
---@param params table<string, string>
---@return kumo.http.Request self
function request:form_url_encoded(params)
  unsent(self)
  check_table(params, 'form_url_encoded')
  self._body = encode_pairs(params, 'form_url_encoded')
  if not has_header(self, 'content-type') then
    add_header(self, 'Content-Type', 'application/x-www-form-urlencoded')
  end
  return self
end

local function quote_name(text)
  return (text:gsub('["\r\n]', { ['"'] = '%22', ['\r'] = '%0D', ['\n'] = '%0A' })) -- WHATWG, multipart/form-data
end

local function multipart_piece(name, value)
  local disposition = ('Content-Disposition: form-data; name="%s"'):format(quote_name(name))
  if type(value) ~= 'table' then
    local data = check_string(value, 'form_multipart_data ' .. name, 2)
    if core.utf8_valid(data) then
      return disposition .. '\r\n\r\n' .. data
    end
    return disposition .. '\r\nContent-Type: application/octet-stream\r\n\r\n' .. data
  end
  for key in pairs(value) do
    if key ~= 'data' and key ~= 'file_name' then
      error(("form_multipart_data %s: unknown field '%s', expected one of 'data', 'file_name'"):format(name, tostring(key)), 3)
    end
  end
  local data = check_string(value.data, 'form_multipart_data ' .. name .. ': data', 2)
  local file_name = check_string(value.file_name, 'form_multipart_data ' .. name .. ': file_name', 2)
  return ('%s; filename="%s"\r\nContent-Type: application/octet-stream\r\n\r\n%s'):format(
    disposition, quote_name(file_name), data)
end

--- Parts of a form as the body: texts, or files.
---@param parts table<string, string|{ data: string, file_name: string }>
---@return kumo.http.Request self
function request:form_multipart_data(parts)
  unsent(self)
  check_table(parts, 'form_multipart_data')
  local pieces = {}
  for name, value in pairs(parts) do
    pieces[#pieces + 1] = multipart_piece(check_string(name, 'form_multipart_data key'), value)
  end
  local boundary = 'tailrace-' .. core.random_hex()
  local out = {}
  for i, piece in ipairs(pieces) do
    out[i] = ('--%s\r\n%s\r\n'):format(boundary, piece)
  end
  self._body = table.concat(out) .. ('--%s--\r\n'):format(boundary)
  add_header(self, 'Content-Type', 'multipart/form-data; boundary=' .. boundary)
  return self
end

--- What the request is signed with.
---@class (exact) kumo.http.AwsSignV4
---@field access_key kumo.KeySource
---@field secret_key kumo.KeySource
---@field region string
---@field service string          's3' also signs x-amz-content-sha256
---@field headers? table<string, string>  are signed, not added
---@field payload? string         the body; default: that of the request
---@field timestamp? string       RFC 3339; default now
---@field session_token? string   signed as x-amz-security-token, not added
---@field method? string          of the reference; the request's counts
---@field uri? string             of the reference; the request's counts

--- Signs the request as it is for AWS, version 4: adds `Authorization` and `X-Amz-Date`. To be called last.
---@async
---@param params kumo.http.AwsSignV4
---@return kumo.http.Request self
function request:aws_sign_v4(params)
  unsent(self)
  check_table(params, 'aws_sign_v4')
  local scheme, authority = self._url:match '^(%a+)://([^/?#]*)'
  if not scheme then
    error(('aws_sign_v4: the URL %q has no host'):format(core.url_shown(self._url)), 2)
  end
  local headers = { host = (authority:gsub('^.*@', ''):gsub(scheme:lower() == 'https' and ':443$' or ':80$', '')) }
  for name, value in pairs(params.headers or {}) do
    if name:lower() ~= 'host' then
      headers[name] = value
    end
  end
  local signed = {}
  for key, value in pairs(params) do
    signed[key] = value
  end
  signed.method, signed.uri, signed.headers = self._method, self._url, headers
  signed.payload = params.payload or self._body or ''
  local ok, result = pcall(require('tr.host').internal('kumo.crypto').aws_sign_v4, signed)
  if not ok then
    error((tostring(result):gsub('kumo%.crypto%.aws_sign_v4', 'aws_sign_v4')), 2)
  end
  add_header(self, 'Authorization', result.authorization)
  add_header(self, 'X-Amz-Date', result.timestamp)
  return self
end

--- As `send`, but what the network did is returned as `nil, message, code` and not raised.
---@async
---@return kumo.http.Response? response
---@return string? message
---@return string? code  "EREFUSED", "ETIMEDOUT", "ECLOSED" ...
function request:try_send()
  unsent(self)
  self._sent = true
  if self._bad then
    return nil, ('builder error for url (%s): %s'):format(core.url_shown(self._url), self._bad), 'EINVAL'
  end
  local status, head, body = core.perform(self._client, self)
  if not status then
    return nil, head, body
  end
  return setmetatable({ _status = status, _head = head, _body = body }, response)
end

--- Performs the request and returns when the whole answer is there. Raises when there is no answer.
---@async
---@return kumo.http.Response
function request:send()
  unsent(self)
  local answer, message = self:try_send()
  if not answer then
    error(message, 0)
  end
  return answer
end

-- Websockets ------------------------------------------------------------------------------------------------------

---@class (exact) kumo.http.WebsocketOptions  ours
---@field timeout? number|string        until it is open, of a close, and of a send that the peer does not take; default 60 s
---@field ping_interval? number|string  a silent peer gets a ping after it, and must be heard within it; default 30 s
---@field max_message_bytes? integer    a longer message ends the connection; default 16 MiB

--- Connects and performs the upgrade. Raises when that fails; the text of an answer other than 101 holds, for example,
--- "HTTP error: 404 Not Found".
---@async
---@param url string  ws:// or wss://
---@param options? kumo.http.WebsocketOptions
---@return tr.websocket.Stream stream
---@return kumo.http.Response response
function http.connect_websocket(url, options)
  local stream = websocket.new(check_string(url, 'connect_websocket: URL'), options)
  local status, head = websocket.opened(stream)
  if not status then
    error(head, 0)
  end
  return stream, setmetatable({ _status = status, _head = head, _body = '' }, response)
end

-- Client ----------------------------------------------------------------------------------------------------------

--- Connections are kept for the next request.
---@class kumo.http.Client
---@field get fun(self: kumo.http.Client, url: string): kumo.http.Request   a request, to be sent
---@field post fun(self: kumo.http.Client, url: string): kumo.http.Request
---@field put fun(self: kumo.http.Client, url: string): kumo.http.Request
local client = {}
client.__index = client

for name, method in pairs { get = 'GET', post = 'POST', put = 'PUT' } do
  client[name] = function(self, url)
    if not self._core then
      error('client was closed', 2)
    end
    url = check_string(url, name .. ': url')
    return setmetatable({ _client = self._core, _method = method, _url = url, _headers = {} }, request)
  end
end

--- Ours: posts the complete bytes of a message from where they lie, with nothing made in Lua: for connections that send
--- many records. Any answer is an answer; what the network did is returned and not raised.
---@async
---@param url string
---@param message kumo.Message
---@param content_type? string   default "application/json"
---@return integer? status
---@return string? reason        the registered phrase; or the message of the failure
---@return string text           body of the answer; or the failure's code, "EREFUSED", "ETIMEDOUT" ...
---@return string? retry_after   the header of that name, of an answer from 300 on
function client:post_message(url, message, content_type)
  if not self._core then
    error('client was closed', 2)
  end
  return core.post_message(self._core, url, message, content_type)
end

--- Ours: the same with the messages of a list as one JSON array. They must be JSON themselves; line ends behind each are
--- left out.
---@async
---@param url string
---@param messages kumo.Message[]
---@param content_type? string   default "application/json"
---@return integer? status
---@return string? reason
---@return string text
---@return string? retry_after
function client:post_messages(url, messages, content_type)
  if not self._core then
    error('client was closed', 2)
  end
  return core.post_messages(self._core, url, messages, content_type)
end

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

--- Ours: what posts to one URL have in common, prepared once.
---@param options kumo.http.PosterOptions
---@return kumo.http.Poster
function client:poster(options)
  if not self._core then
    error('client was closed', 2)
  end
  check_table(options, 'poster: options')
  for name in pairs(options) do
    if not POSTER_KEYS[name] then
      error(("poster: unknown field '%s'"):format(tostring(name)), 2)
    end
  end
  local denied = core.url_denied(self._core, check_string(options.url, 'poster: url'))
  if denied then -- a name is looked at when it is connected to
    error(('poster: url: %s is no public address (deny_private_addresses)'):format(denied), 2)
  end
  local compression = options.compression
  if compression ~= nil and not COMPRESSIONS[compression] then
    error(("poster: compression: 'gzip' or 'zstd' expected, got %s"):format(tostring(compression)), 2)
  end
  local headers = { 'Content-Type', check_string(options.content_type or 'application/json', 'poster: content_type') }
  if compression then
    headers[3], headers[4] = 'Content-Encoding', compression
  end
  for name, value in pairs(options.headers or {}) do
    name, value = check_string(name, 'poster: headers'), check_string(value, 'poster: headers: ' .. tostring(name))
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
    core = core.poster(self._core, {
      url = check_string(options.url, 'poster: url'),
      headers = headers,
      identify = options.identify ~= false,
      compression = compression,
      secrets = secrets,
    }),
  }, poster)
end

--- Later requests are refused; those already built can still be sent.
function client:close()
  self._core = nil
end

---@class kumo.http.ClientOptions
---@field user_agent? string
---@field timeout? number|string            total time of a request, default 60 s
---@field pool_idle_timeout? number|string  default 90 s
---@field connection_verbose? boolean
---@field accept_invalid_certs? boolean
---@field redirects? boolean                ours: false follows none, default true
---@field max_response_bytes? integer       ours: bound of an answer's body, default 8 MiB
---@field truncate_response? boolean       ours: true keeps that much of a longer body; default false: an error
---@field deny_private_addresses? boolean   ours: true connects to public addresses only, and uses no proxy; default false
---@field allow_addresses? string[]         ours: addresses and blocks to which it may connect all the same

---@param options kumo.http.ClientOptions
---@return kumo.http.Client
function http.build_client(options)
  check_table(options, 'build_client')
  return setmetatable({ _core = core.client(options) }, client)
end

return http
