-- A log hook without the helper: the four handlers that policy-extras.log_hooks registers, written out.
-- Try it: `tailrace sink --http 127.0.0.1:4242`, `tailrace run --policy examples/lowlevel_hook.lua`, then
-- `tailrace inject --smtp 127.0.0.1:2525 --count 10`.
local kumo = require 'kumo'

local DIR = os.getenv 'TAILRACE_DIR' or '/tmp/tailrace'
local WEBHOOK = os.getenv 'TAILRACE_WEBHOOK' or 'http://127.0.0.1:4242/log'
local NEXT_HOP = os.getenv 'TAILRACE_NEXT_HOP' or '127.0.0.1:2526'
local SMTP = os.getenv 'TAILRACE_SMTP' or '127.0.0.1:2525'

kumo.on('init', function()
  kumo.define_spool { name = 'data', path = DIR .. '/spool/data' }
  kumo.define_spool { name = 'meta', path = DIR .. '/spool/meta' }
  -- Each record of these types becomes a message that should_enqueue_log_record is asked about.
  kumo.configure_log_hook {
    name = 'webhook',
    headers = { 'Subject' },
    per_record = { Any = { enable = true }, Delayed = { enable = false } },
  }
  kumo.start_esmtp_listener { listen = SMTP, relay_hosts = { '127.0.0.0/8' } }
end)

kumo.on('should_enqueue_log_record', function(msg, hook_name)
  if hook_name ~= 'webhook' then
    return -- no value: the next handler is asked
  end
  local record = msg:get_meta 'log_record'
  if record.sender == '' then
    return false -- nobody wants to hear of bounces of bounces
  end
  msg:set_meta('queue', 'webhook')
  return true
end)

kumo.on('get_queue_config', function(domain, _tenant, _campaign, _routing_domain)
  if domain == 'webhook' then
    return kumo.make_queue_config {
      protocol = { custom_lua = { constructor = 'make.webhook' } },
      retry_interval = '10s',
      max_retry_interval = '5m',
      max_age = '1 day',
    }
  end
  return kumo.make_queue_config { protocol = { smtp = { mx_list = { NEXT_HOP } } } }
end)

kumo.on('get_egress_path_config', function(routing_domain, _egress_source, _site_name)
  return kumo.make_egress_path { connection_limit = routing_domain == 'webhook' and 4 or 10, enable_tls = 'Disabled' }
end)

-- Called when a session of the queue connects.
kumo.on('make.webhook', function(_domain, _tenant, _campaign)
  local client = kumo.http.build_client {}
  local connection = {}

  function connection:send(message)
    local response = client
      :post(WEBHOOK)
      :header('Content-Type', 'application/json')
      :body(message:get_data())
      :send() -- raises if there is no answer: tried again
    local disposition = ('%d %s: %s'):format(response:status_code(), response:status_reason() or '', response:text())
    if response:status_is_success() then
      return disposition -- the text of the Delivery record
    end
    kumo.reject(450, disposition) -- a 4xx: tried again; a 5xx would give the event up
  end

  function connection:close()
    client:close()
  end

  return connection
end)
