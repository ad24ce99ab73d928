--- The routes of the HTTP listener: injection, administration, metrics, liveness; and who may use them. C hands each
--- request to the entry `http_request`, which returns status, body, content type and one more header.
--- Contract http-admin.md sections 1, 3 and 4.
local core = require 'tr.http_server'
local host = require 'tr.host'
local c = host.c
local http_error = host.internal 'http_error'
local admin = host.internal 'admin'
local dead = host.internal 'dead'
local inject = host.internal 'inject'

local AUTH_TTL_S = 60
local AUTH_CACHE_MAX = 128
local TRUSTED_GROUP = 'kumomta:http-listener-trusted-ip'
local JSON, TEXT = 'application/json', 'text/plain; charset=utf-8'

-- --- who asks ----------------------------------------------------------------------------------------------------

local auth_cache, auth_cached = {}, 0 -- authorization header -> { identities or false, until_s }

local B64 = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/'

local function base64_decode(text)
  if text:find '[^%w+/=]' then
    return nil
  end
  local bits, count, out = 0, 0, {}
  for ch in text:gmatch '[%w+/]' do
    bits = (bits * 64 + B64:find(ch, 1, true) - 1) % 16777216
    count = count + 6
    if count >= 8 then
      count = count - 8
      out[#out + 1] = string.char(math.floor(bits / 2 ^ count) % 256)
    end
  end
  return table.concat(out)
end

-- true or an AuthInfo -> list of identities; anything else -> false
local function identities_of(answer, user, context)
  if answer == true then
    return { { identity = user, context = context } }
  elseif type(answer) == 'table' and type(answer.identities) == 'table' then
    return answer.identities
  end
  return false
end

local function ask(event, context, user, ...)
  if not host.has_handler(event) then
    return false
  end
  rawset(_G, '_KUMO_CURRENT_EVENT', event)
  local ok, answer = pcall(host.dispatch, event, ...)
  if not ok then
    require('kumo').log_error(event .. ': ' .. tostring(answer))
    http_error.raise(500, 'try again later')
  end
  return identities_of(answer, user, context)
end

local function validate(authorization)
  local scheme, value = authorization:match '^(%S+)%s+(.-)%s*$'
  if not scheme then
    http_error.raise(400, 'malformed Authorization header')
  end
  scheme = scheme:lower()
  if scheme == 'basic' then
    local text = base64_decode(value)
    local user, password
    if text then
      user, password = text:match '^([^:]*):(.*)$'
      user = user or text
    end
    if not user or user == '' then
      http_error.raise(400, 'malformed Authorization header')
    end
    return ask('http_server_validate_auth_basic', 'HttpBasicAuth', user, user, password)
  elseif scheme == 'bearer' then
    return ask('http_server_validate_auth_bearer', 'BearerToken', value, value)
  end
  http_error.raise(400, 'malformed Authorization header')
end

local function authenticate(request)
  local info = { identities = c.array {}, groups = c.array {}, peer_address = request.peer }
  if request.trusted then
    info.groups[1] = TRUSTED_GROUP
  end
  local authorization = request.authorization
  if not authorization then
    return info
  end
  local known = auth_cache[authorization]
  if not known or known.until_s < c.mono() then
    if auth_cached >= AUTH_CACHE_MAX then
      auth_cache, auth_cached = {}, 0
    end
    known = { identities = validate(authorization), until_s = c.mono() + AUTH_TTL_S }
    if auth_cache[authorization] == nil then
      auth_cached = auth_cached + 1
    end
    auth_cache[authorization] = known
  end
  if not known.identities then -- even from a trusted address
    http_error.raise(401, 'Invalid authorization')
  end
  for i, identity in ipairs(known.identities) do
    info.identities[i] = identity
  end
  return info
end

-- --- routes ------------------------------------------------------------------------------------------------------

local function json_body(request)
  local kind = (request.content_type or ''):match '^%s*([^;%s]*)'
  if kind:lower() ~= JSON then
    http_error.raise(415, 'Expected request with `Content-Type: application/json`')
  elseif request.content_encoding and request.content_encoding:lower() ~= 'identity' then
    http_error.raise(415, 'Content-Encoding `%s` is not supported', request.content_encoding)
  end
  local ok, value = c.json_parse(request.body, false)
  if not ok then
    http_error.raise(400, 'Failed to parse the request body as JSON: error at byte %d', value)
  elseif type(value) ~= 'table' then
    http_error.raise(422, 'an object is expected')
  end
  return value
end

local function json(status, value)
  return status, c.json_encode(value, false), JSON
end

local function flag(text)
  return text == 'true' or text == '1'
end

local function rule_routes(path, kind)
  return {
    ['POST ' .. path] = function(request)
      local id = admin.add(kind, json_body(request), true)
      if kind == 'bounce' then -- the sweep runs on: the counts are in the list
        return 200, ('{"id":%s,"bounced":{},"total_bounced":0}'):format(c.json_encode(id, false)), JSON
      end
      return json(200, { id = id })
    end,
    ['GET ' .. path] = function()
      return 200, admin.list_json(kind), JSON
    end,
    ['DELETE ' .. path] = function(request)
      local body = http_error.check_object(json_body(request), '', { id = 'S' })
      if not admin.delete(kind, body.id) then
        http_error.raise(404, 'there is no entry with id %s', body.id)
      end
      return 200, '', TEXT
    end,
  }
end

local function inspect(what)
  return function(request)
    local query = request.query
    local name, limit = query.queue_name, tonumber(query.limit)
    if not name then
      http_error.raise(400, 'missing field `queue_name`')
    elseif query.limit and (not limit or limit < 0) then
      http_error.raise(400, '`limit` must be a number')
    end
    local text = admin.inspect(what, name, limit, flag(query.want_body))
    if not text then
      http_error.raise(404, 'no queue with name %s', name)
    end
    return 200, text, JSON
  end
end

-- access: 'anyone'; 'trusted'; 'known': trusted, or any authenticated identity
local ROUTES = {
  ['GET /api/check-liveness/v1'] = {
    'anyone',
    function()
      local why = core.closed()
      if why then
        http_error.raise(503, why)
      end
      return 200, 'OK', TEXT
    end,
  },
  ['POST /api/inject/v1'] = {
    'known',
    function(request, info)
      local identity = info.identities[1]
      return json(
        200,
        inject.run(json_body(request), {
          peer = request.peer,
          local_ip = request.local_ip,
          hostname = request.hostname,
          auth = identity and identity.identity or request.peer,
          auth_info = info,
        })
      )
    end,
  },
  ['POST /api/admin/rebind/v1'] = {
    'trusted',
    function(request)
      admin.rebind(json_body(request))
      return 200, '{}', JSON
    end,
  },
  ['GET /api/admin/inspect-sched-q/v1'] = { 'trusted', inspect 'sched' },
  ['GET /api/admin/inspect-message/v1'] = {
    'trusted',
    function(request)
      local id = request.query.id
      if not id then
        http_error.raise(400, 'missing field `id`')
      end
      local text = admin.inspect('message', id, nil, flag(request.query.want_body))
      if not text then
        http_error.raise(404, 'no message with id %s', id)
      end
      return 200, text, JSON
    end,
  },
  ['GET /api/admin/inspect-ready-q/v1'] = { 'trusted', inspect 'ready' },
  ['POST /api/admin/set_diagnostic_log_filter/v1'] = {
    'trusted',
    function(request)
      local body = http_error.check_object(json_body(request), '', { filter = 'S' })
      admin.set_log_filter(body.filter)
      return 200, '', TEXT
    end,
  },
  ['POST /api/admin/bump-config-epoch'] = {
    'trusted',
    function()
      require('kumo').bump_config_epoch()
      return 200, '', TEXT
    end,
  },
  ['GET /metrics'] = {
    'trusted',
    function(request)
      return 200, core.metrics('text', request.query.prefix or ''), 'text/plain; version=0.0.4; charset=utf-8'
    end,
  },
  ['GET /metrics.json'] = {
    'trusted',
    function(request)
      return 200, core.metrics('json', request.query.prefix or ''), JSON
    end,
  },
  ['GET /api/admin/tailrace/why'] = { -- ours
    'trusted',
    function(request)
      local name = request.query.name
      if not name then
        http_error.raise(400, 'missing field `name`: a queue, a ready queue or the id of a message')
      end
      local text = admin.why(name)
      if not text then
        http_error.raise(404, 'there is no queue and no message named %s', name)
      end
      return 200, text, JSON
    end,
  },
  ['POST /api/admin/tailrace/dead/list'] = { -- ours, as the next two
    'trusted',
    function(request)
      return 200, dead.list_json(json_body(request)), JSON
    end,
  },
  ['POST /api/admin/tailrace/dead/replay'] = {
    'trusted',
    function(request)
      return 200, c.json_encode(dead.replay(json_body(request)), false), JSON
    end,
  },
  ['POST /api/admin/tailrace/dead/purge'] = {
    'trusted',
    function(request)
      return 200, c.json_encode(dead.purge(json_body(request)), false), JSON
    end,
  },
  ['GET /api/tailrace/ledger'] = { -- ours
    'trusted',
    function()
      return 200, core.ledger(), JSON
    end,
  },
  ['GET /api/tailrace/shaping-actions'] = { -- ours
    'trusted',
    function()
      return 200, c.json_encode(require('kumo').shaping.active_actions(), false), JSON
    end,
  },
}
for path, kind in pairs {
  ['/api/admin/bounce/v1'] = 'bounce',
  ['/api/admin/suspend/v1'] = 'suspend',
  ['/api/admin/suspend-ready-q/v1'] = 'suspend_ready',
} do
  for name, fn in pairs(rule_routes(path, kind)) do
    ROUTES[name] = { 'trusted', fn }
  end
end

local PATHS = {} -- path -> true
for name in pairs(ROUTES) do
  PATHS[name:match ' (.+)$'] = true
end

local function allowed(access, request, info)
  return access == 'anyone'
    or request.trusted
    or access == 'known' and info.identities[1] ~= nil
end

local function answer(request)
  local info = authenticate(request)
  local path = request.path
  local method = request.method == 'HEAD' and 'GET' or request.method
  local route = ROUTES[method .. ' ' .. path]
  if not allowed(route and route[1] or 'trusted', request, info) then
    http_error.raise(401, 'you are not authorized to %s %s', method, path)
  elseif route then
    return route[2](request, info)
  elseif PATHS[path] then
    http_error.raise(405, '%s is not possible for %s', method, path)
  end
  http_error.raise(404, 'there is nothing at %s', path)
end

local function challenge(status)
  if status == 401 then
    return 'WWW-Authenticate', 'Basic realm="tailrace"'
  end
end

local function settle(ok, ...)
  if ok then
    return ...
  end
  local err = ...
  if not http_error.is(err) then
    error(err, 0) -- C answers 500 and logs the traceback
  end
  return err.status, 'Error: ' .. err.text .. '\n', TEXT, challenge(err.status)
end

function host.entry.http_request(request)
  return settle(pcall(answer, request))
end
