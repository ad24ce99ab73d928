-- The module `redis`, with a real redis-server on a port of its own, and with servers that do not behave.
local helper = require 'helper'
local kumo = require 'kumo'
local redis = require 'redis'
local socket = require 'socket'

describe('redis.open', function()
  it('refuses what makes no sense', function()
    for message, options in pairs {
      ["missing field 'node'"] = {},
      ['node: a URL'] = { node = 5 },
      ['cluster is not supported'] = { node = { 'redis://a', 'redis://b' } },
      ["'pool_size'"] = { node = 'redis://a', pool_size = 'x' },
      ['response_timeout'] = { node = 'redis://a', response_timeout = 'soon' },
      ['redis.open: node: '] = { node = 'http://a' },
      ['table of options expected'] = 'redis://a',
    } do
      local ok, err = pcall(redis.open, options)
      assert.is_false(ok, message)
      assert.is_truthy(tostring(err):find(message), tostring(err))
    end
  end)

  it('does not connect before the first command, and says then what is wrong', function()
    local conn = redis.open { node = 'redis://user:s3cret@127.0.0.1:1', connect_timeout = 60, response_timeout = 60 }
    local ok, err = pcall(conn.query, conn, 'PING')
    assert.is_false(ok)
    assert.is_truthy(err:find 'redis:query: ' and err:find 'refused', err)
    assert.is_nil(err:find 's3cret')
  end)

  it('waits for an answer no longer than it may', function()
    local server = assert(socket.bind('127.0.0.1', 0)) -- accepts, and is silent
    local _, port = server:getsockname()
    local conn = redis.open { node = 'redis://127.0.0.1:' .. port, response_timeout = 0.05, connect_timeout = 0.05, wait_timeout = 0.05 }
    assert.error_matches(function()
      conn:query 'PING'
    end, 'redis:query: ')
    server:close()
  end)
end)

describe('redis', function()
  if select(2, helper.sh 'command -v redis-server') ~= 0 then
    pending 'redis-server is not installed'
    return
  end
  local path, conn

  setup(function()
    local dir = helper.dir()
    path = dir .. '/socket'
    local server = helper.start(("redis-server --port 0 --unixsocket %s --save '' --dir %s"):format(path, dir))
    server:line('(eady to accept connections)')
    conn = redis.open { node = 'unix:' .. path }
  end)
  teardown(helper.cleanup)
  before_each(function()
    conn:query 'FLUSHALL'
  end)

  it('converts arguments', function()
    assert.is_true(conn:query('SET', 'k', 'v'))
    assert.are.equal('v', conn:query('GET', 'k'))
    conn:query('RPUSH', 'l', 1, 2.5, true, false, nil, { 'a', { 'b' } }, 2 ^ 53, 'x\0y\255')
    assert.same({ '1', '2.5', '1', '0', 'a', 'b', '9007199254740992', 'x\0y\255' }, conn:query('LRANGE', 'l', 0, -1))
    conn:query('HSET', 'h', { one = 1, two = 'zwei' })
    assert.are.equal('zwei', conn:query('HGET', 'h', 'two'))
    assert.are.equal('1', conn:query('HGET', 'h', 'one'))
  end)

  it('converts answers', function()
    assert.is_true(conn:query('SET', 'a', 1))
    assert.are.equal('PONG', conn:query 'PING')
    assert.are.equal(2, conn:query('INCR', 'a'))
    assert.is_nil(conn:query('GET', 'none'))
    assert.same({}, conn:query('LRANGE', 'none', 0, -1))
    assert.are.equal('[]', kumo.serde.json_encode(conn:query('LRANGE', 'none', 0, -1)))
    local list = conn:query('MGET', 'a', 'none', 'a')
    assert.same({ '2', nil, '2' }, { list[1], list[2], list[3] })
    assert.same({ 1, { 'x', { 2 } } }, conn:query('EVAL', "return { 1, { 'x', { 2 } } }", 0))
  end)

  it('runs scripts', function()
    local script = 'return redis.call("INCRBY", KEYS[1], ARGV[1])'
    assert.are.equal(5, conn:query('EVAL', script, 1, 'n', 5))
    local sha = conn:query('SCRIPT', 'LOAD', script)
    assert.are.equal(12, conn:query('EVALSHA', sha, 1, 'n', 7))
  end)

  it('raises what the server says, and goes on', function()
    conn:query('SET', 's', 'text')
    for message, command in pairs {
      ['redis:query: WRONGTYPE'] = { 'LPUSH', 's', 1 },
      ['redis:query: ERR unknown command'] = { 'NOSUCH' },
      ['redis:query: NOSCRIPT'] = { 'EVALSHA', ('0'):rep(40), 0 },
      ['a function cannot be an argument'] = { 'SET', 'k', print },
      ['a number is not finite'] = { 'SET', 'k', 0 / 0 },
      ['SUBSCRIBE is not supported'] = { 'subscribe', 'x' },
      ['command: string expected, got nil'] = {},
    } do
      assert.error_matches(function()
        conn:query(unpack(command))
      end, message)
    end
    local cycle = {}
    cycle[1] = cycle
    assert.error_matches(function()
      conn:query('SET', 'k', cycle)
    end, 'nested deeper than 16')
    assert.are.equal('text', conn:query('GET', 's'))
  end)

  it('pipelines what several tasks ask', function()
    local done = 0
    kumo.on('spec.redis', function(args)
      for _ = 1, 20 do
        redis.open({ node = 'unix:' .. path }):query('INCR', 'count')
      end
      done = done + args[1]
    end)
    for _ = 1, 10 do
      kumo.spawn_task { event_name = 'spec.redis', args = { 1 } }
    end
    helper.wait_for('the tasks', function()
      return done == 10
    end)
    assert.are.equal('200', conn:query('GET', 'count'))
    local clients = conn:query('CONFIG', 'GET', 'port') and conn:query('INFO', 'clients')
    assert.are.equal('1', clients:match 'connected_clients:(%d+)')
  end)

  it('uses the database of the URL', function()
    redis.open({ node = 'unix:' .. path .. '?db=3' }):query('SET', 'only', 'there')
    assert.is_nil(conn:query('GET', 'only'))
  end)
end)
