-- The policy of tailrace-campaign: mail by ESMTP, and a hook over HTTP with a filter.
local kumo = require 'kumo'
local log_hooks = require 'policy-extras.log_hooks'

local RETRY = { retry_interval = '1m', max_retry_interval = '4m', max_age = '1 day' }

log_hooks:new_json {
  name = 'h',
  url = 'http://10.0.0.1:4242/log',
  timeout = '10s',
  log_parameters = {
    headers = { 'Subject' },
    per_record = {
      Reception = { enable = true },
      Delivery = { enable = true },
      Bounce = { enable = true },
      Any = { enable = false },
    },
  },
  queue_config = RETRY,
  -- work of a policy for each record, so that its memory can run out
  filter = function(msg)
    local record = msg:get_meta 'log_record'
    local text = ('%s of %s for %s'):format(record.type, record.id, tostring(record.recipient))
    return #text == 0
  end,
}

kumo.on('init', function()
  for _, name in ipairs { 'data', 'meta' } do
    kumo.define_spool { name = name, path = '/sim/spool/' .. name, min_free_space = 0, min_free_inodes = 0 }
  end
  kumo.start_esmtp_listener { listen = '0.0.0.0:25', relay_hosts = { '0.0.0.0/0' }, hostname = 'campaign' }
end)

kumo.on('smtp_server_message_received', function(msg)
  local to = tostring(msg:recipient_list()[1])
  msg:set_meta('tenant', to:sub(1, 1))
  if to:find '^a' then
    msg:prepend_header('X-Campaign', 'yes') -- else a body that is a file stays one
  end
end)

kumo.on('get_queue_config', function()
  return kumo.make_queue_config {
    retry_interval = RETRY.retry_interval,
    max_retry_interval = RETRY.max_retry_interval,
    max_age = RETRY.max_age,
    protocol = { smtp = { mx_list = { '10.0.0.2' } } },
  }
end)

kumo.on('get_egress_path_config', function()
  return kumo.make_egress_path { enable_tls = 'Disabled', connection_limit = 2 }
end)
