-- kumo.crypto, the digests of much data, kumo.encode's character sets, request:aws_sign_v4
local kumo = require 'kumo'

local KEYS = {
  access_key = { key_data = 'AKIDEXAMPLE' },
  secret_key = { key_data = 'wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY' },
  region = 'us-east-1',
  timestamp = '2015-08-30T12:36:00Z',
}

local function sign(fields)
  for key, value in pairs(KEYS) do
    fields[key] = fields[key] == nil and value or fields[key]
  end
  return kumo.crypto.aws_sign_v4(fields)
end

describe('kumo.crypto.aws_sign_v4', function()
  -- the suite of AWS (aws-sig-v4-test-suite), and the example of its documentation
  for name, case in pairs {
    ['get-vanilla'] = {
      { method = 'GET', uri = '/', headers = { Host = 'example.amazonaws.com' } },
      '5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31',
    },
    ['get-vanilla-query-order-key-case'] = {
      { method = 'GET', uri = '/?Param2=value2&Param1=value1', headers = { Host = 'example.amazonaws.com' } },
      'b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500',
    },
    ['the same by query_params'] = {
      { method = 'GET', uri = 'https://example.amazonaws.com', query_params = { Param2 = 'value2', Param1 = 'value1' } },
      'b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500',
    },
    ['post-vanilla'] = {
      { method = 'POST', uri = '/', headers = { Host = 'example.amazonaws.com' } },
      '5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b',
    },
    ListUsers = {
      {
        service = 'iam',
        method = 'GET',
        uri = 'https://iam.amazonaws.com/?Action=ListUsers&Version=2010-05-08',
        headers = { ['Content-Type'] = 'application/x-www-form-urlencoded; charset=utf-8' },
      },
      '5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7',
    },
  } do
    it('signs ' .. name, function()
      case[1].service = case[1].service or 'service'
      local result = sign(case[1])
      assert.are.equal(case[2], result.signature)
      assert.are.equal('20150830T123600Z', result.timestamp)
      assert.is_truthy(result.authorization:find('Signature=' .. case[2], 1, true))
    end)
  end

  it('signs what S3 and temporary keys need', function()
    local result = sign { service = 's3', method = 'PUT', uri = 'https://b.s3.amazonaws.com/a//b%20c', payload = 'x', session_token = 'tok' }
    assert.is_truthy(result.canonical_request:find('PUT\n/a//b%20c\n\nhost:b.s3.amazonaws.com\n', 1, true))
    assert.is_truthy(result.canonical_request:find('x-amz-content-sha256:' .. kumo.digest.sha256('x').hex, 1, true))
    assert.is_truthy(result.authorization:find('SignedHeaders=host;x-amz-content-sha256;x-amz-date;x-amz-security-token', 1, true))
    result = sign { service = 'service', method = 'GET', uri = 'https://h/a/./b/../c d/' }
    assert.is_truthy(result.canonical_request:find('GET\n/a/c%20d/\n', 1, true))
  end)

  it('refuses what makes no sense, without showing keys', function()
    for message, fields in pairs {
      ["missing field 'method'"] = { service = 's', uri = '/' },
      ["unknown field 'methd'.*did you mean 'method'"] = { methd = 'GET' },
      ['timestamp: RFC 3339 expected'] = { service = 's', method = 'GET', uri = '/', timestamp = 'now' },
      ['names and values are strings'] = { service = 's', method = 'GET', uri = '/', headers = { x = 1 } },
      ["the header 'x' is there twice"] = { service = 's', method = 'GET', uri = '/', headers = { x = '1', X = '2' } },
      ['No such file'] = { service = 's', method = 'GET', uri = '/', secret_key = '/not/there' },
    } do
      local ok, err = pcall(sign, fields)
      assert.is_false(ok, message)
      assert.is_truthy(tostring(err):find(message), tostring(err))
      assert.is_nil(tostring(err):find('wJalr', 1, true), err)
    end
  end)
end)

