-- A webhook endpoint that misbehaves in every way in turn: each record has an outcome of its own, and none is lost.
local helper = require 'helper'
local kumo = require 'kumo'
local socket = require 'socket'

local POLICY = [[
local kumo = require 'kumo'
local log_hooks = require 'policy-extras.log_hooks'
for name, timeout in pairs { w = '120s', silent = '1s' } do
  log_hooks:new_json {
    name = name,
    url = ('http://127.0.0.1:%%d/log'):format(name == 'w' and %d or %d),
    timeout = timeout,
    queue_config = { retry_interval = '1s', max_retry_interval = '1s' },
    log_parameters = { per_record = { Any = { enable = false }, Delivery = { enable = true } } },
    filter = function(msg)
      return (name == 'silent') ~= (msg:get_meta('log_record').recipient == 'silent@example.com') or nil
    end,
  }
end
kumo.on('init', function()
  kumo.define_spool { name = 'data', path = '%s/data' }
  kumo.define_spool { name = 'meta', path = '%s/meta' }
  kumo.start_esmtp_listener { listen = '127.0.0.1:0', relay_hosts = { '127.0.0.0/8' } }
  kumo.start_http_listener { listen = '127.0.0.1:0' }
end)
kumo.on('get_queue_config', function()
  return kumo.make_queue_config { protocol = { custom_lua = { constructor = 'make.mail' } } }
end)
kumo.on('get_egress_path_config', function()
  return kumo.make_egress_path { connection_limit = 1, gate_failures = 100, gate_backoff = '200ms' }
end)
kumo.on('make.mail', function() return { send = function() return 'ok' end } end)
]]

--- Reads a request up to the end of its body; its body, and the number of the attempt.
local function read_request(peer)
  local length, attempt = 0, nil
  repeat
    local line, err = peer:receive '*l'
    if not line then
      return nil, err
    end
    length = tonumber(line:match '^[Cc]ontent%-[Ll]ength: (%d+)') or length
    attempt = tonumber(line:match '^[Tt]ailrace%-[Aa]ttempt: (%d+)') or attempt
  until line == ''
  return peer:receive(length), attempt
end

local OK = 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok'

--- What the endpoint does with one request after the other. `answer` is sent after the request was read; `took`: then it has the
--- record; `close`: it hangs up afterwards. Without `answer` it reads nothing but `read` bytes.
local TROUBLE = {
  { name = 'hangs up before the request', read = 0, close = true },
  { name = 'hangs up during the request', read = 60, close = true },
  { name = 'hangs up after the request', answer = '', close = true },
  { name = 'hangs up in the answer', answer = 'HTTP/1.1 200 OK\r\nContent-Length: 200\r\n\r\nok', close = true },
  { name = 'answers nonsense', answer = 'SSH-2.0-OpenSSH\r\n\r\n', close = true },
  { name = 'a body of 100 KB that is no UTF-8', answer = ('HTTP/1.1 422 No\r\nContent-Length: 102400\r\n\r\n%s'):format(
    ('\255\xc3('):rep(34134):sub(1, 102400)), close = true },
  { name = 'HTTP/1.0', answer = 'HTTP/1.0 200 OK\r\n\r\nok', took = true, close = true },
  { name = 'chunks', answer = 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n1;x=y\r\nk\r\n0\r\nA: b\r\n\r\n', took = true },
  { name = 'closes a connection that looks alive', answer = OK, took = true, close = true },
  { name = 'is busy, for a second', answer = 'HTTP/1.1 503 No\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n', wait = 0.9 },
  { name = 'a redirect', answer = 'HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n' },
}

describe('an endpoint in trouble', function()
  local run

  after_each(function()
    if run and not run:status() then
      run:stop 'KILL'
    end
    helper.cleanup()
  end)

  it('costs no record, whatever it does', function()
    local function listen()
      local listener = assert(socket.bind('127.0.0.1', 0))
      local _, port = listener:getsockname()
      listener:settimeout(0)
      return listener, port
    end
    local listener, port = listen()
    local silent_listener, silent_port = listen()
    local dir = helper.dir()
    helper.write(dir .. '/policy.lua', POLICY:format(port, silent_port, dir, dir))
    run = helper.run(dir .. '/policy.lua')
    helper.inject(('--smtp %s --count %d'):format(run.smtp, #TROUBLE))
    helper.inject(('--smtp %s --count 1 --to silent@example.com'):format(run.smtp))

    local peer, requests, seen, count, busy_at = nil, 0, {}, 0, nil
    local function serve()
      if not peer then
        peer = listener:accept()
        if not peer then
          return
        end
        peer:settimeout(60)
      end
      local now = TROUBLE[requests + 1] or { answer = OK, took = true }
      if not now.answer then
        requests = requests + 1
        peer:receive(now.read)
      else
        local body = read_request(peer)
        if not body then -- it hung up
          peer:close()
          peer = nil
          return
        end
        requests = requests + 1
        if busy_at then
          assert.is_true(socket.gettime() - busy_at >= 0.9, 'Retry-After is not heeded')
          busy_at = nil
        end
        if now.took then
          local id = kumo.serde.json_parse(body).event_id
          count = count + (seen[id] and 0 or 1)
          seen[id] = true
        end
        busy_at = now.wait and socket.gettime() -- it cannot know before
        peer:send(now.answer)
      end
      if now.close then
        peer:close()
        peer = nil
      end
    end
    helper.wait_for('all records but the one that was refused', function()
      serve()
      return count == #TROUBLE - 1
    end)
    local silent, attempts -- a connection that never gets an answer; of the record that it had
    local function serve_silent()
      local other = silent_listener:accept()
      if not other then
        return
      end
      other:settimeout(60)
      local body, attempt = read_request(other)
      if body and not silent then
        silent = other
        return
      end
      other:send 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok'
      other:close()
      attempts = attempt or attempts
    end
    local ledger
    helper.wait_for('their outcomes', function()
      serve_silent()
      ledger = kumo.serde.json_parse(helper.sh(('curl -s http://%s/api/tailrace/ledger'):format(run.http)))
      return ledger.w.delivered == #TROUBLE - 1 and ledger.w.dead == 1 and ledger.silent.delivered == 1
    end)
    assert.is_true(attempts > 1)
    assert.are.equal(0, ledger.w.waiting)
    assert.are.equal(0, ledger.silent.waiting)
    local letter = helper.sh(('%s dead list --json --admin http://%s'):format(helper.quote(helper.TAILRACE), run.http))
    local text = kumo.serde.json_parse(letter:match '^[^\n]+').letter.answer
    assert.matches('^500 422 Unprocessable Entity: ', text)
    assert.is_true(#text < 1100, #text .. ' bytes')
    assert.truthy(text:find('\239\191\189', 1, true)) -- U+FFFD for each byte that was none
    assert.are.equal(0, run:stop())
    listener:close()
    silent_listener:close()
  end)
end)
