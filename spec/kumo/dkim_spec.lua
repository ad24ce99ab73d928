-- kumo.dkim: what is signed against RFC 8463, and signatures that openssl verifies.
local helper = require 'helper'
local kumo = require 'kumo'
local core = require 'tr.dkim'

-- RFC 8463 appendix A
local MESSAGE = table.concat({
  'From: Joe SixPack <joe@football.example.com>',
  'To: Suzie Q <suzie@shopping.example.net>',
  'Subject: Is dinner ready?',
  'Date: Fri, 11 Jul 2003 21:00:37 -0700 (PDT)',
  'Message-ID: <20030712040037.46341.5F8J@football.example.com>',
  '',
  'Hi.',
  '',
  'We lost the game.  Are you hungry yet?',
  '',
  'Joe.',
  '',
}, '\r\n')
local ED25519_KEY = 'nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A='
local ED25519_PUBLIC = '11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo='

local function body_hash(body, relaxed)
  return kumo.encode.base64_encode((core.body_hash(body, 1, relaxed)))
end

--- Canonical form, by its hash.
local function assert_canonical(expected, body, relaxed)
  local hash, length = core.body_hash(body, 1, relaxed)
  assert.are.equal(#expected, length, ('%q'):format(body))
  assert.are.equal(kumo.digest.sha256(expected).bytes, hash, ('%q'):format(body))
end

describe('kumo.dkim', function()
  it('hashes and signs as RFC 8463', function()
    local start = MESSAGE:find('\r\n\r\n', 1, true) + 4
    assert.are.equal('2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=', body_hash(MESSAGE:sub(start), true))
    local fields = kumo.dkim._fields(MESSAGE)
    local names = { 'from', 'to', 'subject', 'date', 'message-id', 'from', 'subject', 'date' }
    local input = kumo.dkim._input(fields, names, true, table.concat({
      'DKIM-Signature: v=1; a=ed25519-sha256; c=relaxed/relaxed;',
      ' d=football.example.com; i=@football.example.com;',
      ' q=dns/txt; s=brisbane; t=1528637909; h=from : to :',
      ' subject : date : message-id : from : subject : date;',
      ' bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;',
      ' b=',
    }, '\r\n'))
    local key = core.key('ed25519', kumo.encode.base64_decode(ED25519_KEY))
    assert.are.equal(
      '/gCrinpcQOoIfuHNQIbq4pgh9kyIK3AQUdt9OdqQehSwhEIug4D11BusFa3bT3FY5OsU7ZbnKELq+eXdp1Q1Dw==',
      kumo.encode.base64_encode(key:sign(input))
    )
  end)

  it('makes bodies canonical, RFC 6376 section 3.4', function()
    assert.are.equal('47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=', body_hash('', true))
    assert.are.equal('frcCV1k9oG9oKj3dpUqdJg1PxRT2RSN/XKdLCPjaYaY=', body_hash('', false))
    assert_canonical(' C\r\nD E\r\n', ' C \r\nD \t E\r\n\r\n\r\n', true)
    assert_canonical(' C \r\nD \t E\r\n', ' C \r\nD \t E\r\n\r\n\r\n', false)
    assert_canonical('x\r\n', 'x', true)
    assert_canonical('x\r\n', 'x', false)
    assert_canonical('', ' \t\r\n\r\n', true)
    assert_canonical(' \r\n', ' \r\n\r\n', false)
    assert_canonical('\r\n', '\r\n\r\n', false)
    assert_canonical('a\rb\n\r c\r\r\nd\r\n', 'a\rb\n\r c\r\r\nd', false)
    assert_canonical('\r\n\r\na\r\n', '\r\n \r\na \r\n \r\n', true)
    local much = ('a  b \r\n'):rep(300000)
    assert_canonical(('a b\r\n'):rep(300000), much, true)
  end)

  local dir, rsa_key
  setup(function()
    dir = helper.dir()
    helper.sh(('cd %s && openssl genrsa -out rsa.pem 1024 && openssl rsa -in rsa.pem -pubout -out rsa.pub'):format(dir))
    helper.sh(('cd %s && openssl genpkey -algorithm ed25519 -out ed.pem && openssl pkey -in ed.pem -pubout -out ed.pub'):format(dir))
    rsa_key = dir .. '/rsa.pem'
  end)
  teardown(helper.cleanup)

  --- Checks a signature as a receiver does, with the public key in DIR/NAME.
  local function verify(msg, public)
    local data = msg:get_data()
    local fields = kumo.dkim._fields(data)
    local field = fields[1][2]
    assert.are.equal('dkim-signature', fields[1][1])
    local tags = {}
    for name, value in (field:gsub('^[^:]*:', '') .. ';'):gmatch '%s*([%a]+)=(.-);' do
      tags[name] = value
    end
    local signature = kumo.encode.base64_decode((tags.b:gsub('%s', '')))
    local relaxed_header, relaxed_body = tags.c:match '^(%a+)/(%a+)$'
    local start = data:find('\r\n\r\n', 1, true) + 4
    assert.are.equal((tags.bh:gsub('%s', '')), body_hash(data:sub(start), relaxed_body == 'relaxed'))
    local names = {}
    for name in tags.h:gsub('%s', ''):gmatch '[^:]+' do
      names[#names + 1] = name
    end
    table.remove(fields, 1)
    local empty = field:gsub('b=[^=;]*=*%s*$', 'b=')
    local input = kumo.dkim._input(fields, names, relaxed_header == 'relaxed', empty)
    helper.write(dir .. '/sig', signature)
    helper.write(dir .. '/hash', kumo.digest.sha256(input).bytes)
    helper.write(dir .. '/input', input)
    local command = public == 'rsa.pub' and 'openssl dgst -sha256 -verify rsa.pub -signature sig input'
      or 'openssl pkeyutl -verify -pubin -inkey ed.pub -rawin -in hash -sigfile sig'
    local text, status = helper.sh(('cd %s && %s'):format(dir, command))
    assert.are.equal(0, status, text)
    for line in field:gmatch '[^\r\n]+' do
      assert.is_true(#line <= 90, line)
    end
    return tags, names
  end

  local function message()
    return kumo.make_message('joe@football.example.com', 'suzie@shopping.example.net', MESSAGE)
  end

  for _, header in ipairs { 'Relaxed', 'Simple' } do
    for _, body in ipairs { 'Relaxed', 'Simple' } do
      it(('signs %s/%s with RSA'):format(header, body), function()
        local msg = message()
        msg:dkim_sign(kumo.dkim.rsa_sha256_signer {
          domain = 'football.example.com',
          selector = 'sel',
          headers = { 'From', 'To', 'Subject', 'X-None' },
          key = rsa_key,
          header_canonicalization = header,
          body_canonicalization = body,
        })
        local tags, names = verify(msg, 'rsa.pub')
        assert.same({ 'from', 'to', 'subject' }, names)
        assert.same({ '1', 'rsa-sha256', 'football.example.com', 'sel' }, { tags.v, tags.a, tags.d, tags.s })
      end)
    end
  end

  it('signs with all options, and with Ed25519', function()
    local msg = message()
    local signer = kumo.dkim.ed25519_signer {
      domain = 'football.example.com',
      selector = 'ed',
      headers = { 'From', 'Subject', 'Date', 'Subject', 'Cc' },
      key = { key_data = helper.read(dir .. '/ed.pem') },
      over_sign = true,
      expiration = 3600,
      agent_user_identifier = '@football.example.com',
      atps = 'third.example.org',
      atpsh = 'Sha256',
      body_length = true,
      reporting = true,
      ttl = 5,
    }
    msg:dkim_sign(signer)
    local tags, names = verify(msg, 'ed.pub')
    assert.same({ 'from', 'from', 'subject', 'subject', 'date', 'date', 'cc' }, names)
    assert.are.equal(3600, tonumber(tags.x) - tonumber(tags.t))
    assert.same({ 'y', 'third.example.org', 'sha256', '@football.example.com' }, { tags.r, tags.atps, tags.atpsh, tags.i })
    assert.are.equal('54', tags.l)
    -- a second signature signs beside the first
    msg:dkim_sign(signer)
    verify(msg, 'ed.pub')
  end)

  it('takes the raw key of Ed25519, and can be memoized', function()
    local get = kumo.memoize(function()
      return kumo.dkim.ed25519_signer {
        domain = 'football.example.com',
        selector = 'brisbane',
        headers = { 'From' },
        key = { key_data = ED25519_KEY },
      }
    end, { name = 'spec.dkim', ttl = 60, capacity = 1 })
    assert.is_true(#ED25519_PUBLIC == 44)
    local msg = message()
    msg:dkim_sign(get())
    assert.is_truthy(msg:get_first_named_header_value('DKIM-Signature'):find 's=brisbane')
  end)

  it('refuses what makes no sense, without showing keys', function()
    local good = { domain = 'a.com', selector = 's', headers = { 'From' }, key = { key_data = 's3cret' } }
    for message_text, change in pairs {
      ["missing field 'domain'"] = { domain = false },
      ['domain: "a.com; x=1" is not one'] = { domain = 'a.com; x=1' },
      ['selector: "a b" is not one'] = { selector = 'a b' },
      ["'From' must be among them"] = { headers = { 'To' } },
      ['entry 2 is not the name of a header'] = { headers = { 'From', 'a b' } },
      ['not a private key in PEM'] = {},
      ['not a key for rsa'] = { key = 'ed.pem' },
      ["header_canonicalization: 'Relaxed' or 'Simple' expected"] = { header_canonicalization = 'relaxed' },
      ["atpsh: 'Sha1' or 'Sha256' expected"] = { atpsh = 'Md5' },
      ['agent_user_identifier: '] = { agent_user_identifier = 'x\r\nBcc: y' },
      ["unknown field 'domian'.*did you mean 'domain'"] = { domian = 'x' },
      ["field 'expiration': integer >= 0 expected"] = { expiration = -1 },
      ['No such file'] = { key = '/not/there' },
    } do
      local options = {}
      for key, value in pairs(good) do
        options[key] = value
      end
      for key, value in pairs(change) do
        options[key] = value or nil
      end
      if options.key == 'ed.pem' then
        options.key = dir .. '/ed.pem'
      end
      local ok, err = pcall(kumo.dkim.rsa_sha256_signer, options)
      assert.is_false(ok, message_text)
      assert.is_truthy(tostring(err):find(message_text), message_text .. ': ' .. tostring(err))
    end
    local signer = kumo.dkim.rsa_sha256_signer { domain = 'a.com', selector = 's', headers = { 'From' }, key = rsa_key }
    for text, data in pairs { ['no end of its header'] = '{"type":"Delivery"}', ['is no field'] = 'a b\r\n\r\nx' } do
      assert.error_matches(function()
        kumo.make_message('a@b.c', 'd@e.f', data):dkim_sign(signer)
      end, text)
    end
    assert.error_matches(function()
      message():dkim_sign {}
    end, 'a signer of kumo.dkim is expected, got table')
  end)
end)
