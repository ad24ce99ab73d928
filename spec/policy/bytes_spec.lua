-- kumo.encode, kumo.digest, kumo.uuid, kumo.secrets
local kumo = require 'kumo'

describe('kumo.encode', function()
  -- RFC 4648 section 10
  for text, forms in pairs {
    [''] = { base64 = '', base32 = '', hex = '' },
    f = { base64 = 'Zg==', base32 = 'MY======', base32hex = 'CO======', hex = '66' },
    fo = { base64 = 'Zm8=', base32 = 'MZXQ====', hex = '666f' },
    foobar = { base64 = 'Zm9vYmFy', base32 = 'MZXW6YTBOI======', base32hex = 'CPNMUOJ1E8======', hex = '666f6f626172' },
    ['\251\255'] = { base64 = '+/8=', base64url = '-_8=', hex = 'fbff' },
  } do
    for name, encoded in pairs(forms) do
      it(('turns %q into %s and back'):format(text, name), function()
        assert.are.equal(encoded, kumo.encode[name .. '_encode'](text))
        assert.are.equal(text, kumo.encode[name .. '_decode'](encoded))
        if name ~= 'hex' then
          local bare = encoded:gsub('=', '')
          assert.are.equal(bare, kumo.encode[name .. '_nopad_encode'](text))
          assert.are.equal(text, kumo.encode[name .. '_decode'](bare))
          assert.are.equal(text, kumo.encode[name .. '_nopad_decode'](encoded .. '='))
        end
      end)
    end
  end

  it('refuses what is no encoding', function()
    for _, bad in ipairs { 'Zg!=', 'Z', 'Zh==', 'Z g=', '=Zg' } do
      assert.has_error(function()
        kumo.encode.base64_decode(bad)
      end)
    end
    assert.has_error(function()
      kumo.encode.hex_decode 'abc'
    end)
    assert.error_matches(function()
      kumo.encode.hex_encode(5)
    end, 'parameter must be a string')
  end)
end)

describe('kumo.digest', function()
  it('gives the published values', function()
    assert.are.equal('a9993e364706816aba3e25717850c26c9cd0d89d', tostring(kumo.digest.sha1 'abc'))
    assert.are.equal('ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=', kumo.digest.sha256('abc').base64)
    assert.are.equal('cbf43926', kumo.digest.crc32('123456789').hex)
    assert.are.equal(32, #kumo.digest.sha3_256('').bytes)
    assert.are.equal(32, #kumo.digest.sha512_256('').bytes)
  end)
  it('joins its arguments, other values as JSON', function()
    assert.are.equal(kumo.digest.sha1('a1true').hex, kumo.digest.sha1('a', 1, true).hex)
  end)
  it('makes HMACs', function()
    -- RFC 4231 test case 2
    assert.are.equal(
      '5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843',
      kumo.digest.hmac_sha256({ key_data = 'Jefe' }, 'what do ya want for nothing?').hex
    )
    assert.error_matches(function()
      kumo.digest.hmac_sha256({ key_dat = 'x' }, 'y')
    end, "unknown field 'key_dat'")
    assert.error_matches(function()
      kumo.digest.hmac_sha1('/nonexistent/key', 'y')
    end, '/nonexistent/key')
  end)
end)

describe('kumo.uuid', function()
  for _, version in ipairs { 1, 4, 6, 7 } do
    it('makes version ' .. version, function()
      local a, b = kumo.uuid['new_v' .. version](), kumo.uuid['new_v' .. version]()
      assert.is_truthy(
        tostring(a):match('^%x%x%x%x%x%x%x%x%-%x%x%x%x%-' .. version .. '%x%x%x%-[89ab]%x%x%x%-%x%x%x%x%x%x%x%x%x%x%x%x$')
      )
      assert.are_not.equal(tostring(a), tostring(b))
      assert.are.equal(a, kumo.uuid.parse(a.braced))
      assert.are.equal(a, kumo.uuid.parse(a.urn))
      assert.are.equal(a.hyphenated, kumo.uuid.parse(a.simple).hyphenated)
      assert.are.equal(16, #a.bytes)
    end)
  end
  it('puts the time into version 7', function()
    local before_ms = kumo.time.now().unix_timestamp_millis
    local ms = tonumber(kumo.uuid.new_v7().simple:sub(1, 12), 16)
    assert.is_true(ms > before_ms - 5000 and ms < kumo.time.now().unix_timestamp_millis + 5000)
  end)
  it('orders version 6 by time and reads the clock right', function()
    local before = os.time()
    local hex = kumo.uuid.new_v6().simple
    local steps = tonumber(hex:sub(1, 12), 16) * 4096 + tonumber(hex:sub(14, 16), 16)
    local at = steps / 1e7 - 12219292800
    assert.is_true(at > before - 5 and at < os.time() + 5)
  end)
  it('refuses other texts', function()
    for _, bad in ipairs { '', 'x', ('0'):rep(31), ('g'):rep(32), '{' .. ('0'):rep(32) } do
      assert.has_error(function()
        kumo.uuid.parse(bad)
      end)
    end
  end)
end)
