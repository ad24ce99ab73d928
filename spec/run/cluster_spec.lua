-- Several nodes on one machine that share their limits through one redis-server: their sum obeys.
local helper = require 'helper'
local kumo = require 'kumo'

--- What a session does is a line "WORD NODE MILLISECONDS" of one file that all nodes append to. While DIR/hold is there, sends
--- do not end.
local POLICY = [[
local kumo = require 'kumo'
local file = assert(io.open(EVENTS, 'a'))
file:setvbuf 'line'
local function note(word)
  file:write(('%s %s %d\n'):format(word, os.getenv 'NODE', kumo.time.now().unix_timestamp_millis))
end
kumo.on('init', function()
  kumo.define_spool { name = 'data', path = DIR .. '/data' .. os.getenv 'NODE' }
  kumo.define_spool { name = 'meta', path = DIR .. '/meta' .. os.getenv 'NODE' }
  kumo.start_esmtp_listener { listen = '127.0.0.1:0', relay_hosts = { '127.0.0.0/8' } }
  kumo.start_http_listener { listen = '127.0.0.1:0' }
  kumo.configure_redis_throttles { node = REDIS, fallback = FALLBACK, response_timeout = '30s' }
end)
kumo.on('get_queue_config', function()
  return kumo.make_queue_config { retry_interval = '1s', protocol = { custom_lua = { constructor = 'make.it' } } }
end)
kumo.on('get_egress_path_config', function() return kumo.make_egress_path(PATH) end)
kumo.on('make.it', function()
  note 'open'
  return {
    send = function()
      note 'send'
      while io.open(DIR .. '/hold') do kumo.sleep(0.01) end
      if SLOW > 0 then kumo.sleep(SLOW) end
      return 'ok'
    end,
    close = function() note 'close' end,
  }
end)
]]

