-- Routes, authorization and injection without an engine: requests go to the entry as C hands them over, and what would
-- be committed is caught.
local host = require 'tr.host'
local kumo = require 'kumo'
local core = require 'tr.http_server'

local real = { receive = core.receive, closed = core.closed }
local committed, refuse

local function request(fields)
  local base = {
    method = 'POST',
    path = '/api/inject/v1',
    peer = '192.0.2.1',
    local_ip = '192.0.2.2',
    hostname = 'mx.example',
    listen = '127.0.0.1:8000',
    content_type = 'application/json',
    body = '',
    trusted = true,
    query = {},
  }
  for name, value in pairs(fields or {}) do
    base[name] = value
  end
  if type(base.body) == 'table' then
    base.body = kumo.serde.json_encode(base.body)
  end
  return base
end

local function ask(fields)
  return host.entry.http_request(request(fields))
end

local function inject(body)
  local status, text = ask { body = body }
  return status, status == 200 and kumo.serde.json_parse(text) or text
end

local function simple(changes)
  local body = {
    envelope_sender = 'from@example.com',
    recipients = { { email = 'to@example.net' } },
    content = 'Subject: hi {{ name }}\r\n\r\nHello {{ name }}!\r\n',
  }
  for name, value in pairs(changes) do
    body[name] = value
  end
  return body
end

local auth_calls = 0
kumo.on('http_server_validate_auth_basic', function(user, password)
  auth_calls = auth_calls + 1
  if user == 'broken' then
    error 'database is down'
  end
  return user == 'ann' and password == 'secret'
end)
local generated
kumo.on('http_message_generated', function(msg, info)
  generated = { msg = msg, info = info }
  if msg:recipient().user == 'refused' then
    kumo.reject(550, 'not this one')
  end
end)

