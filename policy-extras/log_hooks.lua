--- Log hooks: each event of the mail flow becomes a message of its own, which policy delivers where it wants.
---
---     local log_hooks = require 'policy-extras.log_hooks'
---     log_hooks:new_json { name = 'webhook', url = 'http://127.0.0.1:4242/log' }
---
--- Call at the top level of the policy, before the queue helper (its last resort answers for every domain). See
--- docs/log-hooks.md.
local kumo = require 'kumo'
local brokers = require 'policy-extras.log_hook_brokers'
local outcome_table = require 'policy-extras.log_hook_outcomes'
local typing = require 'policy-extras.typing'
local utils = require 'policy-extras.policy_utils'

---@class log_hooks
local log_hooks = {}

local outcome_of, read_outcomes = outcome_table.of, outcome_table.read

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

-- What all hooks have in common.
local function hook_options(name, fields)
  local all = {
    name = typing.string,
    log_parameters = typing.option(typing.map(typing.string, typing.any)),
    queue_config = typing.option(queue_config_type),
    filter = typing.option(typing.Function),
    order_by = typing.option(typing.Function),
    max_waiting = typing.option(typing.number), -- these three are checked by kumo.make_queue_config
    max_waiting_bytes = typing.option(typing.number),
    overflow = typing.option(typing.string),
    dead_letters = typing.option(typing.any), -- checked by kumo.configure_log_hook
    batch_size = typing.default(typing.number, 1),
    min_batch_size = typing.option(typing.number),
    max_batch_latency = typing.option(typing.string),
    max_batch_bytes = typing.option(typing.number),
  }
  for key, value in pairs(fields) do
    all[key] = value
  end
  return typing.record(name, all)
end

local new_options = hook_options('log_hooks:new', { constructor = typing.Function })

local new_json_options = hook_options('log_hooks:new_json', {
  url = typing.string,
  headers = typing.option(typing.map(typing.string, typing.string)),
  identify = typing.option(typing.boolean),
  compression = typing.option(typing.string),
  secrets = typing.option(typing.list(typing.string)),
  timeout = typing.option(typing.any),
  deny_private_addresses = typing.option(typing.boolean),
  allow_addresses = typing.option(typing.list(typing.string)),
  outcomes = typing.option(typing.any),
})

local new_kafka_options = hook_options('log_hooks:new_kafka', {
  brokers = typing.string,
  topic = typing.string,
  key = typing.option(typing.Function),
  headers = typing.option(typing.map(typing.string, typing.string)),
  config = typing.option(typing.map(typing.string, typing.any)),
})

local new_amqp_options = hook_options('log_hooks:new_amqp', {
  connection = typing.map(typing.string, typing.any),
  routing_key = typing.string,
  exchange = typing.option(typing.string),
  headers = typing.option(typing.map(typing.string, typing.any)),
  persistent = typing.default(typing.boolean, true),
  mandatory = typing.default(typing.boolean, true),
})

local new_nats_options = hook_options('log_hooks:new_nats', {
  servers = typing.variant(typing.string, typing.list(typing.string)),
  subject = typing.string,
  auth = typing.option(typing.map(typing.string, typing.any)),
  headers = typing.option(typing.map(typing.string, typing.string)),
  config = typing.option(typing.map(typing.string, typing.any)),
})

local disposition_options = typing.record('log_hooks:new_disposition_hook', {
  name = typing.string,
  hook = typing.Function,
})

local function budget_of(options)
  return { max_waiting = options.max_waiting, max_waiting_bytes = options.max_waiting_bytes, overflow = options.overflow }
end

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
  local good, err = pcall(kumo.make_queue_config, budget_of(result))
  if not good then
    error(type_of.name .. ': ' .. typing.extract_deserialize_error(err), 3)
  end
  return result
end

--- What a check of log_hook_brokers gives; its error stands where the policy called.
local function check_broker(name, options)
  local ok, result = pcall(brokers[name], options)
  if not ok then
    error(('log_hooks:new_%s: %s'):format(name, tostring(result)), 3)
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
  local order_by = hook.order_by
  if order_by then
    msg:set_order_key(order_by(msg:get_meta 'log_record', msg))
  end
  msg:set_meta('queue', hook.domain)
  return true
end