describe('nodes that share a Redis', function()
  if select(2, helper.sh 'command -v redis-server') ~= 0 then
    pending 'redis-server is not installed'
    return
  end
  local dir, redis, nodes

  local function start_redis()
    os.remove(dir .. '/redis.sock')
    redis = helper.start(("redis-server --port 0 --unixsocket %s/redis.sock --save '' --dir %s"):format(dir, dir))
    redis:line '(eady to accept connections)'
  end

  --- Starts `count` nodes with a path, all with one policy.
  local function start(count, path, slow, fallback)
    local policy = helper.write(
      dir .. '/policy.lua',
      ('DIR, EVENTS, REDIS, SLOW, FALLBACK, PATH = %q, %q, %q, %g, %s, %s\n'):format(
        dir,
        dir .. '/events',
        'unix:' .. dir .. '/redis.sock',
        slow,
        fallback and ('%q'):format(fallback) or 'nil',
        path
      ) .. POLICY
    )
    for i = 1, count do
      nodes[i] = helper.run(policy, '--workers 2', { NODE = i })
    end
  end

  local function inject(node, count)
    local summary, status = helper.inject(('--smtp %s --connections 2 --count %d --size 300 --to a@example.org'):format(node.smtp, count))
    assert.are.equal(0, status, summary)
  end

  --- What was noted, in order of time: { word =, node =, ms = }. A session notes late what Redis has allowed it, by as much as a
  --- busy machine makes it wait; it has one such thing at most.
  local function events(word)
    local list = {}
    for what, node, ms in (helper.read(dir .. '/events') or ''):gmatch '(%a+) (%d+) (%d+)\n' do
      if not word or what == word then
        list[#list + 1] = { word = what, node = tonumber(node), ms = tonumber(ms), at = #list }
      end
    end
    table.sort(list, function(a, b)
      if a.ms ~= b.ms then
        return a.ms < b.ms
      end
      return a.at < b.at -- as they were written
    end)
    return list
  end

  local function wait_for_sends(count, limit_s)
    return helper.wait_for(count .. ' deliveries', function()
      local list = events 'send'
      return #list >= count and list
    end, limit_s)
  end

  --- What `tailrace why` says of the queue on a node.
  local function why(node)
    return (helper.sh(('%s why example.org --admin http://%s'):format(helper.quote(helper.TAILRACE), node.http)))
  end

  --- Most events of the list within `window_ms`.
  local function fullest(list, window_ms)
    local most, from = 0, 1
    for to = 1, #list do
      while list[to].ms - list[from].ms >= window_ms do
        from = from + 1
      end
      most = math.max(most, to - from + 1)
    end
    return most
  end

  local function stop_all()
    for _, node in ipairs(nodes) do
      if not node:status() then
        assert.are.equal(0, node:stop(), node:log())
      end
    end
  end

  before_each(function()
    dir, nodes = helper.dir(), {}
    start_redis()
  end)

  after_each(function()
    helper.cleanup()
  end)

  it('open no more connections than connection_limit in all', function()
    helper.write(dir .. '/hold', '')
    start(3, "{ connection_limit = 4, max_deliveries_per_connection = 10, idle_timeout = '1s' }", 0.02)
    for _, node in ipairs(nodes) do
      inject(node, 80)
    end
    helper.wait_for('four connections', function()
      return #events 'open' >= 4
    end)
    helper.wait_for('those who get none', function()
      local refused = 0
      for _, node in ipairs(nodes) do
        refused = refused + (why(node):find "connection limit 'kumomta.connection_limit.[^\n]* is used up" and 1 or 0)
      end
      return refused > 0
    end)
    os.remove(dir .. '/hold')
    local sends = wait_for_sends(240)
    stop_all()
    local open, most, seen = 0, 0, {}
    for _, event in ipairs(events()) do
      open = open + (event.word == 'open' and 1 or event.word == 'close' and -1 or 0)
      most = math.max(most, open)
      seen[event.node] = true
    end
    assert.are.equal(0, open)
    assert.are.equal(4, most)
    assert.are.same({ true, true, true }, seen)
    assert.are.equal(240, #sends)
  end)

  it('keep connections of a limit with local: apart', function()
    start(2, "{ connection_limit = 'local:1', idle_timeout = '1s' }", 600)
    inject(nodes[1], 1)
    inject(nodes[2], 1)
    wait_for_sends(2) -- sends last for minutes: each node has its connection
    assert.are.equal(2, #events 'open')
    nodes[1]:stop 'KILL'
    nodes[2]:stop 'KILL'
  end)

  it('send no faster than max_message_rate in all', function()
    start(3, "{ connection_limit = 'local:3', max_message_rate = '100/s,max_burst=5' }", 0)
    local began_ms = kumo.time.now().unix_timestamp_millis
    for _, node in ipairs(nodes) do
      inject(node, 150)
    end
    local sends = wait_for_sends(450)
    stop_all()
    -- 445 tokens after the first five, and the last of them is 4.45 s after the first
    local took_ms = sends[450].ms - began_ms
    assert.is_true(took_ms >= 4450, took_ms .. ' ms')
    -- the share of the window, the burst, and what nine sessions note late
    assert.is_true(fullest(sends, 1000) <= 100 + 5 + 9, fullest(sends, 1000) .. ' in a second')
    assert.is_true(fullest(sends, 100) <= 10 + 5 + 9, fullest(sends, 100) .. ' in 100 ms')
    local by_node = {}
    for _, send in ipairs(sends) do
      by_node[send.node] = (by_node[send.node] or 0) + 1
    end
    assert.are.same({ 150, 150, 150 }, by_node)
  end)

  it('open connections no faster than max_connection_rate in all', function()
    start(2, "{ connection_limit = 4, max_deliveries_per_connection = 1, max_connection_rate = '20/s,max_burst=1' }", 0)
    local began_ms = kumo.time.now().unix_timestamp_millis
    inject(nodes[1], 30)
    inject(nodes[2], 30)
    wait_for_sends(60)
    stop_all()
    local opens = events 'open'
    assert.are.equal(60, #opens)
    assert.is_true(opens[60].ms - began_ms >= 2950, opens[60].ms - began_ms)
    assert.is_true(fullest(opens, 1000) <= 20 + 1 + 4, fullest(opens, 1000))
  end)

  it('get the connections of a node that was killed once its leases expire', function()
    start(
      2,
      [[{ connection_limit = 1, idle_timeout = '1s', connect_timeout = '1s', banner_timeout = '0s', ehlo_timeout = '0s',
        auth_timeout = '0s', starttls_timeout = '0s', mail_from_timeout = '1s', rcpt_to_timeout = '1s', data_timeout = '1s',
        data_dot_timeout = '1s', rset_timeout = '0s' }]],
      600
    )
    inject(nodes[1], 1)
    wait_for_sends(1)
    inject(nodes[2], 1)
    helper.wait_for('the other to be refused', function()
      return why(nodes[2]):find "connection limit 'kumomta.connection_limit.[^\n]* is used up"
    end)
    assert.are.equal(1, #events 'send')
    nodes[1]:stop 'KILL'
    local sends = wait_for_sends(2)
    assert.are.equal(2, sends[2].node)
    nodes[2]:stop 'KILL' -- its send lasts ten minutes
  end)

  it('wait while Redis is away, and lose nothing', function()
    start(2, "{ connection_limit = 10, max_message_rate = '200/s,max_burst=5' }", 0)
    for _, node in ipairs(nodes) do
      inject(node, 200)
    end
    wait_for_sends(100)
    redis:stop 'KILL'
    for _, node in ipairs(nodes) do -- all may have been sent before
      inject(node, 100)
    end
    local waiting = helper.wait_for('a node that waits for Redis', function()
      for _, node in ipairs(nodes) do
        local text = why(node)
        if text:find('Redis does not answer', 1, true) then
          return text
        end
      end
    end)
    assert.is_truthy(waiting:find('backend: a message rate is shared with other nodes, and Redis does not answer %(.-%): it waits for that'), waiting)
    start_redis()
    wait_for_sends(600)
    stop_all()
    assert.are.equal(600, #events 'send')
    local told = 0
    for _, node in ipairs(nodes) do -- one that had sent all of its own before has nothing to tell
      local _, lines = node:log():gsub('until it answers again', '')
      assert.is_true(lines <= 1, node:log())
      assert.are.equal(lines == 1, node:log():find 'answers again\n' ~= nil, node:log())
      told = told + lines
    end
    assert.is_true(told >= 1)
  end)

  it("go on by themselves with fallback = 'local'", function()
    start(2, "{ connection_limit = 10, max_message_rate = '200/s,max_burst=5' }", 0, 'local')
    for _, node in ipairs(nodes) do
      inject(node, 300)
    end
    wait_for_sends(100)
    redis:stop 'KILL'
    local sends = wait_for_sends(600)
    for _, node in ipairs(nodes) do
      inject(node, 1)
    end
    wait_for_sends(602)
    assert.is_true(#sends >= 600)
    helper.wait_for('the fallback to be told', function()
      return why(nodes[1]):find("Redis does not answer %(.-%): fallback = 'local' is in force, this node decides by itself")
    end)
    stop_all()
    assert.are.equal(602, #events 'send')
  end)
end)
