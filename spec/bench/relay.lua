-- Mail in by SMTP, out to one next hop over twenty sessions. With BENCH_URL, each mail's Reception and Delivery go to a webhook;
-- with BENCH_DEAD_URL to another one, too.
local kumo = require 'kumo'
local log_hooks = require 'policy-extras.log_hooks'

local DIR, URL = os.getenv 'BENCH_DIR', os.getenv 'BENCH_URL'

if URL then
  log_hooks:new_json { name = 'bench', url = URL }
end
if os.getenv 'BENCH_DEAD_URL' then -- another hook, whose endpoint answers or does not
  log_hooks:new_json { name = 'dead', url = os.getenv 'BENCH_DEAD_URL' }
end

kumo.on('init', function()
  kumo.define_spool { name = 'data', path = DIR .. '/spool/data' }
  kumo.define_spool { name = 'meta', path = DIR .. '/spool/meta' }
  kumo.start_esmtp_listener { listen = '127.0.0.1:0', relay_hosts = { '127.0.0.0/8' } }
end)

kumo.on('get_queue_config', function()
  return kumo.make_queue_config {
    protocol = { smtp = { mx_list = { os.getenv 'BENCH_NEXT_HOP' } } },
  }
end)

kumo.on('get_egress_path_config', function(routing_domain)
  local is_hook = routing_domain:find('%.log_hook$') ~= nil
  return kumo.make_egress_path {
    connection_limit = is_hook and 10 or 20,
    max_deliveries_per_connection = 8192,
    max_ready = 10000,
    enable_tls = 'Disabled',
  }
end)
