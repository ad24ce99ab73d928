-- `tailrace why` on a running node: one queue for each thing that can hold it.
local helper = require 'helper'
local kumo = require 'kumo'

local POLICY = [[
local kumo = require 'kumo'
local DIR = os.getenv 'TAILRACE_DIR'
kumo.on('init', function()
  kumo.define_spool { name = 'data', path = DIR .. '/spool' }
  kumo.define_spool { name = 'meta', path = DIR .. '/spool' }
  kumo.start_http_listener { listen = '127.0.0.1:0' }
end)
kumo.on('get_queue_config', function(domain)
  if domain == 'unconfigured.example' then
    error('nobody knows it', 0)
  end
  if domain == 'mail.example' then
    return kumo.make_queue_config { max_message_rate = '2/h', protocol = { smtp = { mx_list = { '127.0.0.1:1' } } } }
  end
  return kumo.make_queue_config { retry_interval = '1h', protocol = { custom_lua = { constructor = 'make.it' } } }
end)
local PATHS = {
  ['rate.example'] = { max_message_rate = '1/h,max_burst=1' },
  ['limit.example'] = { connection_limit = 1 },
  ['shared-a.example'] = { additional_connection_limits = { ['all of us'] = 1 } },
  ['shared-b.example'] = { additional_connection_limits = { ['all of us'] = 1 } },
  ['opening.example'] = { max_connection_rate = '1/h,max_burst=1', max_deliveries_per_connection = 1 },
  ['full.example'] = { connection_limit = 1, max_ready = 2 },
  ['down.example'] = { gate_failures = 1, gate_backoff = '1h', gate_max_backoff = '1h' },
  ['refused.example'] = { gate_failures = 2, gate_backoff = '1h', gate_max_backoff = '1h', connection_limit = 1 },
}
kumo.on('get_egress_path_config', function(domain)
  if domain == 'pathless.example' then
    error('no path for it', 0)
  end
  return kumo.make_egress_path(PATHS[domain] or {})
end)
kumo.on('make.it', function()
  return {
    send = function(_, msg)
      local domain = msg:recipient().domain
      if domain == 'later.example' then
        kumo.reject(450, 'not now')
      elseif domain == 'down.example' then
        kumo.reject(450, '503 Service Unavailable: come back later\n')
      elseif domain == 'refused.example' then
        kumo.reject(450, '401 Unauthorized: who are you\n')
      elseif domain ~= 'rate.example' and domain ~= 'opening.example' then
        kumo.sleep(600)
      end
      return 'ok'
    end,
  }
end)
]]