describe('the HTTP listener', function()
  before_each(function()
    committed, refuse, generated = {}, nil, nil
    core.closed = function() end
    core.receive = function(messages, peer)
      if refuse then
        return nil, 'storage is too full', 'ENOSPC'
      end
      local outcomes = {}
      for i, message in ipairs(messages) do
        committed[#committed + 1] = {
          data = message:get_data(),
          rcpt = tostring(message:recipient()),
          sender = tostring(message:sender()),
          peer = peer,
          id = message:id(),
          protocol = message:get_meta 'reception_protocol',
          auth = message:get_meta 'http_auth',
          from = message:get_meta 'received_from',
          extra = message:get_meta 'extra',
        }
        local bad = tostring(message:recipient()):find '^badqueue'
        outcomes[i] = { id = message:id(), queued = not bad, dropped = false, error = bad and 'no such queue' or nil }
      end
      return outcomes
    end
  end)
  after_each(function()
    core.receive, core.closed = real.receive, real.closed
  end)

  -- --- who may ---------------------------------------------------------------------------------------------

  local b64 = require('tr.http').base64
  for name, case in pairs {
    ['an unknown client'] = { 401, { trusted = false } },
    ['an unknown client with a good password'] = {
      200,
      { trusted = false, authorization = 'Basic ' .. b64 'ann:secret' },
    },
    ['a trusted client with a bad password'] = { 401, { authorization = 'Basic ' .. b64 'ann:wrong' } },
    ['a malformed header'] = { 400, { authorization = 'Basic' } },
    ['another scheme'] = { 400, { authorization = 'Digest x' } },
    ['a bearer that nobody checks'] = { 401, { authorization = 'Bearer x' } },
    ['a validator that raises'] = { 500, { authorization = 'Basic ' .. b64 'broken:x' } },
    ['a known client, at the admin API'] = {
      401,
      {
        trusted = false,
        authorization = 'Basic ' .. b64 'ann:secret',
        method = 'GET',
        path = '/api/admin/bounce/v1',
      },
    },
    ['liveness for anyone'] = { 200, { trusted = false, method = 'GET', path = '/api/check-liveness/v1' } },
    ['an unknown path'] = { 404, { path = '/nothing' } },
    ['an unknown path for an unknown client'] = { 401, { path = '/nothing', trusted = false } },
    ['a wrong method'] = { 405, { method = 'DELETE' } },
  } do
    it(('answers %d to %s'):format(case[1], name), function()
      local fields = { body = simple {} }
      for key, value in pairs(case[2]) do
        fields[key] = value
      end
      local status, text = ask(fields)
      assert.are.equal(case[1], status)
      if status >= 400 then
        assert.is_truthy(text:find '^Error: ')
      end
    end)
  end

  it('asks the policy once for a credential', function()
    local before = auth_calls
    local header = 'Basic ' .. b64 'ann:never used before'
    assert.are.equal(401, (ask { authorization = header }))
    assert.are.equal(401, (ask { authorization = header }))
    assert.are.equal(before + 1, auth_calls)
  end)

  for why, status in pairs { ['shutting down'] = 503, ['waiting for spool startup'] = 503 } do
    it(('is not alive and takes nothing while %s'):format(why), function()
      core.closed = function()
        return why
      end
      local code, text = ask { method = 'GET', path = '/api/check-liveness/v1' }
      assert.are.equal(status, code)
      assert.are.equal('Error: ' .. why .. '\n', text)
      assert.are.equal(503, (ask { body = simple {} }))
      assert.are.equal(0, #committed)
    end)
  end

  -- --- bad requests ----------------------------------------------------------------------------------------

  for name, case in pairs {
    ['no JSON'] = { 400, '{"a":', 'byte' },
    ['no object'] = { 422, '7', 'object' },
    ['a missing field'] = { 422, { recipients = {}, content = 'x' }, 'missing field `envelope_sender`' },
    ['an unknown field'] = { 422, simple { colour = 1 }, 'unknown field `colour`, expected one of `content`' },
    ['an unknown field of a recipient'] = {
      422,
      simple { recipients = { { email = 'a@b.c', color = 1 } } },
      'recipients%[1%]: unknown field `color`',
    },
    ['a wrong type'] = { 422, simple { recipients = 'a@b.c' }, '`recipients` must be an object or list' },
    ['no content'] = { 422, simple { content = {} }, 'text_body' },
    ['a bad template'] = { 422, simple { content = 'Subject: {{ a b }}\r\n\r\n' }, 'failed parsing template' },
    ['Handlebars'] = { 422, simple { template_dialect = 'Handlebars' }, 'Handlebars` is not supported' },
    ['deferred generation'] = { 422, simple { deferred_generation = true }, 'not supported by Tailrace yet' },
    ['a bad sender'] = { 422, simple { envelope_sender = 'a b@c d' }, 'envelope_sender' },
    ['bad base64'] = {
      422,
      simple { content = { text_body = 'x', attachments = { { data = '%', content_type = 'a/b', base64 = true } } } },
      'attachments%[1%]: `data` is not base64',
    },
  } do
    it(('answers %d to %s and takes nothing'):format(case[1], name), function()
      local status, text = ask { body = case[2] }
      assert.are.equal(case[1], status)
      assert.is_truthy(text:find(case[3]), text)
      assert.are.equal(0, #committed)
    end)
  end

  it('wants JSON to be called JSON', function()
    assert.are.equal(415, (ask { content_type = 'text/plain', body = simple {} }))
    assert.are.equal(415, (ask { content_encoding = 'gzip', body = simple {} }))
    assert.are.equal(200, (ask { content_type = 'application/json; charset=utf-8', body = simple {} }))
  end)

  -- --- injection -------------------------------------------------------------------------------------------

  it('makes one message a recipient, with variables of both levels', function()
    local status, result = inject(simple {
      substitutions = { name = 'all', x = 1 },
      recipients = { { email = 'a@example.net', name = 'Ann' }, { email = 'b@example.net', substitutions = { name = 'Bob' } } },
      content = 'Subject: {{ name }}\n\n{{ email }} {{ x }} {{ to_header }} {{ nothing }}.\n',
    })
    assert.are.equal(200, status)
    assert.are.equal(2, result.success_count)
    assert.are.equal(0, result.fail_count)
    assert.are.same({}, result.errors)
    assert.is_truthy(committed[1].data:find('Subject: Ann\r\n\r\na@example.net 1 "Ann" <a@example.net> .\r\n', 1, true))
    assert.is_truthy(committed[2].data:find('Subject: Bob\r\n\r\nb@example.net 1 b@example.net .\r\n', 1, true))
    assert.is_truthy(committed[1].data:find('Mime-Version: 1.0\r\n', 1, true))
    assert.are.equal('from@example.com', committed[1].sender)
    assert.are.equal('HTTP', committed[1].protocol)
    assert.are.equal('192.0.2.1', committed[1].from)
    assert.are.equal('192.0.2.1', committed[1].auth)
    assert.are.equal('kumomta:http-listener-trusted-ip', generated.info.groups[1])
  end)

  it('leaves a Static text alone and keeps its Mime-Version', function()
    inject(simple { template_dialect = 'Static', content = 'MIME-Version: 1.0\r\nSubject: {{ name }}\r\n\r\nx\r\n' })
    assert.is_truthy(committed[1].data:find('Subject: {{ name }}', 1, true))
    local _, count = committed[1].data:lower():gsub('mime%-version:', '')
    assert.are.equal(1, count)
  end)

  it('tells about recipients that fail, and queues the others', function()
    local _, result = inject(simple {
      recipients = {
        { email = 'refused@example.net' },
        { email = 'no address' },
        { email = 'badqueue@example.net' },
        { email = 'good@example.net' },
      },
    })
    assert.are.equal(1, result.success_count)
    assert.are.equal(3, result.fail_count)
    assert.are.same({ 'refused@example.net', 'no address', 'badqueue@example.net' }, result.failed_recipients)
    assert.is_truthy(result.errors[1]:find '^refused@example.net: .*not this one')
    assert.are.equal('badqueue@example.net: no such queue', result.errors[3])
  end)

  it('answers 503 when nothing could be stored', function()
    refuse = true
    local status, text = inject(simple {})
    assert.are.equal(503, status)
    assert.is_truthy(text:find 'storage is too full')
  end)

  it('keeps metadata of a recipient', function()
    inject(simple { recipients = { { email = 'a@b.c', metadata = { k = { 1, 2 } } } } })
    assert.are.same({ k = { 1, 2 } }, committed[1].extra)
  end)

  it('adds trace headers as asked', function()
    inject(simple {})
    assert.is_truthy(committed[1].data:find '^X%-KumoRef: [%w+/=]+\r\n')
    assert.is_nil(committed[1].data:find 'Received:')
    inject(simple { trace_headers = { header_name = 'X-Ref', include_meta_names = { 'http_auth' } } })
    local text = committed[2].data
    local ref = text:match '^X%-Ref: ([^\r]+)' .. (text:match '^X%-Ref: [^\r]+\r\n ([^\r]+)' or '')
    assert.is_truthy(text:find(('with HTTP id %s for <to@example.net>;\r\n'):format(committed[2].id), 1, true))
    assert.is_truthy(text:find('Received: from example.com (192.0.2.1)\r\n  by mx.example (KumoMTA)\r\n', 1, true))
    assert.are.equal(
      b64 '{"_@_":"\\\\_/","recipient":"to@example.net","http_auth":"192.0.2.1"}',
      ref
    )
    inject(simple { trace_headers = { received_header = false, supplemental_header = false } })
    assert.is_truthy(committed[3].data:find '^Mime%-Version')
  end)

  it('builds a mail from its parts', function()
    inject(simple {
      content = {
        text_body = 'Hi {{ name }} & all',
        html_body = '<b>{{ name }}</b>',
        from = { email = 'me@example.com', name = 'Me "X"' },
        subject = 'Grüße {{ name }}',
        headers = { ['X-A'] = '{{ email }}', Subject = 'lost' },
        attachments = {
          { data = 'aGk=', content_type = 'text/x', base64 = true, file_name = 'a.txt' },
          { data = 'GIF', content_type = 'image/gif', content_id = 'pic' },
        },
      },
      recipients = { { email = 'a@b.c', name = 'A<B' } },
    })
    local text = committed[1].data
    for _, part in ipairs {
      'From: "Me \\"X\\"" <me@example.com>\r\n',
      'X-A: a@b.c\r\n',
      'To: "A<B" <a@b.c>\r\n',
      'Mime-Version: 1.0\r\n',
      'Content-Type: multipart/mixed; boundary="',
      'Content-Type: multipart/related; boundary="',
      'Content-Type: multipart/alternative; boundary="',
      '\r\n\r\nHi A<B & all\r\n',
      '\r\n\r\n<b>A&lt;B</b>\r\n',
      'Content-Disposition: attachment; filename="a.txt"\r\n\r\naGk=\r\n',
      'Content-ID: <pic>\r\n\r\nR0lG\r\n',
    } do
      assert.is_truthy(text:find(part, 1, true), part .. '\n in \n' .. text)
    end
    assert.is_nil(text:find 'lost')
    assert.is_nil(text:find 'Date:')
  end)

  it('cannot be made to write another header', function()
    inject(simple {
      content = { text_body = 'x', subject = '{{ name }}' },
      recipients = { { email = 'a@b.c', name = 'x\r\nBcc: all@b.c' } },
    })
    assert.is_nil(committed[1].data:find '\r\nBcc:')
  end)

  it('is there for policies, too', function()
    local result = kumo.api.inject.inject_v1(simple {})
    assert.are.equal(1, result.success_count)
    local ok, err = pcall(kumo.api.inject.inject_v1, simple { colour = 1 })
    assert.is_false(ok)
    assert.is_truthy(tostring(err):find 'unknown field `colour`')
  end)

  it('builds messages for policies without injecting them', function()
    committed = {}
    local messages = kumo.api.inject.build_v1(simple { recipients = { { email = 'a@b.c' }, { email = 'd@e.f' } } })
    assert.are.equal(2, #messages)
    assert.are.equal('d@e.f', messages[2]:recipient().email)
    assert.are.equal(0, #committed)
    assert.error_matches(function()
      kumo.api.inject.build_v1(simple { recipients = { { email = 'a@b.c' }, { email = 'nobody' } } })
    end, '')
    assert.error_matches(function()
      kumo.api.inject.build_v1(simple { colour = 1 })
    end, 'kumo.api.inject.build_v1: .*unknown field `colour`')
  end)

  it('adds the trace header to messages of policies', function()
    local msg = kumo.make_message('a@b.c', 'd@e.f', 'Subject: x\r\n\r\ny')
    msg:set_meta('tenant', 't')
    kumo.apply_supplemental_trace_header(msg, { header_name = 'X-Ref', include_meta_names = { 'tenant', 'none' } })
    local value = msg:get_first_named_header_value 'X-Ref':gsub('%s', '')
    assert.are.equal(
      [[{"_@_":"\\_/","recipient":"d@e.f","tenant":"t","none":null}]],
      kumo.encode.base64_decode(value)
    )
    kumo.apply_supplemental_trace_header(msg)
    assert.is_truthy(msg:get_data():find '^X%-KumoRef: ')
    local before = msg:get_data()
    kumo.apply_supplemental_trace_header(msg, { supplemental_header = false })
    assert.are.equal(before, msg:get_data())
    for _, bad in ipairs { { header = 'x' }, { header_name = 'a b' }, { include_meta_names = { 5 } }, 'x' } do
      assert.error_matches(function()
        kumo.apply_supplemental_trace_header(msg, bad)
      end, 'kumo.apply_supplemental_trace_header: ')
    end
  end)

  it('waits for the rate of recipients', function()
    kumo.set_httpinject_recipient_rate_limit 'local:20/s,max_burst=1'
    local clock = kumo.time.start_timer 'spec.inject'
    for _ = 1, 3 do
      assert.are.equal(200, (inject(simple {})))
    end
    local elapsed = clock:done()
    kumo.set_httpinject_recipient_rate_limit(nil)
    assert.is_true(elapsed >= 0.09, tostring(elapsed))
    for _, bad in ipairs { 'often', 5, {} } do
      assert.error_matches(function()
        kumo.set_httpinject_recipient_rate_limit(bad)
      end, 'kumo.set_httpinject_recipient_rate_limit: ')
    end
    assert.are.equal(200, (inject(simple {})))
  end)

  -- --- administration --------------------------------------------------------------------------------------

  describe('with rules', function()
    local add, delete, list, rule
    before_each(function()
      add, delete, list = core.admin_add, core.admin_delete, core.admin_list
      core.admin_add = function(kind, given)
        rule = given
        rule.kind = kind
        return 'the-id'
      end
      core.admin_delete = function(kind, id)
        return kind == 'bounce' and id == 'the-id'
      end
      core.admin_list = function()
        return '[]'
      end
    end)
    after_each(function()
      core.admin_add, core.admin_delete, core.admin_list = add, delete, list
    end)

    it('adds, lists and removes them', function()
      local path = '/api/admin/bounce/v1'
      local status, text = ask { path = path, body = { reason = 'r', domain = 'd', duration = '2m', suppress_logging = true } }
      assert.are.equal(200, status)
      assert.are.same({ id = 'the-id', bounced = {}, total_bounced = 0 }, kumo.serde.json_parse(text))
      assert.are.equal('bounce', rule.kind)
      assert.are.equal(120, rule.duration)
      assert.is_true(rule.sweep)
      assert.is_true(rule.suppress_logging)
      assert.are.equal('[]', select(2, ask { method = 'GET', path = path }))
      assert.are.equal(200, (ask { method = 'DELETE', path = path, body = { id = 'the-id' } }))
      assert.are.equal(404, (ask { method = 'DELETE', path = path, body = { id = 'other' } }))
    end)

    it('has defaults, and `expires` comes before `duration`', function()
      ask { path = '/api/admin/suspend/v1', body = { reason = 'r' } }
      assert.are.equal(300, rule.duration)
      assert.are.equal('suspend', rule.kind)
      local body = { reason = 'r', name = 'q', duration = 5, expires = '2001-01-01T00:00:00Z' }
      ask { path = '/api/admin/suspend-ready-q/v1', body = body }
      assert.are.equal(0, rule.duration)
      assert.are.equal('q', rule.name)
    end)

    for name, case in pairs {
      ['no reason'] = { { domain = 'd' }, 'missing field `reason`' },
      ['an unknown field'] = { { reason = 'r', domian = 'd' }, 'unknown field `domian`' },
      ['a bad duration'] = { { reason = 'r', duration = 'soon' }, 'duration' },
      ['a bad moment'] = { { reason = 'r', expires = 'soon' }, 'RFC 3339' },
    } do
      it('refuses ' .. name, function()
        local status, text = ask { path = '/api/admin/bounce/v1', body = case[1] }
        assert.are.equal(422, status)
        assert.is_truthy(text:find(case[2]))
      end)
    end

    it('only records a bounce made from Lua', function()
      assert.are.equal('the-id', kumo.api.admin.bounce.bounce { reason = 'r', suppress_logging = true })
      assert.is_false(rule.sweep)
      assert.is_false(rule.suppress_logging)
      assert.are.same({}, kumo.api.admin.bounce.list())
      assert.is_true(kumo.api.admin.bounce.delete 'the-id')
    end)
  end)

  it('changes the log filter', function()
    assert.are.equal(200, (ask { path = '/api/admin/set_diagnostic_log_filter/v1', body = { filter = 'info' } }))
    assert.are.equal(422, (ask { path = '/api/admin/set_diagnostic_log_filter/v1', body = { filter = 'x=y=z' } }))
  end)

  it('shows metrics', function()
    assert.are.equal(200, (ask { method = 'GET', path = '/metrics' }))
    local status, text, kind = ask { method = 'GET', path = '/metrics.json', query = { prefix = 'no_such_' } }
    assert.are.equal(200, status)
    assert.are.equal('application/json', kind)
    assert.are.same({}, kumo.serde.json_parse(text))
  end)
end)
