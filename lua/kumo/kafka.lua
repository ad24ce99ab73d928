--- `kumo.kafka`: the Kafka producer that policies use. The work is librdkafka's (runtime/transport/kafka.c); here is the
--- check of its configuration. Producers of one configuration share one librdkafka producer a worker.
--- Source: contract kafka.md.
local core = require 'tr.kafka'

---@class kumo.kafka
local kafka = {}

--- Names and values of a configuration as texts: name, value ...
local function pairs_of(config, what)
  if type(config) ~= 'table' then
    error(('%s: table expected, got %s'):format(what, type(config)), 3)
  end
  local list = {}
  for name, value in pairs(config) do
    if type(name) ~= 'string' then
      error(('%s: names of properties expected, got the %s %s'):format(what, type(name), tostring(name)), 3)
    elseif type(value) == 'boolean' then
      error(("%s: property '%s': string expected, got a boolean: write '%s'"):format(what, name, tostring(value)), 3)
    elseif type(value) ~= 'string' and type(value) ~= 'number' then
      error(("%s: property '%s': string expected, got %s"):format(what, name, type(value)), 3)
    end
    list[#list + 1] = name
    list[#list + 1] = type(value) == 'number' and ('%.14g'):format(value) or value
  end
  return list
end

--- A producer. The configuration is passed on to librdkafka: strings and numbers by the names of its CONFIGURATION.md;
--- `enable.idempotence` is true unless acks, retries or others in it conflict. Raises, naming the property, for what
--- librdkafka refuses. Brokers are contacted in the background.
---@param config table<string, string|number> at least { ['bootstrap.servers'] = 'host:9092,...' }
---@return kumo.kafka.Producer
function kafka.build_producer(config)
  return core.open(pairs_of(config, 'kumo.kafka.build_producer'))
end

--- Raises what build_producer would raise of this configuration, and makes nothing: to be called at the top level of a
--- policy, so that a slip is seen when it is loaded. Not in the reference.
---@param config table<string, string|number>
function kafka.check(config)
  local wrong = core.check(pairs_of(config, 'kumo.kafka.check'))
  if wrong then
    error('kumo.kafka.check: ' .. wrong, 2)
  end
end

return kafka