local function register(options, constructor_of)
  local name = options.name
  local domain = name .. '.log_hook'
  local constructor = 'make.' .. domain

  local function queue_config()
    local config = { retry_interval = '1m', max_retry_interval = '20m' }
    utils.merge_into(options.queue_config or {}, config)
    utils.merge_into(budget_of(options), config)
    config.protocol = {
      custom_lua = {
        constructor = constructor,
        batch_size = options.batch_size,
        min_batch_size = options.min_batch_size,
        max_batch_latency = options.max_batch_latency,
        max_batch_bytes = options.max_batch_bytes,
      },
    }
    return kumo.make_queue_config(config)
  end
  local ok, err = pcall(queue_config) -- so that a mistake is seen at load, and not by the first record
  if not ok then
    err = typing.extract_deserialize_error(err):gsub('^kumo.make_queue_config: ', ''):gsub('^protocol.custom_lua: ', '')
    error(('log_hooks: %s: %s'):format(name, err), 3)
  end
  names[name] = true

  kumo.on('pre_init', function()
    local parameters = { name = name, dead_letters = options.dead_letters }
    if options.order_by then
      parameters.back_pressure = 1 -- one decision after the other, should `filter` wait
    end
    kumo.configure_log_hook(utils.merge_into(options.log_parameters or {}, parameters))
  end)

  if not next(hooks) then
    kumo.on('should_enqueue_log_record', decide)
  end
  hooks[name] = { domain = domain, filter = options.filter, order_by = options.order_by }
  if not (options.filter or options.order_by) then
    kumo.declare_hook_queue(name, domain, decide)
  end

  kumo.on('get_queue_config', function(queue_domain)
    if queue_domain == domain then
      return queue_config()
    end
  end)

  kumo.on(constructor, constructor_of)
end

---@class log_hooks.HookOptions
---@field name string                         also the name of its ledger account
---@field log_parameters? kumo.LogHookParameters  of kumo.configure_log_hook: `meta`, `headers`, `per_record` ...
---@field queue_config? kumo.QueueConfigOptions   of kumo.make_queue_config
---@field filter? fun(msg: kumo.Message, hook_name: string): boolean?  something true drops the record
---@field order_by? fun(record: table, msg: kumo.Message): string|number|nil  records with the same key go one by one, in order
---@field max_waiting? integer               records that may wait; what happens beyond it says `overflow`
---@field max_waiting_bytes? integer         the same in stored bytes
---@field overflow? 'spill'|'shed_oldest'    default 'spill': more may wait, on disk; or the oldest are dropped, and counted
---@field dead_letters? boolean|kumo.DeadLetterBounds  default true: what is refused for good or expires is kept
---@field batch_size? integer                 default 1: `send`; more: `send_batch`
---@field min_batch_size? integer
---@field max_batch_latency? string           e.g. "500ms": how long a batch may wait to become full
---@field max_batch_bytes? integer            of the records' texts; default: no bound

---@class (exact) log_hooks.NewOptions : log_hooks.HookOptions
---@field constructor fun(domain: string, tenant: string?, campaign: string?): table  with `send` or `send_batch`

--- A hook that a connection object of the policy delivers.
---@param options log_hooks.NewOptions
function log_hooks:new(options) -- luacheck: ignore self
  local checked = check(new_options, options)
  register(checked, checked.constructor)
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

local delivered_as = {} -- status -> "200 OK: "

--- What an answer of the endpoint means for all that was posted: a text (delivered) or an outcome.
local function judge(outcomes, status, reason, text, retry_after_text)
  local kind = outcome_of(outcomes, status)
  if kind == 'delivered' then
    local prefix = delivered_as[status]
    if not prefix then
      prefix = ('%d %s: '):format(status, tostring(reason))
      delivered_as[status] = prefix
    end
    return prefix .. cut(text)
  end
  text = ('%d %s: %s'):format(status, tostring(reason), cut(text))
  if kind == 'transient' then
    return kumo.transient(450, text, retry_after_s(retry_after_text))
  end
  return kumo.permanent(500, text)
end

local function post(poster, outcomes, what)
  local status, reason, text, retry_after_text = poster:post(what)
  if not status then
    if text == 'EACCES' then -- deny_private_addresses: `text` is the code
      return outcomes.private == 'permanent' and kumo.permanent(500, reason) or kumo.transient(450, reason)
    end
    error(reason, 0) -- what the network did is tried again
  end
  return judge(outcomes, status, reason, text, retry_after_text)
end

log_hooks._post = post -- for the spec

---@class (exact) log_hooks.NewJsonOptions : log_hooks.HookOptions
---@field url string
---@field headers? table<string, string>   more headers of each request
---@field identify? boolean                default true: Tailrace-Event-Id, Tailrace-Attempt; of a batch Tailrace-Batch-Id, -Size
---@field compression? 'gzip'|'zstd'       of the body
---@field secrets? string[]                sign as Standard Webhooks; two while one replaces the other
---@field timeout? number|string           of a request; default 60 s
---@field deny_private_addresses? boolean  default false: the URL may lead to public addresses only
---@field allow_addresses? string[]        addresses and blocks where it may lead all the same
---@field outcomes? 'reference'|table<integer|string, 'delivered'|'transient'|'permanent'>  by status (429) or class ("4xx")

