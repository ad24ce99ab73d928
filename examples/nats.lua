-- Events to a NATS JetStream, each acknowledged by the stream, which stores one that is sent again only once.
-- Try it: `nats-server -js`, a stream of the subject `events.mail` (`nats stream add --subjects events.mail EVENTS`),
-- `tailrace run --policy examples/nats.lua`, then `tailrace inject --smtp 127.0.0.1:2525 --count 1000`.
local kumo = require 'kumo'
local log_hooks = require 'policy-extras.log_hooks'

local DIR = os.getenv 'TAILRACE_DIR' or '/tmp/tailrace'
local NEXT_HOP = os.getenv 'TAILRACE_NEXT_HOP' or '127.0.0.1:2526'
local SMTP = os.getenv 'TAILRACE_SMTP' or '127.0.0.1:2525'

log_hooks:new_nats {
  name = 'nats',
  servers = os.getenv 'TAILRACE_NATS' or '127.0.0.1:4222', -- or a list
  subject = os.getenv 'TAILRACE_SUBJECT' or 'events.mail',
  -- auth = { username = { key_data = 'events' }, password = '/etc/tailrace/nats.password' },
  batch_size = 500,
  max_batch_latency = '200ms',
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
