local PLAN = {} -- the shapes out of the seed stand here
-- The policy of tailrace-sim.
local kumo = require 'kumo'
local log_hooks = require 'policy-extras.log_hooks'

kumo.on('init', function()
  for _, name in ipairs { 'data', 'meta' } do
    kumo.define_spool { name = name, path = '/sim/' .. name, flush = PLAN.flush, min_free_space = PLAN.min_free, min_free_inodes = 0 }
  end
  kumo.start_esmtp_listener { listen = '0.0.0.0:25', relay_hosts = { '0.0.0.0/0' }, hostname = 'sim' }
end)

local function number_of(record)
  return tonumber(record.recipient:match '^r(%d+)') or 0
end

local serial = 0

--- A connection that a policy has made: its endpoint says of each record what becomes of it, a letter each.
local function custom(hook)
  return function()
    serial = serial + 1
    local id = tostring(serial)
    local client = kumo.http.build_client { timeout = hook.timeout .. 's' }
    local function ask(messages)
      local texts = {}
      for i, msg in ipairs(messages) do
        texts[i] = msg:get_data()
      end
      local response = client:post(hook.url):header('X-Conn', id):body('[' .. table.concat(texts, ',') .. ']'):send()
      if response:status_code() ~= 200 then
        kumo.reject(450, 'status ' .. response:status_code())
      end
      return response:text()
    end
    local function outcome(letter)
      if letter == 'k' then
        return 'ok'
      elseif letter == 'p' then
        return kumo.permanent(550, 'never')
      end
      return kumo.transient(450, 'not now')
    end
    local connection = {}
    function connection.send(_, msg)
      local word = ask { msg }
      if word == 'r' then
        error 'the constructor of the simulation raises'
      end
      return outcome(word)
    end
    function connection.send_batch(_, messages)
      local word, list = ask(messages), {}
      if word:find('r', 1, true) then
        error 'the constructor of the simulation raises'
      end
      for i = 1, #messages do
        list[i] = outcome(word:sub(i, i))
      end
      return list
    end
    function connection.close()
      client:close()
    end
    return connection
  end
end

for _, hook in ipairs(PLAN.hooks) do
  local per_record = { Any = { enable = false } }
  for _, kind in ipairs(hook.types) do
    per_record[kind] = { enable = true }
  end
  local options = {
    name = hook.name,
    log_parameters = { per_record = per_record, back_pressure = hook.back_pressure },
    queue_config = {
      retry_interval = hook.retry .. 's',
      max_retry_interval = hook.max_retry .. 's',
      max_age = hook.max_age .. 's',
    },
    max_waiting = hook.max_waiting,
    overflow = hook.overflow,
    batch_size = hook.batch_size,
    min_batch_size = hook.min_batch_size,
    max_batch_latency = hook.min_batch_size and '3s' or nil,
  }
  if hook.filter or hook.slow or hook.broken then
    options.filter = function(msg)
      local n = number_of(msg:get_meta 'log_record')
      if hook.slow then
        kumo.sleep(0.05)
      end
      if hook.broken and PLAN.broken and n % hook.broken == 0 then
        error 'the filter of the simulation raises'
      end
      return hook.filter ~= nil and n % hook.filter == 0
    end
  end
  if hook.keys then
    options.order_by = function(record)
      return 'key' .. number_of(record) % hook.keys
    end
  end
  if hook.kind == 'json' then
    options.url = hook.url
    options.timeout = hook.timeout .. 's'
    log_hooks:new_json(options)
  else
    options.constructor = custom(hook)
    log_hooks:new(options)
  end
end

kumo.on('get_queue_config', function(domain)
  local of = PLAN.domains[domain] or PLAN.domains['d1.test']
  return kumo.make_queue_config {
    retry_interval = of.retry .. 's',
    max_retry_interval = of.max_retry .. 's',
    max_age = of.max_age .. 's',
    refresh_strategy = 'Epoch',
    protocol = { smtp = { mx_list = { of.ip } } },
  }
end)

kumo.on('get_egress_path_config', function(domain, _, site)
  local path = { enable_tls = 'Disabled', refresh_strategy = 'Epoch' }
  for _, hook in ipairs(PLAN.hooks) do
    if domain == hook.name .. '.log_hook' then
      path.connection_limit, path.max_message_rate, path.max_ready = hook.limit, hook.rate, hook.max_ready
      path.max_deliveries_per_connection = hook.per_connection
      path.gate_failures = hook.gate_failures
      return kumo.make_egress_path(path)
    end
  end
  for _, of in pairs(PLAN.domains) do
    if site:find(of.ip, 1, true) then
      path.connection_limit, path.max_ready = of.limit, of.max_ready
      path.max_deliveries_per_connection, path.max_message_rate = of.per_connection, of.rate
    end
  end
  return kumo.make_egress_path(path)
end)

--- For rt:eval(): what an administrator asks.
local admin = require('tr.host').internal 'admin'
local sim = {}
rawset(_G, 'sim', sim)

function sim.inject(to, body)
  local recipients = {}
  for i, address in ipairs(to) do
    recipients[i] = { email = address }
  end
  local answer = kumo.api.inject.inject_v1 { envelope_sender = 'sender@example.com', recipients = recipients, content = body }
  return { success_count = answer.success_count, fail_count = answer.fail_count }
end

function sim.suspend(domain, seconds)
  kumo.api.admin.suspend.suspend { domain = domain, reason = 'sim', duration = seconds }
end

function sim.unsuspend()
  for _, rule in ipairs(kumo.api.admin.suspend.list()) do
    kumo.api.admin.suspend.delete(rule.id)
  end
end

function sim.bounce(domain, seconds, sweep)
  admin.add('bounce', { domain = domain, reason = 'sim', duration = seconds }, sweep)
end

function sim.rebind(from, to, flush)
  admin.rebind { domain = from, reason = 'sim', data = { queue = to }, always_flush = flush }
end

function sim.epoch()
  kumo.bump_config_epoch()
end

--- Other values for a domain or a hook, from the next epoch on.
function sim.retune(name, values)
  local of = PLAN.domains[name]
  for _, hook in ipairs(PLAN.hooks) do
    of = hook.name == name and hook or of
  end
  for key, value in pairs(values) do
    of[key] = value
  end
  kumo.bump_config_epoch()
end

function sim.replay(hook, limit)
  return kumo.api.admin.dead_letters.replay { hook = hook, limit = limit }
end

function sim.purge(hook, limit)
  return kumo.api.admin.dead_letters.purge { hook = hook, kind = 'letters', limit = limit }
end

function sim.dead(hook)
  local found = require('tr.host').c.array {}
  for i, one in ipairs(kumo.api.admin.dead_letters.list { hook = hook, kind = 'letters', limit = 10000 }) do
    found[i] = one.id
  end
  return found
end
