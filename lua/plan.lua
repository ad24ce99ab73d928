--- `tailrace plan`: the capacity arithmetic of log hooks and mail queues, for a policy and a load. runtime/cli/plan.c loads the
--- policy and starts the entries; lua/plan/arithmetic.lua computes, lua/plan/report.lua writes, lua/plan/simulation.lua runs the
--- same load through the engine. See docs/plan.md.
local host = require 'tr.host'
local arithmetic = host.internal 'plan.arithmetic'
local load = host.internal 'plan.load'

local plan = {}

-- CPU time on 2 cores at 2.x GHz, of all threads, as measured in docs/performance.md.
local CPU_MAIL_US, CPU_RECORD_US, CPU_BATCH_US = 135, 30, 7

local options, wanted -- of the command

-- A mistake of the caller: told without a traceback.
local function refuse(text)
  io.stderr:write('tailrace plan: ', text, '\n')
  return '', 64
end

function host.entry.plan_options(given)
  local ok, result = pcall(load.of, given)
  if not ok then
    return refuse(result)
  end
  options, wanted = given, result
  return '', 0
end

--- Whether a hook takes the records of a type.
local function takes(hook, name)
  local per_record = hook.per_record or {}
  local rule = per_record[name] or per_record.Any or {}
  return rule.enable ~= false
end

