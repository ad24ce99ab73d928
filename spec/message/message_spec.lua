local kumo = require 'kumo'

local BODY = table.concat({
  'Subject: =?utf-8?Q?gr=C3=BCn?=',
  'X-Tag: a',
  'x-tag: b',
  'X-Two-Words: c',
  'To: u@d.test',
  '',
  'body',
}, '\r\n')

local function make(body)
  return kumo.make_message('<news@shop.test>', 'Ann@Dest.Test', body or BODY)
end

-- Calls fn and gives the text of what it raises.
local raised = require('helper').raised

describe('EnvelopeAddress', function()
  it('has parts and a text', function()
    local addr = make():sender()
    assert.are.equal('news', addr.user)
    assert.are.equal('shop.test', addr.domain)
    assert.are.equal('news@shop.test', addr.email)
    assert.are.equal('news@shop.test', tostring(addr))
  end)

  it('is empty for the null sender', function()
    local addr = kumo.make_message('', 'a@b', 'x'):sender()
    assert.are.equal('', addr.user .. addr.domain .. addr.email)
  end)

  it('names its fields when asked for another', function()
    local addr = make():sender()
    assert.is_truthy(raised(function() return addr.local_part end):find('local_part', 1, true))
  end)
end)

describe('message envelope', function()
  it('has an id of 32 digits that differs', function()
    local a, b = make(), make()
    assert.is_truthy(a:id():find '^%x+$')
    assert.are.equal(32, #a:id())
    assert.are_not.equal(a:id(), b:id())
  end)

  it('takes strings and addresses', function()
    local msg = make()
    msg:set_sender 'x@y.test'
    assert.are.equal('x@y.test', msg:sender().email)
    msg:set_sender(msg:recipient())
    assert.are.equal('Ann@Dest.Test', msg:sender().email)
    msg:set_recipient { 'a@b.test', msg:sender(), '<c@d.test>' }
    local list = msg:recipient()
    assert.are.equal(3, #list)
    assert.are.equal('c@d.test', list[3].email)
    msg:set_recipient 'one@two.test'
    assert.are.equal('one@two.test', msg:recipient().email)
    assert.are.equal(1, #msg:recipient_list())
  end)

  it('keeps what it had when an address is bad', function()
    local msg = make()
    assert.is_truthy(raised(function() msg:set_recipient { 'ok@b.test', 'bad' } end):find("'bad'", 1, true))
    assert.is_truthy(raised(function() msg:set_recipient(5 == 5) end):find('boolean', 1, true))
    assert.is_truthy(raised(function() msg:set_sender 'no' end):find('set_sender', 1, true))
    assert.is_truthy(raised(function() kumo.make_message('a@b', 'bad', 'x') end):find('recipient', 1, true))
    assert.are.equal('Ann@Dest.Test', msg:recipient().email)
    assert.are.equal('news@shop.test', msg:sender().email)
  end)

  it('composes the queue name', function()
    local msg = make()
    assert.are.equal('dest.test', msg:queue_name())
    msg:set_meta('campaign', 'c')
    assert.are.equal('c:@dest.test', msg:queue_name())
    msg:set_meta('tenant', 5)
    local text = raised(function() msg:queue_name() end)
    assert.is_truthy(text:find("expected 'tenant' to be a string value, got a number", 1, true))
    msg:set_meta('tenant', nil)
    msg:set_meta('queue', 'webhook.x')
    assert.are.equal('webhook.x', msg:queue_name())
  end)

  it('counts attempts', function()
    local msg = make()
    assert.are.equal(0, msg:num_attempts())
    msg:increment_num_attempts()
    assert.are.equal(1, msg:num_attempts())
  end)

  it('suggests the method that was meant', function()
    local msg = make()
    assert.is_truthy(raised(function() msg:get_mata 'x' end):find("did you mean 'get_meta'", 1, true))
  end)
end)

describe('message meta', function()
  for name, value in pairs { text = 'v', number = 5, fraction = 0.5, yes = true, no = false } do
    it('keeps a ' .. name, function()
      local msg = make()
      msg:set_meta(name, value)
      assert.are.equal(value, msg:get_meta(name))
    end)
  end

  it('gives fresh tables', function()
    local msg = make()
    msg:set_meta('t', { a = { 1, 2 } })
    msg:get_meta('t').a[1] = 9
    assert.are.same({ a = { 1, 2 } }, msg:get_meta 't')
  end)

  it('reads nil for what was set to nil', function()
    local msg = make()
    msg:set_meta('n', 'x')
    msg:set_meta('n', nil)
    assert.is_nil(msg:get_meta 'n')
    assert.is_nil(msg:get_meta 'never')
  end)

  it('refuses what JSON cannot hold', function()
    local msg = make()
    assert.is_truthy(raised(function() msg:set_meta('f', print) end):find("'f'", 1, true))
    assert.is_truthy(raised(function() msg:set_meta('u', msg) end):find("'u'", 1, true))
    assert.is_truthy(raised(function() msg:set_meta('s', '\255') end):find('UTF-8', 1, true))
    assert.is_nil(msg:get_meta 'f')
  end)
end)

describe('message headers', function()
  it('reads them decoded', function()
    local msg = make()
    assert.are.equal('grün', msg:get_first_named_header_value 'SUBJECT')
    assert.is_nil(msg:get_first_named_header_value 'None')
    assert.are.same({ 'a', 'b' }, msg:get_all_named_header_values 'X-TAG')
    assert.are.same({}, msg:get_all_named_header_values 'None')
    local all = msg:get_all_headers()
    assert.are.equal(5, #all)
    assert.are.same({ 'x-tag', 'b' }, all[3])
  end)

  it('adds at both ends', function()
    local msg = make()
    msg:append_header('X-Last', 'z')
    msg:prepend_header('X-First', 'ä', true)
    local all = msg:get_all_headers()
    assert.are.same({ 'X-First', 'ä' }, all[1])
    assert.are.same({ 'X-Last', 'z' }, all[7])
    assert.is_truthy(msg:get_data():find('^X%-First: =%?'))
    assert.is_truthy(msg:get_data():find('X-Last: z\r\n\r\nbody', 1, true))
    assert.is_truthy(raised(function() make('A: b\r\n'):append_header('x', 'y') end):find('blank line', 1, true))
    assert.is_truthy(raised(function() msg:append_header('x y', 'z') end):find('header name', 1, true))
  end)

  it('removes', function()
    local msg = make()
    msg:remove_all_named_headers 'x-TAG'
    assert.are.equal(3, #msg:get_all_headers())
    msg:remove_x_headers()
    assert.are.equal(2, #msg:get_all_headers())
    msg:remove_x_headers { 'to' }
    assert.are.equal('Subject: =?utf-8?Q?gr=C3=BCn?=\r\n\r\nbody', msg:get_data())
  end)

  it('imports', function()
    local msg = make()
    msg:import_x_headers()
    assert.are.equal('b', msg:get_meta 'x_tag')
    assert.are.equal('c', msg:get_meta 'x_two_words')
    assert.is_nil(msg:get_meta 'to')
    msg:import_x_headers { 'To' }
    assert.are.equal('u@d.test', msg:get_meta 'to')
  end)
end)

describe('message schedule', function()
  it('moves the due time into the window', function()
    local msg = make()
    local due = '2096-07-23T08:00:00Z'
    assert.is_nil(msg:set_due())
    assert.are.equal(due, msg:set_due(due))
    local window = { dow = 'Mon,Tue,Wed,Thu,Fri,Sat,Sun', tz = 'UTC', start = '09:00:00', ['end'] = '10:00:00' }
    assert.are.equal('09:00:00', msg:set_scheduling(window).start)
    assert.are.equal('2096-07-23T09:00:00Z', msg:set_due(due))
    assert.is_nil(msg:set_scheduling(nil))
    assert.is_truthy(raised(function() msg:set_scheduling { typo = 'x' } end):find('unknown key', 1, true))
    assert.is_truthy(raised(function() msg:set_due 'soon' end):find('RFC 3339', 1, true))
  end)

  it('comes from a header', function()
    local json = '{"first_attempt":"2096-01-01T00:00:00Z"}'
    local msg = make('X-Schedule: ' .. json .. '\r\n\r\nb')
    assert.are.same({ first_attempt = '2096-01-01T00:00:00Z' }, msg:import_scheduling_header('x-schedule', true))
    assert.are.equal('\r\nb', msg:get_data())
    assert.are.equal('2096-01-01T00:00:00Z', msg:set_due())
    assert.is_nil(msg:import_scheduling_header 'x-schedule')
  end)
end)
