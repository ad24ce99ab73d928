--- A Kafka broker of a spec: Apache's own, on free ports of loopback, in a directory of its own (spec/kafka_broker.sh). Where
--- its jars cannot be had within FETCH_S, specs of it are pending and say why; KAFKA_BROKER=on makes that a failure, =off
--- leaves them out.
local ffi = require 'ffi'
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

--- A broker that is not started. `config`: more lines of its server.properties. Its data is in two directories, data
--- and data2; half of the partitions fail with data2.
---@return spec.kafka
function kafka.new(config)
  local self = setmetatable({ dir = helper.dir(), port = helper.free_port(), control = helper.free_port() }, broker)
  local sasl = helper.free_port()
  self.brokers, self.sasl = '127.0.0.1:' .. self.port, '127.0.0.1:' .. sasl
  helper.write(self.dir .. '/more.properties', ([[
listeners=PLAINTEXT://127.0.0.1:%d,CONTROLLER://127.0.0.1:%d,LOGIN://127.0.0.1:%d
advertised.listeners=PLAINTEXT://127.0.0.1:%d,LOGIN://127.0.0.1:%d
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,LOGIN:SASL_PLAINTEXT
sasl.enabled.mechanisms=PLAIN
log.dirs=%s/data,%s/data2
metadata.log.dir=%s/data
listener.name.login.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_events="secret";
%s
]]):format(self.port, self.control, sasl, self.port, sasl, self.dir, self.dir, self.dir, config or ''))
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

-- --- administration, by librdkafka itself, which the runtime has in it ----------------------------------------------

ffi.cdef [[
  typedef struct rd_kafka_s rd_kafka_t;
  typedef struct rd_kafka_conf_s rd_kafka_conf_t;
  typedef struct rd_kafka_queue_s rd_kafka_queue_t;
  typedef struct rd_kafka_op_s rd_kafka_event_t;
  typedef struct rd_kafka_NewTopic_s rd_kafka_NewTopic_t;
  typedef struct rd_kafka_DeleteTopic_s rd_kafka_DeleteTopic_t;
  typedef struct rd_kafka_topic_result_s rd_kafka_topic_result_t;
  rd_kafka_conf_t *rd_kafka_conf_new(void);
  int rd_kafka_conf_set(rd_kafka_conf_t *conf, const char *name, const char *value, char *errstr, size_t errstr_size);
  rd_kafka_t *rd_kafka_new(int type, rd_kafka_conf_t *conf, char *errstr, size_t errstr_size);
  void rd_kafka_destroy(rd_kafka_t *rk);
  rd_kafka_queue_t *rd_kafka_queue_new(rd_kafka_t *rk);
  void rd_kafka_queue_destroy(rd_kafka_queue_t *queue);
  rd_kafka_event_t *rd_kafka_queue_poll(rd_kafka_queue_t *queue, int timeout_ms);
  void rd_kafka_event_destroy(rd_kafka_event_t *event);
  int rd_kafka_event_error(rd_kafka_event_t *event);
  const char *rd_kafka_event_error_string(rd_kafka_event_t *event);
  rd_kafka_NewTopic_t *rd_kafka_NewTopic_new(const char *topic, int partitions, int replicas, char *errstr, size_t errstr_size);
  int rd_kafka_NewTopic_set_config(rd_kafka_NewTopic_t *topic, const char *name, const char *value);
  void rd_kafka_NewTopic_destroy(rd_kafka_NewTopic_t *topic);
  rd_kafka_DeleteTopic_t *rd_kafka_DeleteTopic_new(const char *topic);
  void rd_kafka_DeleteTopic_destroy(rd_kafka_DeleteTopic_t *topic);
  void rd_kafka_CreateTopics(rd_kafka_t *rk, rd_kafka_NewTopic_t **topics, size_t count, const void *options, rd_kafka_queue_t *queue);
  void rd_kafka_DeleteTopics(rd_kafka_t *rk, rd_kafka_DeleteTopic_t **topics, size_t count, const void *options, rd_kafka_queue_t *queue);
]]

--- Runs ask(client, queue) and waits for the broker's answer. Returns nothing, or what failed.
local function administer(brokers, ask)
  local text = ffi.new 'char[512]'
  local conf = ffi.C.rd_kafka_conf_new()
  assert(ffi.C.rd_kafka_conf_set(conf, 'bootstrap.servers', brokers, text, 512) == 0, ffi.string(text))
  local client = ffi.C.rd_kafka_new(0, conf, text, 512)
  assert(client ~= nil, ffi.string(text))
  local queue = ffi.C.rd_kafka_queue_new(client)
  ask(client, queue)
  local event = ffi.C.rd_kafka_queue_poll(queue, 60000)
  local err = event == nil and 'no answer' or ffi.C.rd_kafka_event_error(event) ~= 0
    and ffi.string(ffi.C.rd_kafka_event_error_string(event))
  if event ~= nil then
    ffi.C.rd_kafka_event_destroy(event)
  end
  ffi.C.rd_kafka_queue_destroy(queue)
  ffi.C.rd_kafka_destroy(client)
  return err or nil
end

--- The same until it is done: a broker that has just started, or was too slow for its own heartbeat, has nobody to lead a
--- partition for a moment. done: an error that an earlier try has brought about.
local function administer_until(brokers, what, done, ask)
  local err
  local ok = pcall(helper.wait_for, what, function()
    err = administer(brokers, ask)
    return not err or err:find(done)
  end)
  assert(ok, err)
end

--- Makes a topic. `config`: its own properties, each a text.
function broker:create_topic(name, partitions, config)
  administer_until(self.brokers, 'the topic', 'already exists', function(client, queue)
    local topic = ffi.new('rd_kafka_NewTopic_t *[1]', { ffi.C.rd_kafka_NewTopic_new(name, partitions, 1, nil, 0) })
    for key, value in pairs(config or {}) do
      ffi.C.rd_kafka_NewTopic_set_config(topic[0], key, value)
    end
    ffi.C.rd_kafka_CreateTopics(client, topic, 1, nil, queue)
    ffi.C.rd_kafka_NewTopic_destroy(topic[0])
  end)
end

--- Deletes a topic. Its files stay for a minute under other names: event_ids() finds them.
function broker:delete_topic(name)
  administer_until(self.brokers, 'the end of the topic', 'Unknown topic', function(client, queue)
    local topic = ffi.new('rd_kafka_DeleteTopic_t *[1]', { ffi.C.rd_kafka_DeleteTopic_new(name) })
    ffi.C.rd_kafka_DeleteTopics(client, topic, 1, nil, queue)
    ffi.C.rd_kafka_DeleteTopic_destroy(topic[0])
  end)
end

--- The event ids in a topic (not compressed): how many, and how many different ones. Read from the broker's own files.
---@return integer count
---@return integer different
function broker:event_ids(topic)
  local count, different, seen = 0, 0, {}
  local text = helper.sh(([[cat %s/data*/%s-*/*.log | grep -ao '"event_id":"[0-9a-f]*"']]):format(self.dir, topic))
  for id in text:gmatch '"event_id":"(%x+)"' do
    count = count + 1
    different = different + (seen[id] and 0 or 1)
    seen[id] = true
  end
  return count, different
end

return kafka
