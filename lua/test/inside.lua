--- Inside of the state of a policy under test, before the policy is loaded: stands in for the client libraries of brokers
--- (their messages go to lua/scripted/broker.lua), and keeps os.exit from ending the tests.
local inside = {}

local TIMEOUT = '60s' -- as the libraries' own: a broker that does not answer

local client

--- Sends one message; nil, or the error and whether it is for good.
---@async
local function deliver(address, message)
  local kumo = require 'kumo'
  client = client or kumo.http.build_client { timeout = TIMEOUT }
  local ok, answer = pcall(function()
    local response = client:post('http://' .. address .. '/'):body(kumo.serde.json_encode(message)):send()
    return kumo.serde.json_parse(response:text())
  end)
  if not ok then
    local text = tostring(answer):gsub('^error sending request for url %(http://(.-)/%): ', '%1: ')
    return text, false
  end
  return answer.error, answer.permanent
end

local function bytes(value)
  return type(value) == 'string' and value or value ~= nil and value:get_data() or ''
end

local function with_port(address, port)
  return address:find ':%d+$' and address or ('%s:%d'):format(address, port)
end

-- --- Kafka ------------------------------------------------------------------------------------------------------------

local function kafka_open(config)
  local servers
  for i = 1, #config, 2 do
    servers = config[i] == 'bootstrap.servers' and config[i + 1] or servers
  end
  local address = with_port((servers or ''):match '[^,%s]+' or '', 9092)
  local producer, offset = {}, -1

  local function produce(topic, key, payload, headers)
    local text, permanent = deliver(
      address,
      { protocol = 'kafka', target = topic, key = key, payload = bytes(payload), headers = headers }
    )
    offset = text and offset or offset + 1
    return text, permanent
  end

  --- For each i of 1 to n one(i) -> text, permanent; as send_batch returns it.
  local function all(n, one)
    local failed, errors, permanents = {}, {}, {}
    for i = 1, n do
      local text, permanent = one(i)
      if text then
        failed[#failed + 1], errors[#errors + 1], permanents[#permanents + 1] = i, text, permanent == true
      end
    end
    return failed, errors, permanents
  end

  function producer.send(_, record)
    local text = produce(record.topic, record.key, record.payload, record.headers)
    if text then
      error(text, 0)
    end
    return 0, offset
  end

  function producer.send_batch(_, records)
    return all(#records, function(i)
      local record = records[i]
      return produce(record.topic, record.key, record.payload, record.headers)
    end)
  end

  function producer.send_messages(_, topic, messages, keys, headers)
    local failed, errors, permanents = all(#messages, function(i)
      return produce(topic, keys and keys[i] or nil, messages[i], headers)
    end)
    if failed[1] then
      return failed, errors, permanents
    end
    return nil
  end

  function producer.close() end

  return producer
end

-- --- AMQP ---------------------------------------------------------------------------------------------------------------

local function amqp_publish(connection, messages, template)
  local address = with_port(connection.host or connection.hosts and connection.hosts[1] or '', connection.port or 5672)
  local failed = {}
  for i, message in ipairs(messages) do
    local about = template or message
    local text, permanent = deliver(address, {
      protocol = 'amqp',
      probe = not template and message.probe or nil,
      target = ('%s/%s'):format(about.exchange or '', about.routing_key or ''),
      headers = about.headers,
      payload = bytes(template and message or message.payload),
    })
    if text then
      failed[#failed + 1] =
        { index = i, text = text, status = permanent and 'Returned' or 'Nack', reply_code = 0, permanent = permanent == true }
    end
  end
  return failed
end

-- --- NATS ---------------------------------------------------------------------------------------------------------------

local function nats_open(config)
  local first = type(config.servers) == 'table' and config.servers[1] or config.servers or ''
  local address = with_port((tostring(first):gsub('^%a+://', ''):gsub('^[^@/]*@', '')), 4222)
  local nats, sequence = { double = true }, 0

  local function publish(message)
    local text, permanent = deliver(
      address,
      { protocol = 'nats', target = message.subject, headers = message.headers, payload = bytes(message.payload) }
    )
    sequence = text and sequence or sequence + 1
    return text, permanent
  end

  function nats.publish(_, message)
    local text = publish(message)
    if text then
      error(text, 0)
    end
    if message.await_ack == false then
      return {}
    end
    return { stream = 'script', sequence = sequence, domain = '', duplicate = false, value = '' }
  end

  function nats.publish_batch(_, list)
    local failed = {}
    for i, message in ipairs(list) do
      local text, permanent = publish(message)
      if text then
        failed[#failed + 1] = { index = i, text = text, permanent = permanent == true, err_code = 0, code = 'EIO' }
      end
    end
    return failed
  end

  function nats.publish_messages(_, subject, messages, headers)
    local failed = nats:publish_batch(require('kumo.nats')._list(subject, messages, headers))
    return failed[1] and failed or nil
  end

  function nats.close() end

  return nats
end

-- --- in place -------------------------------------------------------------------------------------------------------------

local function replace(module, name, value)
  if package.preload[module] then
    require(module)[name] = value
  end
end

--- Once, in a state whose network is scripted or not.
---@param is_scripted boolean
function inside.install(is_scripted)
  function os.exit(code) -- luacheck: ignore
    error(('os.exit(%s) in a policy under test'):format(code == nil and '' or tostring(code)), 2)
  end
  if not is_scripted then
    return
  end
  replace('tr.kafka', 'open', kafka_open)
  replace('tr.amqp', 'publish', amqp_publish)
  replace('tr.nats', 'open', nats_open)
  local connect = package.preload['tr.nats'] and require('tr.nats').connect
  replace('tr.nats', 'connect', function(nats, ...)
    if type(nats) == 'table' and nats.double then
      return
    end
    return connect(nats, ...)
  end)
  replace('tr.websocket', 'new', function()
    error('websockets cannot be scripted', 0)
  end)
end

return inside
