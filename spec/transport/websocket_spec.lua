-- kumo.http.connect_websocket against a server of another make; the wire in detail is in spec/c/transport.
local helper = require 'helper'
local kumo = require 'kumo'

local HERE = debug.getinfo(1, 'S').source:match '^@(.*/)' or './'

describe('kumo.http.connect_websocket', function()
  local peer, url

  setup(function()
    peer = helper.start(helper.quote(helper.TAILRACE) .. ' lua ' .. helper.quote(HERE .. 'websocket_peer.lua'))
    url = 'ws://127.0.0.1:' .. peer:line 'listening (%d+)'
  end)

  teardown(helper.cleanup)

  local function error_of(...)
    local ok, err = pcall(kumo.http.connect_websocket, ...)
    assert.is_false(ok)
    return tostring(err)
  end

  it('gives a stream and the answer', function()
    local stream, response = kumo.http.connect_websocket(url .. '/talk')
    assert.are.equal(101, response:status_code())
    assert.are.equal('Switching Protocols', response:status_reason())
    assert.are.equal('/talk', response:headers()['x-path'])
    assert.are.equal('one', stream:recv())
    assert.are.equal('\0\1', stream:recv())
    assert.are.equal('unasked', stream:recv()) -- payloads of pongs are given, too
    assert.are.equal('in two parts', stream:recv())
    local none, message, code = stream:recv()
    assert.is_nil(none)
    assert.truthy(message:find('closed by the peer: 1000 done', 1, true))
    assert.are.equal('ECLOSED', code)
    assert.is_nil(stream:recv())
    peer:line '(got 10 are you there)'
    peer:line '(got 8 \3\232)'
  end)

  it('sends, and closes', function()
    local stream = kumo.http.connect_websocket(url .. '/echo')
    local long = ('x'):rep(60000)
    for _, text in ipairs { 'hello', '', 'grüße', long } do
      assert.is_true(stream:send(text))
      assert.are.equal(text, stream:recv())
    end
    assert.is_true(stream:send('\255\0', 'binary'))
    assert.are.equal('\255\0', stream:recv())
    assert.has_error(function()
      stream:send '\255'
    end)
    assert.is_true(stream:send 'before the end')
    assert.is_true(stream:close())
    assert.are.equal('before the end', stream:recv()) -- had come
    assert.is_nil(stream:recv())
    local none, _, code = stream:send 'too late'
    assert.are.same({ nil, 'ECLOSED' }, { none, code })
    assert.is_true(stream:close())
    peer:line '(got 8 \3\232)'
  end)

  it('raises for another answer, with its status', function()
    local text = error_of(url .. '/nothing')
    assert.truthy(text:find('HTTP error: 404 Not Found', 1, true), text)
  end)

  it('raises when there is no connection, and for a bad URL or option', function()
    assert.is_truthy(error_of('ws://u:s3cret@h/'):find('(ws://h/): a user name', 1, true)) -- its password is not told
    assert.truthy(error_of('ws://127.0.0.1:1/'):find 'refused')
    assert.truthy(error_of('http://127.0.0.1/'):find 'begins with ws:// or wss://')
    assert.truthy(error_of(url .. '/echo', { time_out = 1 }):find "did you mean 'timeout'")
    assert.truthy(error_of(url .. '/echo', { timeout = 0 }):find 'greater than 0')
    assert.truthy(error_of({}):find 'string expected')
  end)

  it('collects for a time, all of it', function()
    local stream = kumo.http.connect_websocket(url .. '/echo')
    assert.are.same({}, stream:recv_batch(0.05)) -- nothing came
    assert.is_true(stream:send 'a')
    assert.is_true(stream:send 'b')
    local list, began = {}, kumo.time.now().unix_timestamp_millis
    repeat -- a slow machine may need more than one turn
      for _, text in ipairs(stream:recv_batch '200ms') do
        list[#list + 1] = text
      end
    until #list >= 2
    assert.are.same({ 'a', 'b' }, list)
    assert.is_true(kumo.time.now().unix_timestamp_millis - began >= 199)
    stream:close()
  end)

  it('gives what was collected before the end, and raises when that is nothing', function()
    local stream = kumo.http.connect_websocket(url .. '/drop')
    assert.are.same({ 'last words' }, stream:recv_batch '1h') -- the end ends the wait
    local ok, err = pcall(stream.recv_batch, stream, 0.01)
    assert.is_false(ok)
    assert.truthy(tostring(err):find('websocket closed', 1, true))
  end)

  it('says what the peer did wrong', function()
    local stream = kumo.http.connect_websocket(url .. '/break')
    local none, message, code = stream:recv()
    assert.are.same({ nil, 'EPROTO' }, { none, code })
    assert.truthy(message:find('an unknown opcode', 1, true))
    peer:line '(got 8 \3\234an unknown opcode)'
  end)

  it('has a time limit for a recv, after which it can be used', function()
    local stream = kumo.http.connect_websocket(url .. '/echo')
    local none, _, code = stream:recv(0.01)
    assert.are.same({ nil, 'ETIMEDOUT' }, { none, code })
    assert.is_true(stream:send 'still there')
    assert.are.equal('still there', stream:recv '30s')
    stream:close()
  end)

  it('notices a message that is too large', function()
    local stream = kumo.http.connect_websocket(url .. '/echo', { max_message_bytes = 10 })
    assert.is_true(stream:send(('x'):rep(11)))
    local none, message, code = stream:recv()
    assert.are.same({ nil, 'ETOOBIG' }, { none, code })
    assert.truthy(message:find('too large', 1, true))
  end)

  it('leaves nothing behind when the program ends in the middle of a wait', function()
    local script = helper.write(helper.dir() .. '/wait.lua', ([[
      local kumo = require 'kumo'
      local waits = false
      kumo.on('reader', function()
        local stream = kumo.http.connect_websocket '%s/silent'
        waits = true
        stream:recv()
        print 'not reached'
      end)
      kumo.spawn_task { event_name = 'reader' }
      repeat
        kumo.sleep(0.01)
      until waits
    ]]):format(url))
    local run = helper.start(helper.quote(helper.TAILRACE) .. ' lua ' .. helper.quote(script))
    assert.are.equal(0, run:wait())
    assert.are.equal('', run:output())
    assert.falsy(run:log():find 'ERROR') -- nor a report of a sanitizer
  end)
end)
