--- `kumo.amqp`: publishing over AMQP 0-9-1. The work is done by runtime/transport/amqp*.c; here are the objects of the
--- interface. A call returns when the broker has confirmed, and raises when it has not: the reference returns at once.
--- Source: contract amqp.md; differences: docs/compatibility.md.
local core = require 'tr.amqp'
local secrets = require('kumo.secrets').secrets

---@class kumo.amqp
local amqp = {}

local CREDENTIALS = { 'username', 'password' }

--- Key sources of the connection become text; the caller's table is left alone. `read` false: the sources are not read,
--- texts stand in for them.
local function resolve(connection, read)
  local copy
  for _, key in ipairs(CREDENTIALS) do
    if type(connection[key]) == 'table' then
      if not copy then
        copy = {}
        for name, value in pairs(connection) do
          copy[name] = value
        end
      end
      copy[key] = read and secrets.load(connection[key]):gsub('[\r\n]+$', '') or 'not read'
    end
  end
  return copy or connection
end

local function check_connection(connection, what)
  if type(connection) ~= 'table' then
    error(('%s: connection: table expected, got %s'):format(what, type(connection)), 3)
  end
  return resolve(connection, true)
end

--- Raises what the other calls would raise of this connection, and makes nothing: to be called at the top level of a policy,
--- so that a slip is seen when it is loaded. Key sources are not read. Not in the reference.
---@param connection kumo.amqp.Connection
function amqp.check(connection)
  if type(connection) ~= 'table' then
    error('kumo.amqp.check: table expected, got ' .. type(connection), 2)
  end
  core.check(resolve(connection, false))
end

--- Publishes one message and waits for the broker's confirm. Raises when the broker refuses or returns it, or the
--- connection is lost: then it may have arrived all the same.
---@async
---@param params kumo.amqp.Message with `connection`
function amqp.basic_publish(params)
  if type(params) ~= 'table' then
    error('kumo.amqp.basic_publish: table expected, got ' .. type(params), 2)
  end
  local failed = core.publish(check_connection(params.connection, 'kumo.amqp.basic_publish'), { params })
  if failed[1] then
    error(failed[1].text, 0)
  end
end

--- Publishes a list of messages as one window: all are handed over, then all confirms are awaited. Not in the reference.
---@async
---@param connection kumo.amqp.Connection
---@param messages kumo.amqp.Message[]
---@return kumo.amqp.Failure[] failed in ascending order of `index`; empty: the broker has all
function amqp.publish_batch(connection, messages)
  if type(messages) ~= 'table' then
    error('kumo.amqp.publish_batch: messages: table expected, got ' .. type(messages), 2)
  end
  return core.publish(check_connection(connection, 'kumo.amqp.publish_batch'), messages)
end

--- publish_batch of what messages hold, from where it lies: `template` says all but the payload. Each has its event_id as
--- its message id and, beside the template's headers, its `attempt`. Not in the reference.
---@async
---@param connection kumo.amqp.Connection
---@param messages kumo.Message[]
---@param template kumo.amqp.Message without `connection` and `payload`
---@return kumo.amqp.Failure[] failed in ascending order of `index`; empty: the broker has all
function amqp.publish_messages(connection, messages, template)
  if type(messages) ~= 'table' or type(template) ~= 'table' then
    error(('kumo.amqp.publish_messages: tables expected, got %s and %s'):format(type(messages), type(template)), 2)
  end
  return core.publish(check_connection(connection, 'kumo.amqp.publish_messages'), messages, template)
end

-- --- the deprecated client ---------------------------------------------------------------------------------

local CONNECT_TIMEOUT_S = 20 -- of the contract

local function decode(text)
  return text and (text:gsub('%%(%x%x)', function(hex)
    return string.char(tonumber(hex, 16))
  end))
end

