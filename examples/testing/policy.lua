local kumo = require 'kumo'
local log_hooks = require 'policy-extras.log_hooks'
local site = require 'site'

-- The CRM hears of each mail of a customer, with the header that names him.
log_hooks:new_json {
  name = 'crm',
  url = site.crm,
  log_parameters = { headers = { 'X-Customer' }, per_record = { Reception = { enable = true }, Any = { enable = false } } },
  queue_config = { retry_interval = '1m', max_age = '2 days' },
  filter = function(msg)
    return msg:get_meta('log_record').headers['X-Customer'] == nil
  end,
}

kumo.on('init', function()
  kumo.define_spool { name = 'meta', path = site.spool .. '/meta' }
  kumo.define_spool { name = 'data', path = site.spool .. '/data' }
  kumo.configure_local_logs { log_dir = '/var/log/tailrace' }
  kumo.start_esmtp_listener { listen = '0.0.0.0:25', relay_hosts = { '127.0.0.1' } }
end)

kumo.on('smtp_server_mail_from', function(sender)
  if sender.domain == 'spam.example' then
    kumo.reject(550, '5.7.1 not from you')
  end
end)

kumo.on('get_queue_config', function(domain)
  return kumo.make_queue_config { protocol = { smtp = { mx_list = { site.next_hop(domain) } } } }
end)
