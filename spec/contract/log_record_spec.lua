-- Log records as hooks, disposition hooks and local logs see them: contract log-record.md and log-hooks.md.
local helper = require 'helper'
local testing = require 'tr.testing'

local POLICY = [[
local kumo = require 'kumo'
seen, disposed, lines = {}, {}, {}
kumo.on('init', function()
  kumo.define_spool { name = 'data', path = DIR .. '/data' }
  kumo.define_spool { name = 'meta', path = DIR .. '/meta' }
  kumo.configure_log_hook { name = 'h', meta = { 'exact', 'x_*', 'absent' }, headers = { 'sUBJECT', 'X-*', 'Absent' } }
  kumo.configure_log_hook { name = 'rules', per_record = {
    Any = { enable = false }, Delivery = {}, Bounce = { template = 'B {{ recipient }} {{ log_record.response.code }}' },
  } }
  kumo.configure_log_disposition_hook { name = 'd' }
  kumo.configure_log_disposition_hook { name = 'only', per_record = { Any = { enable = false }, Reception = { enable = true } } }
  kumo.configure_local_logs { log_dir = DIR .. '/all' }
  kumo.configure_local_logs { log_dir = DIR .. '/filtered', filter_event = 'some_of_them', per_record = {
    Reception = { suffix = '_in', template = '{{ id }}', segment_header = 'head\n' }, Any = { suffix = '_other' } } }
  kumo.configure_local_logs { log_dir = DIR .. '/none', filter_event = 'nobody_handles_this' }
  if configure then configure() end
end)
kumo.on('some_of_them', function(msg) return msg:recipient().user ~= 'skip' end)
kumo.on('should_enqueue_log_record', function(msg, name)
  local list = seen[name] or {}
  seen[name] = list
  list[#list + 1] = { record = msg:get_meta 'log_record', data = msg:get_data(), protocol = msg:get_meta 'reception_protocol',
    exact = msg:get_meta 'exact', queue_meta = msg:get_meta 'queue' or '', sender = msg:sender().email,
    rcpts = #msg:recipient_list(), id = msg:id(), feedback_is_nil = msg:get_meta('log_record').feedback_report == nil }
  return false
end)
kumo.on('log_disposition_d', function(msg, record)
  disposed[#disposed + 1] = { type = record.type, null = type(record.feedback_report),
    subject = msg:get_first_named_header_value 'Subject',
    has_meta = next(record.meta) ~= nil, has_headers = next(record.headers) ~= nil }
end)
kumo.on('log_disposition_only', function(msg, record)
  disposed[#disposed + 1] = { only = record.type }
end)
kumo.on('get_queue_config', function(domain)
  return kumo.make_queue_config { protocol = { custom_lua = { constructor = 'make.it' } } }
end)
kumo.on('make.it', function()
  return { send = function(_, msg)
    if msg:recipient().user == 'bad' then kumo.reject(550, '5.1.1 unknown\nsecond line') end
    return 'ok'
  end }
end)
]]

describe('log records', function()
  local dir, rt

  local function start(extra)
    dir = helper.dir()
    helper.write(dir .. '/policy.lua', ('DIR = %q\n'):format(dir) .. (extra or '') .. POLICY)
    rt = testing.start { policy = dir .. '/policy.lua', seed = 3 }
  end
  after_each(function()
    if rt then
      rt:stop(5)
      rt = nil
    end
    helper.cleanup()
  end)

  local function of_type(list, kind)
    for _, one in ipairs(list) do
      if one.record.type == kind then
        return one
      end
    end
  end

  it('have the captured fields, typed and spelt as in the message', function()
    start()
    rt:receive {
      to = 'a@example.org',
      data = 'SubJect: =?utf-8?q?=C3=BC?=\r\n x\r\nX-Tag: 1\r\nx-tag: 2\r\nX-Other: 3\r\n\r\nbody\r\n',
      meta = { exact = 'e', x_1 = 'one', other = 'o' },
    }
    rt:advance(1)
    local one = of_type(rt:eval('return seen').h, 'Delivery')
    assert.are.same({ exact = 'e', x_1 = 'one' }, one.record.meta)
    assert.are.same({ SubJect = 'ü x', ['X-Tag'] = { '1', '2' }, ['X-Other'] = '3' }, one.record.headers)
    assert.are.equal('LogRecord', one.protocol)
    assert.are.equal('e', one.exact)
    assert.are.equal('', one.queue_meta)
    assert.are.equal('sender@example.com', one.sender)
    assert.are.equal(1, one.rcpts)
    assert.is_true(one.feedback_is_nil)
    assert.are_not.equal(one.record.id, one.id)
    assert.matches('^{"type":"Delivery","id":"%x+","event_id":"%x+","sender":"sender@example.com",', one.data)
    assert.matches('}\n$', one.data)
    assert.are.equal(1, select(2, one.data:gsub('\n', '')))
    local order = {}
    for name in one.data:gmatch '"([%w_]+)":' do
      order[#order + 1] = name
    end
    local text = table.concat(order, ' ')
    assert.matches('^type id event_id sender recipient queue site size response code enhanced_code content command ', text)
    assert.matches(' peer_address name addr timestamp ', text)
    assert.matches('timestamp event_time created created_time num_attempts bounce_classification egress_pool egress_source', text)
    assert.matches('source_address feedback_report meta .*headers .*delivery_protocol reception_protocol nodeid', text)
  end)

  it('go by the rules of per_record: an entry of its own hides Any, a template makes the body', function()
    start()
    rt:receive { to = 'a@example.org' }
    rt:receive { to = 'bad@example.org' }
    rt:advance(1)
    local list = rt:eval('return seen').rules
    assert.are.equal(2, #list)
    assert.is_not_nil(of_type(list, 'Delivery'))
    local bounce = of_type(list, 'Bounce')
    assert.are.equal('B bad@example.org 550\n', bounce.data)
    assert.are.equal('5.1.1 unknown second line', bounce.record.response.content)
  end)

  it('reach disposition hooks with the message, empty captures, and nulls that are not nil', function()
    start()
    rt:receive { to = 'a@example.org', data = 'Subject: s\r\n\r\nx\r\n' }
    rt:advance(1)
    local got = {}
    for _, one in ipairs(rt:eval 'return disposed') do
      got[one.only and 'only ' .. one.only or one.type] = one
    end
    assert.are.same(
      { type = 'Reception', null = 'userdata', subject = 's', has_meta = false, has_headers = false },
      got.Reception
    )
    assert.are.equal('userdata', got.Delivery.null)
    assert.is_not_nil(got['only Reception'])
    assert.is_nil(got['only Delivery'])
  end)

  it('are written to local logs by filter, suffix, template and header', function()
    start()
    local id = rt:receive { to = 'a@example.org' }
    rt:receive { to = 'skip@example.org' }
    rt:advance(1)
    rt:stop(5)
    rt = nil
    local function log(pattern)
      return (helper.sh(('zstdcat -q %s/%s 2>/dev/null'):format(dir, pattern)))
    end
    assert.are.equal('head\n' .. id .. '\n', log 'filtered/*_in')
    assert.are.equal(1, select(2, log('filtered/*_other'):gsub('\n', '')))
    assert.are.equal(4, select(2, log('all/*'):gsub('\n', '')))
    assert.are.equal('', log 'none/*')
    assert.matches('^%-r%-%-r%-%-r%-%-', helper.sh(('ls -l %s/all | tail -1'):format(dir)))
  end)

  for what, case in pairs {
    ['two hooks of one name'] = { "kumo.configure_log_hook { name = 'h' }", "named 'h' already" },
    ['a disposition hook of a hook\'s name'] = { "kumo.configure_log_disposition_hook { name = 'h' }", "named 'h' already" },
    ['an unknown record type'] = {
      "kumo.configure_log_hook { name = 'x', per_record = { Delivry = {} } }",
      "did you mean 'Delivery'",
    },
    ['a template with a mistake'] = {
      "kumo.configure_log_hook { name = 'x', per_record = { Any = { template = '{{' } } }",
      'template',
    },
    ['a filter of a hook'] = { "kumo.configure_log_hook { name = 'x', filter_event = 'y' }", 'filter_event' },
  } do
    it('refuse ' .. what, function()
      local ok, err = pcall(start, ("function configure() local kumo = require 'kumo' %s end\n"):format(case[1]))
      assert.is_false(ok)
      assert.is_truthy(tostring(err):find(case[2], 1, true), tostring(err))
    end)
  end
end)
