--- Inside of the state of a policy under test, before the policy is loaded: stands in for the clients of brokers
--- (their messages go to lua/scripted/broker.lua), and keeps os.exit from ending the tests.
local host = require 'tr.host'
local clients = host.internal 'scripted.clients'

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

-- Where a script plays the broker: the first of several.
local ADDRESS = {
  kafka = function(servers)
    return with_port((servers or ''):match '[^,%s]+' or '', 9092)
  end,
  amqp = function(connection)
    return with_port(connection.host or connection.hosts and connection.hosts[1] or '', connection.port or 5672)
  end,
  nats = function(servers)
    local first = type(servers) == 'table' and servers[1] or servers or ''
    return with_port((tostring(first):gsub('^%a+://', ''):gsub('^[^@/]*@', '')), 4222)
  end,
}

local function send(message)
  return deliver(ADDRESS[message.protocol](message.at), {
    protocol = message.protocol,
    target = message.target,
    key = message.key,
    headers = message.headers,
    payload = bytes(message.payload),
    probe = message.probe,
  })
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
  clients.replace('tr.kafka', 'open', function()
    return function(config)
      return clients.kafka(config, send)
    end
  end)
  clients.replace('tr.amqp', 'publish', function()
    return function(...)
      return clients.amqp_publish(send, ...)
    end
  end)
  clients.replace('tr.nats', 'open', function()
    return function(config)
      return clients.nats(config, send)
    end
  end)
  clients.replace_connect()
  clients.replace('tr.websocket', 'new', function()
    return function()
      error('websockets cannot be scripted', 0)
    end
  end)
end

return inside
