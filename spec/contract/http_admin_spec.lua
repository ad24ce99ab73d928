-- The admin API on a running process: contract http-admin.md section 3, queues.md section 8.
local helper = require 'helper'
local kumo = require 'kumo'

local POLICY = [[
local kumo = require 'kumo'
local DIR = os.getenv 'TAILRACE_DIR'
kumo.on('init', function()
  kumo.define_spool { name = 'data', path = DIR .. '/spool' }
  kumo.define_spool { name = 'meta', path = DIR .. '/spool' }
  kumo.start_http_listener { listen = '127.0.0.1:0' }
  kumo.configure_log_disposition_hook { name = 'seen' }
end)
kumo.on('log_disposition_seen', function(msg, record)
  local file = assert(io.open(DIR .. '/records', 'ab'))
  file:write(kumo.serde.json_encode { type = record.type, queue = record.queue, code = record.response.code,
    text = record.response.content, recipient = record.recipient, attempts = record.num_attempts }, '\n')
  file:close()
end)
kumo.on('http_message_generated', function(msg)
  local user = msg:recipient().user
  if user:find '^t_' then
    msg:set_meta('tenant', user:sub(3))
  end
end)
kumo.on('rebind_message', function(msg, data)
  kumo.sleep(0.001)
  if msg:recipient().user == 'raises' then
    msg:set_meta('tenant', 'raised')
    error 'a mistake in rebind_message'
  elseif msg:recipient().user ~= 'stays' then
    msg:set_meta('tenant', data.to .. '-' .. msg:recipient().user)
  end
end)
kumo.on('get_queue_config', function(domain, tenant)
  return kumo.make_queue_config { protocol = { custom_lua = { constructor = tenant and 'make.good' or 'make.bad' } },
    retry_interval = '1h' }
end)
kumo.on('make.good', function()
  return { send = function(_, msg) return 'tenant ' .. msg:get_meta 'tenant' .. ' attempts ' .. msg:num_attempts() end }
end)
kumo.on('make.bad', function()
  return { send = function() kumo.reject(400, 'later') end }
end)
]]

local client, dir, run

local function call(method, path, body)
  local request = client[method](client, 'http://' .. run.http .. path)
  if body then
    request:header('Content-Type', 'application/json'):body(kumo.serde.json_encode(body))
  end
  local response = request:send()
  local status, text = response:status_code(), response:text()
  local ok, value = pcall(kumo.serde.json_parse, text)
  return status, ok and value or text
end

local function inject(...)
  local rcpts = {}
  for i = 1, select('#', ...) do
    rcpts[i] = { email = (select(i, ...)) }
  end
  local status = call('post', '/api/inject/v1', {
    envelope_sender = 'a@example.com',
    recipients = rcpts,
    content = 'Subject: hi\r\n\r\nbody\r\n',
  })
  assert.are.equal(200, status)
end

