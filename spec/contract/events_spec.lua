-- Events of the message flow on the real engine under the virtual clock: contract events.md sections 6 to 9.
local helper = require 'helper'
local testing = require 'tr.testing'

--- Records that the hook `all` was asked about are in `records`, by type; it wants none. The protocol of mail is custom_lua:
--- what `send` does is `act`.
local POLICY = [[
local kumo = require 'kumo'
records, calls, config = {}, {}, {}
function note(name, ...) calls[#calls + 1] = { name = name, n = select('#', ...), ... } end
kumo.on('init', function()
  kumo.define_spool { name = 'data', path = DIR .. '/data' }
  kumo.define_spool { name = 'meta', path = DIR .. '/meta' }
  kumo.configure_log_hook { name = 'all', meta = { '*' }, headers = { '*' } }
end)
kumo.on('should_enqueue_log_record', function(msg, name)
  local record = msg:get_meta 'log_record'
  records[#records + 1] = record
  return false
end)
function act(msg) return 'ok' end
kumo.on('get_queue_config', function(domain, tenant, campaign, routing_domain)
  if not domain:find '^all' then -- the names that are asked for at load, on behalf of the hook
    note('queue', domain, tenant or false, campaign or false, routing_domain or false)
  end
  local options = { protocol = { custom_lua = { constructor = 'make.it', batch_size = config.batch_size,
    max_batch_latency = config.latency, min_batch_size = config.min } }, retry_interval = '1m', provider_name = 'prov' }
  for key, value in pairs(config.queue or {}) do options[key] = value end
  return kumo.make_queue_config(options)
end)
kumo.on('get_egress_path_config', function(routing_domain, source, site)
  note('path', routing_domain, source, site)
  return kumo.make_egress_path(config.path or {})
end)
kumo.on('make.it', function(domain, tenant, campaign)
  note('make', domain, tenant or false, campaign or false)
  local conn = { count = 0 }
  function conn:send(msg) note('send', msg:recipient().email) return act(msg, self) end
  function conn:send_batch(list) note('send_batch', #list) return act(list, self) end
  function conn:close() note 'close' end
  return conn
end)
]]

describe('events of the message flow', function()
  local dir, rt

  local function start(extra)
    dir = dir or helper.dir()
    helper.write(dir .. '/policy.lua', ('DIR = %q\n'):format(dir) .. POLICY .. (extra or ''))
    rt = testing.start { policy = dir .. '/policy.lua', seed = 3 }
    return rt
  end

  local function records(kind)
    local list = {}
    for _, record in ipairs(rt:eval 'return records') do
      if record.type == kind then
        list[#list + 1] = record
      end
    end
    return list
  end

  local function calls(name)
    local list = {}
    for _, call in ipairs(rt:eval 'return calls') do
      if call.name == name then
        local args = {}
        for i = 1, call.n do
          args[i] = call[tostring(i)]
        end
        list[#list + 1] = args
      end
    end
    return list
  end

  after_each(function()
    if rt then
      local ok, text = rt:stop(5)
      rt = nil
      assert.is_true(ok, text)
    end
    dir = nil
    helper.cleanup()
  end)

  it('gives the parts of the queue name to get_queue_config, the path and the constructor', function()
    start()
    rt:receive { to = 'a@Example.Org', meta = { tenant = 't', campaign = 'c', routing_domain = 'r.test' } }
    rt:advance(1)
    assert.are.same({ { 'example.org', 't', 'c', 'r.test' } }, calls 'queue')
    assert.are.same({ { 'r.test', 'unspecified', 'r.test' } }, calls 'path')
    assert.are.same({ { 'example.org', 't', 'c' } }, calls 'make')
    local delivery = records('Delivery')[1]
    assert.are.equal('c:t@example.org!r.test', delivery.queue)
    assert.are.equal('unspecified->r.test@lua:make.it', delivery.site)
    assert.are.equal('Lua', delivery.delivery_protocol)
    assert.are.same({ name = 'Lua via make.it', addr = '0.0.0.0' }, delivery.peer_address)
    assert.are.equal('unspecified', delivery.egress_pool)
    assert.are.equal('unspecified', delivery.egress_source)
    assert.is_nil(delivery.response.enhanced_code)
    assert.are.equal(200, delivery.response.code)
    assert.are.equal('ok', delivery.response.content)
    assert.are.equal(36, #delivery.session_id)
    assert.are.equal(0, delivery.num_attempts)
    assert.are.equal('Uncategorized', delivery.bounce_classification)
    assert.are.equal('t', delivery.meta.tenant)
    assert.are.equal('test', delivery.headers.Subject)
    local reception = records('Reception')[1]
    assert.are.equal('', reception.site)
    assert.are.equal('', reception.response.content)
    assert.are.equal(250, reception.response.code)
    assert.is_nil(reception.delivery_protocol)
  end)

  it("names the constructor as the event while a session's code runs, in tracebacks, too", function()
    start "function act() note('event', _KUMO_CURRENT_EVENT) error 'plain' end"
    rt:receive { to = 'a@example.org' }
    rt:advance(1)
    assert.are.same({ { 'make.it' } }, calls 'event')
  end)

  it('closes the session when it was idle', function()
    start()
    rt:receive { to = 'a@example.org' }
    rt:advance(4)
    assert.are.equal(0, #calls 'close')
    rt:advance(2)
    assert.are.equal(1, #calls 'close')
  end)

  for what, case in pairs {
    ['a number'] = { 'return 12', 'Delivery', 200, '^12$', true, true },
    ['nothing'] = { 'return', 'TransientFailure', 400, '^KumoMTA internal: ', false, false },
    ['a table'] = { 'return {}', 'TransientFailure', 400, '^KumoMTA internal: ', false, false },
    ['not UTF-8'] = { "return '\\255'", 'TransientFailure', 400, '^KumoMTA internal: ', false, false },
    ['an error'] = { "error 'oops'", 'TransientFailure', 400, '^KumoMTA internal: .*oops', false, false },
    ['a rejection 450'] = { "require('kumo').reject(450, '4.2.2 no')", 'TransientFailure', 450, '^4.2.2 no$', true, true },
    ['a rejection 421'] = { "require('kumo').reject(421, 'no')", 'TransientFailure', 421, '^no$', true, false },
    ['a rejection 550'] = { "require('kumo').reject(550, '5.1.1 no')", 'Bounce', 550, '^5.1.1 no$', true, true },
    ['a rejection 250'] = { "require('kumo').reject(250, 'odd')", 'Bounce', 250, '^odd$', true, true },
    ['a rejection raised again'] = {
      "local ok, err = pcall(require('kumo').reject, 451, 'again') error(err, 0)", 'TransientFailure', 451, '^again$', true, true,
    }, -- stylua: ignore
  } do
    it('takes as the outcome of send: ' .. what, function()
      start(('function act(msg) %s end'):format(case[1]))
      rt:receive { to = 'a@example.org' }
      rt:advance(1)
      local record = records(case[2])[1]
      assert.is_not_nil(record, case[2])
      assert.are.equal(case[3], record.response.code)
      assert.matches(case[4], record.response.content)
      assert.is_nil(record.response.enhanced_code)
      assert.are.equal(case[5], record.peer_address ~= nil)
      assert.are.equal(0, record.num_attempts)
      assert.are.equal(case[6] and 0 or 1, #calls 'close') -- the connection is kept, or not
    end)
  end

  it('treats a constructor that fails as a connection failure', function()
    start [[
      require('kumo').on('make.bad', function() require('kumo').reject(550, 'not a bounce') end)
      config.queue = { protocol = { custom_lua = { constructor = 'make.bad' } } }
    ]]
    rt:receive { to = 'a@example.org' }
    rt:advance(1)
    local record = records('TransientFailure')[1]
    assert.are.equal(400, record.response.code)
    assert.matches('^KumoMTA internal: .*not a bounce', record.response.content)
    assert.is_nil(record.peer_address)
    assert.are.equal(1, rt:figures().timers)
  end)

  it('calls send_batch also for one, and gathers for max_batch_latency', function()
    start [[
      config.batch_size, config.min, config.latency = 3, 3, '2s'
      config.path = { connection_limit = 1, idle_timeout = '10s' }
    ]]
    for _ = 1, 4 do
      rt:receive { to = 'a@example.org' }
    end
    rt:advance(30)
    assert.are.same({ { 3 }, { 1 } }, calls 'send_batch')
    assert.are.equal(4, #records 'Delivery')
  end)

  it('gives requeue_message its arguments, and a new queue name moves the message at once', function()
    start [[
      function act(msg)
        if msg:get_meta 'tenant' then return 'moved ' .. msg:num_attempts() end
        require('kumo').reject(451, '4.7.1 not now')
      end
      require('kumo').on('requeue_message', function(msg, response, context, increment, delay)
        note('requeue', msg:num_attempts(), response, context, increment, delay or false)
        if msg:num_attempts() == 1 then msg:set_meta('tenant', 'second') end
      end)
    ]]
    rt:receive { to = 'a@example.org' }
    rt:advance(300)
    local list = calls 'requeue'
    assert.are.equal(2, #list)
    assert.are.equal(0, list[1][1])
    assert.matches('^451 4%.7%.1 not now', list[1][2])
    assert.are.same({ 'LoggedTransientFailure' }, list[1][3])
    assert.is_true(list[1][4])
    assert.is_false(list[1][5])
    local delivery = records('Delivery')[1]
    assert.are.equal('second@example.org', delivery.queue)
    assert.are.equal('moved 2', delivery.response.content)
    assert.are.equal(0, #records 'Delayed') -- a TransientFailure told why
  end)

  it('makes a Bounce of a rejection in requeue_message, without a site', function()
    start [[
      function act() require('kumo').reject(451, 'not now') end
      require('kumo').on('requeue_message', function() require('kumo').reject(400, 'enough') end)
    ]]
    rt:receive { to = 'a@example.org' }
    rt:advance(1)
    local bounce = records('Bounce')[1]
    assert.are.equal(400, bounce.response.code)
    assert.are.equal('enough', bounce.response.content)
    assert.are.equal('', bounce.site)
  end)

  it('keeps the message where it was after another error in requeue_message', function()
    start [[
      function act(msg) if msg:num_attempts() > 0 then return 'ok' end require('kumo').reject(451, 'not now') end
      require('kumo').on('requeue_message', function(msg) error 'a mistake' end)
    ]]
    rt:receive { to = 'a@example.org' }
    rt:advance(100)
    assert.are.equal('example.org', records('Delivery')[1].queue)
  end)

  it('puts off what throttle_insert_ready_queue gives a due time, and says so once', function()
    start [[
      require('kumo').on('throttle_insert_ready_queue', function(msg)
        if not msg:get_meta 'seen' then
          msg:set_meta('seen', true)
          msg:set_due('2026-07-25T18:20:00Z')
        end
      end)
    ]]
    rt:receive { to = 'a@example.org' }
    rt:advance(3590)
    assert.are.equal(0, #records 'Delivery')
    local delayed = records 'Delayed'
    assert.are.equal(1, #delayed)
    assert.are.equal(400, delayed[1].response.code)
    assert.matches(
      '^Context: .*ThrottledByThrottleInsertReadyQueue.*%. Next due in .* at 2026%-07%-25T18:20:00Z$',
      delayed[1].response.content
    )
    rt:advance(20)
    assert.are.equal(1, #records 'Delivery')
    assert.are.equal(0, records('Delivery')[1].num_attempts)
  end)

  it('expires a message that is too old for another attempt, and counts the last one', function()
    start "function act() require('kumo').reject(451, 'no') end config.queue = { max_age = '1 day' }"
    rt:receive { to = 'a@example.org', meta = { x = 'y' } }
    rt:advance(2 * 86400)
    local expired = records('Expiration')[1]
    assert.are.equal(551, expired.response.code)
    assert.are.equal(5, expired.response.enhanced_code.class)
    assert.are.equal(4, expired.response.enhanced_code.subject)
    assert.are.equal(7, expired.response.enhanced_code.detail)
    assert.are.equal(#records 'TransientFailure', expired.num_attempts)
  end)

  it('asks get_queue_config again after refresh_interval, and keeps the old one when that fails', function()
    start [[
      config.queue = { refresh_interval = '60s', retry_interval = '10m', max_retry_interval = '10m' }
      function act() if config.raise then return 'ok' end require('kumo').reject(451, 'no') end
      require('kumo').on('get_queue_config', function() end)
    ]]
    rt:receive { to = 'a@example.org' }
    rt:advance(200)
    local n = #calls 'queue'
    assert.is_true(n >= 3 and n <= 5, n .. ' calls')
    rt:eval "config.raise = true config.queue = { retry_interval = {} }"
    rt:advance(700)
    assert.are.equal(1, #records 'Delivery')
  end)

  it('refuses mail for a queue whose configuration fails, and remembers that for 60 s', function()
    start "local kumo = require 'kumo' kumo.on('get_queue_config', function() end) config.queue = { retry_interval = {} }"
    local id, err = rt:receive { to = 'a@example.org' }
    assert.is_nil(id)
    assert.is_truthy(err:find 'retry_interval', err)
    rt:receive { to = 'a@example.org' }
    assert.are.equal(1, #calls 'queue')
    rt:eval 'config.queue = {}'
    rt:advance(61)
    assert.is_string(rt:receive { to = 'a@example.org' })
  end)

  it('makes transient failures of a path whose configuration fails', function()
    start "config.path = { connection_limit = 'x' }"
    rt:receive { to = 'a@example.org' }
    rt:advance(1)
    local record = records('TransientFailure')[1]
    assert.are.equal(451, record.response.code)
    assert.are.same({ class = 4, subject = 4, detail = 4 }, record.response.enhanced_code)
    assert.are.equal('', record.site)
    rt:eval 'config.path = nil'
    rt:advance(300)
    assert.are.equal(1, #records 'Delivery')
  end)

  it('shows each message of the spool to spool_message_enumerated, which may move or put it off', function()
    start "function act() require('kumo').reject(451, 'no') end config.queue = { retry_interval = '1h' }"
    for _, user in ipairs { 'moves', 'raises', 'stays', 'waits' } do
      rt:receive { to = user .. '@example.org' }
    end
    rt:advance(60)
    rt:stop(5)
    start [[
      function act(msg) return 'attempt ' .. msg:num_attempts() end
      require('kumo').on('spool_message_enumerated', function(msg)
        local user = msg:recipient().user
        note('enumerated', user, msg:num_attempts())
        require('kumo').sleep(0.01)
        if user == 'moves' then msg:set_meta('tenant', 'other')
        elseif user == 'raises' then error 'a mistake'
        elseif user == 'waits' then msg:set_due '2026-07-26T17:20:00Z' end
      end)
    ]]
    rt:advance(1)
    assert.are.equal(4, #calls 'enumerated')
    assert.are.equal(1, calls('enumerated')[1][2])
    local delivered = records 'Delivery'
    assert.are.equal(0, #delivered) -- all keep their schedule
    rt:advance(4000)
    delivered = records 'Delivery'
    assert.are.equal(3, #delivered)
    local by = {}
    for _, record in ipairs(delivered) do
      by[record.recipient] = record
    end
    assert.are.equal('other@example.org', by['moves@example.org'].queue)
    assert.are.equal('attempt 1', by['raises@example.org'].response.content)
    assert.is_not_nil(by['stays@example.org'])
    rt:advance(86400)
    assert.are.equal(4, #records 'Delivery')
  end)
end)
