--- Plays brokers (AMQP, Kafka, NATS) of a scripted network. The client libraries of two of them have sockets of their own,
--- so what is played is one level higher: lua/test/inside.lua stands in for the client and sends each message here, as a
--- small HTTP request to the broker's address.
local host = require 'tr.host'
local http = host.internal 'scripted.http'
local c = host.c

local broker = {}

local KEYS = { error = true, permanent = true, delay = true, reset = true, hang = true, connect = true }

---@class tr.scripted.BrokerMessage
---@field protocol string 'amqp', 'kafka' or 'nats'
---@field n integer its number in the network
---@field at number unix seconds
---@field target string topic, subject, or "exchange/routing key"
---@field key? string Kafka's
---@field body string the payload
---@field outcome? string 'taken', or the error; nil: no answer yet

local function normal(answer)
  if answer == nil or answer == true or answer == 'ok' then
    return {}
  elseif answer == false then
    return { error = 'refused by the script' }
  elseif type(answer) == 'string' then
    return { error = answer }
  elseif type(answer) ~= 'table' then
    error(('an answer of a broker is true, an error text or a table, got %s'):format(type(answer)), 0)
  end
  for key in pairs(answer) do
    if not KEYS[key] then
      error(
        ("unknown field '%s' in a broker's answer, expected one of 'error', 'permanent', 'delay', 'reset', 'hang'"):format(
          tostring(key)
        ),
        0
      )
    end
  end
  return answer
end

local function answer_one(network, wired, place, message)
  local note = {
    protocol = place.protocol,
    target = message.target,
    key = message.key,
    headers = message.headers,
    body = message.payload,
    address = wired.address,
  }
  setmetatable(note, http.request_meta)
  network:_note(place, note)
  place.waiting = place.waiting + 1
  local answer = normal(place:next(place.answer, note))
  if answer.delay then
    c.sleep((c.duration(answer.delay, 'answer', 'delay')))
  end
  if answer.hang then
    repeat
    until not wired:fill()
  end
  place.waiting = place.waiting - 1
  if answer.hang then
    return false
  elseif answer.reset then
    wired.conn:reset()
    return false
  end
  note.outcome = answer.error or 'taken'
  return wired:write(http.compose({ body = { error = answer.error, permanent = answer.permanent == true } }, 'POST'))
end

--- Serves one connection until it ends.
---@async
function broker.serve(network, wired, places)
  while true do
    local request = http.read_request(wired, 'http')
    if not request then
      return
    end
    local message = request:json()
    if message.protocol ~= places.protocol then
      error(('%s is a %s broker, and is spoken to in %s'):format(wired.address, places.protocol, message.protocol), 0)
    elseif message.probe then
      wired:write(http.compose({ body = {} }, 'POST'))
    elseif not answer_one(network, wired, places[1], message) then
      return
    end
  end
end

return broker