local function records(kind)
  local list = {}
  for line in (helper.read(dir .. '/records') or ''):gmatch '[^\n]+' do
    local record = kumo.serde.json_parse(line)
    if record.type == kind then
      list[record.recipient] = record
      list[#list + 1] = record
    end
  end
  return list
end

local function wait_records(kind, count)
  return helper.wait_for(count .. ' records ' .. kind, function()
    local list = records(kind)
    return #list >= count and list
  end)
end

--- Waits until so many messages wait in the queue for their next attempt.
local function wait_queue(name, count)
  helper.wait_for(count .. ' messages in ' .. name, function()
    local _, queue = call('get', '/api/admin/inspect-sched-q/v1?queue_name=' .. name)
    if type(queue) ~= 'table' or queue.num_scheduled ~= count or #queue.messages ~= count then
      return false
    end
    for _, each in ipairs(queue.messages) do
      if each.num_attempts ~= 1 then
        return false
      end
    end
    return true
  end)
end

describe('GET /api/admin/inspect-message/v1', function()
  it('shows a stored message', function()
    client = kumo.http.build_client { timeout = '60s' }
    dir = helper.dir()
    run = helper.run(helper.write(dir .. '/policy.lua', POLICY), '', { TAILRACE_DIR = dir })
    inject('a@one.test', 'b@one.test')
    wait_queue('one.test', 2)
    local _, queue = call('get', '/api/admin/inspect-sched-q/v1?queue_name=one.test')
    for _, expected in ipairs(queue.messages) do
      local status, found = call('get', '/api/admin/inspect-message/v1?id=' .. expected.id)
      assert.are.equal(200, status)
      assert.are.equal(expected.id, found.id)
      assert.are.same(expected.message, found.message)
      assert.is_nil(found.message.data)
      assert.are.equal('HTTP', found.message.meta.reception_protocol)
      _, found = call('get', '/api/admin/inspect-message/v1?want_body=true&id=' .. expected.id)
      assert.matches('\r\n\r\nbody\r\n$', found.message.data)
    end
    local other = queue.messages[1].id:gsub('.$', function(digit)
      return digit == '0' and '1' or '0'
    end)
    assert.are.equal(404, (call('get', '/api/admin/inspect-message/v1?id=' .. other)))
    assert.are.equal(404, (call('get', '/api/admin/inspect-message/v1?id=nonsense')))
    assert.are.equal(400, (call('get', '/api/admin/inspect-message/v1')))
    assert.are.equal(0, run:stop())
    helper.cleanup()
  end)
end)

describe('a local log', function()
  it('stops intake while its disk is below min_free_space', function()
    client = kumo.http.build_client { timeout = '60s' }
    dir = helper.dir()
    local full = POLICY:gsub(
      "kumo.start_http_listener",
      "kumo.configure_local_logs { log_dir = DIR .. '/logs', min_free_space = '999999999999999' }\n  %0",
      1
    )
    run = helper.run(helper.write(dir .. '/policy.lua', full), '', { TAILRACE_DIR = dir })
    assert.are.equal(503, (call('get', '/api/check-liveness/v1')))
    assert.are.equal(503, (call('post', '/api/inject/v1', { envelope_sender = '', recipients = {}, content = 'a: b\r\n\r\n' })))
    assert.are.equal(0, run:stop())
    helper.cleanup()
  end)
end)

describe('POST /api/admin/rebind/v1', function()
  before_each(function()
    client = kumo.http.build_client { timeout = '60s' }
    dir = helper.dir()
    run = helper.run(helper.write(dir .. '/policy.lua', POLICY), '', { TAILRACE_DIR = dir })
  end)
  after_each(function()
    assert.are.equal(0, run:stop())
    assert.is_nil(run:log():find 'does not balance')
    helper.cleanup()
  end)

  it('sets metadata of what waits, moves it, and it is tried at once', function()
    inject('a@one.test', 'b@one.test', 'c@two.test')
    wait_queue('one.test', 2)
    wait_queue('two.test', 1)
    local status, body = call('post', '/api/admin/rebind/v1', { reason = 'spec', domain = 'one.test', data = { tenant = 'x' } })
    assert.are.equal(200, status)
    assert.are.same({}, body)
    local delivered = wait_records('Delivery', 2)
    assert.are.equal('tenant x attempts 1', delivered['a@one.test'].text)
    local moved = wait_records('AdminRebind', 2)['b@one.test']
    assert.are.equal(250, moved.code)
    assert.are.equal('x@one.test', moved.queue)
    assert.is_truthy(moved.text:find('one.test', 1, true) and moved.text:find('spec', 1, true))
    assert.are.equal(1, moved.attempts)
    helper.wait_for('one message left', function()
      return select(2, call('get', '/api/tailrace/ledger')).mail.waiting == 1
    end)
  end)

  it('asks rebind_message, and an error there leaves what it has changed', function()
    inject('a@one.test', 'stays@one.test', 'raises@one.test')
    wait_queue('one.test', 3)
    call('post', '/api/admin/rebind/v1', {
      reason = 'spec', data = { to = 'y' }, trigger_rebind_event = true, suppress_logging = true,
    }) -- stylua: ignore
    local delivered = wait_records('Delivery', 2)
    assert.are.equal('tenant y-a attempts 1', delivered['a@one.test'].text)
    assert.are.equal('tenant raised attempts 1', delivered['raises@one.test'].text)
    assert.is_truthy(run:log():find 'a mistake in rebind_message')
    assert.are.equal(0, #records 'AdminRebind')
    assert.are.equal(3, #wait_records('TransientFailure', 3)) -- the one that stays waits for its time
  end)

  it('flushes with always_flush, and keeps the schedule without', function()
    inject('a@one.test', 'b@two.test')
    wait_queue('one.test', 1)
    wait_queue('two.test', 1)
    wait_records('TransientFailure', 2)
    call('post', '/api/admin/rebind/v1', { reason = 'spec', data = {}, domain = 'two.test' })
    call('post', '/api/admin/rebind/v1', { reason = 'spec', data = {}, domain = 'one.test', always_flush = true })
    local list = wait_records('TransientFailure', 3)
    assert.are.equal('a@one.test', list[3].recipient)
    assert.are.equal(1, list[3].attempts)
  end)

  it('drops what goes to the null queue, without a record', function()
    inject 'a@one.test'
    wait_queue('one.test', 1)
    call('post', '/api/admin/rebind/v1', { reason = 'spec', data = { queue = 'null' } })
    helper.wait_for('the drop', function()
      return select(2, call('get', '/api/tailrace/ledger')).mail.dropped_by.null_queue == 1
    end)
  end)

  it('refuses what is not a request', function()
    for _, body in ipairs {
      { data = {} }, { reason = 'x' }, { reason = 'x', data = { a = 1 } }, { reason = 'x', data = {}, queue = 'y' },
    } do -- stylua: ignore
      assert.are.equal(422, (call('post', '/api/admin/rebind/v1', body)))
    end
  end)

  it('refuses rules that would last longer than clocks do', function()
    for _, duration in ipairs { 1e300, 4e9, -1, '9999999999999 years' } do
      local status = call('post', '/api/admin/bounce/v1', { reason = 'spec', domain = 'one.test', duration = duration })
      assert.are.equal(422, status, tostring(duration))
    end
    local long = { reason = 'spec', domain = 'one.test', duration = '90y' }
    assert.are.equal(200, (call('post', '/api/admin/bounce/v1', long)))
  end)
end)