--- How many records of a mail a hook takes.
local function records_of(hook, events)
  local count, types = 0, {}
  for name, number in pairs(events) do
    if number > 0 and takes(hook, name) then
      count = count + number
      types[#types + 1] = name
    end
  end
  table.sort(types)
  return count, types
end

--- Where a value of a path comes from: "set by the policy", "shaping.toml:12 ['webhook.log_hook']", "default ...".
local function origin(explained, key)
  for _, row in ipairs(explained.values) do
    if row.key == key then
      if row.from == 'file' then
        return ('%s:%d %s'):format(row.file, row.line, row.section or '')
      end
      return row.from == 'policy' and 'set by the policy' or row.from == 'log_hook' and 'default of log hooks'
        or row.from == 'helper' and 'set by policy-extras.shaping' or 'default'
    end
  end
  return 'default'
end

--- One path of a queue, from a source.
local function path_of(domain, queue_config, source, latency_s)
  local kumo = require 'kumo'
  local explained = kumo.explain(domain, { source = source })
  local config = kumo.invoke_get_egress_path_config(explained.routing_domain, source, explained.site)
  local view = config
  config = {}
  for key, value in pairs(view) do
    config[key] = value
  end
  for _, row in ipairs(explained.values) do -- what the engine takes for a log hook where nothing is set
    if row.from == 'log_hook' then
      config[row.key] = row.value
    end
  end
  local ceilings = kumo.compute_egress_path_config_constraints(config)
  local custom = queue_config.protocol and queue_config.protocol.custom_lua
  local rate, connections = ceilings.max_message_rate, ceilings.max_concurrent_dispatchers
  local path = {
    source = source,
    explained = explained,
    latency_s = latency_s,
    batch = custom and custom.batch_size or 1,
    can_batch = custom ~= nil,
    connections = connections and connections.value,
    deliveries = config.max_deliveries_per_connection,
  }
  if rate and rate.source.kind == 'reconnect_cycling' then
    path.reconnect_rate, path.reconnect_text = rate.value, rate.display
  elseif rate then
    path.message_rate = rate.value
    path.message_rate_text = rate.source.name and ('%s [%s]'):format(rate.display, rate.source.name)
      or 'max_message_rate ' .. rate.display
  end
  local of_queue = kumo.compute_queue_config_constraints(queue_config).max_message_rate
  path.queue_rate = of_queue and of_queue.value
  return path
end

--- The sources of a queue with their shares.
local function shares_of(queue_config)
  local kumo, pool = require 'kumo', queue_config.egress_pool
  if not pool then
    return { { name = 'unspecified', share = 1 } }
  end
  local entries, sum = kumo.invoke_get_egress_pool(pool).entries or {}, 0
  for _, entry in ipairs(entries) do
    sum = sum + (entry.weight or 1)
  end
  local out = {}
  for i, entry in ipairs(entries) do
    out[i] = { name = entry.name, share = sum > 0 and (entry.weight or 1) / sum or 0 }
  end
  return #out > 0 and out or { { name = 'unspecified', share = 1 } }
end

local KEYS = {
  connections = 'connection_limit', rate = 'max_message_rate', reconnects = 'max_connection_rate', queue = 'max_message_rate',
} -- stylua: ignore

local function queue_of(domain, name, demand, is_hook)
  local kumo = require 'kumo'
  local config = kumo.invoke_get_queue_config(domain)
  local latency_s = load.latency_of(wanted, name, is_hook)
  local shares = {}
  for i, source in ipairs(shares_of(config)) do
    local path = path_of(domain, config, source.name, latency_s)
    shares[i] = { share = source.share, path = path, terms = arithmetic.terms(path) }
  end
  local limit, term, share = arithmetic.limit(shares)
  local outlook = arithmetic.outlook(demand, limit, wanted.outage_s)
  local queue = {
    queue = domain,
    name = name,
    is_hook = is_hook,
    demand = demand,
    limit = limit,
    latency_s = latency_s,
    batch = shares[1].path.batch,
    load = outlook.load,
    grows = outlook.grows,
    after_outage = outlook.after_outage,
    drains_s = outlook.drains_s,
    sources = #shares,
    bound_by = term and term.text,
    kind = term and term.kind,
  }
  if term then
    queue.origin = term.kind == 'queue' and 'set by get_queue_config' or origin(share.path.explained, KEYS[term.kind])
    queue.source = #shares > 1 and share.path.source or nil
    queue.advice = arithmetic.advice(term, share.path, demand * share.share)
  end
  return queue
end

--- The queue of a hook: the helper's name, or the hook's own.
local function hook_domain(name)
  local kumo = require 'kumo'
  for _, domain in ipairs { name .. '.log_hook', name } do
    local ok, config = pcall(kumo.invoke_get_queue_config, domain)
    if ok and config.protocol and config.protocol.custom_lua then
      return domain
    end
  end
  return name .. '.log_hook'
end

--- A name of --latency that is neither a hook nor `mail`, with the nearest that is.
local function unknown_latency()
  local names = { 'mail' }
  for _, hook in ipairs(host.log_hooks()) do
    names[#names + 1] = hook.name
  end
  for name in pairs(wanted.latency) do
    local known = false
    for _, one in ipairs(names) do
      known = known or one == name
    end
    if not known then
      local near = host.c.nearest(name, names)
      return ('--latency %s: the policy has no hook of that name%s'):format(name,
        near and (" (did you mean '%s'?)"):format(near) or '')
    end
  end
end

--- The plan of the loaded policy.
---@return table
function plan.compute()
  local queues = {}
  local records_s, cpu_us = 0, wanted.mails_s * CPU_MAIL_US
  for _, hook in ipairs(host.log_hooks()) do
    local each, types = records_of(hook, wanted.events)
    local queue = queue_of(hook_domain(hook.name), hook.name, wanted.mails_s * each, true)
    queue.types = types
    queue.takes = { Reception = takes(hook, 'Reception'), Delivery = takes(hook, 'Delivery'), Delayed = takes(hook, 'Delayed') }
    records_s = records_s + queue.demand
    cpu_us = cpu_us + queue.demand * (queue.batch > 1 and CPU_BATCH_US or CPU_RECORD_US)
    queues[#queues + 1] = queue
  end
  for _, domain in ipairs(wanted.domains) do
    queues[#queues + 1] = queue_of(domain.name, 'mail', wanted.mails_s * domain.share, false)
  end
  local first
  for _, queue in ipairs(queues) do
    if queue.load and (not first or queue.load > first.load) then
      first = queue
    end
  end
  return {
    mails_s = wanted.mails_s,
    records_s = records_s,
    messages_s = wanted.mails_s + records_s,
    operations_h = (wanted.mails_s + records_s) * 3600,
    bytes_s = wanted.mails_s * wanted.mail_size + records_s * wanted.event_size,
    cores = cpu_us / 1e6,
    queues = queues,
    bottleneck = first and first.queue,
    keeps_up = not first or first.load <= 1,
    load = wanted,
  }
end

function host.entry.plan()
  local mistake = unknown_latency()
  if mistake then
    return refuse(mistake)
  end
  local result = plan.compute()
  if options.simulate then
    result.simulation = host.internal('plan.simulation').run(options.policy, result)
    if options.svg then
      local title = 'tailrace plan: ' .. options.policy
      local ok, err = host.internal('plan.plot').draw(options.svg, title, result.simulation.series)
      if not ok then
        return refuse('--svg: ' .. err)
      end
    end
  end
  local status = result.keeps_up and 0 or 1
  if options.json then
    result.load = nil
    return host.internal('kumo.serde').serde.json_encode_pretty(result) .. '\n', status
  end
  return host.internal('plan.report').text(result, options), status
end

return plan
