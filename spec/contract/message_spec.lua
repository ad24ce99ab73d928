-- Methods of messages that contract message.md describes and spec/message does not try.
local kumo = require 'kumo'

local function message(header)
  return kumo.make_message('sender@example.com', 'rcpt@example.org', header .. '\r\nbody\r\n')
end

describe('message:get_address_header', function()
  for value, expected in pairs {
    ['a@b.test'] = { { nil, 'a', 'b.test' } },
    ['Ann Lee <ann@b.test>'] = { { 'Ann Lee', 'ann', 'b.test' } },
    ['"Lee, Ann" <"a b"@b.test> (at work)'] = { { 'Lee, Ann', 'a b', 'b.test' } },
    ['=?utf-8?Q?J=C3=BCrgen?= =?utf-8?Q?_M=2C_K?=\r\n <j@b.test>'] = { { 'Jürgen M, K', 'j', 'b.test' } },
    ['a@b.test, , Bob <bob@c.test>'] = { { nil, 'a', 'b.test' }, { 'Bob', 'bob', 'c.test' } },
    ['Friends: a@b.test, C <c@d.test>;, e@f.test'] = { { nil, 'a', 'b.test' }, { 'C', 'c', 'd.test' }, { nil, 'e', 'f.test' } },
    ['undisclosed-recipients:;'] = {},
    ['<@relay.test,@other.test:a@b.test>'] = { { nil, 'a', 'b.test' } },
    ['a@[192.0.2.1]'] = { { nil, 'a', '[192.0.2.1]' } },
    ['first.last @ b.test'] = { { nil, 'first.last', 'b.test' } },
  } do
    it('parses ' .. value, function()
      local header = message('To: ' .. value .. '\r\n'):to_header()
      local got = {}
      for i, entry in ipairs(header.list) do
        got[i] = { entry.name, entry.user, entry.domain }
        assert.are.equal(entry.user .. '@' .. entry.domain, entry.email)
      end
      assert.are.same(expected, got)
    end)
  end

  for _, value in ipairs { 'a@b.test; x', '"open', '(open', 'a@', '@b.test', '<a@b.test', 'a@b.test <c@d.test> e' } do
    it('refuses ' .. value, function()
      local ok, err = pcall(function()
        return message('To: ' .. value .. '\r\n'):to_header()
      end)
      assert.is_false(ok)
      assert.is_truthy(tostring(err):find 'not a list of addresses')
    end)
  end

  it('has fields for one plain address only', function()
    local msg = message 'From: Ann <ann@b.test>\r\nTo: a@b.test, c@d.test\r\nCc: G: a@b.test;\r\n'
    local from = msg:from_header()
    assert.are.equal('Ann', from.name)
    assert.are.equal('ann', from.user)
    assert.are.equal('b.test', from.domain)
    assert.are.equal('ann@b.test', from.email)
    assert.are.equal('[{"Address":{"name":"Ann","address":"ann@b.test"}}]', tostring(from))
    for _, name in ipairs { 'To', 'Cc' } do
      assert.is_false(pcall(function()
        return msg:get_address_header(name).email
      end))
    end
    assert.are.equal(
      '[{"Group":{"name":"G","addresses":[{"name":null,"address":"a@b.test"}]}}]',
      tostring(msg:get_address_header 'cc')
    )
    assert.is_nil(msg:get_address_header 'Reply-To')
  end)
end)

describe('message:import_headers', function()
  local HEADER = 'X-Job-Id: 1\r\nX-Job-Id: 2\r\nx-other_thing: a\r\nSubject: =?utf-8?q?=C3=BC?=\r\n'

  for what, case in pairs {
    ['the last by default, in snake case'] = { { { name = 'x-job-id' } }, { x_job_id = '2' } },
    ['the first'] = { { { name = 'X-Job-ID', match = 'first' } }, { x_job_id = '1' } },
    ['all as a list'] = { { { name = 'X-Job-ID', match = 'all', target = 'jobs' } }, { jobs = { '1', '2' } } },
    ['wildcards, and the first spec that matches'] = {
      { { name = 'X-Job-*', transform = 'camel_case' }, { name = 'X-*', transform = 'kebab_case' } },
      { xJobId = '2', ['x-other-thing'] = 'a' },
    },
    ['decoded values'] = { { { name = 'subject', transform = 'pascal_case' } }, { Subject = 'ü' } },
  } do
    it('takes ' .. what, function()
      local msg = message(HEADER)
      msg:import_headers(case[1])
      for key, value in pairs(case[2]) do
        assert.are.same(value, msg:get_meta(key))
      end
      assert.are.equal(4, #msg:get_all_headers())
    end)
  end

  it('removes what it took', function()
    local msg = message(HEADER)
    msg:import_headers { { name = 'X-Job-Id', remove = true } }
    assert.are.equal(2, #msg:get_all_headers())
    assert.are.equal('2', msg:get_meta 'x_job_id')
  end)

  it('refuses what it does not know', function()
    local bad = { 1, { {} }, { { name = 'a*b' } }, { { name = 'X-*', target = 'x' } }, { { name = 'x', mach = 'all' } } }
    for _, specs in ipairs(bad) do
      assert.is_false(pcall(function()
        message(HEADER):import_headers(specs)
      end))
    end
  end)
end)

describe('message:save and :shrink', function()
  it('have nothing to do, but want data', function()
    local msg = message 'Subject: x\r\n'
    msg:save()
    assert.is_false(msg:shrink())
    assert.is_false(msg:shrink_data())
    msg:set_data ''
    assert.is_false(pcall(msg.save, msg))
  end)
end)
