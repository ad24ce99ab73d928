--- Log hooks: each event of the mail flow becomes a message of its own, which policy delivers where it wants.
---
---     local log_hooks = require 'policy-extras.log_hooks'
---     log_hooks:new_json { name = 'webhook', url = 'http://127.0.0.1:4242/log' }
---
--- Call at the top level of the policy, before the queue helper (its last resort answers for every domain). See
--- docs/log-hooks.md.
local kumo = require 'kumo'
local retry_after = require 'retry_after'
local typing = require 'policy-extras.typing'
local utils = require 'policy-extras.policy_utils'

---@class log_hooks
local log_hooks = {}

local BODY_MAX = 1000 -- bytes of an answer's body that go into a record
local RETRY_AFTER_MAX_S = 86400 -- a peer cannot park a queue for longer

local names = {} -- of this Lua state; the server compares again when the hook is configured

-- --- options ------------------------------------------------------------------------------------------

local queue_config_type = typing.record('queue_config', {
  _dynamic = function(key, value)
    if type(key) ~= 'string' then
      return false, 'a name of kumo.make_queue_config expected'
    end
    local ok, err = pcall(kumo.make_queue_config, { [key] = value })
    return ok, not ok and typing.extract_deserialize_error(err) or nil
  end,
})

local new_options = typing.record('log_hooks:new', {
  name = typing.string,
  constructor = typing.Function,
  log_parameters = typing.option(typing.map(typing.string, typing.any)),
  queue_config = typing.option(queue_config_type),
  batch_size = typing.default(typing.number, 1),
  min_batch_size = typing.option(typing.number),
  max_batch_latency = typing.option(typing.string),
  filter = typing.option(typing.Function),
})

local new_json_options = typing.record('log_hooks:new_json', {
  name = typing.string,
  url = typing.string,
  log_parameters = typing.option(typing.map(typing.string, typing.any)),
  queue_config = typing.option(queue_config_type),
})

local disposition_options = typing.record('log_hooks:new_disposition_hook', {
  name = typing.string,
  hook = typing.Function,
})

-- The options checked; an error stands where the policy called (two levels up from here).
local function check(type_of, options)
  local ok, result = pcall(type_of, options)
  if not ok then
    error((tostring(result):gsub('^[^\n]-:%d+: ', '')), 3)
  end
  if result.name == '' then
    error(type_of.name .. ": field 'name': it is empty", 3)
  end
  if names[result.name] then
    error(("%s: there is a log hook named '%s' already"):format(type_of.name, result.name), 3)
  end
  return result
end

-- --- registering ----------------------------------------------------------------------------------------

local hooks = {} -- name -> { domain =, filter = }

-- One handler for all hooks: each record asks, so it must not go through a chain of them.
local function decide(msg, hook_name)
  local hook = hooks[hook_name]
  if not hook then
    return -- the next handler's
  end
  local filter = hook.filter
  if filter and filter(msg, hook_name) then
    return false
  end
  msg:set_meta('queue', hook.domain)
  return true
end

local function register(options)
  local name = options.name
  local domain = name .. '.log_hook'
  local constructor = 'make.' .. domain
  names[name] = true

  kumo.on('pre_init', function()
    kumo.configure_log_hook(utils.merge_into(options.log_parameters or {}, { name = name }))
  end)

  if not next(hooks) then
    kumo.on('should_enqueue_log_record', decide)
  end
  hooks[name] = { domain = domain, filter = options.filter }
  if not options.filter then
    kumo.declare_hook_queue(name, domain, decide)
  end

  kumo.on('get_queue_config', function(queue_domain)
    if queue_domain ~= domain then
      return
    end
    local config = { retry_interval = '1m', max_retry_interval = '20m' }
    utils.merge_into(options.queue_config or {}, config)
    config.protocol = {
      custom_lua = {
        constructor = constructor,
        batch_size = options.batch_size,
        min_batch_size = options.min_batch_size,
        max_batch_latency = options.max_batch_latency,
      },
    }
    return kumo.make_queue_config(config)
  end)

  kumo.on(constructor, options.constructor)
end

---@class (exact) log_hooks.NewOptions
---@field name string                         also the name of its ledger account
---@field constructor fun(domain: string, tenant: string?, campaign: string?): table  with `send` or `send_batch`
---@field log_parameters? table<string, any>  of kumo.configure_log_hook: `meta`, `headers`, `per_record` ...
---@field queue_config? table<string, any>    of kumo.make_queue_config
---@field batch_size? integer                 default 1: `send`; more: `send_batch`
---@field min_batch_size? integer
---@field max_batch_latency? string           e.g. "500ms": how long a batch may wait to become full
---@field filter? fun(msg: kumo.Message, hook_name: string): boolean?  something true drops the record

--- A hook that a connection object of the policy delivers.
---@param options log_hooks.NewOptions
function log_hooks:new(options) -- luacheck: ignore self
  register(check(new_options, options))
end

-- --- new_json --------------------------------------------------------------------------------------------------

