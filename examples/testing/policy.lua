local kumo = require 'kumo'
local log_hooks = require 'policy-extras.log_hooks'
local site = require 'site'

log_hooks:new {
  name = 'crm',
  log_parameters = { headers = { 'X-Customer' }, per_record = { Reception = { enable = true }, Any = { enable = false } } },
  filter = function(msg)
    return msg:get_meta('log_record').headers['X-Customer'] == nil
  end,
  constructor = function()
    return {
      send = function(_, msg)
        return site.tell_crm(msg:get_data())
      end,
    }
  end,
}

kumo.on('init', function()
  kumo.define_spool { name = 'meta', path = site.spool .. '/meta' }
  kumo.define_spool { name = 'data', path = site.spool .. '/data' }
end)

kumo.on('get_queue_config', function(domain)
  return kumo.make_queue_config { protocol = { smtp = { mx_list = { site.next_hop(domain) } } } }
end)
