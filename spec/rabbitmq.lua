--- A RabbitMQ broker of a spec: on free ports of loopback, in a directory of its own. Needs rabbitmq-server, amqp-tools
--- and luasocket of Debian.
local helper = require 'helper'
local socket = require 'socket'

local rabbitmq = {}

local SERVER = '/usr/lib/rabbitmq/bin/rabbitmq-server' -- not the wrapper, which changes the user

---@class spec.rabbitmq
---@field port integer
---@field tls_port integer
---@field ca_file string
---@field connection table for kumo.amqp
local broker = {}
broker.__index = broker

--- A CA of its own and a certificate for localhost, as ca.pem, cert.pem and key.pem of the directory.
local function make_certificates(dir)
  helper.write(dir .. '/names', 'subjectAltName = DNS:localhost\n')
  local text, status = helper.sh(([[cd '%s' && {
    openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 2 -subj '/CN=CA of a spec' &&
    openssl req -newkey rsa:2048 -nodes -keyout key.pem -out cert.csr -subj '/CN=localhost' &&
    openssl x509 -req -in cert.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out cert.pem; }]])
    :format(dir))
  assert(status == 0, text)
end

--- Starts a broker and waits until it takes connections. `config`: more lines of rabbitmq.conf. It talks TLS as well, on
--- `tls_port` as localhost, with a certificate of the CA in `ca_file`.
---@return spec.rabbitmq
function rabbitmq.start(config)
  local dir = helper.dir()
  local self = setmetatable({ dir = dir, port = helper.free_port() }, broker)
  make_certificates(dir)
  self.tls_port, self.ca_file = helper.free_port(), dir .. '/ca.pem'
  config = ([[
%s
listeners.ssl.1 = 127.0.0.1:%d
ssl_options.cacertfile = %s/ca.pem
ssl_options.certfile = %s/cert.pem
ssl_options.keyfile = %s/key.pem
handshake_timeout = 60000
ssl_handshake_timeout = 60000
]]):format(config or '', self.tls_port, dir, dir, dir)
  helper.write(dir .. '/rabbitmq.conf', ('log.console = true\nlog.console.level = warning\nlog.file = false\n%s\n'):format(
    config))
  helper.write(dir .. '/plugins', '[].\n')
  self.env = {
    HOME = dir,
    RABBITMQ_NODENAME = ('spec%d@localhost'):format(self.port),
    RABBITMQ_NODE_IP_ADDRESS = '127.0.0.1',
    RABBITMQ_NODE_PORT = self.port,
    RABBITMQ_DIST_PORT = helper.free_port(),
    ERL_EPMD_PORT = helper.free_port(),
    ERL_EPMD_ADDRESS = '127.0.0.1',
    RABBITMQ_MNESIA_BASE = dir .. '/mnesia',
    RABBITMQ_LOG_BASE = dir .. '/log',
    RABBITMQ_ENABLED_PLUGINS_FILE = dir .. '/plugins',
    RABBITMQ_CONFIG_FILE = dir .. '/rabbitmq',
    RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS = '+S 1',
  }
  self.connection = { host = '127.0.0.1', port = self.port }
  self:restart()
  return self
end

function broker:restart()
  self.process = helper.start(SERVER, self.env)
  helper.wait_for('the broker', function()
    assert(not self.process:status(), self.process:output() .. self.process:log())
    local probe = socket.connect('127.0.0.1', self.port)
    if probe then
      probe:close()
    end
    return probe
  end, 120)
end

--- The broker's own process: the one that the script has started.
local function beam(self)
  return (helper.sh(("pgrep -f '[b]eam.*-epmd_port %d '"):format(self.env.ERL_EPMD_PORT)):match '%d+')
end

--- Ends it as a crash would.
function broker:kill()
  os.execute(('kill -KILL %s 2>/dev/null'):format(beam(self) or ''))
  self.process:signal 'KILL'
  self.process:wait()
  helper.wait_for('its name server to miss it', function() -- before that no other node may have its name
    return not helper.sh(('ERL_EPMD_PORT=%d epmd -names'):format(self.env.ERL_EPMD_PORT)):find('name spec', 1, true)
  end)
end

--- SIGSTOP and SIGCONT: a peer that hangs.
function broker:hang(yes)
  if yes then
    helper.stop_process(beam(self))
  else
    os.execute('kill -CONT ' .. beam(self))
  end
end

--- Its disk alarm: it has less free space than it wants, or enough again. Publishers are blocked meanwhile.
function broker:alarm(yes)
  local cookie = io.open(self.dir .. '/.erlang.cookie'):read '*a'
  local text, status = helper.sh(([[ERL_EPMD_PORT=%d erl_call -sname spec%d@localhost -c %s -a 'rabbit_disk_monitor set_disk_free_limit [%s]']])
    :format(self.env.ERL_EPMD_PORT, self.port, cookie, yes and '1000000000000000' or '1000000'))
  assert(status == 0 and text:find 'ok', text)
end

--- Ends it for good, with its name server.
function broker:stop()
  if not self.process:status() then
    self:kill()
  end
  helper.wait_for("the end of the broker's name server", function() -- it refuses while it still sees the node
    return os.execute(('ERL_EPMD_PORT=%d epmd -kill >/dev/null 2>&1'):format(self.env.ERL_EPMD_PORT)) == 0
  end)
end

local function tool(self, name, args)
  local text, status = helper.sh(('amqp-%s -u amqp://127.0.0.1:%d %s'):format(name, self.port, args))
  return text, status
end

--- Connections that it has accepted so far, by its log (needs log.console.level = info).
function broker:accepted()
  return select(2, self.process:output():gsub('accepting AMQP connection', ''))
end

--- Makes a durable queue.
function broker:declare(queue)
  local text, status = tool(self, 'declare-queue', ('-d -q %s'):format(queue))
  assert(status == 0, text)
end

--- Takes a message out of the queue; nil when it is empty.
function broker:get(queue)
  local text, status = tool(self, 'get', ('-q %s'):format(queue))
  return status == 0 and text or nil
end

--- Takes `count` messages out of the queue, each a line.
function broker:take(queue, count)
  local text, status = tool(self, 'consume', ("-q %s -c %d -p 100 -- sh -c 'cat; echo'"):format(queue, count))
  assert(status == 0, text)
  local lines = {}
  for line in text:gmatch '[^\n]+' do
    lines[#lines + 1] = line
  end
  return lines
end

return rabbitmq
