-- try_next_host_on_transport_error in a running process: what one host cannot take another gets at once.
local helper = require 'helper'
local kumo = require 'kumo'

local POLICY = [[
local kumo = require 'kumo'
local log_hooks = require 'policy-extras.log_hooks'
log_hooks:new_json { name = 'webhook', url = os.getenv 'WEBHOOK', log_parameters = { per_record = { Reception = { enable = false } } } }
kumo.on('init', function()
  kumo.define_spool { name = 'data', path = os.getenv 'DIR' .. '/spool' }
  kumo.define_spool { name = 'meta', path = os.getenv 'DIR' .. '/spool' }
  kumo.start_http_listener { listen = '127.0.0.1:0' }
  kumo.start_esmtp_listener { listen = '127.0.0.1:0', batch_handling = 'BatchByDomain' }
end)
kumo.on('get_listener_domain', function()
  return kumo.make_listener_domain { relay_to = true }
end)
kumo.on('get_queue_config', function()
  local hosts = {}
  for host in os.getenv('HOSTS'):gmatch '%S+' do
    hosts[#hosts + 1] = host
  end
  return kumo.make_queue_config { protocol = { smtp = { mx_list = hosts } }, retry_interval = '1h' }
end)
kumo.on('get_egress_path_config', function()
  return kumo.make_egress_path {
    enable_tls = 'Disabled', max_recipients_per_batch = 1, try_next_host_on_transport_error = os.getenv 'NEXT' == 'yes',
  }
end)
]]

local function records(path)
  local list = {}
  for line in helper.lines(path) do
    local entry = kumo.serde.json_parse(line)
    if entry.body then
      list[#list + 1] = kumo.serde.json_parse(entry.body)
    end
  end
  table.sort(list, function(a, b) -- the hook has several connections
    return a.event_time < b.event_time
  end)
  return list
end

describe('try_next_host_on_transport_error', function()
  after_each(helper.cleanup)

  --- Sends one message to `count` recipients by hosts, each what its sink is told, or an address. Returns 'TYPE CODE HOST' of
  --- each record in order, the mail's ledger, and the records.
  local function send(count, hosts, next_host, expected, is_all)
    local dir = helper.dir()
    local hook = helper.sink(('--http 127.0.0.1:0 --record %s/got'):format(dir))
    local list, number = {}, {}
    for i, host in ipairs(hosts) do
      list[i] = host:find '^%d' and host or helper.sink('--smtp 127.0.0.1:0 ' .. host).smtp
      number[list[i]] = i
    end
    local run = helper.run(helper.write(dir .. '/policy.lua', POLICY), '', {
      DIR = dir, HOSTS = table.concat(list, ' '), NEXT = next_host and 'yes' or 'no', WEBHOOK = ('http://%s/log'):format(hook.http),
    }) -- stylua: ignore
    local sent = helper.inject(('--smtp %s --count 1 --recipients-per-message %d --to a%%d@example.org'):format(run.smtp, count))
    assert.are.equal(1, sent.accepted)
    helper.wait_for(expected .. ' records', function()
      local got = records(dir .. '/got')
      return #got >= expected and (not is_all or is_all(got))
    end)
    local client = kumo.http.build_client { timeout = '120s' }
    local ledger = kumo.serde.json_parse(client:get('http://' .. run.http .. '/api/tailrace/ledger'):send():text()).mail
    assert.are.equal(0, run:stop())
    assert.is_nil(run:log():find 'does not balance')
    local got = records(dir .. '/got')
    local seen = {}
    for i, record in ipairs(got) do
      seen[i] = ('%s %d %s'):format(record.type, record.response.code, number[record.peer_address and record.peer_address.addr] or '-')
    end
    return seen, ledger, got
  end

  it('sends a message that met 421 to the next host, with a record for each', function()
    local seen, ledger, got = send(1, { '--smtp-code mail=421=100', '' }, true, 2)
    assert.are.same({ 'TransientFailure 421 1', 'Delivery 250 2' }, seen)
    assert.are.equal(1, ledger.delivered)
    assert.are.equal(0, ledger.waiting)
    assert.are.equal(got[1].session_id, got[2].session_id)
    assert.are.equal(0, got[2].num_attempts) -- none is counted: it went on at once
  end)

  it('is off by default', function()
    local seen, ledger = send(1, { '--smtp-code mail=421=100', '' }, false, 1)
    assert.are.same({ 'TransientFailure 421 1' }, seen)
    assert.are.equal(1, ledger.waiting)
  end)

  it('leaves an answer to the message alone', function()
    local seen, ledger = send(1, { '--smtp-code dot=451=100', '' }, true, 1)
    assert.are.same({ 'TransientFailure 451 1' }, seen)
    assert.are.equal(1, ledger.waiting)
  end)

  it('goes on as long as there are hosts', function()
    local seen, ledger = send(1, { '--smtp-code mail=421=100', '127.0.0.1:1', '--smtp-code dot=421=100', '' }, true, 3)
    assert.are.same({ 'TransientFailure 421 1', 'TransientFailure 421 3', 'Delivery 250 4' }, seen)
    assert.are.equal(1, ledger.delivered)
  end)

  it('counts one attempt when no other host answers', function()
    local seen, ledger, got = send(1, { '--smtp-code mail=421=100', '127.0.0.1:1' }, true, 2)
    assert.are.same({ 'TransientFailure 421 1', 'TransientFailure 400 -' }, seen)
    assert.is_truthy(got[2].response.content:find('failed to connect to any candidate hosts: 127.0.0.1 [127.0.0.1:1]', 1, true))
    assert.are.equal(1, ledger.waiting)
  end)

  -- Recipients that have their mail, by whom, and those that a host has failed.
  local function tally(list)
    local out, seen = { delivered = 0, failed = 0, by = {} }, {}
    for _, record in ipairs(list) do
      for _, rcpt in ipairs(type(record.recipient) == 'table' and record.recipient or { record.recipient }) do
        if record.type == 'Delivery' then
          assert.is_nil(seen[rcpt])
          seen[rcpt] = true
          out.delivered = out.delivered + 1
          local addr = record.peer_address.addr
          out.by[addr] = (out.by[addr] or 0) + 1
        else
          out.failed = out.failed + 1
        end
      end
    end
    return out
  end

  it('takes only those along that the first host has not taken', function()
    local count = 24
    local _, ledger, got = send(count, { '--smtp-code dot=421=20', '' }, true, 2, function(list)
      return tally(list).delivered == count
    end)
    local sum = tally(got)
    local failed, by = sum.failed, sum.by
    assert.are.equal(count, ledger.delivered)
    local first = by[got[1].peer_address.addr] or 0
    local second = count - first
    assert.is_true(first > 0 and second > 0, ('%d by the first, %d by the second'):format(first, second))
    assert.are.equal(second, failed)
    assert.are.equal(0, ledger.waiting)
  end)
end)
