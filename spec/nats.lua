--- A NATS server of a spec: on a free port of loopback, in a directory of its own, with JetStream. Needs nats-server of
--- Debian and luasocket. What specs ask of it goes over the client protocol itself.
local helper = require 'helper'
local socket = require 'socket'
local kumo = require 'kumo'

local nats = {}

local SERVER = '/usr/sbin/nats-server'

---@class spec.nats
---@field port integer
---@field url string
local server = {}
server.__index = server

--- A server that is not started. `config`: more of its configuration. `login`: { user =, pass = } or { auth_token = } of
--- the spec's own requests. `plain`: without JetStream.
---@return spec.nats
function nats.new(config, login, plain)
  local dir = helper.dir()
  local self = setmetatable({ dir = dir, port = helper.free_port(), login = login or {} }, server)
  self.url = 'nats://127.0.0.1:' .. self.port
  self.config = helper.write(dir .. '/nats.conf', ([[
listen: "127.0.0.1:%d"
%s
%s
]]):format(self.port, plain and '' or ('jetstream { store_dir: "%s/store", max_file_store: 256MB }'):format(dir), config or ''))
  return self
end

---@return spec.nats
function nats.start(config, login, plain)
  local self = nats.new(config, login, plain)
  self:restart()
  return self
end

function server:restart()
  self.process = helper.start(('%s -c %s'):format(SERVER, self.dir .. '/nats.conf'))
  helper.wait_for('the server', function()
    assert(not self.process:status(), self.process:output() .. self.process:log())
    local probe = socket.connect('127.0.0.1', self.port)
    if probe then
      probe:close()
    end
    return probe
  end)
end

--- Ends it as a crash would.
function server:kill()
  self.process:signal 'KILL'
  self.process:wait()
end

--- SIGSTOP and SIGCONT: a server that hangs.
function server:hang(yes)
  if yes then
    helper.stop_process(self.process.pid)
  else
    self.process:signal 'CONT'
  end
end

function server:stop()
  if not self.process:status() then
    self:kill()
  end
end

--- A request over a connection of its own; the answer as a table.
local function ask(self, subject, payload)
  local sock = assert(socket.connect('127.0.0.1', self.port))
  sock:settimeout(60)
  local login = kumo.serde.json_encode {
    verbose = false, pedantic = false, headers = true, no_responders = true, lang = 'lua', version = '1',
    user = self.login.user, pass = self.login.pass, auth_token = self.login.auth_token,
  }
  assert(sock:receive '*l') -- INFO
  assert(sock:send(('CONNECT %s\r\nSUB _SPEC.1 1\r\nPUB %s _SPEC.1 %d\r\n%s\r\n'):format(login, subject, #payload, payload)))
  local answer
  while not answer do
    local line = assert(sock:receive '*l')
    local size = line:match '^MSG %S+ 1 (%d+)'
    if line == 'PING' then
      sock:send 'PONG\r\n'
    elseif size then
      answer = assert(sock:receive(tonumber(size)))
    elseif line:match '^HMSG' then
      answer = '{"no_responders":true}'
    else
      assert(not line:match '^%-ERR', line)
    end
  end
  sock:close()
  return kumo.serde.json_parse(answer)
end

--- Makes a stream of this subject in a file; `more`: of its configuration. JetStream may need a moment after a start.
function server:declare(name, subject, more)
  local config = { name = name, subjects = { subject }, storage = 'file', retention = 'limits', num_replicas = 1,
    max_consumers = -1, max_msgs = -1, max_bytes = -1, max_age = 0, discard = 'old' }
  for key, value in pairs(more or {}) do
    config[key] = value
  end
  helper.wait_for('the stream', function()
    local answer = ask(self, '$JS.API.STREAM.CREATE.' .. name, kumo.serde.json_encode(config))
    assert(not answer.error, answer.error and answer.error.description)
    return not answer.no_responders
  end)
end

--- Messages in the stream.
function server:count(name)
  local count
  helper.wait_for('the stream', function()
    local answer = ask(self, '$JS.API.STREAM.INFO.' .. name, '')
    count = answer.state and answer.state.messages
    return count
  end)
  return count
end

--- A message: payload and raw headers.
function server:get(name, sequence)
  local answer = ask(self, '$JS.API.STREAM.MSG.GET.' .. name, ('{"seq":%d}'):format(sequence))
  assert(answer.message, answer.error and answer.error.description)
  local function decode(text)
    return text and kumo.encode.base64_decode(text) or ''
  end
  return decode(answer.message.data), decode(answer.message.hdrs)
end

return nats
