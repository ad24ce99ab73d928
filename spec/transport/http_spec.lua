-- kumo.http against `tailrace sink`; the finer points of the wire are in spec/c/transport/http_test.c.
local helper = require 'helper'
local kumo = require 'kumo'

local function error_of(fn, ...)
  local ok, err = pcall(fn, ...)
  assert.is_false(ok)
  return tostring(err)
end

local function requests(path)
  local list = {}
  for line in helper.lines(path) do
    list[#list + 1] = kumo.serde.json_parse(line)
  end
  return list
end

describe('kumo.http', function()
  after_each(helper.cleanup)

  it('posts a body and reads the answer', function()
    local path = helper.dir() .. '/got'
    local sink = helper.sink('--http 127.0.0.1:0 --record ' .. path)
    local client = kumo.http.build_client { timeout = '120s' }
    for i = 1, 3 do
      local response = client
        :post('http://' .. sink.http .. '/in?x=1')
        :header('Content-Type', 'application/json')
        :body(('{"n":%d}'):format(i))
        :send()
      assert.are.equal(200, response:status_code())
      assert.are.equal('OK', response:status_reason())
      assert.is_true(response:status_is_success())
      assert.is_false(response:status_is_server_error())
      assert.is_string(response:text())
    end
    client:close()
    local summary = helper.summary(sink)
    assert.are.equal(3, summary.http.requests)
    assert.are.equal(1, summary.http.connections)
    assert.are.equal('{"n":3}', requests(path)[3].body)
  end)

  it('posts the bytes of a message', function()
    local path = helper.dir() .. '/got'
    local sink = helper.sink('--http 127.0.0.1:0 --record ' .. path)
    local msg = kumo.make_message('a@example.com', 'b@example.com', '{"m":1}')
    local client = kumo.http.build_client {}
    assert.are.equal(200, client:post('http://' .. sink.http .. '/'):body_of(msg):send():status_code())
    assert.has_error(function()
      client:post('http://h/'):body_of {}
    end)
    helper.summary(sink)
    assert.are.equal('{"m":1}', requests(path)[1].body)
  end)

  it('posts a message in one call', function()
    local path = helper.dir() .. '/got'
    local sink = helper.sink('--http 127.0.0.1:0 --record ' .. path)
    local msg = kumo.make_message('a@example.com', 'b@example.com', '{"m":1}\n')
    local client = kumo.http.build_client {}
    local url = 'http://' .. sink.http .. '/'
    for _ = 1, 3 do
      local status, reason, text, retry_after = client:post_message(url, msg)
      assert.are.same({ 200, 'OK', 'string', nil }, { status, reason, type(text), retry_after })
    end
    assert.are.equal(200, (client:post_message(url .. 'other', msg, 'text/plain')))
    assert.has_error(function()
      client:post_message(url, {})
    end)
    assert.has_error(function()
      client:post_message(url, msg, 'text/plain\r\nX: y')
    end)
    client:close()
    assert.has_error(function()
      client:post_message(url, msg)
    end)
    helper.summary(sink)
    local got = requests(path)
    assert.are.equal('{"m":1}\n', got[3].body)
    assert.are.equal('/other', got[4].path)
  end)

  it('posts messages as a JSON array', function()
    local path = helper.dir() .. '/got'
    local sink = helper.sink('--http 127.0.0.1:0 --record ' .. path)
    local list = {}
    for i = 1, 3 do
      list[i] = kumo.make_message('a@example.com', 'b@example.com', ('{"m":%d}\n'):format(i))
    end
    local client = kumo.http.build_client {}
    assert.are.equal(200, (client:post_messages('http://' .. sink.http .. '/', list)))
    assert.are.equal(200, (client:post_messages('http://' .. sink.http .. '/', {})))
    assert.has_error(function()
      client:post_messages('http://' .. sink.http .. '/', { list[1], 'x' })
    end)
    helper.summary(sink)
    assert.are.equal('[{"m":1},{"m":2},{"m":3}]', requests(path)[1].body)
    assert.are.equal('[]', requests(path)[2].body)
  end)

  it('returns what the answer asks and what the network did', function()
    local sink = helper.sink '--http 127.0.0.1:0 --status-share 503=100 --retry-after 7'
    local client = kumo.http.build_client {}
    local msg = kumo.make_message('a@example.com', 'b@example.com', 'x')
    local status, reason, _, retry_after = client:post_message('http://' .. sink.http .. '/', msg)
    assert.are.same({ 503, 'Service Unavailable', '7' }, { status, reason, retry_after })
    local none, message, code = client:post_message('http://127.0.0.1:1/', msg)
    assert.is_nil(none)
    assert.truthy(message:find('error sending request for url (http://127.0.0.1:1/)', 1, true))
    assert.are.equal('EREFUSED', code)
  end)

  it('gives an error status and its headers as an answer', function()
    local sink = helper.sink '--http 127.0.0.1:0 --status-share 503=100 --retry-after 7'
    local response = kumo.http.build_client({}):post('http://' .. sink.http .. '/'):body('x'):send()
    assert.are.equal(503, response:status_code())
    assert.are.equal('Service Unavailable', response:status_reason())
    assert.is_true(response:status_is_server_error())
    local headers = response:headers()
    assert.are.equal('7', headers['Retry-After'])
    assert.are.equal('7', headers['retry-after'])
    assert.is_nil(headers['X-None'])
    local names = {}
    for name, value in pairs(headers) do
      assert.are.equal(name:lower(), name)
      names[name] = value
    end
    assert.are.equal('7', names['retry-after'])
    assert.is_number(response:content_length())
    response:bytes()
    assert.has_error(function()
      response:headers()
    end, 'broken response wrapper')
    assert.are.equal(503, response:status_code())
  end)

  it('raises with the URL and the cause where there is no answer', function()
    local sink = helper.sink '--http 127.0.0.1:0 --reset-share 100'
    local url = 'http://' .. sink.http .. '/'
    local client = kumo.http.build_client {}
    local request = client:post(url):body 'x'
    local text = error_of(request.send, request)
    assert.is_truthy(text:find('error sending request for url (' .. url .. '): ', 1, true))
    assert.is_truthy(text:find 'reset by peer')
    sink:stop 'KILL'
    request = client:post(url):body 'x'
    local response, message, code = request:try_send()
    assert.is_nil(response)
    assert.is_truthy(message:find 'Connection refused')
    assert.are.equal('EREFUSED', code)
  end)

  it('does not connect to private addresses if told so', function()
    local sink = helper.sink '--http 127.0.0.1:0'
    local port = sink.http:match ':(%d+)$'
    local client = kumo.http.build_client { deny_private_addresses = true, allow_addresses = { '192.0.2.0/24' } }
    for _, host in ipairs { '127.0.0.1', 'localhost', '0' } do
      local response, message, code = client:get(('http://%s:%s/'):format(host, port)):try_send()
      assert.is_nil(response)
      assert.are.equal('EACCES', code)
      assert.matches('not allowed to connect to [%d.:]+: it is no public address', message)
    end
    client = kumo.http.build_client { deny_private_addresses = true, allow_addresses = { '127.0.0.0/8' } }
    assert.are.equal(200, client:get('http://' .. sink.http .. '/'):send():status_code())
    for wrong, expected in pairs { ['300.0.0.1'] = "'10.0.0.0/8' expected, got 300.0.0.1", ['10.0.0.1/8'] = 'did you mean 10.0.0.0/8' } do
      local err = error_of(kumo.http.build_client, { deny_private_addresses = true, allow_addresses = { wrong } })
      assert.truthy(err:find(expected, 1, true), err)
    end
    helper.summary(sink)
  end)

  it('ends at its time-out', function()
    local sink = helper.sink '--http 127.0.0.1:0 --hang'
    local client = kumo.http.build_client { timeout = '1h' }
    local _, message, code = client:post('http://' .. sink.http .. '/'):timeout('50ms'):try_send()
    assert.is_truthy(message:find 'timed out after 0.05 s')
    assert.are.equal('ETIMEDOUT', code)
  end)

  for url, cause in pairs { ['ftp://h/'] = 'not supported', ['http://a b/'] = 'URL', [''] = 'URL' } do
    it(('reports the bad URL %q when it is sent'):format(url), function()
      local request = kumo.http.build_client({}):get(url)
      local text = error_of(request.send, request)
      assert.is_truthy(text:find 'builder error')
      assert.is_truthy(text:find(cause))
    end)
  end

  it('shows no user and no password of a URL in its errors', function()
    local client = kumo.http.build_client {}
    local url = 'http://events:s3c@ret@127.0.0.1:1/in?a=b@c'
    local texts = {
      error_of(function()
        client:get(url):send()
      end),
      select(2, client:get(url):header('X-A', 'a\r\nb'):try_send()),
      select(2, client:post_message(url, kumo.make_message('a@b.c', 'd@e.f', 'x'))),
      select(2, client:poster({ url = url }):post(kumo.make_message('a@b.c', 'd@e.f', 'x'))),
    }
    for i = 1, 4 do
      assert.is_truthy(texts[i]:find('for url (http://127.0.0.1:1/in?a=b@c)', 1, true), texts[i])
    end
  end)

  it('has one line of a header that the poster knows', function()
    local client = kumo.http.build_client {}
    local poster = getmetatable(client).__index.poster
    local seen
    local fake = { _core = client._core, poster = poster }
    local core = require 'tr.http'
    local made = core.poster
    core.poster = function(_, options)
      seen = options.headers
      return made(_, options)
    end
    fake:poster { url = 'http://h/', headers = { ['content-type'] = 'application/cloudevents+json', ['X-A'] = 'b' } }
    core.poster = made
    assert.are.same({ 'Content-Type', 'application/cloudevents+json', 'X-A', 'b' }, seen)
    for name, cause in pairs {
      ['Content-Length'] = "is the runtime's own",
      ['Transfer-Encoding'] = "is the runtime's own",
      ['Webhook-Signature'] = "is the runtime's own",
      ['content-encoding'] = 'comes from compression',
    } do
      assert.is_truthy(error_of(client.poster, client, { url = 'http://h/', compression = 'gzip', headers = { [name] = 'x' } })
        :find(cause, 1, true))
    end
  end)

  it('reports a bad header when it is sent', function()
    local request = kumo.http.build_client({}):get('http://127.0.0.1:1/'):header('X-A', 'a\r\nX-B: c')
    assert.is_truthy(error_of(request.send, request):find 'builder error')
  end)

  it('sends a request once', function()
    local request = kumo.http.build_client({}):get 'ftp://h/'
    pcall(request.send, request)
    assert.is_truthy(error_of(request.send, request):find 'broken request builder')
    assert.is_truthy(error_of(request.header, request, 'a', 'b'):find 'broken request builder')
  end)

  it('refuses new requests of a closed client', function()
    local client = kumo.http.build_client {}
    client:close()
    assert.is_truthy(error_of(client.post, client, 'http://127.0.0.1:1/'):find 'client was closed')
  end)

  it('sends forms and credentials', function()
    local path = helper.dir() .. '/got'
    local sink = helper.sink('--http 127.0.0.1:0 --record ' .. path)
    local client = kumo.http.build_client {}
    local url = 'http://' .. sink.http .. '/'
    client:post(url):form_url_encoded({ ['a b'] = 'ü&' }):basic_auth('me', 'secret'):send()
    client:put(url):form_multipart_data({ f = { data = 'D', file_name = 'n.txt' }, t = 'text' }):bearer_auth('tok'):send()
    helper.summary(sink)
    local got = requests(path)
    assert.are.equal('a+b=%C3%BC%26', got[1].body)
    local body = got[2].body
    assert.is_truthy(body:find('Content-Disposition: form-data; name="f"; filename="n.txt"', 1, true))
    assert.is_truthy(body:find('name="t"\r\n\r\ntext\r\n', 1, true))
  end)

end)

describe('kumo.http.build_url', function()
  for base, expected in pairs {
    ['http://h'] = 'http://h/?a+b=1%2F2',
    ['http://h/p?x=y'] = 'http://h/p?x=y&a+b=1%2F2',
    ['http://h/p#frag'] = 'http://h/p?a+b=1%2F2#frag',
  } do
    it(('extends %s'):format(base), function()
      assert.are.equal(expected, kumo.http.build_url(base, { ['a b'] = '1/2' }))
    end)
  end

  it('takes numbers, leaves a bare question mark, refuses other values and bad URLs', function()
    assert.are.equal('http://h/?n=1', kumo.http.build_url('http://h/', { n = 1 }))
    assert.are.equal('http://h/?', kumo.http.build_url('http://h/', {}))
    error_of(kumo.http.build_url, 'http://h/', { n = true })
    error_of(kumo.http.build_url, 'http://', {})
  end)
end)
