--- `kumo.http`: the HTTP client that policies use. The bytes are moved by runtime/transport/http.c; here are clients,
--- and in lua/kumo/http/ their requests, responses and posters.
--- Source: contract of the reference's `kumo.http`; WHATWG URL (form encoding).
local core = require 'tr.http'
local websocket = require 'tr.websocket'
local host = require 'tr.host'
local values = host.internal 'kumo.http.values'
local new_request = host.internal 'kumo.http.request'
local new_response = host.internal 'kumo.http.response'
local new_poster = host.internal 'kumo.http.poster'

---@class kumo.http
local http = {}

--- Appends PARAMS to BASE as a form-encoded query.
---@param base string
---@param params table<string, string>
---@return string url
function http.build_url(base, params)
  base = values.check_string(base, 'build_url: base')
  values.check_table(params, 'build_url: params')
  local ok, err = core.url_check(base)
  if not ok then
    error(('build_url: %q: %s'):format(base, err), 2)
  end
  local rest, fragment = base:match '^([^#]*)(.*)$'
  local front, query = rest:match '^([^?]*)%??(.*)$'
  if front:match '^%a[%w+.-]*://[^/]*$' then
    front = front .. '/'
  end
  local more = values.encode_pairs(params, 'build_url: params')
  local joint = query ~= '' and more ~= '' and '&' or ''
  return front .. '?' .. query .. joint .. more .. fragment
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
  local stream = websocket.new(values.check_string(url, 'connect_websocket: URL'), options)
  local status, head = websocket.opened(stream)
  if not status then
    error(head, 0)
  end
  return stream, new_response(status, head, '')
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
    url = values.check_string(url, name .. ': url')
    return new_request(self._core, method, url)
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

--- Ours: what posts to one URL have in common, prepared once.
---@param options kumo.http.PosterOptions
---@return kumo.http.Poster
function client:poster(options)
  if not self._core then
    error('client was closed', 2)
  end
  return new_poster(self._core, options)
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
  values.check_table(options, 'build_client')
  return setmetatable({ _core = core.client(options) }, client)
end

return http
