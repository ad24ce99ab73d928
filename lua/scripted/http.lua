--- Plays HTTP/1.1 servers of a scripted network.
local host = require 'tr.host'
local c = host.c

local http = {}

local REASONS = {
  [200] = 'OK', [201] = 'Created', [202] = 'Accepted', [204] = 'No Content', [301] = 'Moved Permanently', [302] = 'Found',
  [303] = 'See Other', [304] = 'Not Modified', [307] = 'Temporary Redirect', [308] = 'Permanent Redirect',
  [400] = 'Bad Request', [401] = 'Unauthorized', [403] = 'Forbidden', [404] = 'Not Found', [408] = 'Request Timeout',
  [410] = 'Gone', [413] = 'Content Too Large', [422] = 'Unprocessable Content', [425] = 'Too Early',
  [429] = 'Too Many Requests', [500] = 'Internal Server Error', [502] = 'Bad Gateway', [503] = 'Service Unavailable',
  [504] = 'Gateway Timeout',
}
local KEYS = {
  status = true,
  headers = true,
  body = true,
  delay = true,
  reset = true,
  hang = true,
  close = true,
  connect = true,
  partial = true,
}

---@class tr.scripted.Request
---@field protocol string 'http'
---@field n integer its number in the network
---@field at number unix seconds
---@field method string
---@field url string
---@field path string
---@field query? string
---@field headers table<string, string> names in lower case; several of a name are joined by ", "
---@field body string
---@field status? integer what it was answered; nil: not yet
---@field answered? string 'answer', 'reset', 'hang'
local request_methods = {}
http.request_meta = { __index = request_methods }

--- The body as JSON; raises if it is none.
function request_methods:json()
  return require('kumo').serde.json_parse(self.body)
end

