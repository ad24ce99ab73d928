--- `kumo.kafka`: the Kafka producer that policies use. The work is librdkafka's (runtime/transport/kafka.c); here is the
--- check of its configuration. Producers of one configuration share one librdkafka producer a worker.
--- Source: contract kafka.md.
local core = require 'tr.kafka'

---@class kumo.kafka
local kafka = {}

--- A producer. The configuration is passed on to librdkafka: strings and numbers by the names of its CONFIGURATION.md;
--- `enable.idempotence` is true unless acks, retries or others in it conflict. Raises, naming the property, for what
--- librdkafka refuses. Brokers are contacted in the background.
---@param config table<string, string|number> at least { ['bootstrap.servers'] = 'host:9092,...' }
---@return kumo.kafka.Producer
function kafka.build_producer(config)
  if type(config) ~= 'table' then
    error('kumo.kafka.build_producer: table expected, got ' .. type(config), 2)
  end
  local list = {}
  for name, value in pairs(config) do
    if type(name) ~= 'string' then
      error(('kumo.kafka.build_producer: names of properties expected, got the %s %s'):format(type(name), tostring(name)), 2)
    elseif type(value) == 'boolean' then
      error(("kumo.kafka.build_producer: property '%s': string expected, got a boolean: write '%s'"):format(name,
        tostring(value)), 2)
    elseif type(value) ~= 'string' and type(value) ~= 'number' then
      error(("kumo.kafka.build_producer: property '%s': string expected, got %s"):format(name, type(value)), 2)
    end
    list[#list + 1] = name
    list[#list + 1] = type(value) == 'number' and ('%.14g'):format(value) or value
  end
  return core.open(list)
end

return kafka
