--- Dry mode for the transports whose libraries have sockets of their own: what would be produced or published is told, and
--- answered as :dry says. lua/scripted.lua plays HTTP and SMTP.
local host = require 'tr.host'
local show = host.internal 'repl.show'

local doubles = {}

local GONE = 'this connection was made while the network was a script: the next one is real'

--- What a text or message says, for the trace.
local function payload_of(value)
  if type(value) == 'string' then
    return value
  end
  local ok, data = pcall(function()
    return value:get_data()
  end)
  return ok and data or tostring(value)
end

--- The error for the i-th item of a list, or nil: `answer` is nil or true (taken), a text, a function of the item, or a list
--- of these, whose last one stays.
local function refusal(flow, name, item)
  local answer = flow.answers[name]
  if type(answer) == 'table' then
    flow.turns[name] = math.min((flow.turns[name] or 0) + 1, #answer)
    answer = answer[flow.turns[name]]
  end
  if type(answer) == 'function' then
    answer = answer(item)
  end
  if answer == nil or answer == true then
    return nil
  end
  return type(answer) == 'string' and answer or name .. ' refuses it'
end

local function tell(flow, kind, head, payload)
  if flow.tracing then
    flow:line('connection', kind .. ', played by the script')
    flow:line('wire', '> ' .. show.plain(head) .. '\n> ' .. show.plain(payload:sub(1, 4000)))
  elseif flow.on_message then
    flow.on_message(kind .. ', ' .. head)
  end
end

local function check_dry(flow)
  if not flow.network then
    error(GONE, 0)
  end
end

-- --- Kafka ------------------------------------------------------------------------------------------------------------

local function kafka_double(flow, config)
  local brokers = '?'
  for i = 1, #config, 2 do
    brokers = config[i] == 'bootstrap.servers' and config[i + 1] or brokers
  end
  local producer = {}
  local offset = -1

  local function produce(topic, key, payload, item)
    check_dry(flow)
    tell(flow, 'Kafka at ' .. brokers, ('topic %s, key %s'):format(tostring(topic), key and show.quoted(key) or 'none'), payload)
    local text = refusal(flow, 'kafka', item)
    offset = text and offset or offset + 1
    return text
  end

  local function failures(list)
    local failed, errors, permanent = {}, {}, {}
    for i, text in pairs(list) do
      failed[#failed + 1] = i
      errors[i] = text
    end
    table.sort(failed)
    local texts = {}
    for n, i in ipairs(failed) do
      texts[n], permanent[n] = errors[i], false
    end
    return failed, texts, permanent
  end

  function producer:send(record)
    local text = produce(record.topic, record.key, payload_of(record.payload), record)
    if text then
      error(text, 0)
    end
    return 0, offset
  end

  function producer:send_batch(records)
    local list = {}
    for i, record in ipairs(records) do
      list[i] = produce(record.topic, record.key, payload_of(record.payload), record)
    end
    return failures(list)
  end

  function producer:send_messages(topic, messages, keys)
    local list, any = {}, false
    for i, message in ipairs(messages) do
      list[i] = produce(topic, keys and keys[i], payload_of(message), message)
      any = any or list[i] ~= nil
    end
    if any then
      return failures(list)
    end
    return nil
  end

  function producer.close() end

  return producer
end

-- --- AMQP -------------------------------------------------------------------------------------------------------------

local function amqp_publish(flow, connection, messages, template)
  local failed = {}
  for i, message in ipairs(messages) do
    local about = template or message
    local payload = template and payload_of(message) or payload_of(message.payload or '')
    tell(flow, ('AMQP at %s:%s'):format(tostring(connection.host), tostring(connection.port or 5672)),
      ('exchange %s, routing key %s'):format(show.quoted(about.exchange or ''), show.quoted(about.routing_key or '')), payload)
    local text = refusal(flow, 'amqp', message)
    if text then
      failed[#failed + 1] = { index = i, text = text, status = 'Nack', reply_code = 0, permanent = false }
    end
  end
  return failed
end

-- --- NATS -------------------------------------------------------------------------------------------------------------

local function nats_double(flow, config)
  local servers = type(config.servers) == 'table' and table.concat(config.servers, ',') or tostring(config.servers)
  local client, seq = { double = true }, 0

  local function publish(message)
    check_dry(flow)
    tell(flow, 'NATS at ' .. servers, 'subject ' .. show.quoted(message.subject or ''), payload_of(message.payload or ''))
    local text = refusal(flow, 'nats', message)
    seq = text and seq or seq + 1
    return text
  end

  function client:publish(message)
    local text = publish(message)
    if text then
      error(text, 0)
    end
    return message.await_ack ~= false and { stream = 'script', sequence = seq, domain = '', duplicate = false, value = '' } or {}
  end

  function client:publish_batch(list)
    local failed = {}
    for i, message in ipairs(list) do
      local text = publish(message)
      if text then
        failed[#failed + 1] = { index = i, text = text, permanent = false, err_code = 0, code = 'EIO' }
      end
    end
    return failed
  end

  function client:publish_messages(subject, messages, headers)
    local failed = self:publish_batch(require('kumo.nats')._list(subject, messages, headers))
    return failed[1] and failed or nil
  end

  function client.close() end

  return client
end

-- --- putting them in place ----------------------------------------------------------------------------------------------

local function replace(module, name, make)
  if package.preload[module] then
    local core = require(module)
    core[name] = make(core[name])
  end
end

--- While `flow` is dry, what opens a connection gets a double.
function doubles.install(flow)
  flow.turns = {}
  replace('tr.kafka', 'open', function(open)
    return function(config, ...)
      if flow.network then
        return kafka_double(flow, config)
      end
      return open(config, ...)
    end
  end)
  replace('tr.amqp', 'publish', function(publish)
    return function(connection, ...)
      if flow.network then
        return amqp_publish(flow, connection, ...)
      end
      return publish(connection, ...)
    end
  end)
  replace('tr.nats', 'open', function(open)
    return function(config, ...)
      if flow.network then
        return nats_double(flow, config)
      end
      return open(config, ...)
    end
  end)
  replace('tr.nats', 'connect', function(connect)
    return function(client, ...)
      if type(client) == 'table' and client.double then
        return
      end
      return connect(client, ...)
    end
  end)
  for module, what in pairs { ['tr.websocket'] = 'websockets are', ['tr.redis'] = 'Redis is' } do
    replace(module, module == 'tr.redis' and 'open' or 'new', function(open)
      return function(...)
        if flow.network then
          error(('dry: %s not played by the script; :live asks the real network'):format(what), 0)
        end
        return open(...)
      end
    end)
  end
end

return doubles
