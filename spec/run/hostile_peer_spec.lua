-- Endpoints that mean no good: answers without end in every part, a byte now and then, bombs, TLS that stalls or is nonsense.
-- The memory stays bounded, nothing is taken for delivered, the other hook keeps its rate, and the stop ends in time.
local helper = require 'helper'
local hostile = require 'ingress.hostile'
local kumo = require 'kumo'

local POLICY = [==[
local kumo = require 'kumo'
local log_hooks = require 'policy-extras.log_hooks'
local DIR = os.getenv 'DIR'
local PARAMETERS = { per_record = { Any = { enable = false }, Reception = { enable = true } } }
local function hook(name, url)
  log_hooks:new_json {
    name = name, url = url, timeout = name == 'honest' and '30s' or '1s', log_parameters = PARAMETERS,
    queue_config = { retry_interval = '100ms', max_retry_interval = '100ms' },
  }
end
hook('honest', os.getenv 'HONEST')
for name, url in os.getenv('PEERS'):gmatch '(%w+)=(%S+)' do
  hook(name, url)
end
log_hooks:new_amqp {
  name = 'amqps', routing_key = 'x', log_parameters = PARAMETERS,
  connection = { host = '127.0.0.1', port = tonumber(os.getenv 'SILENT'), enable_tls = true, connect_timeout = '1s' },
  queue_config = { retry_interval = '100ms', max_retry_interval = '100ms' },
}
kumo.on('init', function()
  kumo.define_spool { name = 'data', path = DIR .. '/data' }
  kumo.define_spool { name = 'meta', path = DIR .. '/meta' }
  kumo.start_esmtp_listener { listen = '127.0.0.1:0', relay_hosts = { '127.0.0.0/8' } }
  kumo.start_http_listener { listen = '127.0.0.1:0' }
end)
kumo.on('smtp_server_message_received', function(msg)
  msg:set_meta('queue', 'null')
end)
]==]
local OK = 'HTTP/1.1 200 OK\r\n'
local ONE_KB = ('y'):rep(1022) .. '\r\n'
local MAILS = 10

describe('hostile endpoints', function()
  setup(hostile.init)
  teardown(hostile.fini)
  after_each(helper.cleanup)

  it('cost bounded memory, get nothing for delivered, and delay no other', function()
    local sink = helper.sink '--http 127.0.0.1:0'
    helper.sh(('head -c 100000000 /dev/zero | gzip -9 >%s/bomb'):format(hostile.dir))
    local peers = {
      status = { send = 'HTTP/1.1 200 ', again = ('x'):rep(10000) },
      headers = { send = OK, again = ('X: ' .. ('y'):rep(90) .. '\r\n'):rep(100) },
      body = { says_200 = true, send = OK .. 'Content-Length: 100000000\r\n\r\n', again = ONE_KB:rep(60) },
      bomb = { says_200 = true, send = OK .. 'Content-Encoding: gzip\r\n\r\n' .. helper.read(hostile.dir .. '/bomb') },
      endless = { says_200 = true, send = OK .. '\r\n', again = ONE_KB:rep(60) },
      chunks = { says_200 = true, send = OK .. 'Transfer-Encoding: chunked\r\n\r\n', again = '400\r\n' .. ONE_KB .. '\r\n' },
      extension = { send = OK .. 'Transfer-Encoding: chunked\r\n\r\n1;', again = ('e'):rep(10000) },
      trailer = { send = OK .. 'Transfer-Encoding: chunked\r\n\r\n0\r\n', again = ('X: ' .. ('y'):rep(90) .. '\r\n'):rep(100) },
      continues = { send = '', again = ('HTTP/1.1 100 Continue\r\n\r\n'):rep(100) },
      drip = { send = OK .. 'Content-Length: 0\r\n\r\n', options = 'drip=500' },
      bytes = { send = OK .. 'Content-Length: 100\r\n\r\n' .. ('x'):rep(100), options = 'drip=500' },
      noise = { send = '\22\3\1\2\0\1\0\1\252\3\3', again = '\0\255\n\1' },
      silent = { send = '' },
      reads = { send = '', options = 'read=no' },
      tls = { send = '', scheme = 'https' }, -- takes the hello and never answers it
      tlsnoise = { send = '', again = ('\0\255\n\1'):rep(1000), scheme = 'https' },
      tlsrecord = { send = '\22\3\3\64\0', again = ('\2'):rep(10000), scheme = 'https' }, -- a record of 16 KB, and on
      tlsdrip = { send = '\22\3\3\0\122\2\0\0\118\3\3' .. ('x'):rep(200), options = 'drip=500', scheme = 'https' },
      location = { send = 'HTTP/1.1 302 Found\r\nLocation: ' .. ('http://x/'):rep(1000) .. '\r\nContent-Length: 0\r\n\r\n' },
    }
    local list, names = {}, {}
    for name, peer in pairs(peers) do
      local options = 'send=' .. hostile.file(name, peer.send)
      if peer.again then
        options = options .. ' repeat=' .. hostile.file(name .. '.again', peer.again)
      end
      local _, port = hostile.spawn('listen 127.0.0.1:0 ' .. options .. ' ' .. (peer.options or ''), 'ready (%d+)')
      list[#list + 1] = ('%s=%s://127.0.0.1:%s/'):format(name, peer.scheme or 'http', port)
      names[#names + 1] = name
      peer.port = port
    end
    local env = {
      DIR = helper.dir(), HONEST = ('http://%s/'):format(sink.http), PEERS = table.concat(list, ' '), SILENT = peers.tls.port,
    }
    local run = helper.run(helper.write(env.DIR .. '/policy.lua', POLICY), '--workers 2 --stop-timeout 5', env)
    local first = hostile.kb(run)
    assert.are.equal(MAILS, helper.inject(('--smtp %s --count %d'):format(run.smtp, MAILS)).accepted)
    local function account_of_all() -- worker 0 has a lot to read, and the peers have the machine, too
      local text, status = helper.sh(('curl -sS -m 60 --retry 5 --retry-all-errors http://%s/api/tailrace/ledger 2>%s/curl'):format(
        run.http, env.DIR))
      assert.are.equal(0, status, helper.read(env.DIR .. '/curl') .. run:log())
      return kumo.serde.json_parse(text)
    end
    local ledger
    helper.wait_for('the honest hook', function() -- seconds, where a session that waits for a hostile one takes minutes
      ledger = account_of_all()
      return ledger.honest and ledger.honest.delivered == MAILS
    end)
    for name, peer in pairs(peers) do -- each of the others has had its time
      helper.wait_for('a failure of ' .. name, function()
        local text = helper.sh(('curl -sS -m 60 http://%s/metrics'):format(run.http))
        local failed = text:match('total_messages_transfail{service="[^"]*%->' .. name .. '%.log_hook@[^"]*"} (%d+)')
        return peer.says_200 or (tonumber(failed) or 0) > 0
      end)
    end
    ledger = account_of_all()
    names[#names + 1] = 'amqps'
    for _, name in ipairs(names) do
      local account = ledger[name]
      assert.are.equal(MAILS, account.delivered + account.waiting, name)
      -- where it has said 200, the beginning of what follows is enough
      assert.are.equal(0, peers[name] and peers[name].says_200 and 0 or account.delivered, name)
    end
    local grown = hostile.kb(run) - first
    print(('\n%d hostile endpoints: %.1f MB more'):format(#names, grown / 1024))
    helper.assert_memory(grown, 60 * 1024)
    assert.are.equal(0, run:stop(), run:log())
  end)
end)
