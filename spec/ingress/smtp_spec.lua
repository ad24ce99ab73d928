-- The ESMTP listener as a client sees it: raw bytes to `tailrace run`, and what comes out at the other end.
local helper = require 'helper'
local kumo = require 'kumo'

local EHLO = '250%-mx.test Aloha x\r\n250%-PIPELINING\r\n250%-ENHANCEDSTATUSCODES\r\n250%-8BITMIME\r\n250%-SMTPUTF8\r\n'
local ENVELOPE = 'EHLO x\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\n'

-- Listeners by name; each message that is taken lands in DIR/mail as a file named by its id.
local POLICY = [==[
local kumo = require 'kumo'
local DIR = '%s'
local function listen(name, options)
  options.listen, options.hostname = '127.0.0.1:0', 'mx.test'
  print('LISTEN ' .. name .. ' ' .. kumo.start_esmtp_listener(options))
  io.stdout:flush()
end
kumo.on('init', function()
  kumo.define_spool { name = 'data', path = DIR .. '/data' }
  kumo.define_spool { name = 'meta', path = DIR .. '/meta' }
  kumo.configure_local_logs { log_dir = DIR .. '/logs', max_segment_duration = '1s', headers = { 'Received', 'X-KumoRef' } }
  listen('plain', {})
  listen('fix', { invalid_line_endings = 'Fix' })
  listen('allow', { invalid_line_endings = 'Allow' })
  listen('small', { max_message_size = 1000, max_recipients_per_message = 2, max_messages_per_connection = 3 })
  listen('idle', { client_timeout = '1s' })
  listen('one', { max_connections = 1 })
  listen('hasty', { data_processing_timeout = '300ms' })
  listen('strange', { relay_hosts = {}, meta = { x_events = true }, batch_handling = 'BatchByDomain' })
end)
kumo.on('get_queue_config', function()
  return kumo.make_queue_config { protocol = { custom_lua = { constructor = 'make.file' } } }
end)
kumo.on('make.file', function()
  local file = {}
  function file:send(message)
    local out = assert(io.open(DIR .. '/mail/' .. message:id() .. '.part', 'wb'))
    out:write(message:get_data())
    out:close()
    os.rename(DIR .. '/mail/' .. message:id() .. '.part', DIR .. '/mail/' .. message:id())
    return 'stored'
  end
  function file:close() end
  return file
end)
-- Addresses say what the handlers do. `slow` ones wait first: both ways must give the same.
local function act(what)
  if what:find '^slow' then
    kumo.sleep(0.005)
  end
  if what:find 'refused' then
    kumo.reject(550, '5.7.1 not ' .. what)
  elseif what:find 'later' then
    kumo.reject(451, '4.7.1 later')
  elseif what:find 'hangup' then
    kumo.disconnect(554, '5.7.1 bye', 'FollowWith421')
  elseif what:find 'broken' then
    error 'a mistake in the policy'
  end
end
kumo.on('smtp_server_mail_from', function(address) act(address.user) end)
kumo.on('smtp_server_rcpt_to', function(address) act(address.user) end)
kumo.on('get_listener_domain', function(domain)
  if domain == 'relay.test' then
    return kumo.make_listener_domain { relay_to = true }
  end
end)
kumo.on('smtp_server_data', function(message, conn_meta)
  if conn_meta:get_meta 'x_events' then
    message:append_header('X-Seen', 'data')
  end
end)
kumo.on('smtp_server_message_received', function(message, conn_meta)
  if message:recipient().user == 'null' then
    message:set_meta('queue', 'null')
  elseif message:recipient().user == 'never' then
    kumo.sleep(30)
  elseif message:recipient().user == 'slowall' then
    kumo.sleep(0.005)
  end
  if message:sender().user == 'lastly' then
    act 'later'
  end
end)
]==]

local dir, server, ports

--- Sends the bytes in one go and returns everything that comes until the server closes.
local function talk(name, bytes)
  local input = helper.write(dir .. '/input', bytes)
  return (helper.sh(
    ("bash -c 'exec 3<>/dev/tcp/127.0.0.1/%s; (cat %s >&3) 2>/dev/null; timeout 120 cat <&3 2>/dev/null'"):format(
      ports[name],
      input
    )
  ))
end

