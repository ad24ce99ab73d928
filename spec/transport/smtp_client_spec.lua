-- The built-in SMTP connection in a running process: what peers say becomes records, and policy may rewrite it.
local helper = require 'helper'
local kumo = require 'kumo'

local POLICY = [[
local kumo = require 'kumo'
local log_hooks = require 'policy-extras.log_hooks'
local DIR, WEBHOOK, GOOD, BAD = os.getenv 'DIR', os.getenv 'WEBHOOK', os.getenv 'GOOD', os.getenv 'BAD'
log_hooks:new_json { name = 'webhook', url = WEBHOOK, log_parameters = { per_record = { Reception = { enable = false } } } }
kumo.dns.configure_test_resolver { '$ORIGIN test.\n@ A 192.0.2.1\n' } -- the network stays out of it
kumo.on('init', function()
  kumo.define_spool { name = 'data', path = DIR .. '/spool' }
  kumo.define_spool { name = 'meta', path = DIR .. '/spool' }
  kumo.start_http_listener { listen = '127.0.0.1:0' }
end)
local next_hop = { ['good.test'] = GOOD, ['down.test'] = '127.0.0.1:1', ['unknown.test'] = 'no-such-host.invalid:25' }
kumo.on('get_queue_config', function(domain)
  local smtp = {}
  if domain ~= 'nowhere.test' and domain ~= '[127.0.0.1]' then
    smtp.mx_list = { next_hop[domain] or BAD }
  end
  return kumo.make_queue_config { protocol = { smtp = smtp }, retry_interval = '1h' }
end)
kumo.on('get_egress_path_config', function()
  return kumo.make_egress_path {
    smtp_port = tonumber(GOOD:match ':(%d+)$'), ehlo_domain = 'me.test', enable_tls = 'Disabled', prohibited_hosts = {},
  }
end)
kumo.on('smtp_client_rewrite_delivery_status', function(line, domain, tenant, campaign, routing_domain)
  if domain == 'soft.test' then
    assert(line:find '^550 ' and tenant == nil and campaign == nil and routing_domain == domain)
    return 451
  elseif domain == 'raises.test' then
    error 'a mistake of the policy'
  elseif domain == 'silly.test' then
    return 42
  end
end)
]]

local function records(path)
  local list = {}
  for line in helper.lines(path) do
    local entry = kumo.serde.json_parse(line)
    if entry.body then
      local record = kumo.serde.json_parse(entry.body)
      list[record.recipient] = record
      list[#list + 1] = record
    end
  end
  return list
end

describe('the SMTP connection', function()
  after_each(helper.cleanup)

  it('makes a record of what became of each recipient', function()
    local dir = helper.dir()
    local good = helper.sink(('--http 127.0.0.1:0 --smtp 127.0.0.1:0 --record %s/got'):format(dir))
    local bad = helper.sink '--smtp 127.0.0.1:0 --smtp-code rcpt=550=100'
    local run = helper.run(helper.write(dir .. '/policy.lua', POLICY), '', {
      DIR = dir,
      GOOD = good.smtp,
      BAD = bad.smtp,
      WEBHOOK = ('http://%s/log'):format(good.http),
    })
    local rcpts = {
      'a@good.test', 'a@[127.0.0.1]', 'a@bad.test', 'a@soft.test', 'a@raises.test', 'a@silly.test', 'a@down.test',
      'a@unknown.test', 'a@nowhere.test',
    } -- stylua: ignore
    local list = {}
    for i, rcpt in ipairs(rcpts) do
      list[i] = { email = rcpt }
    end
    local response = kumo.http.build_client({})
      :post(('http://%s/api/inject/v1'):format(run.http))
      :header('Content-Type', 'application/json')
      :body(kumo.serde.json_encode {
        envelope_sender = 'sender@example.com',
        recipients = list,
        content = 'Subject: hi\r\n\r\n.dot\r\n',
      })
      :send()
    assert.are.equal(200, response:status_code())
    helper.wait_for('a record for each recipient', function()
      return #records(dir .. '/got') >= #rcpts
    end)
    assert.are.equal(0, run:stop())
    local got = records(dir .. '/got')

    local delivery = got['a@good.test']
    assert.are.equal('Delivery', delivery.type)
    assert.are.equal('ESMTP', delivery.delivery_protocol)
    assert.are.equal('.', delivery.response.command)
    assert.are.equal(250, delivery.response.code)
    assert.are.equal(good.smtp, delivery.peer_address.addr)
    assert.is_truthy(delivery.source_address.address:find '^127%.0%.0%.1:%d+$')
    assert.are.equal('Delivery', got['a@[127.0.0.1]'].type)

    assert.are.equal('Bounce', got['a@bad.test'].type)
    assert.are.equal(550, got['a@bad.test'].response.code)
    assert.are.equal('RCPT TO:<a@bad.test>', got['a@bad.test'].response.command)

    assert.are.equal('TransientFailure', got['a@soft.test'].type)
    assert.are.equal(451, got['a@soft.test'].response.code)
    assert.is_truthy(got['a@soft.test'].response.content:find('(kumomta: status was rewritten from 550 -> 451)', 1, true))
    assert.are.equal('Bounce', got['a@raises.test'].type)
    assert.is_truthy(run:log():find('a mistake of the policy', 1, true))
    assert.are.equal('Bounce', got['a@silly.test'].type)
    assert.is_truthy(run:log():find('a code from 200 to 599 or nil expected, got 42', 1, true))

    for rcpt, expected in pairs {
      ['a@down.test'] = { 400, 'failed to connect to any candidate hosts: 127.0.0.1 [127.0.0.1:1]: connection refused' },
      ['a@unknown.test'] = { 451, "MX didn't resolve to any hosts: no-such-host.invalid: NXDOMAIN" },
      ['a@nowhere.test'] = { 451, 'MX look-up of nowhere.test failed: NXDOMAIN' },
    } do
      local record = got[rcpt]
      assert.are.equal('TransientFailure', record.type)
      assert.are.equal(expected[1], record.response.code)
      assert.are.equal('KumoMTA internal: ' .. expected[2], record.response.content)
    end
    assert.is_nil(run:log():find 'does not balance')
  end)

  it('sends many messages over few connections', function()
    local dir = helper.dir()
    local good = helper.sink(('--http 127.0.0.1:0 --smtp 127.0.0.1:0 --record %s/got'):format(dir))
    local run = helper.run(helper.write(dir .. '/policy.lua', POLICY), '', {
      DIR = dir,
      GOOD = good.smtp,
      BAD = good.smtp,
      WEBHOOK = ('http://%s/log'):format(good.http),
    })
    local list = {}
    for i = 1, 300 do
      list[i] = { email = ('r%d@good.test'):format(i) }
    end
    kumo.http.build_client({})
      :post(('http://%s/api/inject/v1'):format(run.http))
      :header('Content-Type', 'application/json')
      :body(kumo.serde.json_encode { envelope_sender = 's@example.com', recipients = list, content = 'Subject: hi\r\n\r\nx\r\n' })
      :send()
    helper.wait_for('300 deliveries', function()
      return #records(dir .. '/got') >= 300
    end)
    assert.are.equal(0, run:stop())
    local sessions, count = {}, 0
    for _, record in ipairs(records(dir .. '/got')) do
      assert.are.equal('Delivery', record.type)
      if not sessions[record.session_id] then
        sessions[record.session_id] = true
        count = count + 1
      end
    end
    assert.is_true(count <= 32)
    assert.are.equal(300, helper.summary(good).smtp.messages)
  end)
end)
