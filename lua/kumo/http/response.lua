--- Answers of kumo.http and of websockets' upgrades.
local core = require 'tr.http'

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

--- `head`: the lines as they came.
return function(status, head, body)
  return setmetatable({ _status = status, _head = head, _body = body }, response)
end
