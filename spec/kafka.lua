--- A Kafka broker of a spec: Apache's own, on free ports of loopback, in a directory of its own (spec/kafka_broker.sh). Where
--- its jars cannot be had within FETCH_S, specs of it are pending and say why; KAFKA_BROKER=on makes that a failure, =off
--- leaves them out.
local helper = require 'helper'
local socket = require 'socket'

local kafka = {}

local FETCH_S = 40 -- Maven takes about 15; what it has fetched stays in build/kafka
local SCRIPT = 'spec/kafka_broker.sh'

local reason -- nil: not asked yet; '': there is one

--- Nothing, or why there is none here.
---@return string? why
function kafka.missing()
  local want = os.getenv 'KAFKA_BROKER' or ''
  if want == 'off' then
    return 'KAFKA_BROKER=off'
  end
  if not reason then
    local text, status = helper.sh(('timeout %d sh %s fetch'):format(FETCH_S, SCRIPT))
    reason = status == 0 and '' or status == 124 and ('Maven Central took longer than %d s'):format(FETCH_S) or text:gsub('\n$', '')
  end
  assert(reason == '' or want ~= 'on', reason)
  return reason ~= '' and reason or nil
end

---@class spec.kafka
---@field brokers string    for log_hooks:new_kafka
---@field sasl string       the same with SASL PLAIN, user `events`, password `secret`
---@field dir string
local broker = {}
broker.__index = broker

local function free_port()
  local listener = assert(socket.bind('127.0.0.1', 0))
  local _, port = listener:getsockname()
  listener:close()
  return tonumber(port)
end

--- A broker that is not started. `config`: more lines of its server.properties.
---@return spec.kafka
function kafka.new(config)
  local self = setmetatable({ dir = helper.dir(), port = free_port(), control = free_port() }, broker)
  local sasl = free_port()
  self.brokers, self.sasl = '127.0.0.1:' .. self.port, '127.0.0.1:' .. sasl
  helper.write(self.dir .. '/more.properties', ([[
listeners=PLAINTEXT://127.0.0.1:%d,CONTROLLER://127.0.0.1:%d,LOGIN://127.0.0.1:%d
advertised.listeners=PLAINTEXT://127.0.0.1:%d,LOGIN://127.0.0.1:%d
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,LOGIN:SASL_PLAINTEXT
sasl.enabled.mechanisms=PLAIN
listener.name.login.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_events="secret";
%s
]]):format(self.port, self.control, sasl, self.port, sasl, config or ''))
  return self
end

--- Starts it and waits until it takes connections.
function broker:restart()
  self.process = helper.start(('sh %s run %s %d %d'):format(SCRIPT, self.dir, self.port, self.control))
  helper.wait_for('the broker', function()
    assert(not self.process:status(), self.process:output() .. self.process:log())
    local probe = socket.connect('127.0.0.1', self.port)
    if probe then
      probe:close()
    end
    return probe
  end, 120)
end

function broker:be_there()
  if not self.process or self.process:status() then
    self:restart()
  end
end

--- Ends it as a crash would.
function broker:kill()
  self.process:signal 'KILL'
  self.process:wait()
end

function broker:stop()
  if self.process and not self.process:status() then
    self:kill()
  end
end

--- The event ids in a topic (not compressed): how many, and how many different ones. Read from the broker's own files.
---@return integer count
---@return integer different
function broker:event_ids(topic)
  local count, different, seen = 0, 0, {}
  local text = helper.sh(([[cat %s/data/%s-*/*.log | grep -ao '"event_id":"[0-9a-f]*"']]):format(self.dir, topic))
  for id in text:gmatch '"event_id":"(%x+)"' do
    count = count + 1
    different = different + (seen[id] and 0 or 1)
    seen[id] = true
  end
  return count, different
end

return kafka
