-- One record a request: the helper's new_json, ten connections.
local kumo = require 'kumo'
local log_hooks = require 'policy-extras.log_hooks'

local DIR = os.getenv 'BENCH_DIR'

log_hooks:new_json {
  name = 'bench',
  url = os.getenv 'BENCH_URL',
  queue_config = { retry_interval = '1s' }, -- the backlog bench need not wait a minute for the few that were tried
  log_parameters = { meta = { 'counter', 'tenant' } },
}

kumo.on('init', function()
  kumo.define_spool { name = 'data', path = DIR .. '/spool/data' }
  kumo.define_spool { name = 'meta', path = DIR .. '/spool/meta' }
end)

kumo.on('get_egress_path_config', function()
  return kumo.make_egress_path {
    connection_limit = tonumber(os.getenv 'BENCH_CONNECTIONS' or 10),
    max_deliveries_per_connection = 8192,
    max_ready = 10000,
  }
end)
