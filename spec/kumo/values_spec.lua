-- Values that policies compare, against what standards publish: times, numbers in JSON and TOML.
local kumo = require 'kumo'

local serde, time = kumo.serde, kumo.time

describe('kumo.time', function()
  -- RFC 3339 section 5.8
  for text, shown in pairs {
    ['1985-04-12T23:20:50.52Z'] = '1985-04-12T23:20:50.520Z',
    ['1996-12-19T16:39:57-08:00'] = '1996-12-20T00:39:57Z',
    ['1937-01-01T12:00:27.87+00:20'] = '1937-01-01T11:40:27.870Z',
    ['2026-11-25t18:00:00z'] = '2026-11-25T18:00:00Z',
    ['2026-11-25T18:00:00.000000001Z'] = '2026-11-25T18:00:00.000000001Z',
    ['2024-02-29T00:00:00Z'] = '2024-02-29T00:00:00Z',
  } do
    it('reads ' .. text, function()
      assert.are.equal(shown, time.parse_rfc3339(text).rfc3339)
    end)
  end

  -- RFC 5322 appendix A.1.1, A.5, A.6.2, A.6.3
  for text, shown in pairs {
    ['Fri, 21 Nov 1997 09:55:06 -0600'] = '1997-11-21T15:55:06Z',
    ['Thu, 13 Feb 1969 23:32 -0330 (Newfoundland Time)'] = '1969-02-14T03:02:00Z',
    ['21 Nov 97 09:55:06 GMT'] = '1997-11-21T09:55:06Z',
    ['1 Jan 26 00:00 EST'] = '2026-01-01T05:00:00Z',
  } do
    it('reads ' .. text, function()
      assert.are.equal(shown, time.parse_rfc2822(text).rfc3339)
    end)
  end

  it('writes them', function()
    local moment = time.parse_rfc3339 '1997-11-21T09:55:06-06:00'
    assert.are.equal('Fri, 21 Nov 1997 15:55:06 +0000', moment.rfc2822)
    assert.are.equal('1997-11-21 15:55:06 UTC', tostring(moment))
    assert.are.equal(880127706, moment.unix_timestamp)
    assert.are.equal('21/11/97 325 Fri 15', moment:format '%d/%m/%y %j %a %H')
    assert.are.equal('1969-12-31T23:59:59.500Z', time.from_unix_timestamp(-0.5).rfc3339)
  end)

  for _, text in ipairs {
    '2026-13-01T00:00:00Z', '2026-02-29T00:00:00Z', '2026-11-25T24:00:00Z', '2026-11-25 18:00:00', '2026-11-25T18:00:00',
    '2026-11-25T18:00:00+25:00', '2026-11-25T18:00Z', ' 2026-11-25T18:00:00Z', '2026-11-25T18:00:00Zx', '',
  } do -- stylua: ignore
    it(('refuses %q'):format(text), function()
      assert.has_error(function()
        time.parse_rfc3339(text)
      end)
    end)
  end

  it('refuses what is no number or out of range', function()
    for _, bad in ipairs { 0 / 0, 1 / 0, 1e20, -1e20, 'x', {} } do
      assert.has_error(function()
        time.from_unix_timestamp(bad)
      end)
      assert.has_error(function()
        time.sleep(bad == 1e20 and -1 or bad)
      end)
    end
    assert.error_matches(function()
      return time.from_unix_timestamp(9e9) + time.parse_duration(9e9)
    end, 'time would overflow')
  end)

  -- contract lua-modules.md 1.1
  for text, seconds in pairs {
    ['5 minutes'] = 300, ['1m 30s'] = 90, ['500ms'] = 0.5, ['2h'] = 7200, ['1 day'] = 86400, ['1w'] = 604800, ['1M'] = 2630016,
    ['1y'] = 31557600, ['1h1m1s'] = 3661, ['100us'] = 0.0001, ['5 nsec'] = 5e-9, ['2days 3hours'] = 183600,
  } do -- stylua: ignore
    it(('knows the duration %q'):format(text), function()
      assert.is_true(math.abs(time.parse_duration(text).seconds - seconds) < 1e-9)
    end)
  end
  for _, text in ipairs { '60', '', '5 parsecs', '-1s', '1', 'm', -1, 0 / 0, {} } do
    it('refuses the duration ' .. tostring(type(text) == 'table' and '{}' or text), function()
      assert.has_error(function()
        time.parse_duration(text)
      end)
    end)
  end
end)

describe('kumo.serde.json_encode', function()
  for text, value in pairs {
    ['0'] = -0.0, ['1'] = 1.0, ['-17'] = -17, ['1.5'] = 1.5, ['0.1'] = 0.1, ['0.3333333333333333'] = 1 / 3,
    ['9007199254740992'] = 2 ^ 53, ['1000000000000000'] = 1e15, ['1e+21'] = 1e21, ['-1e-07'] = -1e-7, ['123456789.125'] = 123456789.125,
    ['null'] = 0 / 0,
  } do -- stylua: ignore
    it('writes ' .. text, function()
      assert.are.equal(text, serde.json_encode(value))
    end)
  end

  it('reads back each number that it writes', function()
    local seed = 1
    for _ = 1, 2000 do
      seed = (seed * 16807) % 2147483647
      local number = (seed - 2 ^ 30) * 10 ^ (seed % 40 - 20)
      assert.are.equal(number, serde.json_parse(serde.json_encode(number)))
      assert.are.equal(number, serde.toml_parse(serde.toml_encode { a = number }).a)
      assert.are.equal(number, serde.yaml_parse(serde.yaml_encode(number)))
    end
  end)

  it('escapes what JSON must, RFC 8259 section 7', function()
    assert.are.equal([["\"\\/\b\f\n\r\t\u0000\u001fé"]], serde.json_encode '"\\/\b\f\n\r\t\0\31é')
    assert.are.equal('𝄞é/', serde.json_parse [["\ud834\udd1e\u00e9\/"]])
  end)

  it('says what it cannot write', function()
    local cycle = {}
    cycle.a = cycle
    for _, bad in ipairs { cycle, print, { print }, { [{}] = 1 }, coroutine.create(print) } do
      assert.error_matches(function()
        serde.json_encode(bad)
      end, 'json_encode: cannot encode')
    end
  end)
end)

describe('kumo.serde.json_parse', function()
  for _, text in ipairs {
    '', '01', '+1', '.5', '1.', '0x10', 'NaN', '-', '1e', '[1,]', '{"a":1,}', '"\\x"', '"\1"', '[', 'nul', '{"a" 1}', '1 2', "{'a':1}",
    ('['):rep(100000),
  } do -- stylua: ignore
    it(('refuses %q'):format(text:sub(1, 20)), function()
      assert.error_matches(function()
        serde.json_parse(text)
      end, 'invalid JSON at line 1')
    end)
  end
end)

describe('kumo.serde.toml_encode', function()
  it('writes the shortest numbers', function()
    assert.are.equal('a = 0.1\nb = 1e+300\nc = 0\nd = 3\ne = 0.3333333333333333\n', serde.toml_encode {
      a = 0.1,
      b = 1e300,
      c = -0.0,
      d = 3,
      e = 1 / 3,
    })
  end)
end)
