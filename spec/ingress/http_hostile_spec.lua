-- The HTTP listener among strangers (127.0.0.2, as only 127.0.0.1 is trusted) and nonsense.
local helper = require 'helper'
local hostile = require 'ingress.hostile'

local SECOND = 'GET /api/tailrace/ledger HTTP/1.1\r\nHost: x\r\n\r\n'
local CLAIMS = 'X-Forwarded-For: 127.0.0.1\r\nX-Real-IP: 127.0.0.1\r\nForwarded: for=127.0.0.1\r\n'
  .. 'Client-IP: 127.0.0.1\r\nX-Original-URL: /api/check-liveness/v1\r\n\r\n'
local JSON = '{"envelope_sender":"a@b.test","recipients":[{"email":"c@d.test"}],"content":"Subject: x\\r\\n\\r\\nx\\r\\n"}'

local run

--- Sends bytes from an address and returns all that is answered.
local function say(bytes, from)
  local host, port = run.http:match '^(.*):(%d+)$'
  return (helper.sh(('timeout 60 nc -N -w 60 -s %s %s %s <%s'):format(from or '127.0.0.1', host, port, hostile.file('say', bytes))))
end

local function statuses(text)
  local list = {}
  for status in text:gmatch 'HTTP/1%.%d (%d%d%d) ' do
    list[#list + 1] = status
  end
  return list
end

local function curl(options)
  return (helper.sh('curl -s -m 60 -w "\n%{http_code}" ' .. options:gsub('URL', 'http://' .. run.http)))
end

describe('the HTTP listener', function()
  setup(function()
    hostile.init()
    run = hostile.start '--intake-memory 16'
  end)
  teardown(function()
    local status = run:stop()
    hostile.fini()
    helper.cleanup()
    assert.are.equal(0, status, run:log())
  end)

  -- --- requests whose end could be seen elsewhere by a proxy before us ------------------------------------

  for what, header in pairs {
    ['a length and a coding'] = 'Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n',
    ['a coding and a length'] = 'Transfer-Encoding: chunked\r\nContent-Length: 60\r\n\r\n0\r\n\r\n',
    ['two lengths'] = 'Content-Length: 0\r\nContent-Length: 48\r\n\r\n',
    ['a list of lengths'] = 'Content-Length: 0, 48\r\n\r\n',
    ['the same length twice'] = 'Content-Length: 0\r\nContent-Length: 0\r\n\r\n',
    ['a signed length'] = 'Content-Length: +0\r\n\r\n',
    ['a negative length'] = 'Content-Length: -1\r\n\r\n',
    ['a hexadecimal length'] = 'Content-Length: 0x0\r\n\r\n',
    ['an empty length'] = 'Content-Length: \r\n\r\n',
    ['a space after the name of a length'] = 'Content-Length : 48\r\n\r\n',
    ['an unknown coding'] = 'Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n',
    ['the coding identity'] = 'Transfer-Encoding: identity\r\n\r\n0\r\n\r\n',
    ['two codings'] = 'Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n',
    ['a list of codings'] = 'Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n',
    ['a vertical tab before a coding'] = 'Transfer-Encoding: \vchunked\r\n\r\n0\r\n\r\n',
    ['a negative chunk'] = 'Transfer-Encoding: chunked\r\n\r\n-1\r\n',
    ['a chunk that is none'] = 'Transfer-Encoding: chunked\r\n\r\nzz\r\n',
    ['a chunk without end'] = 'Transfer-Encoding: chunked\r\n\r\n1\r\naXX0\r\n\r\n',
  } do
    it(('refuses %s and reads on with nothing'):format(what), function()
      local answer = say('POST /api/inject/v1 HTTP/1.1\r\nHost: x\r\n' .. header .. SECOND)
      assert.is_true(#statuses(answer) > 0, answer)
      for _, status in ipairs(statuses(answer)) do
        assert.are.equal('400', status, answer)
      end
    end)
  end

  for what, case in pairs {
    ['a length above the limit'] = { '413', 'POST /api/inject/v1 HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n' },
    ['a length that no number holds'] = {
      '413', 'POST /api/inject/v1 HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999999\r\n\r\n',
    },
    ['a chunk that no number holds'] = {
      '413', 'POST /api/inject/v1 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFFFFFFF\r\n',
    },
    ['a body for GET'] = { '400', 'GET /metrics HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n' },
    ['3,000 headers'] = { '431', 'GET /metrics HTTP/1.1\r\nHost: x\r\n' .. ('X-Y: z\r\n'):rep(3000) .. '\r\n' },
    ['another version'] = { '505', 'GET /metrics HTTP/9.9\r\nHost: x\r\n\r\n' },
    ['HTTP/2'] = { '505', 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n' },
    ['HTTP/0.9'] = { '400', 'GET /metrics\r\n\r\n' },
    ['a tunnel'] = { '404', 'CONNECT a:1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n' },
    ['a header of 100 KB'] = { nil, 'GET /metrics HTTP/1.1\r\nHost: x\r\nX: ' .. ('x'):rep(100000) .. '\r\n\r\n' },
    ['the hello of TLS'] = { nil, '\22\3\1\2\0\1\0\1\252\3\3\r\n\r\n' },
  } do
    it('takes nothing of ' .. what, function()
      local answer = say(case[2])
      if case[1] then
        assert.are.equal(case[1], statuses(answer)[1], answer)
      end
      assert.is_nil(answer:find ' 200 ', answer)
    end)
  end

  it('unpacks nothing', function()
    for _, coding in ipairs { 'gzip', 'deflate', 'br', 'zstd', 'gzip, gzip' } do
      local bomb = ('head -c 100000000 /dev/zero | gzip -9 >%s/bomb'):format(hostile.dir)
      helper.sh(('test -e %s/bomb || %s'):format(hostile.dir, bomb))
      local headers = ("-H 'Content-Type: application/json' -H 'Content-Encoding: %s'"):format(coding)
      assert.matches('\n415$', curl(('%s --data-binary @%s/bomb URL/api/inject/v1'):format(headers, hostile.dir)))
    end
  end)

  it('refuses JSON a million levels deep', function()
    local path = hostile.file('deep', '{"envelope_sender":' .. ('['):rep(1000000))
    assert.matches('\n400$', curl("-H 'Content-Type: application/json' --data-binary @" .. path .. ' URL/api/inject/v1'))
  end)

  -- --- strangers ----------------------------------------------------------------------------------------------

  it('lets a stranger in nowhere, whatever it says of itself', function()
    local source = helper.read 'lua/http_server.lua'
    local paths = {}
    for path in source:gmatch "'(/[%w/_%-%.]+)'" do
      paths[path] = true
    end
    for method, path in source:gmatch "'(%u+) (/[%w/_%-%.]+)'" do
      paths[path] = method
    end
    local count = 0
    paths['/api/check-liveness/v1'] = nil
    for path in pairs(paths) do
      for _, method in ipairs { 'GET', 'POST', 'DELETE', 'PUT', 'HEAD' } do
        local answer = say(('%s %s?name=x&queue_name=x HTTP/1.1\r\nHost: 127.0.0.1\r\n'):format(method, path) .. CLAIMS, '127.0.0.2')
        assert.are.same({ '401' }, statuses(answer), method .. path .. answer)
        count = count + 1
      end
    end
    assert.is_true(count >= 80, count .. ' requests')
    -- spellings of the path that is open for all lead nowhere else
    for _, path in ipairs {
      '/api/check-liveness/v1/../../admin/bounce/v1', '//api/check-liveness/v1',
      'http://127.0.0.1/metrics', '/metrics/', '/METRICS', '/%6detrics', '/metrics;/api/check-liveness/v1', '*', '',
    } do
      local answer = say(('GET %s HTTP/1.1\r\nHost: x\r\n\r\n'):format(path), '127.0.0.2')
      assert.is_true(statuses(answer)[1] == '401' or statuses(answer)[1] == '400', path .. ': ' .. answer)
    end
  end)

  it('lets a stranger with a password inject and no more', function()
    local post = "--interface 127.0.0.2 -H 'Content-Type: application/json' -d '" .. JSON .. "' "
    assert.matches('\n401$', curl(post .. 'URL/api/inject/v1'))
    assert.matches('\n401$', curl(post .. '-u app:wrong URL/api/inject/v1'))
    assert.matches('\n200$', curl(post .. '-u app:right URL/api/inject/v1'))
    assert.matches('\n401$', curl(post .. '-u app:right URL/api/admin/bounce/v1'))
    assert.matches('\n401$', curl '--interface 127.0.0.2 -u app:right URL/metrics')
  end)

  it('asks for no byte of a body that it will not take', function()
    local head = 'POST /api/inject/v1 HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2000000\r\n\r\n'
    assert.are.same({ '401' }, statuses(say(head, '127.0.0.2')))
  end)

  -- --- crowds -------------------------------------------------------------------------------------------------

  it('serves those whom it knows beside thousands who say nothing, bring bodies without end, and headers', function()
    local target = '--http http://' .. run.http
    local quiet = hostile.start()
    local quiet_target = '--http http://' .. quiet.http
    hostile.assert_kept(target, quiet_target)
    local first = hostile.kb(run)
    local body = ('POST /api/inject/v1 HTTP/1.1\r\nHost: x\r\nAuthorization: Basic eDp5\r\nContent-Length: 2000000\r\n\r\n')
      .. (' '):rep(1000000)
    local idle = hostile.attack(run.http, 10000, '')
    hostile.attack(run.http, 300, 'send=' .. hostile.file('body', body))
    hostile.attack(run.http, 300, 'drip=200 send=' .. hostile.file('head', 'GET /metrics HTTP/1.1\r\nHost: x\r\nX-Y: z'))
    hostile.attack(run.http, 100, 'repeat=' .. hostile.file('get', ('GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n'):rep(100)))
    local during, before = hostile.assert_kept(target, quiet_target)
    local grown = hostile.kb(run) - first
    print(('\n10,700 strangers over HTTP: %d/s instead of %d/s, %.1f MB more'):format(during, before, grown / 1024))
    helper.assert_memory(grown, 1100 * 33 + 16 * 1024 + 8 * 1024)
    helper.wait_for('the ends of those who are too many', function()
      return (hostile.numbers(idle)) <= 768
    end)
    assert.matches('\n200$', curl 'URL/metrics')
    assert.matches('\n200$', curl '--interface 127.0.0.2 URL/api/check-liveness/v1')
  end)
end)
