-- The policy of the specs about durability: the main job, with retries that a spec can wait for. Environment: as of
-- examples/quickstart.lua, and TAILRACE_MIN_FREE (min_free_space of both spools), TAILRACE_HOOK_RETRY, TAILRACE_FLUSH=no.
local kumo = require 'kumo'
local log_hooks = require 'policy-extras.log_hooks'

local DIR = os.getenv 'TAILRACE_DIR'
local SPOOL = os.getenv 'TAILRACE_SPOOL' or DIR .. '/spool'
local RETRY = os.getenv 'TAILRACE_HOOK_RETRY' or '1s'
local MIN_FREE = os.getenv 'TAILRACE_MIN_FREE' or '1%'

log_hooks:new_json {
  name = 'webhook',
  url = os.getenv 'TAILRACE_WEBHOOK',
  queue_config = { retry_interval = RETRY, max_retry_interval = RETRY },
  log_parameters = {
    headers = { 'Subject' },
    per_record = { Any = { enable = false }, Reception = { enable = true }, Delivery = { enable = true } },
  },
}

kumo.on('init', function()
  for _, name in ipairs { 'data', 'meta' } do
    kumo.define_spool {
      name = name,
      path = SPOOL .. '/' .. name,
      min_free_space = MIN_FREE,
      min_free_inodes = '1%',
      flush = os.getenv 'TAILRACE_FLUSH' ~= 'no',
    }
  end
  kumo.start_esmtp_listener { listen = os.getenv 'TAILRACE_SMTP', relay_hosts = { '127.0.0.0/8' } }
  kumo.start_http_listener { listen = os.getenv 'TAILRACE_HTTP' }
end)

kumo.on('get_queue_config', function()
  return kumo.make_queue_config {
    retry_interval = RETRY,
    max_retry_interval = RETRY,
    protocol = { smtp = { mx_list = { os.getenv 'TAILRACE_NEXT_HOP' } } },
  }
end)

kumo.on('get_egress_path_config', function()
  return kumo.make_egress_path { connection_limit = 10, enable_tls = 'Disabled' }
end)
