-- One request for each event, signed as Standard Webhooks, to an endpoint that a customer has named.
-- Try it: `tailrace sink --http 127.0.0.1:4242 --smtp 127.0.0.1:2526 --show`, `tailrace run --policy examples/webhook.lua`,
-- then `tailrace inject --smtp 127.0.0.1:2525 --count 10`.
local kumo = require 'kumo'
local log_hooks = require 'policy-extras.log_hooks'

local DIR = os.getenv 'TAILRACE_DIR' or '/tmp/tailrace'
local NEXT_HOP = os.getenv 'TAILRACE_NEXT_HOP' or '127.0.0.1:2526'
local SMTP = os.getenv 'TAILRACE_SMTP' or '127.0.0.1:2525'
local WEBHOOK = os.getenv 'TAILRACE_WEBHOOK' or 'http://127.0.0.1:4242/log'

log_hooks:new_json {
  name = 'webhook',
  url = WEBHOOK,
  timeout = '10s',
  secrets = { 'whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD' },
  -- The URL leads nowhere but to the Internet. Leave the list out where the endpoint is not on this machine.
  deny_private_addresses = true,
  allow_addresses = { '127.0.0.1', '::1' },
  queue_config = { max_age = '2 days' }, -- then it is a dead letter: `tailrace dead list`
  log_parameters = {
    headers = { 'Subject', 'X-Customer-ID' },
    per_record = { Any = { enable = false }, Delivery = { enable = true }, Bounce = { enable = true } },
  },
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
