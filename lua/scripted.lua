--- A scripted network: endpoints that answer from functions and lists, inside the process. The transports are the
--- production ones; what they connect to is played here, by runtime/net/scripted_lua.c. For tests and dry runs.
---
---     local network = require('tr.host').internal('scripted').new()
---     network:http('http://10.0.0.1:4242/log', function(req) return 503 end)
---     network:smtp('10.0.0.2:25', { { code = 451, text = 'later' }, 250 })
---     ... network:requests() ... network:close()
---
--- From then on nothing of this thread reaches the real network; what was not scripted is refused and noted.
local host = require 'tr.host'
local binding = require 'tr.scripted'
local wire = host.internal 'scripted.wire'
local c = host.c

local broker = host.internal 'scripted.broker'
local PROTOCOLS = {
  http = host.internal 'scripted.http',
  smtp = host.internal 'scripted.smtp',
  amqp = broker,
  kafka = broker,
  nats = broker,
}
local BROKER_PORTS = { amqp = 5672, kafka = 9092, nats = 4222 }

local scripted = {}

---@class tr.scripted.Network
---@field package _net userdata
local network = {}
network.__index = network

---@class tr.scripted.Endpoint one registration
---@field protocol string 'http', 'smtp', 'amqp', 'kafka' or 'nats'
---@field address string 'ip:port'
---@field name string as it was given
---@field host? string the host name, if it was given by one
---@field path? string HTTP: the one path that it answers; nil: any
---@field answer any
---@field count integer requests so far
---@field waiting integer requests whose answer is not out yet
local endpoint = {}
endpoint.__index = endpoint

--- Answers from now on with something else; a list begins anew.
function endpoint:set(answer)
  self.answer, self.answered = answer, 0
end