--- The only message of an answer, as it was delivered; without our own trace headers.
local function delivered(answer)
  local ids = assert(answer:match '250 OK ids=([%x ]+)\r\n', answer)
  assert.are.equal(32, #ids)
  local text = helper.wait_for('delivery of ' .. ids, function()
    return helper.read(dir .. '/mail/' .. ids)
  end)
  local body = assert(text:match '^X%-KumoRef: .-\r\nReceived: .-\r\n  .-\r\n  .-\r\n  [^\r]+\r\n(.*)$', text)
  return body, text
end

local function replies(answer)
  local codes = {}
  for code in answer:gmatch '(%d%d%d) [^\r]*\r\n' do
    codes[#codes + 1] = code
  end
  return table.concat(codes, ' ')
end

describe('the ESMTP listener', function()
  setup(function()
    dir = helper.sh 'mktemp -d "${TMPDIR:-/tmp}/tailrace-spec.XXXXXX"':match '%S+'
    helper.sh('mkdir ' .. dir .. '/mail')
    local policy = helper.write(dir .. '/policy.lua', (POLICY:gsub('%%s', dir, 1)))
    server = helper.start(('%s run --workers 2 --policy %s'):format(helper.quote(helper.TAILRACE), policy))
    server:line '(initialization complete)'
    ports = {}
    for name, port in server:output():gmatch 'LISTEN (%w+) 127.0.0.1:(%d+)' do
      ports[name] = port
    end
  end)
  teardown(function()
    local status = server:stop()
    helper.sh('rm -rf ' .. dir)
    helper.cleanup()
    assert.are.equal(0, status)
  end)

  it('answers a pipelined dialogue and hands the message on', function()
    local answer = talk('plain', ENVELOPE .. 'Subject: x\r\n\r\n..dot\r\n.\r\nQUIT\r\n')
    assert.matches(
      '^220 mx.test KumoMTA\r\n' .. EHLO .. '250 SIZE 20971520\r\n250 OK <a@b.test>\r\n250 OK <c@d.test>\r\n354 [^\r]*\r\n'
        .. '250 OK ids=%x+\r\n221 [^\r]*\r\n$',
      answer
    )
    local body, all = delivered(answer)
    assert.are.equal('Subject: x\r\n\r\n.dot\r\n', body)
    local id = answer:match 'ids=(%x+)'
    assert.matches(
      'Received: from x %(127.0.0.1%)\r\n  by mx.test %(KumoMTA 127.0.0.1%)\r\n  with ESMTP id ' .. id .. ' for <c@d.test>;\r\n',
      all
    )
    local reference = all:match('X%-KumoRef: (.-)\r\nReceived'):gsub('%s', '')
    local ref = kumo.serde.json_parse(kumo.encode.base64_decode(reference))
    assert.are.same({ ['_@_'] = '\\_/', recipient = 'c@d.test' }, ref)
  end)

  for name, case in pairs {
    ['an empty body'] = { '', '' },
    ['dots on the first line'] = { '..a\r\n', '.a\r\n' },
    ['NUL bytes'] = { 'a\0b\r\n', 'a\0b\r\n' },
    ['a line of 998 bytes'] = { ('x'):rep(998) .. '\r\n', ('x'):rep(998) .. '\r\n' },
  } do
    it('takes ' .. name, function()
      assert.are.equal(case[2], (delivered(talk('plain', ENVELOPE .. case[1] .. '.\r\nQUIT\r\n'))))
    end)
  end

  it('takes a body that has a file of its own in the spool', function()
    local body = (('y'):rep(98) .. '\r\n'):rep(7000)
    assert.are.equal(body, (delivered(talk('plain', ENVELOPE .. body .. '.\r\nQUIT\r\n'))))
  end)

  it('leaves no file of a large body that is accepted and dropped', function()
    local body = (('y'):rep(98) .. '\r\n'):rep(7000)
    local answer = talk('plain', ENVELOPE:gsub('<c@', '<null@') .. body .. '.\r\nQUIT\r\n')
    assert.are.equal('220 250 250 250 354 250 221', replies(answer))
    helper.wait_for('an empty directory of bodies', function()
      return not helper.sh(('ls %s/data'):format(dir)):find 'body'
    end)
  end)

  -- the endings that were published in 2023 and 2024, and relatives; spec/c/ingress/smuggling_test.c tries all there are
  local ENDINGS = {
    '\n.\n', '\n.\r\n', '\r.\r\n', '\r\n.\n', '\r.\r', '\r\n.\r', '\n.\r', '\r.\n', '\r\r\n.\r\r\n', '\n\n.\r\n', '\n\n.\n\n', '\r\n\0.\r\n',
    '\r\n.\0\r\n', '\r\n\0.\0\r\n', '\r\0\n.\r\0\n', '\r\n .\r\n', '\r\n. \r\n', '\r\n.\r\r\n',
    '\n.\n\r\n', '\v.\v', '\r\n.\v\r\n', '\194\133.\194\133',
  }
  for _, name in ipairs { 'plain', 'fix', 'allow' } do
    it('is not smuggled through by any other end: ' .. name, function()
      for i, ending in ipairs(ENDINGS) do
        local answer =
          talk(name, ENVELOPE .. 'a' .. ending .. 'MAIL FROM:<evil@x.test>\r\nRCPT TO:<y@z.test>\r\nDATA\r\nb\r\n.\r\nQUIT\r\n')
        local lone = ending:gsub('\r\n', ''):find '[\r\n]' ~= nil
        local want = lone and name == 'plain' and '552' or '250'
        assert.are.equal(('220 250 250 250 354 %s 221'):format(want), replies(answer), ('%s %d: %q'):format(name, i, ending))
        if want == '552' then
          assert.matches('552 5.6.0 message data must use CRLF for line endings', answer)
        elseif i < 6 then
          assert.matches('MAIL FROM:<evil@x.test>', (delivered(answer)))
        end
      end
    end)
  end

  it('refuses what is too large when it is announced and when it comes', function()
    local answer = talk(
      'small',
      'EHLO x\r\nMAIL FROM:<a@b.test> SIZE=1001\r\nMAIL FROM:<a@b.test> SIZE=1000\r\nRCPT TO:<c@d.test>\r\nDATA\r\n'
        .. (('x'):rep(98) .. '\r\n'):rep(11)
        .. '.\r\nMAIL FROM:<>\r\nQUIT\r\n'
    )
    assert.are.equal('220 250 552 250 250 354 552 250 221', replies(answer))
  end)

  it('counts recipients of a message and of a connection', function()
    local rcpt = 'RCPT TO:<c@d.test>\r\n'
    local mail = 'MAIL FROM:<>\r\n'
    local answer = talk(
      'small',
      'EHLO x\r\n' .. mail .. rcpt:rep(3) .. 'RSET\r\n' .. mail .. rcpt:rep(2) .. 'RSET\r\n' .. mail .. rcpt
    )
    assert.are.equal('220 250 250 250 250 452 250 250 250 452 250 250 421', replies(answer))
  end)

  it('answers junk with codes and goes on', function()
    local answer = talk(
      'plain',
      'STARTTLS\r\nAUTH PLAIN x\r\nVRFY a\r\nBDAT 3 LAST\r\nGET / HTTP/1.1\r\n\r\nNOOP \255\r\nNO\rOP\r\nNOOP\nEHLO\r\n'
        .. 'RCPT TO:<a@b.test>\r\nDATA\r\n'
        .. 'MAIL FROM:<a b>\r\nMAIL FROM:<a@b.test> SIZE=x\r\nNOOP\r\nQUIT\r\n'
    )
    assert.are.equal('220 502 502 502 502 502 501 501 501 500 501 503 503 501 501 250 221', replies(answer))
  end)

  it('keeps a line of 30 MB out of memory', function()
    helper.sh(('{ head -c 30000000 /dev/zero; printf "\\r\\nNOOP\\r\\nQUIT\\r\\n"; } > %s/input.huge'):format(dir))
    local answer = helper.sh(
      ("bash -c 'exec 3<>/dev/tcp/127.0.0.1/%s; (cat %s/input.huge >&3) 2>/dev/null; timeout 120 cat <&3'"):format(
        ports.plain,
        dir
      )
    )
    assert.matches('^220 [^\r]*\r\n500 5.2.3 line too long\r\n250 [^\r]*\r\n221 ', answer)
    local peak = tonumber(helper.read(('/proc/%d/status'):format(server.pid)):match 'VmHWM:%s+(%d+) kB')
    helper.assert_memory(peak, 150000)
  end)

  it('does not hear a client out that never reads its replies, and goes on when it does', function()
    local function memory()
      return tonumber(helper.read(('/proc/%d/status'):format(server.pid)):match 'VmRSS:%s+(%d+) kB')
    end
    helper.sh(('yes "EHLO x\r" | head -c 60000000 > %s/input.flood'):format(dir))
    local before = memory()
    -- all that the server and the kernel take without a reader, then 10,000 of the replies
    local script = helper.write(dir .. '/flood.sh', ([[
      exec 3<>/dev/tcp/127.0.0.1/%s
      cat %s/input.flood >&3 & cat=$!
      last=-1 same=0
      while [ $same -lt 30 ] && kill -0 $cat 2>/dev/null; do
        now=$(grep wchar /proc/$cat/io)
        if [ "$now" = "$last" ]; then same=$((same + 1)); else same=0 last=$now; fi
        sleep 0.03
      done
      kill -0 $cat && echo it stopped
      grep VmRSS /proc/%d/status
      timeout 120 grep -m 10000 -c ^250.SIZE <&3
      kill $cat
    ]]):format(ports.plain, dir, server.pid))
    local text = helper.sh('bash ' .. script)
    assert.matches('it stopped', text)
    helper.assert_memory(tonumber(text:match 'VmRSS:%s+(%d+) kB'), before + 10000)
    assert.matches('\n10000\n', text)
  end)

  it('ends a client that falls silent in the middle of a command', function()
    assert.matches('^220 [^\r]*\r\n421 4.3.2 mx.test idle too long\r\n$', talk('idle', 'MAIL FR'))
  end)

  it('relays for nobody who may not', function()
    local answer = talk(
      'strange',
      'EHLO x\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<c@else.test>\r\nRCPT TO:<c@relay.test>\r\nDATA\r\nx: y\r\n\r\n.\r\nQUIT\r\n'
    )
    assert.are.equal('220 250 250 550 250 354 250 221', replies(answer))
    assert.matches('550 5.7.1 relaying not permitted for 127.0.0.1:%d+\r\n', answer)
    assert.are.equal('x: y\r\nX-Seen: data\r\n\r\n', select(2, delivered(answer)):match '\r\n(x: y.*)$')
  end)

  for _, how in ipairs { '', 'slow' } do
    it('does what handlers say: ' .. (how == '' and 'at once' or 'after a wait'), function()
      local answer = talk(
        'plain',
        ('EHLO x\r\nMAIL FROM:<%srefused@b.test>\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<%srefused@d.test>\r\n'
          .. 'RCPT TO:<%slater@d.test>\r\nRCPT TO:<c@d.test>\r\nRSET\r\nMAIL FROM:<%shangup@b.test>\r\nNOOP\r\n'):gsub(
          '%%s',
          how
        )
      )
      assert.are.equal('220 250 550 250 550 451 250 250 554 421', replies(answer))
      answer = talk('plain', ('EHLO x\r\nMAIL FROM:<%sbroken@b.test>\r\nNOOP\r\n'):gsub('%%s', how))
      assert.matches('421 4.3.0 mx.test technical difficulties\r\n$', answer)
    end)

    it('asks for each of many messages: ' .. (how == '' and 'at once' or 'after a wait'), function()
      local rcpts = {}
      for i = 1, 200 do
        rcpts[i] = ('RCPT TO:<%s@d%d.test>\r\n'):format(how == '' and 'u' or 'slowall', i)
      end
      local text = 'EHLO x\r\nMAIL FROM:<%s@b.test>\r\n' .. table.concat(rcpts) .. 'DATA\r\nx\r\n.\r\nQUIT\r\n'
      local answer = talk('plain', (text:gsub('%%s', 'a')))
      assert.are.equal(200, select(2, answer:match('250 OK ids=([%x ]+)'):gsub('%x+', '')))
      -- one refusal refuses all
      assert.matches('\r\n451 4.7.1 later\r\n221 [^\r]*\r\n$', talk('plain', (text:gsub('%%s', 'lastly'))))
    end)
  end

  it('gives up on a handler that does not end, and goes on', function()
    local answer = talk('hasty', ENVELOPE:gsub('<c@', '<never@') .. 'x\r\n.\r\nNOOP\r\nQUIT\r\n')
    assert.are.equal('220 250 250 250 354 451 250 221', replies(answer))
    assert.matches('451 4.4.5 data_processing_timeout exceeded %(rx%)', answer)
  end)

  it('holds no more connections than it is told to', function()
    local first =
      helper.start(("bash -c 'exec 3<>/dev/tcp/127.0.0.1/%s; printf \"NOOP\\r\\n\" >&3; exec cat <&3'"):format(ports.one))
    first:line '(250 )'
    assert.are.equal('421 4.3.2 mx.test too many concurrent sessions. Try later\r\n', talk('one', 'QUIT\r\n'))
    first:stop 'KILL'
    helper.wait_for('its place', function()
      return talk('one', 'QUIT\r\n'):find '^220 '
    end)
  end)

  it('records refusals with the envelope so far', function()
    talk('plain', 'EHLO rec.test\r\nMAIL FROM:<rec@b.test>\r\nRCPT TO:<one@d.test>\r\nRCPT TO:<refused@d.test>\r\nQUIT\r\n')
    local record = helper.wait_for('the record', function()
      for line in helper.sh(('cat %s/logs/* | zstd -dcq'):format(dir)):gmatch '([^\n]+)\n' do
        if line:find('"rec.test"', 1, true) and line:find('"Rejection"', 1, true) then
          return line
        end
      end
    end)
    record = kumo.serde.json_parse(record)
    assert.are.equal('rec@b.test', record.sender)
    assert.are.equal('one@d.test', record.recipient)
    assert.are.equal(550, record.response.code)
    assert.are.equal('RCPT TO:<refused@d.test>', record.response.command)
    assert.are.same({ name = 'rec.test', addr = '127.0.0.1' }, record.peer_address)
  end)

  it('puts the recipients of one domain into one message when it is told to', function()
    local answer = talk(
      'strange',
      'EHLO x\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<c@relay.test>\r\nRCPT TO:<d@relay.test>\r\nDATA\r\n\r\n.\r\nQUIT\r\n'
    )
    assert.are.equal(1, select(2, answer:match('250 OK ids=([%x ]+)'):gsub('%x+', '')))
  end)

  it('tells a waiting client that it stops', function()
    local policy = helper.write(dir .. '/stop.lua', (POLICY:gsub('%%s', dir .. '/stop', 1)))
    local other = helper.start(('%s run --workers 2 --policy %s'):format(helper.quote(helper.TAILRACE), policy))
    other:line '(initialization complete)'
    local port = other:output():match 'LISTEN plain 127.0.0.1:(%d+)'
    local client =
      helper.start(("bash -c 'exec 3<>/dev/tcp/127.0.0.1/%s; echo NOOP >&3; timeout 120 cat <&3'"):format(port))
    client:line '(500 5.5.2 )' -- a bare LF: the dialogue has begun
    assert.are.equal(0, other:stop())
    client:wait()
    assert.matches('421 4.3.2 mx.test shutting down\r\n$', client:output())
  end)

  for name, case in pairs {
    ['an unknown key'] = { "{ lisen = '127.0.0.1:0' }", "unknown field 'lisen'.*did you mean 'listen'" },
    ['TLS'] = { "{ tls_certificate = '/x.pem' }", 'tls_certificate is not supported by Tailrace yet' },
    ['XCLIENT'] = { '{ allow_xclient = true }', 'allow_xclient is not supported by Tailrace yet' },
    ['host bits in a block'] = { "{ relay_hosts = { '10.1.2.3/8' } }", "'10.0.0.0/8' is meant" },
    ['a bad choice'] = { "{ invalid_line_endings = 'Nope' }", "'Deny', 'Allow', 'Fix' expected" },
    ['an address that is not ours'] = { "{ listen = '192.0.2.1:2525' }", 'cannot be bound' },
  } do
    it('refuses to start with ' .. name, function()
      local policy = helper.write(
        dir .. '/bad.lua',
        ("local kumo = require 'kumo'\nkumo.on('init', function() kumo.start_esmtp_listener %s end)\n"):format(case[1])
      )
      local output, status = helper.sh(('%s run --policy %s'):format(helper.quote(helper.TAILRACE), policy))
      assert.are.equal(78, status)
      assert.matches(case[2], output)
    end)
  end
end)