--- A hook that posts each record to a URL as JSON; with batch_size, as many as that in a JSON array. 2xx: delivered. 408, 425,
--- 429, 5xx, 3xx, 401, 403, 404 and failures of the network are tried again (Retry-After is heeded). Other answers end the
--- record as a dead letter; those of a batch (413, say) part it until the record that is to blame is alone.
---@param options log_hooks.NewJsonOptions
function log_hooks:new_json(options) -- luacheck: ignore self
  local checked = check(new_json_options, options)
  local url = checked.url
  if not url:match '^https?://.' then
    error(("log_hooks:new_json: field 'url': 'http://...' or 'https://...' expected, got %q"):format(url), 2)
  end
  local ok, outcomes = pcall(read_outcomes, checked.outcomes)
  if not ok then
    error('log_hooks:new_json: ' .. outcomes, 2)
  end
  local function make_poster()
    -- An event is not to be sent where a redirect points to. The length of an answer does not matter: its status decides.
    local client = kumo.http.build_client {
      redirects = false,
      max_response_bytes = 16384,
      truncate_response = true,
      timeout = checked.timeout,
      deny_private_addresses = checked.deny_private_addresses,
      allow_addresses = checked.allow_addresses,
    }
    return client, client:poster {
      url = url,
      headers = checked.headers,
      identify = checked.identify,
      compression = checked.compression,
      secrets = checked.secrets,
    }
  end
  local made, err = pcall(make_poster) -- so that a mistake is seen at load, and not by the first record
  if not made and not tostring(err):find('is not available here', 1, true) then -- a tool that only reads the policy
    error('log_hooks:new_json: ' .. tostring(err):gsub('^[^\n]-:%d+: ', ''), 2)
  end
  register(checked, function()
    local client, poster = make_poster()
    local connection = {}
    function connection.send(_, msg)
      return post(poster, outcomes, msg)
    end
    connection.send_batch = connection.send
    function connection.close()
      client:close()
    end
    return connection
  end)
end

-- --- new_kafka ---------------------------------------------------------------------------------------------------

--- Headers for all messages of a batch: those of the hook, and the batch's own id where the hook makes batches.
local function headers_of(checked)
  if checked.batch_size == 1 then
    return checked.headers
  end
  return utils.merge_into(checked.headers or {}, { batch_id = kumo.uuid.new_v4().simple })
end

--- An outcome whose text comes from outside: bytes that are no UTF-8 would make it an error of the whole batch.
local function refusal(permanent, text)
  local make, code = permanent and kumo.permanent or kumo.transient, permanent and 500 or 450
  local ok, outcome = pcall(make, code, text)
  return ok and outcome or make(code, (text:gsub('[\128-\255]', '?')))
end

--- Outcomes of a batch from what failed: { index, text, permanent } each, ascending.
local function each_outcome(count, failed, delivered)
  if #failed == 0 then
    return delivered
  end
  local list = {}
  for i = 1, count do
    list[i] = delivered
  end
  for _, failure in ipairs(failed) do
    list[failure.index] = refusal(failure.permanent, failure.text)
  end
  return list
end

log_hooks._each_outcome = each_outcome -- for the spec

--- The key of each message (false: none); and outcomes of those whose key cannot be had, if there are any: they are tried
--- again, and do not hold up the others.
local function keys_of(key_of, messages)
  local keys, wrong = {}, nil
  for i, msg in ipairs(messages) do
    local ok, key = pcall(key_of, msg)
    if ok and (key == nil or key == false or type(key) == 'string' or type(key) == 'number') then
      keys[i] = key and tostring(key) or false
    else
      wrong = wrong or {}
      wrong[i] = refusal(false, 'key: ' .. (ok and 'string expected, got ' .. type(key) or tostring(key)))
    end
  end
  return keys, wrong
end

---@class (exact) log_hooks.NewKafkaOptions : log_hooks.HookOptions
---@field brokers string                   "host:9092,host2:9092"
---@field topic string
---@field key? fun(msg: kumo.Message): string?  of the record; nil: any partition. Default: that of order_by
---@field headers? table<string, string>   beside event_id, attempt and, of batches, batch_id
---@field config? table<string, string|number>  more of librdkafka's configuration

