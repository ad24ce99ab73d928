-- The scripted network: the production HTTP client against endpoints of a script.
local kumo = require 'kumo'
local scripted = require('tr.host').internal 'scripted'

describe('a scripted network', function()
  local net, client

  before_each(function()
    net = scripted.new()
    client = kumo.http.build_client { timeout = '60s' }
  end)
  after_each(function()
    net:close()
  end)

  --- Status and body, or nil and the error.
  local function post(url, body)
    local ok, result = pcall(function()
      local response = client:post(url):body(body or 'hello'):send()
      return { response:status_code(), response:text() }
    end)
    if not ok then
      return nil, tostring(result)
    end
    return unpack(result)
  end

  it('answers with what a function returns', function()
    net:http('http://10.0.0.1:4242/log', function(request)
      assert.are.equal('POST', request.method)
      return { status = 503, headers = { ['Retry-After'] = '30' }, body = 'busy ' .. request.body }
    end)
    local status, body = post 'http://10.0.0.1:4242/log?a=b'
    assert.are.equal(503, status)
    assert.are.equal('busy hello', body)
    local request = net:requests()[1]
    assert.are.equal('http://10.0.0.1:4242/log?a=b', request.url)
    assert.are.equal('a=b', request.query)
    assert.are.equal(503, request.status)
    assert.are.same({}, net:strays())
  end)

  it('answers in turn, by name, and shows what goes inside of TLS', function()
    net:http('https://hooks.example.com/x', { 201, { body = { a = 1 } }, 'text' })
    assert.are.same({ 201, '' }, { unpack({ post 'https://hooks.example.com/x' }, 1, 2) })
    for _, expected in ipairs { '{"a":1}', 'text', 'text' } do
      local status, body = post 'https://hooks.example.com/x'
      assert.are.equal(200, status)
      assert.are.equal(expected, body)
    end
    assert.are.equal(4, #net:requests 'https://hooks.example.com/x')
  end)

  it('passes large bodies both ways', function()
    net:http('http://10.0.0.1', function(request)
      return request.body:reverse()
    end)
    local body = ('abcdefgh'):rep(200000)
    local status, back = post('http://10.0.0.1/any/path', body)
    assert.are.equal(200, status)
    assert.is_true(back == body:reverse())
  end)

  for what, expected in pairs {
    reset = 'reset',
    hang = 'timed out',
    close = false,
  } do
    it('can ' .. what, function()
      if what == 'hang' then
        client = kumo.http.build_client { timeout = '200ms' }
      end
      net:http('http://10.0.0.1', { [what] = true })
      local status, err = post 'http://10.0.0.1/'
      if expected then
        assert.is_nil(status)
        assert.matches(expected, err)
      else
        assert.are.equal(200, status)
      end
    end)
  end

  it('can send half of an answer, and be late', function()
    net:http('http://10.0.0.1', { { partial = 30 }, { delay = '20ms', body = 'late' } })
    local status, err = post 'http://10.0.0.1/'
    assert.is_nil(status)
    assert.matches('partial file', err)
    assert.are.equal('late', select(2, post 'http://10.0.0.1/'))
  end)

  it('refuses, or is silent', function()
    net:http('http://10.0.0.1', { connect = 'refused' })
    net:http('http://10.0.0.2', { connect = 'silent' })
    assert.matches('Connection refused', select(2, post 'http://10.0.0.1/'))
    client = kumo.http.build_client { timeout = '200ms' }
    assert.matches('timed out', select(2, post 'http://10.0.0.2/'))
    assert.are.same({}, net:strays())
  end)

  it('names what was not scripted', function()
    net:http('http://10.0.0.1/log', 200)
    assert.are.equal(404, (post 'http://10.0.0.1/other'))
    assert.matches('refused', select(2, post 'http://10.0.0.9:80/'))
    assert.matches('resolve host', select(2, post 'http://nobody.example.com/'))
    assert.are.same({ 'POST http://10.0.0.1/other', '10.0.0.9:80', 'name nobody.example.com' }, net:strays())
  end)

  it('can answer everything', function()
    net:answer_all { http = 202 }
    assert.are.equal(202, (post 'http://10.0.0.9:4242/other'))
    assert.are.equal(202, (post 'http://anybody.example.com/'))
    assert.are.same({}, net:strays())
  end)

  it('tells of an answer that fails, and resets', function()
    net:http('http://10.0.0.1', function()
      error 'a mistake'
    end)
    assert.is_nil((post 'http://10.0.0.1/'))
    assert.matches('the answer of http://10.0.0.1 failed: .*a mistake', net:errors()[1])
    net:http('http://10.0.0.2', { statsu = 200 })
    assert.is_nil((post 'http://10.0.0.2/'))
    assert.matches("unknown field 'statsu'", net:errors()[2])
  end)
end)
