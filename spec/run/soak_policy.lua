-- The policy of spec/run/soak.lua: mail, and its events over three transports. Environment: as of durable_policy.lua, and
-- TAILRACE_BROKERS, TAILRACE_AMQP_PORT.
local kumo = require 'kumo'
local log_hooks = require 'policy-extras.log_hooks'

local DIR = os.getenv 'TAILRACE_DIR'

local function hook(name, more)
  local options = {
    name = name,
    batch_size = 50,
    max_batch_latency = '100ms',
    queue_config = { retry_interval = '1s', max_retry_interval = '5s' },
    log_parameters = {
      headers = { 'Subject' },
      per_record = { Any = { enable = false }, Reception = { enable = true }, Delivery = { enable = true } },
    },
  }
  for key, value in pairs(more) do
    options[key] = value
  end
  return options
end

log_hooks:new_json(hook('http', { url = os.getenv 'TAILRACE_WEBHOOK', timeout = '10s' }))
log_hooks:new_kafka(hook('kafka', {
  brokers = os.getenv 'TAILRACE_BROKERS',
  topic = 'events',
  config = { ['message.timeout.ms'] = 5000 },
}))
log_hooks:new_amqp(hook('amqp', {
  connection = { host = '127.0.0.1', port = tonumber(os.getenv 'TAILRACE_AMQP_PORT'), publish_timeout = '10s' },
  routing_key = 'events',
}))

kumo.on('init', function()
  kumo.define_spool { name = 'data', path = DIR .. '/spool/data' }
  kumo.define_spool { name = 'meta', path = DIR .. '/spool/meta' }
  kumo.start_esmtp_listener { listen = os.getenv 'TAILRACE_SMTP', relay_hosts = { '127.0.0.0/8' } }
  kumo.start_http_listener { listen = os.getenv 'TAILRACE_HTTP' }
end)

kumo.on('get_queue_config', function()
  return kumo.make_queue_config {
    retry_interval = '1s',
    max_retry_interval = '5s',
    protocol = { smtp = { mx_list = { os.getenv 'TAILRACE_NEXT_HOP' } } },
  }
end)

kumo.on('get_egress_path_config', function()
  return kumo.make_egress_path { connection_limit = 10, enable_tls = 'Disabled' }
end)
