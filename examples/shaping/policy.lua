-- A webhook under load, with its shaping and without. With MAIL_DEFAULTS=1 the queue of the hook has what mail has by
-- default (100 messages a second ...), and its events pile up; with the section of shaping.toml they do not.
--
--   tailrace sink --http 127.0.0.1:4242 --smtp 127.0.0.1:2526
--   tailrace run --policy examples/shaping/policy.lua
--   tailrace inject --smtp 127.0.0.1:2525 --count 2000 --connections 10
--   tailrace why webhook.log_hook                               # what holds it: a rate of 100/s, or nothing
--   tailrace explain webhook.log_hook --policy examples/shaping/policy.lua
local kumo = require 'kumo'
local log_hooks = require 'policy-extras.log_hooks'
local shaping = require 'policy-extras.shaping'

local DIR = os.getenv 'TAILRACE_DIR' or '/tmp/tailrace'
local WEBHOOK = os.getenv 'TAILRACE_WEBHOOK' or 'http://127.0.0.1:4242/log'
local NEXT_HOP = os.getenv 'TAILRACE_NEXT_HOP' or '127.0.0.1:2526'
local SMTP = os.getenv 'TAILRACE_SMTP' or '127.0.0.1:2525'
local HTTP = os.getenv 'TAILRACE_HTTP' or '127.0.0.1:8000'
local MAIL_DEFAULTS = os.getenv 'MAIL_DEFAULTS' == '1'
local HERE = debug.getinfo(1, 'S').source:match '^@(.*)/[^/]*$' or '.'

log_hooks:new_json {
  name = 'webhook',
  url = WEBHOOK,
  log_parameters = { per_record = { Reception = { enable = true }, Any = { enable = false } } },
}

kumo.on('init', function()
  kumo.define_spool { name = 'data', path = DIR .. '/spool/data' }
  kumo.define_spool { name = 'meta', path = DIR .. '/spool/meta' }
  kumo.start_esmtp_listener { listen = SMTP, relay_hosts = { '127.0.0.0/8' } }
  kumo.start_http_listener { listen = HTTP }
end)

kumo.on('get_queue_config', function()
  return kumo.make_queue_config { retry_interval = '1m', protocol = { smtp = { mx_list = { NEXT_HOP } } } }
end)

local helper = shaping:setup_with_automation {
  extra_files = not MAIL_DEFAULTS and { HERE .. '/shaping.toml' } or nil,
  mail_defaults_for_log_hooks = MAIL_DEFAULTS,
}
kumo.on('get_egress_path_config', helper.get_egress_path_config)
