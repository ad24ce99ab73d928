-- The main job: mail comes in by SMTP or HTTP, goes on to a next hop, and each of its events is posted to a webhook.
-- examples/quickstart.sh runs it; the environment variables have defaults for running it by hand.
local kumo = require 'kumo'
local log_hooks = require 'policy-extras.log_hooks'

local DIR = os.getenv 'TAILRACE_DIR' or '/tmp/tailrace'
local WEBHOOK = os.getenv 'TAILRACE_WEBHOOK' or 'http://127.0.0.1:4242/log'
local NEXT_HOP = os.getenv 'TAILRACE_NEXT_HOP' or '127.0.0.1:2526'
local SMTP = os.getenv 'TAILRACE_SMTP' or '127.0.0.1:2525'
local HTTP = os.getenv 'TAILRACE_HTTP' or '127.0.0.1:8000'

-- Each event becomes a queued message of its own in the queue webhook.log_hook.
log_hooks:new_json {
  name = 'webhook',
  url = WEBHOOK,
  log_parameters = {
    headers = { 'Subject', 'X-Customer-ID' },
    meta = { 'tenant' },
  },
}

kumo.on('init', function()
  kumo.define_spool { name = 'data', path = DIR .. '/spool/data' }
  kumo.define_spool { name = 'meta', path = DIR .. '/spool/meta' }
  kumo.start_esmtp_listener { listen = SMTP, relay_hosts = { '127.0.0.0/8' } }
  kumo.start_http_listener { listen = HTTP }
  kumo.configure_local_logs { log_dir = DIR .. '/logs', max_segment_duration = '10s' }
end)

kumo.on('smtp_server_message_received', function(msg)
  msg:set_meta('tenant', msg:get_first_named_header_value 'X-Tenant' or 'default')
end)

-- Mail of every domain goes to one next hop. Hooks have been answered for above: this handler is asked for the rest.
kumo.on('get_queue_config', function(_domain, _tenant, _campaign, _routing_domain)
  return kumo.make_queue_config {
    retry_interval = '1m',
    max_age = '3 days',
    protocol = { smtp = { mx_list = { NEXT_HOP } } },
  }
end)

kumo.on('get_egress_path_config', function(_routing_domain, _egress_source, _site_name)
  return kumo.make_egress_path { connection_limit = 10, enable_tls = 'Disabled' }
end)
