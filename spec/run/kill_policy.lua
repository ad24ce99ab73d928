-- The policy of spec/run/killing.lua. Environment: as of spec/run/durable_policy.lua, and TAILRACE_VARIANT: what the hook,
-- its queue and the mail are like.
local kumo = require 'kumo'
local log_hooks = require 'policy-extras.log_hooks'

local DIR, WEBHOOK, RETRY = os.getenv 'TAILRACE_DIR', os.getenv 'TAILRACE_WEBHOOK', '500ms'
local SPOOL = os.getenv 'TAILRACE_SPOOL' or DIR .. '/spool'
local VARIANT = os.getenv 'TAILRACE_VARIANT'
local TYPES = { Any = { enable = false }, Reception = { enable = true }, Delivery = { enable = true } }

local hook = {
  name = 'webhook',
  url = WEBHOOK,
  queue_config = { retry_interval = RETRY, max_retry_interval = RETRY },
  log_parameters = { headers = { 'Subject' }, per_record = TYPES },
}
if VARIANT:find 'batch' then
  hook.batch_size, hook.min_batch_size, hook.max_batch_latency, hook.compression = 50, 20, '200ms', 'gzip'
end
if VARIANT:find 'ordered' then -- by the mail: its Reception is told before its Delivery
  hook.order_by = function(record)
    return record.id
  end
end
if VARIANT:find 'budget' then
  hook.max_waiting, hook.overflow = 40, 'shed_oldest'
end
if VARIANT:find 'lowlevel' then
  kumo.on('pre_init', function()
    kumo.configure_log_hook { name = 'webhook', headers = { 'Subject' }, per_record = TYPES }
  end)
  kumo.on('should_enqueue_log_record', function(msg, name)
    assert(name == 'webhook' and msg:get_meta('log_record').event_id)
    msg:set_meta('queue', 'webhook')
    return true
  end)
  kumo.on('get_queue_config', function(domain)
    if domain == 'webhook' then
      return kumo.make_queue_config {
        protocol = { custom_lua = { constructor = 'make.webhook' } },
        retry_interval = RETRY,
        max_retry_interval = RETRY,
      }
    end
  end)
  kumo.on('make.webhook', function()
    local client = kumo.http.build_client {}
    return {
      send = function(_, msg)
        local response = client:post(WEBHOOK):header('Content-Type', 'application/json'):body(msg:get_data()):send()
        local text = ('%d %s'):format(response:status_code(), response:status_reason())
        if not response:status_is_success() then
          kumo.reject(response:status_code() == 422 and 500 or 450, text)
        end
        return text
      end,
      close = function()
        client:close()
      end,
    }
  end)
else
  log_hooks:new_json(hook)
end

kumo.on('init', function()
  for _, name in ipairs { 'data', 'meta' } do
    kumo.define_spool { name = name, path = SPOOL .. '/' .. name, min_free_space = os.getenv 'TAILRACE_MIN_FREE' or '1%' }
  end
  kumo.start_esmtp_listener { listen = os.getenv 'TAILRACE_SMTP', relay_hosts = { '127.0.0.0/8' } }
  kumo.start_http_listener { listen = os.getenv 'TAILRACE_HTTP' }
end)

kumo.on('get_queue_config', function()
  return kumo.make_queue_config {
    egress_pool = VARIANT:find 'pool' and 'three' or nil,
    max_message_rate = VARIANT:find 'rates' and '400/s' or nil,
    retry_interval = RETRY,
    max_retry_interval = RETRY,
    protocol = { smtp = { mx_list = { os.getenv 'TAILRACE_NEXT_HOP' } } },
  }
end)

kumo.on('get_egress_path_config', function(domain)
  local path = { connection_limit = 10, enable_tls = 'Disabled' }
  if VARIANT:find 'open' then -- at random a third of the answers is a failure: no gate, or it paces
    path.gate_failures = 0
  end
  if VARIANT:find 'rates' then
    path.connection_limit, path.max_message_rate, path.max_connection_rate = 2, '250/s', '20/s'
    path.max_deliveries_per_connection = 20
    path.additional_connection_limits = { shared = 3 }
    path.max_ready = domain:find 'webhook' and 50 or 30
  end
  return kumo.make_egress_path(path)
end)

if VARIANT:find 'pool' then
  kumo.on('get_egress_pool', function()
    return kumo.make_egress_pool {
      name = 'three',
      entries = { { name = 's1', weight = 3 }, { name = 's2', weight = 2 }, { name = 's3' } },
    }
  end)
  kumo.on('get_egress_source', function(name)
    return kumo.make_egress_source { name = name, source_address = '127.0.0.1' .. name:sub(2) }
  end)
end
