-- Events to a Kafka topic, ordered by customer; delivered when all in-sync replicas have them.
-- Try it: `TAILRACE_KAFKA=broker:9092 tailrace run --policy examples/kafka.lua`, then
-- `tailrace inject --smtp 127.0.0.1:2525 --count 1000 --header 'X-Customer-ID: 42'`.
local kumo = require 'kumo'
local log_hooks = require 'policy-extras.log_hooks'

local DIR = os.getenv 'TAILRACE_DIR' or '/tmp/tailrace'
local NEXT_HOP = os.getenv 'TAILRACE_NEXT_HOP' or '127.0.0.1:2526'
local SMTP = os.getenv 'TAILRACE_SMTP' or '127.0.0.1:2525'
local KAFKA = os.getenv 'TAILRACE_KAFKA' or '127.0.0.1:9092'

log_hooks:new_kafka {
  name = 'kafka',
  brokers = KAFKA,
  topic = os.getenv 'TAILRACE_TOPIC' or 'mail-events',
  batch_size = 500,
  max_batch_latency = '200ms',
  key = function(msg)
    return msg:get_meta('log_record').headers['X-Customer-ID'] -- nil: any partition
  end,
  config = KAFKA == 'mock' and { ['test.mock.num.brokers'] = 3 } or {}, -- librdkafka's own brokers, to try without any
  log_parameters = { headers = { 'X-Customer-ID' } },
}

kumo.on('init', function()
  kumo.define_spool { name = 'data', path = DIR .. '/spool/data' }
  kumo.define_spool { name = 'meta', path = DIR .. '/spool/meta' }
  kumo.start_esmtp_listener { listen = SMTP, relay_hosts = { '127.0.0.0/8' } }
  kumo.start_http_listener { listen = os.getenv 'TAILRACE_HTTP' or '127.0.0.1:8000' } -- for `tailrace dead` and `why`
end)

-- Mail goes to the next hop; the hook answers for its own queue.
kumo.on('get_queue_config', function()
  return kumo.make_queue_config { protocol = { smtp = { mx_list = { NEXT_HOP } } } }
end)