--- Several JSON texts, one a line.
function request_methods:lines()
  local lines = {}
  for line in self.body:gmatch '[^\r\n]+' do
    lines[#lines + 1] = line
  end
  return lines
end

local function read_head(wired)
  local line = wired:line()
  while line == '' do
    line = wired:line()
  end
  if not line then
    return nil
  end
  local method, target, version = line:match '^(%u+) (%S+) HTTP/(1%.[01])$'
  if not method then
    error(('not a request line: %q'):format(line), 0)
  end
  local headers = {}
  while true do
    line = wired:line()
    if not line then
      return nil
    elseif line == '' then
      break
    end
    local name, value = line:match '^([^:%s]+):%s*(.-)%s*$'
    if not name then
      error(('not a header line: %q'):format(line), 0)
    end
    name = name:lower()
    headers[name] = headers[name] and headers[name] .. ', ' .. value or value
  end
  return method, target, version, headers
end

local function read_chunks(wired)
  local parts = {}
  while true do
    local size = tonumber((wired:line() or ''):match '^%x+' or '', 16)
    if not size then
      error('not a chunk size', 0)
    end
    if size == 0 then
      repeat
        local line = wired:line()
      until line == '' or line == nil
      return table.concat(parts)
    end
    parts[#parts + 1] = wired:bytes(size)
    wired:line()
  end
end

--- nil: the client has gone.
function http.read_request(wired, scheme)
  local method, target, version, headers = read_head(wired)
  if not method then
    return nil
  end
  local body = ''
  if (headers.expect or ''):lower() == '100-continue' then
    wired:write 'HTTP/1.1 100 Continue\r\n\r\n'
  end
  if headers['content-length'] then
    body = wired:bytes(tonumber(headers['content-length']) or 0)
  elseif (headers['transfer-encoding'] or ''):lower():find 'chunked' then
    body = read_chunks(wired)
  end
  if not body then
    return nil
  end
  local request = {
    protocol = 'http',
    method = method,
    url = ('%s://%s%s'):format(scheme, headers.host or wired.address, target),
    path = target:match '^[^?]*',
    query = target:match '%?(.*)$',
    version = version,
    headers = headers,
    body = body,
    address = wired.address,
  }
  return setmetatable(request, http.request_meta)
end

local function find(places, request)
  local name = (request.headers.host or ''):gsub(':%d+$', ''):lower()
  local found
  for _, place in ipairs(places) do
    local fits = (not place.host or place.host == name) and (not place.path or place.path == request.path)
    if fits and (not found or place.path and not found.path) then
      found = place
    end
  end
  return found
end

local function normal(answer)
  if answer == nil then
    answer = {}
  elseif type(answer) == 'number' then
    answer = { status = answer }
  elseif type(answer) == 'string' then
    answer = { body = answer }
  elseif type(answer) ~= 'table' then
    error(('an answer is a status, a body or a table, got %s'):format(type(answer)), 0)
  end
  for key in pairs(answer) do
    if not KEYS[key] then
      error(
        ("unknown field '%s' in an HTTP answer, expected one of 'status', 'headers', 'body', 'delay', 'reset', 'hang', "):format(
          tostring(key)
        ) .. "'close', 'partial'",
        0
      )
    end
  end
  return answer
end

function http.compose(answer, method)
  local status = answer.status or 200
  local body, type_ = answer.body or '', nil
  if type(body) == 'table' then
    body, type_ = require('kumo').serde.json_encode(body), 'application/json'
  end
  local lines, has_type = { ('HTTP/1.1 %d %s'):format(status, REASONS[status] or 'Status') }, false
  local names = {}
  for name in pairs(answer.headers or {}) do
    names[#names + 1] = name
  end
  table.sort(names)
  for _, name in ipairs(names) do
    has_type = has_type or name:lower() == 'content-type'
    lines[#lines + 1] = name .. ': ' .. tostring(answer.headers[name])
  end
  if type_ and not has_type then
    lines[#lines + 1] = 'Content-Type: ' .. type_
  end
  if status ~= 204 and status ~= 304 then
    lines[#lines + 1] = 'Content-Length: ' .. #body
  end
  if answer.close then
    lines[#lines + 1] = 'Connection: close'
  end
  return table.concat(lines, '\r\n') .. '\r\n\r\n' .. (method == 'HEAD' and '' or body)
end

--- Waits for what the answer says before its bytes; false: there are none.
local function pause(wired, request, answer)
  if answer.delay then
    c.sleep((c.duration(answer.delay, 'answer', 'delay')))
  end
  if answer.hang then
    request.answered = 'hang'
    repeat -- until the client gives up
    until not wired:fill()
    return false
  elseif answer.reset then
    request.answered = 'reset'
    wired.conn:reset()
    return false
  end
  return true
end

---@async
local function answer_one(network, wired, places, request)
  local place = find(places, request)
  network:_note(place, request)
  if not place then
    network:_stray(request.method .. ' ' .. request.url)
    request.status, request.answered = 404, 'answer'
    return wired:write(http.compose({ status = 404, body = 'nothing is scripted here' }, request.method))
  end
  place.waiting = place.waiting + 1
  local answer = normal(place:next(place.answer, request))
  local goes_on = pause(wired, request, answer)
  place.waiting = place.waiting - 1
  if not goes_on then
    return false
  end
  local text = http.compose(answer, request.method)
  request.status, request.answered = answer.status or 200, 'answer'
  if answer.partial then -- so many bytes of the answer, then the end
    wired:write(text:sub(1, answer.partial))
    return false
  end
  return wired:write(text) and not answer.close
end

--- Serves one connection until it ends.
---@async
function http.serve(network, wired, places)
  local scheme = places[1].scheme or (wired.address:match ':443$' and 'https' or 'http')
  while true do
    local request = http.read_request(wired, scheme)
    if not request or not answer_one(network, wired, places, request) then
      return
    end
    if (request.headers.connection or ''):lower() == 'close' then
      return
    end
  end
end

return http
