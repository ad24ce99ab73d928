--- Requests of kumo.http: put together, sent once.
--- Source: RFC 9110, RFC 7578 (multipart).
local core = require 'tr.http'
local host = require 'tr.host'
local values = host.internal 'kumo.http.values'
local new_response = host.internal 'kumo.http.response'

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
  add_header(self, values.check_string(name, 'header: name'), values.check_string(value, 'header: value'))
  return self
end

--- Adds several header lines.
---@param map table<string, string>
---@return kumo.http.Request self
function request:headers(map)
  unsent(self)
  values.check_table(map, 'headers')
  local list = {}
  for name, value in pairs(map) do
    list[#list + 1] = values.check_string(name, 'headers: name')
    list[#list + 1] = values.check_string(value, 'headers: value')
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
  self._body, self._message = values.check_string(body, 'body'), nil
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
  user = values.check_string(user, 'basic_auth: user')
  password = password == nil and '' or values.check_string(password, 'basic_auth: password')
  add_header(self, 'Authorization', 'Basic ' .. core.base64(user .. ':' .. password))
  return self
end

---@param token string
---@return kumo.http.Request self
function request:bearer_auth(token)
  unsent(self)
  add_header(self, 'Authorization', 'Bearer ' .. values.check_string(token, 'bearer_auth: token'))
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
  values.check_table(params, 'form_url_encoded')
  self._body = values.encode_pairs(params, 'form_url_encoded')
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
    local data = values.check_string(value, 'form_multipart_data ' .. name, 2)
    if host.c.utf8_valid(data) then
      return disposition .. '\r\n\r\n' .. data
    end
    return disposition .. '\r\nContent-Type: application/octet-stream\r\n\r\n' .. data
  end
  for key in pairs(value) do
    if key ~= 'data' and key ~= 'file_name' then
      error(("form_multipart_data %s: unknown field '%s', expected one of 'data', 'file_name'"):format(name, tostring(key)), 3)
    end
  end
  local data = values.check_string(value.data, 'form_multipart_data ' .. name .. ': data', 2)
  local file_name = values.check_string(value.file_name, 'form_multipart_data ' .. name .. ': file_name', 2)
  return ('%s; filename="%s"\r\nContent-Type: application/octet-stream\r\n\r\n%s'):format(
    disposition, quote_name(file_name), data)
end

--- Parts of a form as the body: texts, or files.
---@param parts table<string, string|{ data: string, file_name: string }>
---@return kumo.http.Request self
function request:form_multipart_data(parts)
  unsent(self)
  values.check_table(parts, 'form_multipart_data')
  local pieces = {}
  for name, value in pairs(parts) do
    pieces[#pieces + 1] = multipart_piece(values.check_string(name, 'form_multipart_data key'), value)
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
  values.check_table(params, 'aws_sign_v4')
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
  local ok, result = pcall(host.internal('kumo.crypto').aws_sign_v4, signed)
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
  return new_response(status, head, body)
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

--- `client`: of tr.http.
return function(client, method, url)
  return setmetatable({ _client = client, _method = method, _url = url, _headers = {} }, request)
end
