--- Dry mode for the transports whose libraries have sockets of their own: what would be produced or published is told, and
--- answered as :dry says. lua/scripted.lua plays HTTP and SMTP.
local host = require 'tr.host'
local show = host.internal 'repl.show'
local clients = host.internal 'scripted.clients'

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

local PLAYED = {
  kafka = function(message)
    local key = message.key and show.quoted(message.key) or 'none'
    return 'Kafka at ' .. (message.at or '?'), ('topic %s, key %s'):format(tostring(message.target), key)
  end,
  amqp = function(message)
    return ('AMQP at %s:%s'):format(tostring(message.at.host), tostring(message.at.port or 5672)),
      ('exchange %s, routing key %s'):format(show.quoted(message.exchange), show.quoted(message.routing_key))
  end,
  nats = function(message)
    local servers = type(message.at) == 'table' and table.concat(message.at, ',') or tostring(message.at)
    return 'NATS at ' .. servers, 'subject ' .. show.quoted(message.target or '')
  end,
}

local function sender(flow)
  return function(message)
    if not flow.network then
      error(GONE, 0)
    end
    local kind, head = PLAYED[message.protocol](message)
    tell(flow, kind, head, payload_of(message.payload))
    return refusal(flow, message.protocol, message.item)
  end
end

--- While `flow` is dry, what opens a connection gets a double.
function doubles.install(flow)
  local send = sender(flow)
  flow.turns = {}
  clients.replace('tr.kafka', 'open', function(open)
    return function(config, ...)
      if flow.network then
        return clients.kafka(config, send)
      end
      return open(config, ...)
    end
  end)
  clients.replace('tr.amqp', 'publish', function(publish)
    return function(connection, ...)
      if flow.network then
        return clients.amqp_publish(send, connection, ...)
      end
      return publish(connection, ...)
    end
  end)
  clients.replace('tr.nats', 'open', function(open)
    return function(config, ...)
      if flow.network then
        return clients.nats(config, send)
      end
      return open(config, ...)
    end
  end)
  clients.replace_connect()
  for module, what in pairs { ['tr.websocket'] = 'websockets are', ['tr.redis'] = 'Redis is' } do
    clients.replace(module, module == 'tr.redis' and 'open' or 'new', function(open)
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
