-- What policies see of an SMTP session: contract smtp.md and events.md section 10.
local helper = require 'helper'
local kumo = require 'kumo'

local POLICY = [==[
local kumo = require 'kumo'
local DIR = os.getenv 'TAILRACE_DIR'
local function note(...)
  local file = assert(io.open(DIR .. '/events', 'ab'))
  file:write(kumo.serde.json_encode { ... }, '\n')
  file:close()
end
local function listen(name, options)
  options.listen, options.hostname = '127.0.0.1:0', options.hostname or 'mx.test'
  print('LISTEN ' .. name .. ' ' .. kumo.start_esmtp_listener(options))
  io.stdout:flush()
end
kumo.on('init', function()
  kumo.define_spool { name = 'data', path = DIR .. '/spool' }
  kumo.define_spool { name = 'meta', path = DIR .. '/spool' }
  listen('plain', { deferred_spool = true, meta = { x_listener = 'plain', x_level = 1 } })
  listen('blocks', {
    banner = 'top', meta = { x_a = 'top', x_b = 'top' }, max_recipients_per_message = 5,
    peer = {
      ['127.0.0.0/8'] = { banner = 'wide', meta = { x_a = 'wide' } },
      ['127.0.0.1'] = {
        banner = 'near', meta = { x_a = 'near' },
        via = { ['127.0.0.0/8'] = { hostname = 'inner.test', max_recipients_per_message = 1 } },
      },
      ['10.0.0.0/8'] = { banner = 'far' },
    },
    via = { ['127.0.0.1/32'] = { meta = { x_c = 'via' } }, ['192.0.2.1'] = { banner = 'wrong' } },
  })
  listen('dynamic', { meta = { x_dynamic = true } })
end)
kumo.on('smtp_server_get_dynamic_parameters', function(listener, conn_meta)
  note('parameters', (listener:gsub(':%d+$', '')), conn_meta:get_meta 'x_listener')
  if conn_meta:get_meta 'x_dynamic' then
    return { banner = 'made', peer = { ['127.0.0.1'] = { hostname = 'made.test' }, ['10.0.0.1'] = { hostname = 'no.test' } } }
  end
end)
kumo.on('smtp_server_connection_accepted', function(conn_meta)
  note 'accepted'
  conn_meta:set_meta('x_mark', { a = { 1, 2 } })
end)
kumo.on('smtp_server_ehlo', function(domain, conn_meta, extensions)
  note('ehlo', domain, extensions and #extensions > 3)
  if domain == 'plain.test' then
    return { 'PIPELINING', 'X-OURS' }
  end
end)
kumo.on('smtp_server_mail_from', function(address)
  note('mail', address.user, address.domain, tostring(address))
end)
kumo.on('get_listener_domain', function(domain, listener, conn_meta)
  note('domain', domain, type(conn_meta:get_meta 'received_from'))
end)
kumo.on('smtp_server_rcpt_to', function(address)
  note('rcpt', address.email)
  if address.user == 'no' then
    kumo.reject(550, '5.1.1 no such user')
  end
end)
kumo.on('smtp_server_data', function(msg, conn_meta)
  note('data', #msg:recipient_list(), msg:get_meta('x_mark').a[2])
  conn_meta:set_meta('x_late', true)
  msg:set_meta('x_of_data', true)
end)
kumo.on('smtp_server_split_transaction', function(msg)
  note('split', #msg:recipient_list())
  if msg:get_first_named_header_value 'X-Split' then
    return { { 'a@one.test', 'b@one.test' }, { msg:recipient_list()[1] } }
  end
end)
kumo.on('smtp_server_message_received', function(msg)
  note('received', msg:recipient_list()[1].email, msg:get_meta 'x_of_data', msg:get_meta 'x_late' or 'absent',
    msg:get_first_named_header_value 'Received' ~= nil, msg:get_first_named_header_value 'X-KumoRef' ~= nil)
  if msg:recipient_list()[1].user == 'reject' then
    kumo.reject(552, '5.2.2 all of it')
  elseif msg:recipient_list()[1].user == 'void' then
    msg:set_meta('queue', 'null')
  end
end)
kumo.on('smtp_server_rewrite_response', function(code, text, command, conn_meta)
  note('reply', code, command)
  if text:find 'no such user' then
    return 551, '5.1.6 moved\nfor good'
  elseif text:find '354' then
    error 'ignored'
  end
end)
kumo.on('get_queue_config', function()
  return kumo.make_queue_config { protocol = { custom_lua = { constructor = 'make.keep' } } }
end)
kumo.on('make.keep', function()
  return {
    send = function(_, msg)
      local meta = {}
      for i, name in ipairs { 'x_a', 'x_b', 'x_c', 'reception_protocol', 'ehlo_domain', 'hostname' } do
        meta[i] = msg:get_meta(name) or ''
      end
      note('sent', meta)
      return 'kept'
    end,
  }
end)
]==]

local dir, server, ports

local function talk(name, bytes)
  local input = helper.write(dir .. '/input', bytes)
  return (helper.sh(
    ("bash -c 'exec 3<>/dev/tcp/127.0.0.1/%s; (cat %s >&3) 2>/dev/null; timeout 300 cat <&3 2>/dev/null'"):format(
      ports[name],
      input
    )
  ))
end

local told -- bytes of the events that were there before

--- The events of this test so far; `quiet`: without replies and deliveries, which may be those of tests before.
local function events(quiet)
  local list = {}
  for line in (helper.read(dir .. '/events') or ''):sub(told + 1):gmatch '([^\n]*)\n' do
    local event = kumo.serde.json_parse(line)
    if not quiet or event[1] ~= 'reply' and event[1] ~= 'sent' then
      list[#list + 1] = event
    end
  end
  return list
end

local function names(list)
  local out = {}
  for i, event in ipairs(list) do
    out[i] = event[1]
  end
  return table.concat(out, ' ')
end

describe('an SMTP session', function()
  setup(function()
    dir = helper.sh 'mktemp -d "${TMPDIR:-/tmp}/tailrace-spec.XXXXXX"':match '%S+'
    local policy = helper.write(dir .. '/policy.lua', POLICY)
    server = helper.run(policy, '--workers 1', { TAILRACE_DIR = dir })
    ports = {}
    for name, port in server:output():gmatch 'LISTEN (%w+) 127.0.0.1:(%d+)' do
      ports[name] = port
    end
  end)
  before_each(function()
    told = #(helper.read(dir .. '/events') or '')
  end)
  teardown(function()
    local status = server:stop()
    helper.sh('rm -rf ' .. dir)
    helper.cleanup()
    assert.are.equal(0, status)
  end)

  it('fires its events in order, with their arguments', function()
    local answer = talk(
      'plain',
      'EHLO c.test\r\nMAIL FROM:<Ann@Shop.Test>\r\nRCPT TO:<b@One.test>\r\nRCPT TO:<c@two.test>\r\nDATA\r\n'
        .. 'Subject: x\r\n\r\nbody\r\n.\r\nQUIT\r\n'
    )
    assert.matches('250 OK ids=%x+ %x+\r\n', answer)
    local list = events(true)
    -- a peer of relay_hosts may relay; the domains are asked all the same, each once a session
    assert.are.equal('parameters accepted ehlo mail domain domain rcpt domain rcpt data split received received', names(list))
    assert.are.same({ 'parameters', '127.0.0.1', 'plain' }, list[1])
    assert.are.same({ 'ehlo', 'c.test', true }, list[3])
    assert.are.same({ 'mail', 'Ann', 'Shop.Test', 'Ann@Shop.Test' }, list[4])
    assert.are.same({ 'domain', 'Shop.Test', 'string' }, list[5])
    assert.are.same({ 'domain', 'One.test', 'string' }, list[6])
    assert.are.same({ 'rcpt', 'b@One.test' }, list[7])
    assert.are.same({ 'data', 2, 2 }, list[10])
    assert.are.same({ 'split', 2 }, list[11])
    -- Received is there, the supplemental header not yet; what data set is on the message, later conn_meta is not
    assert.are.equal('b@One.test', list[12][2])
    assert.is_true(list[12][3])
    assert.are.equal('absent', list[12][4])
    assert.is_true(list[12][5])
    assert.is_false(list[12][6])
  end)

  it('lets every reply but the banner be rewritten, with the command that it answers', function()
    local answer = talk('plain', 'HELO c.test\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<no@b.test>\r\nNONSENSE\r\nQUIT\r\n')
    assert.matches('551%-5.1.6 moved\r\n551 for good\r\n', answer)
    local list = {}
    for _, event in ipairs(events()) do
      if event[1] == 'reply' then
        list[#list + 1] = event[2] .. ' ' .. tostring(event[3])
      end
    end
    assert.are.same({
      '250 HELO c.test', '250 MAIL FROM:<a@b.test>', '550 RCPT TO:<no@b.test>', '502 NONSENSE', '221 QUIT',
    }, list) -- stylua: ignore
  end)

  it('uses the extensions that smtp_server_ehlo returns', function()
    local answer = talk('plain', 'EHLO plain.test\r\nQUIT\r\n')
    assert.matches('250%-mx.test Aloha plain.test\r\n250%-PIPELINING\r\n250 X%-OURS\r\n', answer)
  end)

  it('splits as smtp_server_split_transaction says', function()
    local answer = talk(
      'plain',
      'EHLO c.test\r\nMAIL FROM:<>\r\nRCPT TO:<z@z.test>\r\nDATA\r\nX-Split: 1\r\n\r\nbody\r\n.\r\nQUIT\r\n'
    )
    assert.matches('250 OK ids=%x+ %x+\r\n', answer)
    local seen = {}
    for _, event in ipairs(events(true)) do
      if event[1] == 'received' then
        seen[#seen + 1] = event[2]
      end
    end
    table.sort(seen)
    assert.are.same({ 'a@one.test', 'z@z.test' }, seen)
  end)

  it('refuses the whole transaction when one message is refused', function()
    local answer = talk(
      'plain',
      'EHLO c.test\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<b@one.test>\r\nRCPT TO:<reject@two.test>\r\nDATA\r\n'
        .. 'S: x\r\n\r\nx\r\n.\r\nQUIT\r\n'
    )
    assert.matches('354 [^\r]*\r\n552 5.2.2 all of it\r\n221', answer)
  end)

  it('takes peer and via blocks, the longest prefix, blocks in blocks, and merges meta', function()
    local answer = talk(
      'blocks',
      'EHLO c\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<b@one.test>\r\nRCPT TO:<c@one.test>\r\nDATA\r\n'
        .. 'S: x\r\n\r\nx\r\n.\r\nQUIT\r\n'
    )
    assert.matches('^220 inner.test near\r\n', answer)
    assert.matches('452 4.5.3 too many recipients\r\n', answer)
    local meta = helper.wait_for('the delivery', function()
      for _, event in ipairs(events()) do
        if event[1] == 'sent' and event[2][5] == 'c' then -- the EHLO of this test
          return event[2]
        end
      end
    end)
    assert.are.same({ 'near', 'top', 'via', 'ESMTP', 'c', 'inner.test' }, meta)
  end)

  it('takes what smtp_server_get_dynamic_parameters returns, blocks included', function()
    assert.matches('^220 made.test made\r\n', talk('dynamic', 'QUIT\r\n'))
  end)
end)

describe('start_esmtp_listener', function()
  for what, case in pairs {
    ['a CIDR block with host bits'] = { "peer = { ['10.0.0.1/8'] = {} }", '10.0.0.0/8' },
    ['listen inside of a block'] = { "via = { ['10.0.0.0/8'] = { listen = 'x' } }", 'listen' },
    ['an unknown key'] = { 'banne = "x"', 'banner' },
    ['a block that is no table'] = { "peer = { ['10.0.0.0/8'] = 1 }", 'table of settings' },
  } do
    it('refuses ' .. what, function()
      local where = helper.dir()
      local policy = helper.write(
        where .. '/policy.lua',
        ([[
        local kumo = require 'kumo'
        kumo.on('init', function() kumo.start_esmtp_listener { listen = '127.0.0.1:0', %s } end)
      ]]):format(case[1])
      )
      local output, status = helper.sh(('%s run --policy %s'):format(helper.quote(helper.TAILRACE), policy))
      assert.are.equal(78, status)
      assert.is_truthy(output:find(case[2], 1, true), output)
      helper.cleanup()
    end)
  end
end)