--- A hook that produces each record to a Kafka topic. It is delivered when all in-sync replicas have it (acks=all,
--- idempotent). A record that Kafka refuses for itself (too large) becomes a dead letter, alone.
---@param options log_hooks.NewKafkaOptions
function log_hooks:new_kafka(options) -- luacheck: ignore self
  local checked = check(new_kafka_options, options)
  local config = check_broker('kafka', checked)
  local delivered = kumo.delivered('delivered to ' .. checked.topic)
  local key_of = checked.key
  if not key_of and checked.order_by then -- then what keeps an order here keeps it in Kafka, too
    key_of = function(msg)
      return msg:order_key()
    end
  end
  register(checked, function()
    local producer = kumo.kafka.build_producer(config)
    local connection = {}
    local function send_all(messages, keys)
      local failed, errors, permanent = producer:send_messages(checked.topic, messages, keys, headers_of(checked))
      if not failed then
        return delivered
      end
      local failures = {}
      for i, index in ipairs(failed) do
        failures[i] = { index = index, text = errors[i], permanent = permanent[i] }
      end
      return each_outcome(#messages, failures, delivered)
    end
    function connection.send_batch(_, messages)
      if not key_of then
        return send_all(messages)
      end
      local keys, wrong = keys_of(key_of, messages)
      if not wrong then
        return send_all(messages, keys)
      end
      local good, good_keys, outcomes = {}, {}, {}
      for i, msg in ipairs(messages) do
        outcomes[i] = wrong[i]
        if not wrong[i] then
          good[#good + 1], good_keys[#good + 1] = msg, keys[i]
        end
      end
      local results = #good > 0 and send_all(good, good_keys)
      local at = 0
      for i in ipairs(messages) do
        if not outcomes[i] then
          at = at + 1
          outcomes[i] = results[at] or results -- a list, or one for all
        end
      end
      return outcomes
    end
    function connection:send(msg)
      local result = self:send_batch { msg }
      return result[1] or result
    end
    function connection.close()
      producer:close()
    end
    return connection
  end)
end

-- --- new_amqp ----------------------------------------------------------------------------------------------------

---@class (exact) log_hooks.NewAmqpOptions : log_hooks.HookOptions
---@field connection kumo.amqp.Connection
---@field routing_key string
---@field exchange? string                default: the default exchange, where the routing key is a queue
---@field headers? table<string, any>     beside attempt and, of batches, batch_id
---@field persistent? boolean             default true: delivery_mode 2
---@field mandatory? boolean              default true: what cannot be routed is tried again

--- A hook that publishes each record over AMQP, with its event_id as the message id. It is delivered when the broker has
--- confirmed it. A message that the broker refuses for itself (too large) becomes a dead letter, alone.
---@param options log_hooks.NewAmqpOptions
function log_hooks:new_amqp(options) -- luacheck: ignore self
  local checked = check(new_amqp_options, options)
  check_broker('amqp', checked)
  local delivered = kumo.delivered(('confirmed for %s %s'):format(checked.exchange or '', checked.routing_key))
  local function template()
    return {
      exchange = checked.exchange,
      routing_key = checked.routing_key,
      mandatory = checked.mandatory,
      delivery_mode = checked.persistent and 2 or 1,
      content_type = 'application/json',
      headers = headers_of(checked),
    }
  end
  register(checked, function()
    local connection = {}
    function connection.send_batch(_, messages)
      local failed = kumo.amqp.publish_messages(checked.connection, messages, template())
      return each_outcome(#messages, failed, delivered)
    end
    function connection:send(msg)
      local result = self:send_batch { msg }
      return result[1] or result
    end
    return connection
  end)
end

-- --- new_nats ----------------------------------------------------------------------------------------------------

---@class (exact) log_hooks.NewNatsOptions : log_hooks.HookOptions
---@field servers string|string[]         "host:port", "nats://host:port" or "tls://host:port"
---@field subject string                  of a stream
---@field auth? kumo.nats.Auth
---@field headers? table<string, string>  beside Nats-Msg-Id, attempt and, of batches, batch_id
---@field config? table<string, any>      more of kumo.nats.connect

--- A hook that publishes each record to a NATS JetStream, with its event_id as Nats-Msg-Id: what is sent again after a lost
--- acknowledgement is stored once. It is delivered when the stream has acknowledged it. A message that the server or the
--- stream refuses for itself (too large) becomes a dead letter, alone.
---@param options log_hooks.NewNatsOptions
function log_hooks:new_nats(options) -- luacheck: ignore self
  local checked = check(new_nats_options, options)
  local config = check_broker('nats', checked)
  local delivered = kumo.delivered('acknowledged for ' .. checked.subject)
  register(checked, function()
    local client = kumo.nats.connect(config)
    local connection = {}
    function connection.send_batch(_, messages)
      local failed = client:publish_messages(checked.subject, messages, headers_of(checked))
      return failed and each_outcome(#messages, failed, delivered) or delivered
    end
    function connection:send(msg)
      local result = self:send_batch { msg }
      return result[1] or result
    end
    function connection.close()
      client:close()
    end
    return connection
  end)
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