describe('tailrace why', function()
  local run, client

  local function inject(domain, count)
    for _ = 1, count do
      local response = client:post('http://' .. run.http .. '/api/inject/v1'):header('Content-Type', 'application/json'):body(kumo.serde.json_encode {
        envelope_sender = 'a@example.com', recipients = { { email = 'b@' .. domain } }, content = 'Subject: x\r\n\r\nx\r\n',
      }):send()
      assert.are.equal(200, response:status_code(), response:text())
    end
  end

  local function why(name, args)
    return helper.sh(('%s why %s --admin http://%s %s'):format(helper.quote(helper.TAILRACE), helper.quote(name), run.http, args or ''))
  end

  --- What it prints, once it holds the pattern.
  local function says(name, pattern)
    local text
    local ok = pcall(helper.wait_for, pattern, function()
      text = why(name)
      return text:find(pattern)
    end)
    assert.is_true(ok, ('%q is not in:\n%s'):format(pattern, text))
    return text
  end

  setup(function()
    local dir = helper.dir()
    client = kumo.http.build_client { timeout = '60s' }
    run = helper.run(helper.write(dir .. '/policy.lua', POLICY), '', { TAILRACE_DIR = dir })
  end)
  teardown(helper.cleanup)

  it('names a message rate, with the time to the next token', function()
    inject('rate.example', 3)
    says('rate.example', 'rate: max_message_rate 1/h,max_burst=1: the next token is there in 35%d%d')
    says('rate.example', 'nothing is sent for 35%d%d')
  end)

  it('names connection_limit', function()
    inject('limit.example', 4)
    says('limit.example', 'connection_limit: the 1 connection that connection_limit allows is busy')
  end)

  it('names an additional limit that another queue has used up', function()
    inject('shared-a.example', 1)
    says('shared-a.example', '1 connection of')
    inject('shared-b.example', 1)
    says('shared-b.example', "connection_limit: connection limit 'all of us' is used up: this process holds 1 of it, this queue 0")
  end)

  it('names the connection rate', function()
    inject('opening.example', 2)
    says('opening.example', 'connection_rate: max_connection_rate 1/h,max_burst=1: the next connection may open in 3[56]%d%d')
  end)

  it('names a full ready queue', function()
    inject('full.example', 6)
    says('full.example', 'ready_full: the ready queue is full: max_ready = 2')
  end)

  it('names the gate and what the endpoint said', function()
    inject('down.example', 3)
    says('down.example', 'gate: the gate is closed for %d+%.%d s more, after 1 failure in a row; the last: 503 Service Unavailable: come back later')
  end)

  it('names the alarm for credentials, which is a metric and a line of the log, too', function()
    inject('refused.example', 3)
    says('refused.example', 'alarm: the endpoint refuses everything %(2 times in a row%): .*401 Unauthorized: who are you')
    local metrics = client:get('http://' .. run.http .. '/metrics?prefix=tailrace_endpoint_alarm'):send():text()
    assert.is_truthy(metrics:find 'tailrace_endpoint_alarm{queue="unspecified%->refused.example@lua:make.it"} 1', metrics)
    local _, lines = run:log():gsub('the endpoint refuses everything: [^\n]*who are you\n', '')
    assert.are.equal(1, lines)
  end)

  it('names the rate of a queue and failures to connect, with the last; mail is not told about log records', function()
    inject('mail.example', 3)
    local text = says('mail.example', 'rate: max_message_rate 2/h of the queue: the next token is there in 1[78]%d%d')
    assert.is_nil(text:find('log records', 1, true), text)
    says('mail.example', 'failed_connections: 2 failures to connect in a row; the last: .*127.0.0.1')
  end)

  it('writes each hold on one line', function()
    for line in why('down.example'):gmatch '[^\n]+' do
      assert.is_truthy(line:find '^%s*%- %a+' or line:find 'queue ', line)
    end
    assert.is_nil(why('down.example'):find '\n\n')
  end)

  it('names the due time', function()
    inject('later.example', 1)
    says('later.example', 'due: 1 message waits for its time, the next is due at 20%d%d%-')
  end)

  it('names a suspension', function()
    local response = client:post('http://' .. run.http .. '/api/admin/suspend/v1')
      :header('Content-Type', 'application/json')
      :body(kumo.serde.json_encode { domain = 'suspended.example', reason = 'moving house', duration = '1h' })
      :send()
    assert.are.equal(200, response:status_code())
    inject('suspended.example', 1)
    says('suspended.example', 'suspension: this queue is suspended for 3[56]%d%d s more: moving house')
  end)

  it('names a suspension of a ready queue, with its reason', function()
    local name = 'unspecified->still.example@lua:make.it'
    local response = client:post('http://' .. run.http .. '/api/admin/suspend-ready-q/v1')
      :header('Content-Type', 'application/json'):body(kumo.serde.json_encode { name = name, reason = 'they asked us to', duration = '1h' }):send()
    assert.are.equal(200, response:status_code())
    inject('still.example', 1)
    says('still.example', 'suspension')
    says(name, 'suspension: this ready queue is suspended for 3[56]%d%d s more: they asked us to')
  end)

  it('names errors of the policy', function()
    inject('pathless.example', 1)
    says('pathless.example', 'path: get_egress_path_config failed %(no path for it')
  end)

  it('knows ready queues and messages', function()
    local head = 'ready queue unspecified->limit.example@lua:make.it: 3 ready, 1 connection of at most 1 (0 idle)'
    assert.are.equal(head, why('unspecified->limit.example@lua:make.it'):sub(1, #head))
    local response = client:get('http://' .. run.http .. '/api/admin/inspect-sched-q/v1?queue_name=later.example&limit=1'):send()
    local id = kumo.serde.json_parse(response:text()).messages[1].id
    local text = why(id)
    assert.is_truthy(text:find('message ' .. id .. ': 1 attempt', 1, true), text)
    assert.is_truthy(text:find 'due: it is due at 20', text)
    assert.is_truthy(text:find('queue later.example', 1, true), text)
  end)

  it('prints JSON, too', function()
    local text = why('limit.example', '--json')
    local answer = kumo.serde.json_parse(text)
    assert.are.equal('queue', answer.kind)
    assert.are.equal('connection_limit', answer.ready_queues[1].holds[1].kind)
  end)

  it('says what it does not know, and when nobody answers', function()
    local text, status = why 'nowhere.example'
    assert.are.equal(1, status)
    assert.are.equal('tailrace why: there is no queue and no message named nowhere.example\n', text)
    text, status = helper.sh(helper.quote(helper.TAILRACE) .. ' why x --admin http://127.0.0.1:1')
    assert.are.equal(1, status)
    assert.is_truthy(text:find 'tailrace why: http://127.0.0.1:1 cannot be asked: ', text)
    text, status = helper.sh(helper.quote(helper.TAILRACE) .. ' why')
    assert.are.equal(64, status)
    assert.is_truthy(text:find 'one QUEUE or MESSAGE is required', text)
  end)
end)
