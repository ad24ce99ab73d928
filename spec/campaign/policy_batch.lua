-- The policy of the life `batch`: three hooks of other shapes than that of `mail`, and queues that an administrator holds up.
local kumo = require 'kumo'
local log_hooks = require 'policy-extras.log_hooks'

local RETRY = { retry_interval = '1m', max_retry_interval = '4m', max_age = '1 day' }
local ALL = { Any = { enable = false } } -- of what becomes of mail
for _, kind in ipairs { 'Reception', 'Delivery', 'Bounce', 'TransientFailure', 'Expiration', 'AdminBounce', 'AdminRebind', 'Delayed' } do
  ALL[kind] = { enable = true }
end

-- Batches with an outcome for each record, in order by recipient.
log_hooks:new {
  name = 'b',
  batch_size = 4,
  min_batch_size = 2,
  max_batch_latency = '2s',
  order_by = function(record)
    return type(record.recipient) == 'table' and record.recipient[1] or record.recipient
  end,
  log_parameters = { headers = { 'Subject' }, meta = { 'tenant' }, per_record = ALL },
  queue_config = RETRY,
  constructor = function()
    local client = kumo.http.build_client { timeout = '10s' }
    local connection = {}
    function connection.send_batch(_, messages)
      local texts, outcomes = {}, {}
      for i, msg in ipairs(messages) do
        texts[i] = msg:get_data()
      end
      local response = client:post('http://10.0.0.1:4242/b'):body('[' .. table.concat(texts, ',') .. ']'):send()
      if response:status_code() ~= 200 then
        kumo.reject(450, 'status ' .. response:status_code())
      end
      local letters = response:text()
      for i = 1, #messages do
        local letter = letters:sub(i, i)
        outcomes[i] = letter == 'k' and 'ok' or letter == 'p' and kumo.permanent(550, 'never') or kumo.transient(450, 'not now')
      end
      return outcomes
    end
    function connection.close()
      client:close()
    end
    return connection
  end,
}

-- JSON in signed batches; the oldest are dropped while its endpoint is away.
log_hooks:new_json {
  name = 'j',
  url = 'http://10.0.0.1:4242/j',
  timeout = '10s',
  batch_size = 3,
  max_waiting = 4,
  overflow = 'shed_oldest',
  secrets = { 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw' },
  log_parameters = { headers = { 'Subject' }, per_record = ALL },
  queue_config = RETRY,
}

-- Its filter raises, so that its records are parked, until the policy is mended.
log_hooks:new_json {
  name = 'p',
  url = 'http://10.0.0.1:4242/p',
  timeout = '10s',
  log_parameters = { headers = { 'Subject' }, per_record = { Reception = { enable = true }, Any = { enable = false } } },
  queue_config = RETRY,
  filter = function()
    if rawget(_G, 'campaign_broken') then
      error 'the filter of the campaign raises'
    end
    return false
  end,
}

kumo.on('init', function()
  for _, name in ipairs { 'data', 'meta' } do
    kumo.define_spool { name = name, path = '/sim/spool/' .. name, min_free_space = 0, min_free_inodes = 0 }
  end
  kumo.start_esmtp_listener { listen = '0.0.0.0:25', relay_hosts = { '0.0.0.0/0' }, hostname = 'campaign' }
end)

kumo.on('smtp_server_message_received', function(msg)
  msg:set_meta('tenant', tostring(msg:recipient_list()[1]):sub(1, 1))
end)

kumo.on('http_message_generated', function(msg)
  msg:set_meta('tenant', tostring(msg:recipient_list()[1]):sub(1, 1))
end)

kumo.on('get_queue_config', function(domain)
  return kumo.make_queue_config {
    retry_interval = RETRY.retry_interval,
    max_retry_interval = RETRY.max_retry_interval,
    max_age = domain == 'old.test' and '5m' or RETRY.max_age,
    refresh_strategy = 'Epoch',
    protocol = { smtp = { mx_list = { '10.0.0.2' } } },
  }
end)

kumo.on('get_egress_path_config', function()
  return kumo.make_egress_path { enable_tls = 'Disabled', connection_limit = 2, refresh_strategy = 'Epoch' }
end)

--- For the life's steps.
local admin = require('tr.host').internal 'admin'
local steps = {}
rawset(_G, 'campaign', steps)

function steps.broken(is)
  rawset(_G, 'campaign_broken', is)
end

function steps.inject(to, subject, body)
  local recipients = {}
  for i, address in ipairs(to) do
    recipients[i] = { email = address }
  end
  local answer = kumo.api.inject.inject_v1 {
    envelope_sender = 'sender@example.com',
    recipients = recipients,
    content = 'Subject: ' .. subject .. '\r\n\r\n' .. body,
  }
  return { success_count = answer.success_count, fail_count = answer.fail_count }
end

function steps.suspend(domain)
  kumo.api.admin.suspend.suspend { domain = domain, reason = 'campaign', duration = 600 }
end

function steps.bounce(domain)
  admin.add('bounce', { domain = domain, reason = 'campaign', duration = 60 }, true)
end

function steps.rebind(from, to)
  admin.rebind { domain = from, reason = 'campaign', data = { queue = to } }
end

function steps.epoch()
  kumo.bump_config_epoch()
end
