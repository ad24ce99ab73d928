--- What the hooks of brokers (log_hooks:new_kafka, new_amqp, new_nats) check when the policy is loaded, so that a slip is
--- seen then and not by the first record. No broker is contacted, no file with a secret is read. See docs/log-hooks.md.
local kumo = require 'kumo'
local utils = require 'policy-extras.policy_utils'

---@class log_hook_brokers
local brokers = {}

-- What the runtime adds to each message: a second one would leave it to the receiver which holds.
local OWN_HEADERS = { event_id = true, attempt = true, batch_id = true, ['nats-msg-id'] = true }

local function fail(format, ...)
  error(format:format(...), 0)
end

local function check_headers(headers, value_types)
  for name, value in pairs(headers or {}) do
    if OWN_HEADERS[name:lower()] then
      fail("field 'headers': '%s' is the runtime's own", name)
    elseif not value_types[type(value)] then
      fail("field 'headers': ['%s']: a %s cannot be sent", name, type(value))
    end
  end
end

--- An error of a check without its place and without the name of the function that was asked.
local function reason(err)
  return (tostring(err):gsub('^[^\n]-:%d+: ', ''):gsub('^kumo%.[%w_.]+: ', ''):gsub(', while processing .*$', ''))
end

--- "h1:9092,h2" of Kafka: each may have a protocol before it.
local function check_addresses(text)
  if not text:find '[^%s,]' then
    fail("field 'brokers': it is empty")
  end
  for item in text:gmatch '[^,]+' do
    item = item:match '^%s*(.-)%s*$'
    local host, port = item:gsub('^%w+://', ''):match '^(.-):?(%d*)$'
    if port == '' and item:match ':[^%]]*$' and not item:match '%]$' and not item:match '://[^:]*$' then
      host = ''
    end
    if host == '' or host:find '%s' or (port ~= '' and (tonumber(port) < 1 or tonumber(port) > 65535)) then
      fail("field 'brokers': 'host' or 'host:port' expected, got '%s'", item)
    end
  end
end

--- The configuration of librdkafka for checked options of new_kafka. Raises texts.
---@param options log_hooks.NewKafkaOptions
---@return table<string, string|number>
function brokers.kafka(options)
  local topic = options.topic
  if topic == '' or #topic > 249 or topic:find '[^%w._-]' or topic == '.' or topic == '..' then
    fail("field 'topic': 1 to 249 letters, digits, '.', '_' or '-' expected, got '%s'", topic)
  end
  check_addresses(options.brokers)
  check_headers(options.headers, { string = true })
  local config = utils.merge_into(options.config or {}, {
    ['bootstrap.servers'] = options.brokers,
    ['message.timeout.ms'] = 30000, -- the queue tries again, and knows what waits
    ['linger.ms'] = 5,
  })
  local ok, err = pcall(kumo.kafka.check, config)
  if not ok then
    fail("field 'config': %s", reason(err))
  end
  return config
end

local AMQP_HEADERS = { string = true, number = true, boolean = true, table = true }

---@param options log_hooks.NewAmqpOptions
function brokers.amqp(options)
  local exchange, key = options.exchange or '', options.routing_key
  if exchange == '' and key == '' then
    fail "field 'routing_key': it is empty; without an exchange it is the name of a queue"
  end
  for name, text in pairs { exchange = exchange, routing_key = key } do
    if #text > 255 then
      fail("field '%s': at most 255 bytes, got %d", name, #text)
    end
  end
  check_headers(options.headers, AMQP_HEADERS)
  local ok, err = pcall(kumo.amqp.check, options.connection)
  if not ok then
    fail("field 'connection': %s", (reason(err):gsub('^connection: ', '')))
  end
end

--- The configuration of kumo.nats.connect for checked options of new_nats. Raises texts.
---@param options log_hooks.NewNatsOptions
---@return kumo.nats.Config
function brokers.nats(options)
  local servers = options.servers
  for _, key in ipairs { 'servers', 'auth' } do
    if (options.config or {})[key] ~= nil then
      fail("field 'config': '%s' is a field of its own", key)
    end
  end
  local config = utils.merge_into(options.config or {}, {
    servers = type(servers) == 'string' and { servers } or servers,
    auth = options.auth,
    name = 'tailrace',
    request_timeout = '30s', -- of a batch; the queue tries again, and knows what waits
  })
  check_headers(options.headers, { string = true })
  if (' ' .. options.subject:gsub('%.', ' ') .. ' '):find ' [*>] ' then
    fail("field 'subject': '%s' has a wildcard, which is for subscribers", options.subject)
  end
  local ok, err = pcall(kumo.nats.check, config, options.subject)
  if not ok then
    local what = reason(err)
    fail(what:find '^subject: ' and "field 'subject': %s" or "%s", (what:gsub('^subject: ', '')))
  end
  return config
end

return brokers