describe('request:aws_sign_v4', function()
  it('adds the two headers', function()
    local client = kumo.http.build_client {}
    local request = client:get 'https://iam.amazonaws.com:443/?Action=ListUsers&Version=2010-05-08'
    request:aws_sign_v4 {
      access_key = KEYS.access_key,
      secret_key = KEYS.secret_key,
      region = KEYS.region,
      timestamp = KEYS.timestamp,
      service = 'iam',
      headers = { ['Content-Type'] = 'application/x-www-form-urlencoded; charset=utf-8' },
    }
    local headers = request._headers
    assert.are.equal('Authorization', headers[1])
    assert.is_truthy(headers[2]:find('Signature=5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7', 1, true))
    assert.same({ 'X-Amz-Date', '20150830T123600Z' }, { headers[3], headers[4] })
    assert.error_matches(function()
      request:aws_sign_v4 { regio = 'x' }
    end, "aws_sign_v4: unknown field 'regio'.*did you mean 'region'")
  end)
end)

describe('kumo.crypto.aes_encrypt_block', function()
  local unhex = kumo.encode.hex_decode

  it('gives the published values', function()
    -- NIST SP 800-38A F.1.1 and F.1.5, first block; the second block of ours is padding
    local text = unhex '6bc1bee22e409f96e93d7e117393172a'
    for key, block in pairs {
      ['2b7e151628aed2a6abf7158809cf4f3c'] = '3ad77bb40d7a3660a89ecaf32466ef97',
      ['603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4'] = 'f3eed1bdb5d2a03c064b5a7e3db181f8',
    } do
      local out = kumo.crypto.aes_encrypt_block('Ecb', text, { key = { key_data = unhex(key) } })
      assert.are.equal(32, #out)
      assert.are.equal(block, kumo.encode.hex_encode(out:sub(1, 16)))
    end
  end)

  it('gives back what was encrypted', function()
    for _, mode in ipairs { 'Ecb', 'Cbc' } do
      for _, length in ipairs { 16, 32 } do
        local params = { key = { key_data = ('k'):rep(length) } }
        for _, text in ipairs { '', 'x', ('y'):rep(16), ('z\0'):rep(5000) } do
          local out = kumo.crypto.aes_encrypt_block(mode, text, params)
          local back = kumo.crypto.aes_decrypt_block(mode, out, params)
          assert.are.equal(text, back.bytes)
          assert.are.equal(kumo.encode.hex_encode(text), tostring(back))
        end
      end
    end
    local params = { key = { key_data = ('k'):rep(16) } }
    assert.are_not.equal(kumo.crypto.aes_encrypt_block('Cbc', 'x', params), kumo.crypto.aes_encrypt_block('Cbc', 'x', params))
  end)

  it('refuses what makes no sense', function()
    local params = { key = { key_data = ('k'):rep(16) } }
    for message, case in pairs {
      ["'Ecb' or 'Cbc' expected, got Gcm"] = { 'Gcm', 'x', params },
      ['data: string expected, got number'] = { 'Ecb', 5, params },
      ['16 or 32 bytes expected, got 3'] = { 'Ecb', 'x', { key = { key_data = 'abc' } } },
      ["missing field 'key'"] = { 'Ecb', 'x', {} },
      ["unknown field 'kye'"] = { 'Ecb', 'x', { kye = 1 } },
    } do
      assert.error_matches(function()
        kumo.crypto.aes_encrypt_block(unpack(case))
      end, message)
    end
    for _, data in ipairs { '', 'short', ('x'):rep(16), ('x'):rep(33) } do
      assert.error_matches(function()
        kumo.crypto.aes_decrypt_block('Cbc', data, params)
      end, 'were not made with this key')
    end
  end)
end)

describe('kumo.digest', function()
  it('takes much data in a thread, with the same result', function()
    local million = ('a'):rep(1000000) -- FIPS 180-2
    assert.are.equal('cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0', kumo.digest.sha256(million).hex)
    local much = ('a'):rep(3000000)
    local ran = false
    kumo.on('spec.digest', function()
      ran = true
    end)
    local before = kumo.digest.sha256(much:sub(1, 1500000), much:sub(1500001))
    kumo.spawn_task { event_name = 'spec.digest' }
    assert.are.equal(kumo.digest.sha256(much).hex, before.hex)
    assert.is_true(ran)
    assert.are.equal(
      kumo.digest.hmac_sha256({ key_data = 'k' }, much).hex,
      kumo.digest.hmac_sha256({ key_data = 'k' }, ('a'):rep(3000000)).hex
    )
    -- and where the code cannot wait
    local list = setmetatable({}, {
      __tostring = function()
        return kumo.digest.sha1(much).hex
      end,
    })
    assert.are.equal(kumo.digest.sha1(much).hex, tostring(list))
  end)
  it('gives the published values of each', function()
    -- RFC 6234, FIPS 202 and 180-4: of 'abc'
    for name, hex in pairs {
      sha224 = '23097d223405d8228642a477bda255b32aadbce4bda0b3f7e36c9da7',
      sha256 = 'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad',
      sha384 = 'cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed8086072ba1e7cc2358baeca134c825a7',
      sha512 = 'ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f',
      sha512_256 = '53048e2681941ef99b2e29b76b4c7dabe4c2d0c634fc6d46e0e2f13107e7af23',
      sha3_256 = '3a985da74fe225b2045c172d6bd390bd855f086e3e9d525b46bfe24511431532',
      sha3_384 = 'ec01498288516fc926459f58e2c6ad8df9b473cb0fc08c2596da7cf0e49be4b298d88cea927ac7f539f1edf228376d25',
      sha3_512 = 'b751850b1a57168a5693cd924b6b096e08f621827444f70d884f5d0240d2712e10e116e9192af3c91a7ec57647e3934057340b4cf408d5a56592f8274eec53f0',
    } do
      assert.are.equal(hex, kumo.digest[name]('abc').hex, name)
    end
    -- RFC 2202 case 2, RFC 4231 case 2
    local function hmac(name)
      return kumo.digest['hmac_' .. name]({ key_data = 'Jefe' }, 'what do ya want for nothing?').hex
    end
    assert.are.equal('effcdf6ae5eb2fa2d27416d5f184df9c259a7c79', hmac 'sha1')
    assert.are.equal('a30e01098bc6dbbf45690f3a7e9e6d0f8bbea2a39e6148008fd05e44', hmac 'sha224')
    assert.are.equal('af45d2e376484031617f78d2b58a6b1b9c7ef464f5a01b47e42ec3736322445e8e2240ca5e69e2c78b3239ecfab21649', hmac 'sha384')
    assert.are.equal(
      '164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea2505549758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737',
      hmac 'sha512'
    )
  end)
  it('refuses what cannot be encoded', function()
    for _, bad in ipairs { print, coroutine.create(print) } do
      assert.has_error(function()
        kumo.digest.sha1(bad)
      end)
    end
  end)
end)

describe('kumo.encode.charset_encode', function()
  for charset, case in pairs {
    ['iso-8859-1'] = { 'é', '\233' },
    ['windows-1252'] = { '€é', '\128\233' },
    ['UTF-16LE'] = { 'aé', 'a\0\233\0' },
    shift_jis = { '日', '\147\250' },
    ['koi8-r'] = { 'Я', '\241' },
    ['iso-2022-jp'] = { '日a', '\27$BF|\27(Ba' },
  } do
    it('knows ' .. charset, function()
      assert.are.equal(case[2], kumo.encode.charset_encode(charset, case[1]))
      assert.are.equal(case[1], kumo.encode.charset_decode(charset, case[2]))
    end)
  end

  it('replaces or raises', function()
    assert.are.equal('a?b', kumo.encode.charset_encode('iso-8859-1', 'a€b'))
    assert.are.equal('a?b', kumo.encode.charset_encode('iso-8859-1', 'a€b', true))
    assert.error_matches(function()
      kumo.encode.charset_encode('iso-8859-1', 'a€b', false)
    end, "at byte 2 is not in the charset 'iso%-8859%-1'")
    assert.are.equal('a\239\191\189b', kumo.encode.charset_decode('utf-8', 'a\255b'))
    assert.are.equal('x\239\191\189', kumo.encode.charset_decode('UTF-16LE', 'x\0y'))
    local long = ('é€'):rep(2000)
    assert.are.equal(long, kumo.encode.charset_decode('windows-1252', kumo.encode.charset_encode('windows-1252', long)))
  end)

  it('refuses what makes no sense', function()
    for message, case in pairs {
      ["charset 'none' is not known"] = { 'none', 'x' },
      ['a name such as'] = { 'ascii//TRANSLIT', 'x' },
      ['parameter must be a string'] = { 'ascii', 5 },
      ['not valid UTF%-8'] = { 'ascii', '\255' },
    } do
      assert.error_matches(function()
        kumo.encode.charset_encode(unpack(case))
      end, message)
    end
  end)
end)