--- At most BODY_MAX bytes of valid UTF-8 (the text is valid already; the cut may part a character).
local function cut(text)
  if #text <= BODY_MAX then
    return text
  end
  local stop = BODY_MAX
  while stop > 0 and text:byte(stop + 1) >= 0x80 and text:byte(stop + 1) < 0xc0 do
    stop = stop - 1
  end
  return text:sub(1, stop)
end

local MONTHS = { Jan = 1, Feb = 2, Mar = 3, Apr = 4, May = 5, Jun = 6, Jul = 7, Aug = 8, Sep = 9, Oct = 10, Nov = 11, Dec = 12 }

-- Days from 1970-01-01 of a day of the Gregorian calendar (years from March on, so that the leap day is last).
local function days_of(year, month, day)
  if month <= 2 then
    year, month = year - 1, month + 12
  end
  return 365 * year
    + math.floor(year / 4)
    - math.floor(year / 100)
    + math.floor(year / 400)
    + math.floor((153 * (month - 3) + 2) / 5)
    + day - 719469
end

--- Seconds to wait from a Retry-After value: delta seconds or the date form (RFC 9110 sections 10.2.3, 5.6.7).
local function retry_after_s(value)
  if not value then
    return nil
  end
  local seconds = tonumber(value:match '^%s*(%d+)%s*$')
  if not seconds then
    local day, month, year, h, m, s =
      value:match '^%s*%a+,%s+(%d%d?)%s+(%a%a%a)%s+(%d%d%d%d)%s+(%d%d):(%d%d):(%d%d)%s+GMT%s*$'
    if not day or not MONTHS[month] then
      return nil
    end
    local at = days_of(tonumber(year), MONTHS[month], tonumber(day)) * 86400 + h * 3600 + m * 60 + s
    seconds = at - os.time()
  end
  return math.max(0, math.min(seconds, RETRY_AFTER_MAX_S))
end
log_hooks._retry_after_s = retry_after_s -- for the spec

--- Which answers are worth another try: the endpoint may recover, be repaired, or be let in again.
local function is_transient(status)
  return status < 200
    or status >= 300 and status < 400
    or status >= 500
    or status == 401
    or status == 403
    or status == 404
    or status == 408
    or status == 425
    or status == 429
end

local function try_later(text, delay_s)
  local ok, rejection = pcall(kumo.reject, 450, text)
  if not ok and delay_s then
    retry_after.set(rejection, delay_s)
  end
  error(rejection, 0)
end

local delivered_as = {} -- status -> "200 OK: "

local function post(client, url, msg)
  local status, reason, text, retry_after_text = client:post_message(url, msg)
  if not status then
    error(reason, 0) -- what the network did is tried again
  end
  if status >= 200 and status < 300 then
    local prefix = delivered_as[status]
    if not prefix then
      prefix = ('%d %s: '):format(status, tostring(reason))
      delivered_as[status] = prefix
    end
    return prefix .. cut(text)
  end
  text = ('%d %s: %s'):format(status, tostring(reason), cut(text))
  if is_transient(status) then
    try_later(text, retry_after_s(retry_after_text))
  end
  kumo.reject(500, text)
end
log_hooks._post = post -- for the spec

---@class (exact) log_hooks.NewJsonOptions
---@field name string
---@field url string
---@field log_parameters? table<string, any>
---@field queue_config? table<string, any>

--- A hook that posts each record to a URL as JSON. 2xx: delivered. 408, 425, 429, 5xx, 3xx, 401, 403, 404 and failures of
--- the network are tried again (Retry-After is heeded). Other answers end the record.
---@param options log_hooks.NewJsonOptions
function log_hooks:new_json(options) -- luacheck: ignore self
  local checked = check(new_json_options, options)
  local url = checked.url
  if not url:match '^https?://.' then
    error(("log_hooks:new_json: field 'url': 'http://...' or 'https://...' expected, got %q"):format(url), 2)
  end
  register {
    name = checked.name,
    log_parameters = checked.log_parameters,
    queue_config = checked.queue_config,
    batch_size = 1,
    constructor = function()
      -- One client for each session. An event is not to be sent where a redirect points to, and how long an answer is does
      -- not matter: its status has decided.
      local client = kumo.http.build_client { redirects = false, max_response_bytes = 16384, truncate_response = true }
      local connection = {}
      function connection.send(_, msg)
        return post(client, url, msg)
      end
      function connection.close()
        client:close()
      end
      return connection
    end,
  }
end

-- --- new_disposition_hook ------------------------------------------------------------------------------------------

---@class (exact) log_hooks.DispositionOptions
---@field name string
---@field hook fun(msg: kumo.Message, record: table)

--- Calls `hook` for each record of a message, before what the record tells is stored.
---@param options log_hooks.DispositionOptions
function log_hooks:new_disposition_hook(options) -- luacheck: ignore self
  local checked = check(disposition_options, options)
  names[checked.name] = true
  kumo.on('pre_init', function()
    kumo.configure_log_disposition_hook { name = checked.name }
  end)
  kumo.on('log_disposition_' .. checked.name, checked.hook)
end

return log_hooks
