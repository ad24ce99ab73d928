-- The module `sqlite`.
local helper = require 'helper'
local kumo = require 'kumo'
local sqlite = require 'sqlite'

describe('sqlite', function()
  local db
  before_each(function()
    db = sqlite.open ':memory:'
    db:execute 'CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT, score REAL, data BLOB)'
  end)
  after_each(function()
    db:close()
    helper.cleanup()
  end)

  it('takes values in each of its forms', function()
    assert.are.equal(1, db:execute('INSERT INTO t (name) VALUES (?)', 'one'))
    assert.are.equal(1, db:execute('INSERT INTO t (name, score) VALUES (?, ?)', 'two', 2.5))
    assert.are.equal(1, db:execute('INSERT INTO t (name, score) VALUES (?, ?)', { 'three', 3 }))
    assert.are.equal(1, db:execute('INSERT INTO t (name, score) VALUES (:n, :s)', { n = 'four', s = 4 }))
    assert.are.equal(1, db:execute('INSERT INTO t (name, score) VALUES (?, ?)', nil, 5))
    assert.are.equal(1, db:execute("INSERT INTO t (name) VALUES ('x')", nil))
    assert.same({ 'one', 'two', 'three', 'four', nil, 'x' }, { unpack(db:execute 'SELECT name FROM t ORDER BY id', 1, 6) })
    assert.are.equal(6, db:execute 'UPDATE t SET score = 1')
  end)

  it('gives columns and rows', function()
    db:execute("INSERT INTO t VALUES (7, 'é', 0.5, x'00ff')")
    assert.same({ { id = 7, name = 'é', score = 0.5, data = '\0\255' } }, db:execute 'SELECT * FROM t')
    assert.same({ 7 }, db:execute 'SELECT id FROM t')
    assert.same({ 2 ^ 53 }, db:execute 'SELECT 9007199254740992')
    assert.same({}, db:execute 'SELECT id FROM t WHERE id = 0')
    assert.same({}, db:execute 'SELECT * FROM t WHERE id = 0')
    assert.are.equal('[]', kumo.serde.json_encode(db:execute 'SELECT * FROM t WHERE id = 0'))
    assert.same({ { a = 1 } }, db:execute 'SELECT 1 AS a, NULL AS b')
    assert.same({ 'integer' }, db:execute('SELECT typeof(?)', 3))
    assert.same({ 'real' }, db:execute('SELECT typeof(?)', 3.5))
    assert.same({ 'null' }, db:execute('SELECT typeof(:x)', { x = kumo.serde.json_parse('{}').none }))
    assert.same({ 'a\0b' }, db:execute('SELECT ?', 'a\0b'))
    assert.same({ 1 }, db:execute 'SELECT 1; SELECT 2')
  end)

  it('says what is wrong', function()
    local cycle = {}
    cycle[1] = cycle
    for message, case in pairs {
      [':memory:: near "SELEC": syntax error'] = { 'SELEC 1' },
      ['no such table: none'] = { 'SELECT * FROM none' },
      ['there is no statement'] = { '  -- nothing' },
      ['has no parameter :y'] = { 'SELECT :x', { y = 1 } },
      ['2 values for a statement with 1 parameters'] = { 'SELECT ?', 1, 2 },
      ['only numbers, strings and nil can be passed as parameter values, got boolean'] = { 'SELECT ?', true },
      ['as parameter values, got table'] = { 'SELECT ?', cycle },
      ['as parameter values, got function'] = { 'SELECT ?', 1, print },
      ['not valid UTF%-8'] = { 'SELECT ?', '\255' },
      ['a list or a table of names'] = { 'SELECT ?', { [0] = 1 } },
      ['string without NUL expected, got nil'] = {},
      ['string without NUL expected'] = { 'SELECT 1\0' },
    } do
      local ok, err = pcall(db.execute, db, unpack(case))
      assert.is_false(ok, message)
      assert.is_truthy(err:find(message), err)
    end
    assert.error_matches(function()
      db.execute 'SELECT 1'
    end, 'use the colon')
    assert.error_matches(function()
      sqlite.open '/not/there/db'
    end, '/not/there/db: unable to open database file')
    assert.has_error(function()
      sqlite.open(':memory:', -1)
    end)
    assert.has_error(function()
      sqlite.open(':memory:', 500, 'long')
    end)
    local notdb = sqlite.open(helper.write(helper.dir() .. '/notdb', ('no database '):rep(100)))
    assert.error_matches(function()
      notdb:execute 'SELECT * FROM t'
    end, 'file is not a database')
    notdb:close()
    notdb:close()
    assert.error_matches(function()
      notdb:execute 'SELECT 1'
    end, 'connection was closed')
  end)

  it('waits for the lock of another connection, and says when it was too long', function()
    local path = helper.dir() .. '/db'
    local one, two = sqlite.open(path), sqlite.open(path, 20)
    one:execute 'CREATE TABLE t (x)'
    one:execute 'BEGIN IMMEDIATE'
    one:execute 'INSERT INTO t VALUES (1)'
    assert.error_matches(function()
      two:execute 'INSERT INTO t VALUES (2)'
    end, 'database is locked')
    one:execute 'COMMIT'
    assert.are.equal(1, two:execute 'INSERT INTO t VALUES (2)')
    assert.same({ 1, 2 }, one:execute 'SELECT x FROM t ORDER BY x')
    one:close()
    two:close()
  end)

  local ENDLESS = 'WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n'

  it('ends a statement that takes too long, and goes on', function()
    local path = helper.dir() .. '/db'
    local short = sqlite.open(path, 500, 0.05)
    assert.error_matches(function()
      short:execute(ENDLESS)
    end, 'timed out after 0.05 s')
    helper.wait_for('the connection', function()
      local ok, value = pcall(short.execute, short, 'SELECT 5')
      return ok and value[1] == 5
    end)
    short:close()
  end)

  it('ends a statement whose task is over, with the program', function()
    local path = helper.write(
      helper.dir() .. '/script.lua',
      ([[
      local kumo, sqlite = require 'kumo', require 'sqlite'
      local db = sqlite.open ':memory:'
      kumo.on('endless', function() db:execute %q end)
      kumo.spawn_task { event_name = 'endless' }
      kumo.sleep(0.02)
      print 'end']]):format(ENDLESS)
    )
    local text, status = helper.sh(('timeout 120 %s lua %s'):format(helper.quote(helper.TAILRACE), helper.quote(path)))
    assert.are.equal(0, status, text)
    assert.is_truthy(text:find '^end')
  end)

  it('lets other tasks run, and keeps statements of one connection apart', function()
    local done = 0
    kumo.on('spec.sqlite', function(args)
      for i = 1, 20 do
        db:execute('INSERT INTO t (name) VALUES (?)', args[1] .. i)
      end
      done = done + 1
    end)
    for i = 1, 5 do
      kumo.spawn_task { event_name = 'spec.sqlite', args = { 'task' .. i .. '.' } }
    end
    helper.wait_for('the tasks', function()
      return done == 5
    end)
    assert.same({ 100 }, db:execute 'SELECT count(DISTINCT name) FROM t')
  end)

  it('bounds what a statement gives', function()
    assert.error_matches(function()
      db:execute((ENDLESS:gsub('count%(%*%)', 'zeroblob(1000000)')))
    end, 'more than 64 MiB')
  end)
end)
