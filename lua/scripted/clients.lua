--- Stand-ins for the clients of brokers, as lua/kumo/kafka.lua, amqp.lua and nats.lua call them: for a network that is
--- played. What they are given goes to `send`, message by message.
local clients = {}

---@class tr.scripted.ClientMessage
---@field protocol 'kafka'|'amqp'|'nats'
---@field at any          of the connection: Kafka's bootstrap.servers, AMQP's connection, the servers of NATS
---@field target string   topic, subject, or "exchange/routing key"
---@field exchange? string
---@field routing_key? string
---@field key? string     Kafka's
---@field headers? table
---@field payload any     a text, or a message
---@field probe? boolean  AMQP: nothing is published, its exchange is looked for
---@field item any        what the caller gave for it

---@alias tr.scripted.Send fun(message: tr.scripted.ClientMessage): string?, boolean?   an error, and whether it is for good

--- The producer that tr.kafka.open() returns.
---@param config string[]   names and values
---@param send tr.scripted.Send
function clients.kafka(config, send)
  local servers
  for i = 1, #config, 2 do
    servers = config[i] == 'bootstrap.servers' and config[i + 1] or servers
  end
  local producer, offset = {}, -1

  local function produce(topic, key, payload, headers, item)
    local text, permanent = send {
      protocol = 'kafka', at = servers, target = topic, key = key, payload = payload, headers = headers, item = item,
    } -- stylua: ignore
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
    local text = produce(record.topic, record.key, record.payload, record.headers, record)
    if text then
      error(text, 0)
    end
    return 0, offset
  end

  function producer.send_batch(_, records)
    return all(#records, function(i)
      local record = records[i]
      return produce(record.topic, record.key, record.payload, record.headers, record)
    end)
  end

  function producer.send_messages(_, topic, messages, keys, headers)
    local failed, errors, permanents = all(#messages, function(i)
      return produce(topic, keys and keys[i] or nil, messages[i], headers, messages[i])
    end)
    if failed[1] then
      return failed, errors, permanents
    end
    return nil
  end

  function producer.close() end

  return producer
end

--- As tr.amqp.publish().
---@param send tr.scripted.Send
function clients.amqp_publish(send, connection, messages, template)
  local failed = {}
  for i, message in ipairs(messages) do
    local about = template or message
    local exchange, routing_key = about.exchange or '', about.routing_key or ''
    local text, permanent = send {
      protocol = 'amqp',
      at = connection,
      target = ('%s/%s'):format(exchange, routing_key),
      exchange = exchange,
      routing_key = routing_key,
      headers = about.headers,
      payload = template and message or message.payload or '',
      probe = not template and message.probe or nil,
      item = message,
    }
    if text then
      failed[#failed + 1] =
        { index = i, text = text, status = permanent and 'Returned' or 'Nack', reply_code = 0, permanent = permanent == true }
    end
  end
  return failed
end

--- The client that tr.nats.open() returns; tr.nats.connect() must not be called with it.
---@param config table
---@param send tr.scripted.Send
function clients.nats(config, send)
  local client, sequence = { double = true }, 0

  local function publish(message)
    local text, permanent = send {
      protocol = 'nats',
      at = config.servers,
      target = message.subject,
      headers = message.headers,
      payload = message.payload or '',
      item = message,
    }
    sequence = text and sequence or sequence + 1
    return text, permanent
  end

  function client.publish(_, message)
    local text = publish(message)
    if text then
      error(text, 0)
    end
    if message.await_ack == false then
      return {}
    end
    return { stream = 'script', sequence = sequence, domain = '', duplicate = false, value = '' }
  end

  function client.publish_batch(_, list)
    local failed = {}
    for i, message in ipairs(list) do
      local text, permanent = publish(message)
      if text then
        failed[#failed + 1] = { index = i, text = text, permanent = permanent == true, err_code = 0, code = 'EIO' }
      end
    end
    return failed
  end

  function client.publish_messages(_, subject, messages, headers)
    local failed = client:publish_batch(require('kumo.nats')._list(subject, messages, headers))
    return failed[1] and failed or nil
  end

  function client.close() end

  return client
end

--- Puts make(original) in place of a function of a module, where the program has it.
function clients.replace(module, name, make)
  if package.preload[module] then
    local core = require(module)
    core[name] = make(core[name])
  end
end

--- tr.nats.connect(), which a stand-in does not need.
function clients.replace_connect()
  clients.replace('tr.nats', 'connect', function(connect)
    return function(client, ...)
      if type(client) == 'table' and client.double then
        return
      end
      return connect(client, ...)
    end
  end)
end

return clients
