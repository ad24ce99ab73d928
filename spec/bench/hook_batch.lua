-- A hundred records a request as a JSON array: the low-level form. With BENCH_PARSE=yes the policy reads each record and
-- writes it again, as one does that chooses by what a record says: some twenty times what the rest of the handler costs.
local kumo = require 'kumo'

local DIR, URL = os.getenv 'BENCH_DIR', os.getenv 'BENCH_URL'
local QUEUE = 'bench.log_hook'
local PARSE = os.getenv 'BENCH_PARSE' == 'yes'

kumo.on('pre_init', function()
  kumo.configure_log_hook { name = 'bench', meta = { 'counter', 'tenant' } }
end)

kumo.on('init', function()
  kumo.define_spool { name = 'data', path = DIR .. '/spool/data' }
  kumo.define_spool { name = 'meta', path = DIR .. '/spool/meta' }
end)

kumo.on('should_enqueue_log_record', function(msg, _hook)
  if PARSE then
    local record = kumo.serde.json_parse(msg:get_data())
    if record.type ~= 'Delivery' or #kumo.serde.json_encode(record) < 100 then
      return false
    end
  end
  msg:set_meta('queue', QUEUE)
  return true
end)

kumo.on('get_queue_config', function(domain)
  if domain == QUEUE then
    return kumo.make_queue_config {
      retry_interval = '1s',
      protocol = { custom_lua = { constructor = 'make.bench', batch_size = 100 } },
    }
  end
end)

kumo.on('get_egress_path_config', function()
  return kumo.make_egress_path {
    connection_limit = tonumber(os.getenv 'BENCH_CONNECTIONS' or 10),
    max_deliveries_per_connection = 1000000,
    max_ready = 10000,
  }
end)

kumo.on('make.bench', function()
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
end)
