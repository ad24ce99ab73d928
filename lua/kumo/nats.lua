--- `kumo.nats`: publishing to NATS, with JetStream's acknowledgement or without. The work is done by
--- runtime/transport/nats*.c; here is what the configuration may say. Clients of one configuration share a connection a
--- worker. Source: contract nats-redis-sqlite.md; differences: docs/compatibility.md.
local core = require 'tr.nats'
local secrets = require('kumo.secrets').secrets

---@class kumo.nats
local nats = {}

local KEY_SOURCES = { 'username', 'password', 'token' } -- credentials is a file that is read at each connect

local function copy(from)
  local to = {}
  for name, value in pairs(from) do
    to[name] = value
  end
  return to
end

local AUTH = { username = true, password = true, token = true, credentials = true }

--- Key sources become text. A string is the path of a file. Errors name keys only: the values are secrets. `read` false:
--- the sources are not read, texts stand in for them.
local function resolve(auth, read)
  if auth == nil then
    return nil
  elseif type(auth) ~= 'table' then
    error('kumo.nats.connect: auth: table expected, got ' .. type(auth), 3)
  end
  for key in pairs(auth) do
    if not AUTH[key] then
      error(("kumo.nats.connect: auth: unknown field '%s', expected one of 'username', 'password', 'token', 'credentials'")
        :format(tostring(key)), 3)
    end
  end
  if auth.credentials ~= nil and type(auth.credentials) ~= 'string' then
    error("kumo.nats.connect: auth: field 'credentials': string expected, got " .. type(auth.credentials), 3)
  end
  auth = copy(auth)
  for _, key in ipairs(KEY_SOURCES) do
    if auth[key] ~= nil then
      auth[key] = read and secrets.load(auth[key]):gsub('[\r\n]+$', '') or 'not read'
    end
  end
  return auth
end

--- nats://host:port of each, and whether one asks for TLS.
local function read_servers(servers)
  if type(servers) ~= 'table' then
    return servers, false
  end
  local list, tls = {}, false
  for i, server in ipairs(servers) do
    if type(server) == 'string' then
      local scheme, rest = server:match '^(%a[%w+.-]*)://(.*)$'
      if scheme and scheme ~= 'nats' and scheme ~= 'tls' then
        error(("kumo.nats.connect: servers: '%s': nats:// or tls:// expected"):format(server), 3)
      elseif (rest or server) == '' then
        error('kumo.nats.connect: servers: a host must not be empty', 3)
      end
      tls = tls or scheme == 'tls'
      server = 'nats://' .. (rest or server)
    end
    list[i] = server
  end
  return list, tls
end

--- The configuration as C takes it, and what its key sources hold.
local function prepare(config, read)
  if type(config) ~= 'table' then
    error('kumo.nats.connect: table expected, got ' .. type(config), 3)
  end
  config = copy(config)
  local auth = resolve(config.auth, read)
  config.auth = nil -- not in errors that show the configuration
  local interval = config.ping_interval
  if type(interval) == 'table' then -- what the reference takes
    config.ping_interval = (tonumber(interval.secs) or 0) + (tonumber(interval.nanos) or 0) / 1e9
  end
  local servers, tls = read_servers(config.servers)
  config.servers = servers
  if tls then
    config.tls_required = true
  end
  return config, auth
end

--- A client. Waits until it is connected, unless `retry_on_initial_connect`; raises when that fails. It connects again
--- by itself.
---@async
---@param config kumo.nats.Config
---@return kumo.nats.Client
function nats.connect(config)
  local auth
  config, auth = prepare(config, true)
  local client = core.open(config, auth)
  if not config.retry_on_initial_connect then
    core.connect(client)
  end
  return client
end

--- Raises what connect would raise of this configuration and `subject`, and makes nothing: to be called at the top level
--- of a policy, so that a slip is seen when it is loaded. Key sources are not read. Not in the reference.
---@param config kumo.nats.Config
---@param subject? string
function nats.check(config, subject)
  core.check(prepare(config, false))
  if subject ~= nil then
    local wrong = type(subject) ~= 'string' and 'string expected, got ' .. type(subject) or core.subject_error(subject)
    if wrong then
      error('kumo.nats.check: subject: ' .. wrong, 2)
    end
  end
end

--- What client:publish_messages publishes, as a list for publish_batch: for the doubles of tests.
---@return kumo.nats.Message[]
function nats._list(subject, messages, headers)
  local list = {}
  for i, msg in ipairs(messages) do
    local all = copy(headers or {})
    all['Nats-Msg-Id'], all.attempt = msg:event_id(), tostring(msg:num_attempts() + 1)
    list[i] = { subject = subject, payload = msg, headers = all }
  end
  return list
end

return nats