--- The next answer for a request: of a function its result, of a list each in turn and the last for ever.
---@param answer any
---@param request table
---@param key? any whose turn it is
function endpoint:next(answer, request, key)
  if type(answer) == 'function' then
    return answer(request)
  elseif type(answer) == 'table' and answer[1] ~= nil then
    local turns = self.turns
    local at = (turns[key or answer] or 0) + 1
    turns[key or answer] = at
    local one = answer[math.min(at, #answer)]
    if type(one) == 'function' then
      return one(request)
    end
    return one
  end
  return answer
end

--- A short, readable name of where an error came from.
local function note_error(self, place, err)
  local errors = self._errors
  errors[#errors + 1] = ('the answer of %s failed: %s'):format(place.name, host.internal('error_text').of(err))
end

-- --- serving ----------------------------------------------------------------------------------------------------

local function serve(self, conn, address)
  local places = self._places[address]
  local protocol = places and places.protocol
  local wired = wire.new(conn, address)
  if not protocol then -- a network that answers everything: who talks first?
    protocol = wired:peek(0.01) and 'http' or 'smtp'
    places = { protocol = protocol, self:_default(protocol, address) }
  end
  PROTOCOLS[protocol].serve(self, wired, places)
end

--- Makes the network of this thread a scripted one, until network:close().
---@return tr.scripted.Network
function scripted.new()
  local self = setmetatable({ _places = {}, _requests = {}, _errors = {}, _endpoints = {}, _strays = {} }, network)
  self._net = binding.new(function(conn, address)
    -- a cancellation passes through pcall
    local ok, err = pcall(serve, self, conn, address)
    if not ok then
      conn:reset()
      local places = self._places[address]
      note_error(self, places and places[1] or { name = address }, err)
    end
  end)
  return self
end

-- --- registration ---------------------------------------------------------------------------------------------------

--- "10.0.0.1:25", "[::1]:25", "mx.example.org:25", or without a port -> host, port.
local function split_address(text, default_port, what)
  local name, port = text:match '^(%[[%x:.]+%]):?(%d*)$'
  if not name then
    name, port = text:match '^([%w._-]+):?(%d*)$'
  end
  port = port == '' and default_port or tonumber(port)
  if not name or not port or port < 1 or port > 65535 then
    error(('%s: "address:port" or "name:port" expected, got %q'):format(what, text), 4)
  end
  return name, port
end

--- The address to listen at, and the name if it is one.
function network:_locate(text, default_port, what)
  local name, port = split_address(text, default_port, what)
  if name:find '^%[' or name:find '^%d+%.%d+%.%d+%.%d+$' then
    return name .. ':' .. port
  end
  name = name:lower()
  local ip = self._net:name(name)
  return (ip:find ':' and '[%s]:%d' or '%s:%d'):format(ip, port), name
end

function network:_add(protocol, address, place)
  local places = self._places[address]
  if places and places.protocol ~= protocol then
    error(('%s is scripted for %s already'):format(address, places.protocol), 3)
  end
  places = places or { protocol = protocol }
  for _, other in ipairs(places) do
    if other.host == place.host and other.path == place.path then
      error(('%s is scripted already; endpoint:set(answer) changes its answer'):format(place.name), 3)
    end
  end
  place.protocol, place.address, place.count, place.waiting = protocol, address, 0, 0
  place.turns = setmetatable({}, { __mode = 'k' })
  places[#places + 1] = setmetatable(place, endpoint)
  self._places[address] = places
  self._endpoints[#self._endpoints + 1] = place
  local connect = type(place.answer) == 'table' and place.answer.connect or 'open'
  self._net:set(address, connect)
  return place
end

--- An HTTP endpoint. A URL with a path answers that path alone, whatever the query; https is not encrypted.
---@param url string 'http://10.0.0.1:4242/log', 'https://hooks.example.com'
---@param answer any see docs/testing.md; nil: 200
---@return tr.scripted.Endpoint
function network:http(url, answer)
  local scheme, authority, path = tostring(url):match '^(https?)://([^/?#]+)([^?#]*)$'
  if not scheme then
    error(('http: a URL such as "http://10.0.0.1:4242/log" expected, got %q'):format(tostring(url)), 2)
  end
  local address, name = self:_locate(authority, scheme == 'https' and 443 or 80, 'http')
  return self:_add('http', address, {
    name = url,
    scheme = scheme,
    host = name,
    path = path ~= '' and path or nil,
    answer = answer == nil and 200 or answer,
  })
end

--- An SMTP server.
---@param at string '10.0.0.2:25', 'mx.example.org'; port 25 unless it says another
---@param answer any see docs/testing.md; nil: 250
---@return tr.scripted.Endpoint
function network:smtp(at, answer)
  local address, name = self:_locate(tostring(at), 25, 'smtp')
  return self:_add('smtp', address, { name = 'smtp ' .. at, host = name, answer = answer == nil and 250 or answer })
end

-- Brokers: network:kafka('10.0.0.3:9092', answer), network:amqp(...), network:nats(...). The answer is true, an error text, a
-- table { error =, permanent =, delay =, reset =, hang = }, a function of the message, or a list of these.
for protocol, port in pairs(BROKER_PORTS) do
  network[protocol] = function(self, at, answer)
    local address, name = self:_locate(tostring(at), port, protocol)
    return self:_add(protocol, address, { name = protocol .. ' ' .. at, host = name, answer = answer == nil or answer })
  end
end

--- Gives a name addresses: network:name('mx.example.org', '10.0.0.2'). Without: one of its own, which is returned.
function network:name(name, address)
  return self._net:name(name, address)
end

--- Adds a zone: a master file, as of kumo.dns.configure_test_resolver.
function network:zone(text)
  self._net:zone(text)
end

--- Says that there is no such name.
function network:no_name(name)
  self._net:no_name(name)
end

--- Everything that was not scripted answers: HTTP with 200, SMTP (on whatever port, if the client waits for the server
--- to speak) with 250; every name has an address. With a table or functions: `{ http = answer, smtp = answer }`.
function network:answer_all(answers)
  self._all = answers or {}
  self._net:otherwise 'open'
end

function network:_default(protocol, address)
  local answer = (self._all or {})[protocol]
  local place = { name = protocol .. ' ' .. address, answer = answer == nil and (protocol == 'http' and 200 or 250) or answer }
  return self:_add(protocol, address, place)
end

-- --- what happened --------------------------------------------------------------------------------------------------

--- Notes a request; the peers call it.
---@param place? tr.scripted.Endpoint nil: nothing is scripted there
function network:_note(place, request)
  request.at = c.wall()
  self._requests[#self._requests + 1] = request
  request.n = #self._requests
  if place then
    place.count = place.count + 1
    request.endpoint = place.name
  end
  if self.on_request then
    self.on_request(request)
  end
end

function network:_stray(text)
  if not self._strays[text] then
    self._strays[text] = true
    self._strays[#self._strays + 1] = text
  end
end

--- The requests so far, in the order in which they came: HTTP requests, and SMTP transactions whose data has come.
---@param which? string an endpoint's name, as it was scripted, or a protocol
function network:requests(which)
  if which == nil then
    return self._requests
  end
  local found = {}
  for _, request in ipairs(self._requests) do
    local name = request.endpoint or ''
    if request.protocol == which or name == which or name == request.protocol .. ' ' .. which then
      found[#found + 1] = request
    end
  end
  return found
end

--- Forgets the requests so far.
function network:clear()
  for i = #self._requests, 1, -1 do
    self._requests[i] = nil
  end
end

--- What was asked for and not scripted: "192.0.2.1:25", "name example.org", "POST http://10.0.0.1:4242/other".
---@return string[]
function network:strays()
  for line in (self._net:strays() or ''):gmatch '[^\n]+' do
    self:_stray(line)
  end
  return { unpack(self._strays) }
end

--- Errors of answer functions.
---@return string[]
function network:errors()
  return self._errors
end

---@return tr.scripted.Endpoint[]
function network:endpoints()
  return self._endpoints
end

--- The real network again. Connections end, answers that wait are cancelled. A second time does nothing.
function network:close()
  self._net:close()
end

return scripted