local function parse_uri(uri)
  local scheme, rest = uri:match '^(%a+)://(.*)$'
  if scheme ~= 'amqp' and scheme ~= 'amqps' then
    error(("kumo.amqp.build_client: '%s': amqp:// or amqps:// expected"):format(uri), 3)
  end
  local front, query = rest:match '^([^?]*)%??(.*)$'
  local authority, vhost = front:match '^([^/]*)/?(.*)$'
  local login, place = authority:match '^(.*)@(.*)$'
  place = place or authority
  local user, password = (login or ''):match '^([^:]*):?(.*)$'
  local host, port = place:match '^(%[.*%]):?(%d*)$'
  if not host then
    host, port = place:match '^([^:]*):?(%d*)$'
  end
  if not host or host == '' then
    error(("kumo.amqp.build_client: '%s': a host is expected"):format(uri), 3)
  end
  local connection = {
    host = host:match '^%[(.*)%]$' or host,
    port = tonumber(port) or (scheme == 'amqps' and 5671 or 5672),
    username = user ~= '' and decode(user) or nil,
    password = login and login:find ':' and decode(password) or nil,
    vhost = vhost ~= '' and decode(vhost) or nil,
    enable_tls = scheme == 'amqps',
    connect_timeout = CONNECT_TIMEOUT_S,
    pool_size = 1,
  }
  for name, value in query:gmatch '([^&=]+)=([^&]*)' do
    if name == 'heartbeat' then
      connection.heartbeat = tonumber(value)
    elseif name == 'connection_timeout' then
      connection.connect_timeout = (tonumber(value) or CONNECT_TIMEOUT_S * 1000) / 1000
    elseif name == 'cacertfile' then
      connection.root_ca_cert = decode(value)
    elseif name == 'certfile' then
      connection.client_cert = decode(value)
    elseif name == 'keyfile' then
      connection.client_private_key = decode(value)
    end
  end
  return connection
end

---@class kumo.amqp.Client
---@field package connection table? nil: closed
local client = {}
client.__index = client

---@class kumo.amqp.Confirm
---@field package result table?
local confirm = {}
confirm.__index = confirm

--- What became of the message: once.
---@return { status: 'Ack'|'Nack', reply_code: integer?, reply_text: string? }
function confirm:wait()
  local result = self.result
  if not result then
    error('confirmation already taken!?', 2)
  end
  self.result = nil
  return result
end

local function publish(self, params, connection)
  if type(params) ~= 'table' then
    error('client:publish: table expected, got ' .. type(params), 3)
  elseif not self.connection then
    error('client:publish: the client was closed', 3)
  end
  local options = params.options or {}
  local message = {}
  for name, value in pairs(params.properties or {}) do
    message[name == 'type' and 'message_type' or name] = value
  end
  message.routing_key, message.payload, message.exchange = params.routing_key, params.payload, params.exchange
  message.mandatory, message.immediate = options.mandatory, options.immediate
  local failure = core.publish(connection or self.connection, { message })[1]
  if not failure then
    return { status = 'Ack' }
  elseif failure.status == 'Nack' then
    return { status = 'Nack' }
  elseif failure.status == 'Returned' then
    return { status = 'Ack', reply_code = failure.reply_code, reply_text = failure.text }
  end
  error(failure.text, 0)
end

--- Publishes and awaits the broker's confirm, which wait() then gives.
---@async
---@param params { routing_key: string, payload: string, exchange?: string, options?: table, properties?: table }
---@return kumo.amqp.Confirm
function client:publish(params)
  return setmetatable({ result = publish(self, params) }, confirm)
end

--- publish and wait within so many milliseconds; raises after.
---@async
---@param params table
---@param millis number
---@return { status: 'Ack'|'Nack', reply_code: integer?, reply_text: string? }
function client:publish_with_timeout(params, millis)
  if type(millis) ~= 'number' or not (millis > 0) then -- luacheck: ignore (NaN)
    error('client:publish_with_timeout: milliseconds > 0 expected', 2)
  end
  local connection = {}
  for name, value in pairs(self.connection or {}) do
    connection[name] = value
  end
  connection.publish_timeout = millis / 1000
  return publish(self, params, connection)
end

--- Ends its use. The connection itself is closed when it has been idle.
function client:close()
  if not self.connection then
    error('client:close: the client was closed', 2)
  end
  self.connection = nil
end

--- A client of one connection, which is made at once. Deprecated: use basic_publish.
---@async
---@param uri string amqp://user:password@host:port/vhost?heartbeat=SECONDS&connection_timeout=MILLISECONDS, or amqps://
---@return kumo.amqp.Client
function amqp.build_client(uri)
  if type(uri) ~= 'string' then
    error('kumo.amqp.build_client: string expected, got ' .. type(uri), 2)
  end
  local connection = parse_uri(uri)
  local failure = core.publish(connection, { { probe = true } })[1]
  if failure then
    error(failure.text, 0)
  end
  return setmetatable({ connection = connection }, client)
end

return amqp
