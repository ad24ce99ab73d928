-- Sources in a running process: the address that mail comes from, the port that it goes to, the proxy, and suspension.
local helper = require 'helper'
local kumo = require 'kumo'

local POLICY = [[
local kumo = require 'kumo'
local log_hooks = require 'policy-extras.log_hooks'
local DIR, WEBHOOK, HOP, PORT = os.getenv 'DIR', os.getenv 'WEBHOOK', os.getenv 'HOP', tonumber(os.getenv 'PORT')
log_hooks:new_json { name = 'webhook', url = WEBHOOK, log_parameters = { per_record = { Reception = { enable = false } } } }
kumo.on('init', function()
  kumo.define_spool { name = 'data', path = DIR .. '/spool' }
  kumo.define_spool { name = 'meta', path = DIR .. '/spool' }
  kumo.start_http_listener { listen = '127.0.0.1:0' }
end)
kumo.on('get_queue_config', function(domain)
  return kumo.make_queue_config {
    egress_pool = domain:match '^(.-)%.', protocol = { smtp = { mx_list = { domain == 'port.test' and '127.0.0.1:1' or HOP } } },
    retry_interval = '1h',
  }
end)
kumo.on('get_egress_pool', function(name)
  local entries = { { name = name } }
  if name == 'two' then
    entries = { { name = 'gone' }, { name = 'address' } }
  end
  return kumo.make_egress_pool { name = name, entries = entries }
end)
local sources = {
  address = { source_address = '127.0.0.2' },
  port = { remote_port = PORT },
  gone = { source_address = '192.0.2.77', suspend_when_unplumbed = { duration = '1h' } },
  lost = { source_address = '192.0.2.77' },
  ha = { ha_proxy_server = os.getenv 'HA', ha_proxy_source_address = '127.0.0.9' },
  socks = {
    socks5_proxy_server = os.getenv 'HA', socks5_proxy_source_address = '127.0.0.9',
    suspend_when_proxy_unhealthy = { duration = '1h' },
  },
}
kumo.on('get_egress_source', function(name)
  local source = sources[name]
  source.name = name
  source.ehlo_domain = name .. '.ehlo.test'
  return kumo.make_egress_source(source)
end)
kumo.on('get_egress_path_config', function(_, source)
  return kumo.make_egress_path { enable_tls = 'Disabled', ehlo_domain = source == 'port' and 'path.ehlo.test' or nil }
end)
]]

local function records(path)
  local list = {}
  for line in helper.lines(path) do
    local entry = kumo.serde.json_parse(line)
    if entry.body then
      list[#list + 1] = kumo.serde.json_parse(entry.body)
      list[list[#list].recipient] = list[#list]
    end
  end
  return list
end

describe('a source', function()
  after_each(helper.cleanup)

  it('gives address, port and name, and leaves the way when it does not work', function()
    local dir = helper.dir()
    local sink = helper.sink(('--http 127.0.0.1:0 --smtp 127.0.0.1:0 --record %s/got'):format(dir))
    local run = helper.run(helper.write(dir .. '/policy.lua', POLICY), '', {
      DIR = dir,
      HOP = sink.smtp,
      PORT = sink.smtp:match ':(%d+)$',
      WEBHOOK = ('http://%s/log'):format(sink.http),
      HA = '127.0.0.1:1',
    })
    local rcpts = { 'a@address.test', 'a@port.test', 'a@two.test', 'b@two.test', 'a@lost.test', 'a@ha.test' }
    local list = {}
    for i, rcpt in ipairs(rcpts) do
      list[i] = { email = rcpt }
    end
    local response = kumo.http.build_client({})
      :post(('http://%s/api/inject/v1'):format(run.http))
      :header('Content-Type', 'application/json')
      :body(kumo.serde.json_encode { envelope_sender = 's@example.com', recipients = list, content = 'Subject: hi\r\n\r\nx\r\n' })
      :send()
    assert.are.equal(200, response:status_code())
    helper.wait_for('a record for each recipient', function()
      return #records(dir .. '/got') >= #rcpts
    end)
    local got = records(dir .. '/got')

    for _, rcpt in ipairs { 'a@address.test', 'a@two.test', 'b@two.test' } do
      assert.are.equal('Delivery', got[rcpt].type, kumo.serde.json_encode(got[rcpt]))
      assert.are.equal('address', got[rcpt].egress_source)
      assert.truthy(got[rcpt].source_address.address:find '^127%.0%.0%.2:%d+$')
      assert.truthy(got[rcpt].site:find('address->mx_list:', 1, true))
    end
    assert.are.equal('two', got['a@two.test'].egress_pool)
    assert.are.equal('Delivery', got['a@port.test'].type)
    assert.are.equal('port', got['a@port.test'].egress_pool)
    assert.truthy(run:log():find('source gone is suspended for 1h', 1, true), run:log())

    assert.are.equal('TransientFailure', got['a@lost.test'].type)
    assert.truthy(got['a@lost.test'].response.content:find('the source address cannot be used: 192.0.2.77', 1, true))
    assert.truthy(got['a@ha.test'].response.content:find('proxy 127.0.0.1:1: connection refused', 1, true))
    assert.are.equal(0, run:stop())
  end)
end)
