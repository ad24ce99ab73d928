-- A hundred records a request as a JSON array: the helper's form, whose queue is declared, so no handler is asked.
local kumo = require 'kumo'
local log_hooks = require 'policy-extras.log_hooks'

local DIR, URL = os.getenv 'BENCH_DIR', os.getenv 'BENCH_URL'

log_hooks:new {
  name = 'bench',
  log_parameters = { meta = { 'counter', 'tenant' } },
  queue_config = { retry_interval = '1s' },
  batch_size = 100,
  constructor = function()
    local client = kumo.http.build_client {}
    local connection = {}

    function connection.send_batch(_, messages)
      local status, reason, text = client:post_messages(URL, messages)
      if not status then
        error(reason, 0)
      elseif status >= 300 then
        kumo.reject(400, ('%d %s'):format(status, text))
      end
      return tostring(status)
    end

    function connection.close()
      client:close()
    end

    return connection
  end,
}

kumo.on('init', function()
  kumo.define_spool { name = 'data', path = DIR .. '/spool/data' }
  kumo.define_spool { name = 'meta', path = DIR .. '/spool/meta' }
end)

kumo.on('get_egress_path_config', function()
  return kumo.make_egress_path {
    connection_limit = tonumber(os.getenv 'BENCH_CONNECTIONS' or 10),
    max_deliveries_per_connection = 1000000,
    max_ready = 10000,
  }
end)
