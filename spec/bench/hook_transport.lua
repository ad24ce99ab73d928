-- The transports, each in the helper's form. BENCH_TRANSPORT: kafka, amqp, nats, http (batches, BENCH_COMPRESSION) or dead:
-- every record a dead letter at once, for the replay.
local kumo = require 'kumo'
local log_hooks = require 'policy-extras.log_hooks'

local DIR, TRANSPORT = os.getenv 'BENCH_DIR', os.getenv 'BENCH_TRANSPORT'
local BATCH = tonumber(os.getenv 'BENCH_BATCH' or 100)

local hook = {
  name = 'bench',
  log_parameters = { meta = { 'counter', 'tenant' } },
  queue_config = { retry_interval = '1s' },
  batch_size = BATCH,
  dead_letters = { max_count = 0, max_bytes = 0 },
}

if TRANSPORT == 'kafka' then
  hook.brokers, hook.topic = os.getenv 'BENCH_BROKERS', 'events'
  log_hooks:new_kafka(hook)
elseif TRANSPORT == 'amqp' then
  hook.connection = { host = '127.0.0.1', port = tonumber(os.getenv 'BENCH_PORT') }
  hook.routing_key = 'bench'
  log_hooks:new_amqp(hook)
elseif TRANSPORT == 'nats' then
  hook.servers, hook.subject = { 'nats://127.0.0.1:' .. os.getenv 'BENCH_PORT' }, 'tailrace.bench'
  log_hooks:new_nats(hook)
elseif TRANSPORT == 'dead' then
  hook.constructor = function()
    return {
      send_batch = function(_, messages)
        local outcomes = {}
        for i = 1, #messages do
          outcomes[i] = kumo.permanent(500, 'not wanted')
        end
        return outcomes
      end,
    }
  end
  log_hooks:new(hook)
else
  hook.url, hook.compression = os.getenv 'BENCH_URL', os.getenv 'BENCH_COMPRESSION'
  log_hooks:new_json(hook)
end

kumo.on('init', function()
  kumo.define_spool { name = 'data', path = DIR .. '/spool/data' }
  kumo.define_spool { name = 'meta', path = DIR .. '/spool/meta' }
  local listen = os.getenv 'BENCH_LISTEN'
  if listen then
    kumo.start_http_listener { listen = listen }
  end
end)

kumo.on('get_egress_path_config', function()
  return kumo.make_egress_path {
    connection_limit = tonumber(os.getenv 'BENCH_CONNECTIONS' or 10),
    max_deliveries_per_connection = 1000000,
    max_ready = 10000,
  }
end)
