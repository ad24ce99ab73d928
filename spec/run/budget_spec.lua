-- max_waiting, max_waiting_bytes, overflow: what may wait of a hook, and what happens to more.
local helper = require 'helper'
local testing = require 'tr.testing'

--- Hook `h` with OPTIONS gives each reception's Subject, "KEY NUMBER", to the global answer(subject, msg).
local POLICY = [[
local kumo = require 'kumo'
local log_hooks = require 'policy-extras.log_hooks'
done, tried = {}, 0
local options = {
  name = 'h',
  log_parameters = { headers = { 'Subject' }, per_record = { Any = { enable = false }, Reception = { enable = true } } },
  constructor = function()
    return { send = function(_, msg)
      local subject = msg:get_meta('log_record').headers.Subject
      tried = tried + 1
      local text = answer(subject, msg)
      if type(text) == 'string' then table.insert(done, subject) end
      return text
    end }
  end,
}
for key, value in pairs(OPTIONS) do options[key] = value end
log_hooks:new(options)
kumo.on('init', function()
  kumo.define_spool { name = 'data', path = DIR .. '/data' }
  kumo.define_spool { name = 'meta', path = DIR .. '/meta' }
end)
kumo.on('get_queue_config', function()
  return kumo.make_queue_config { protocol = { custom_lua = { constructor = 'make.mail' } } }
end)
kumo.on('make.mail', function() return { send = function() return 'ok' end } end)
kumo.on('get_egress_path_config', function() return kumo.make_egress_path(PATH) end)
]]

local REFUSE = "function answer() if refuse ~= false then return kumo.transient(450, 'later') end return 'ok' end"

describe('the budget of a hook', function()
  local dir, rt, count

  local function start(options, answer, path)
    dir = dir or helper.dir()
    helper.write(dir .. '/policy.lua', ("DIR = %q\nPATH = %s\nlocal kumo = require 'kumo'\n%s\nOPTIONS = %s\n%s"):format(dir,
      path or '{}', answer or REFUSE, options, POLICY))
    rt = testing.start { policy = dir .. '/policy.lua', seed = 3 }
  end

  local function stop()
    local balances, text = rt:stop(1)
    rt = nil
    assert.is_true(balances, text)
  end

  local function receive(n, key)
    for _ = 1, n do
      count = count + 1
      assert(rt:receive { to = 'a@example.org', data = ('Subject: %s %d\r\n\r\nx'):format(key or 'k', count) })
    end
  end

  --- Numbers of the subjects that were delivered.
  local function delivered()
    local list = {}
    for i, subject in ipairs(rt:eval 'return done') do
      list[i] = tonumber(subject:match '%d+$')
    end
    return list
  end

  local function range(first, last)
    local list = {}
    for i = first, last do
      list[#list + 1] = i
    end
    return list
  end

  before_each(function()
    count = 0
  end)

  after_each(function()
    if rt then
      stop()
    end
    dir = nil
    helper.cleanup()
  end)

  it('drops the oldest, wherever they wait, and counts them', function()
    start "{ max_waiting = 20, overflow = 'shed_oldest' }"
    receive(5) -- these are tried, and wait for their retry
    rt:advance(2)
    assert.are.equal(5, rt:eval 'return tried')
    receive(45)
    rt:advance(1)
    local h = rt:ledger().h
    assert.are.equal(20, h.waiting)
    assert.are.equal(30, h.dropped_by.shed)
    rt:eval 'refuse = false'
    rt:advance(300)
    local got = delivered()
    table.sort(got)
    assert.are.same(range(31, 50), got)
  end)

  it('drops by bytes, too', function()
    start "{ max_waiting_bytes = 30000, overflow = 'shed_oldest' }"
    receive(60)
    rt:advance(1)
    local h = rt:ledger().h
    assert.is_true(h.dropped_by.shed > 0)
    assert.is_true(h.waiting > 5 and h.waiting < 60)
    assert.are.equal(60, h.waiting + h.dropped_by.shed)
  end)

  it('drops from a ready queue that a gate holds back', function()
    start("{ max_waiting = 10, overflow = 'shed_oldest' }",
      "function answer() if refuse ~= false then error 'connection refused' end return 'ok' end", '{ connection_limit = 1 }')
    receive(1)
    rt:advance(0.1)
    receive(99)
    rt:advance(0.2)
    assert.are.equal(10, rt:ledger().h.waiting)
    rt:eval 'refuse = false'
    rt:advance(300)
    local got = delivered()
    table.sort(got)
    assert.are.same(range(91, 100), got)
  end)

  it('keeps the order of keys, and lets the next one go where the one before it is dropped', function()
    start "{ max_waiting = 12, overflow = 'shed_oldest', order_by = function(r) return r.headers.Subject:match '^%S+' end }"
    for i = 1, 40 do
      receive(1, 'k' .. i % 3)
    end
    rt:advance(2)
    assert.are.equal(12, rt:ledger().h.waiting)
    rt:eval 'refuse = false'
    rt:advance(300)
    local last, numbers = {}, {}
    for _, subject in ipairs(rt:eval 'return done') do
      local key, number = subject:match '^(%S+) (%d+)$'
      assert.is_true((last[key] or 0) < tonumber(number), table.concat(rt:eval 'return done', '; '))
      last[key] = tonumber(number)
      numbers[#numbers + 1] = tonumber(number)
    end
    -- What a session has in hand stays, so one of each key may be older than what was dropped. The others are the newest.
    table.sort(numbers)
    assert.are.same(range(32, 40), { unpack(numbers, 4) })
    assert.are.equal(12, #rt:eval 'return done')
    assert.are.equal(0, rt:ledger().h.waiting)
  end)

  it('holds over a restart, for what was stored without one, too', function()
    start '{}'
    receive(40)
    rt:advance(1)
    stop()
    start "{ max_waiting = 15, overflow = 'shed_oldest' }"
    rt:advance(1)
    assert.are.equal(15, rt:ledger().h.waiting)
    receive(5)
    rt:advance(1)
    assert.are.equal(15, rt:ledger().h.waiting)
    stop()
    start("{ max_waiting = 15, overflow = 'shed_oldest' }", "function answer() return 'ok' end")
    rt:advance(600)
    local got = delivered()
    table.sort(got)
    assert.are.same(range(31, 45), got)
  end)

  it('drops nothing without that rule, and tells once', function()
    start '{ max_waiting = 5 }'
    receive(20)
    rt:advance(600)
    local h = rt:ledger().h
    assert.are.equal(20, h.waiting)
    assert.are.equal(0, h.dropped)
    rt:eval 'refuse = false'
    rt:advance(3600)
    assert.are.equal(0, rt:ledger().h.waiting)
  end)

  it('is not exceeded by what passes, and counts nothing that has ended', function()
    start("{ max_waiting = 50, overflow = 'shed_oldest' }",
      "function answer(s) if s:find '^stuck' then return kumo.transient(450, '') end return 'ok' end")
    receive(1, 'stuck')
    for _ = 1, 15 do
      receive(40)
      rt:advance(0.1)
    end
    local h = rt:ledger().h
    assert.are.equal(600, h.delivered)
    assert.are.equal(0, h.dropped)
    assert.are.equal(1, h.waiting)
  end)

  for text, message in pairs {
    ['{ max_waiting = 0 }'] = 'max_waiting: a whole number of at least 1',
    ["{ overflow = 'shed_oldest' }"] = "overflow = 'shed_oldest' needs max_waiting or max_waiting_bytes",
    ["{ max_waiting = 5, overflow = 'drop' }"] = "expected one of spill, shed_oldest",
  } do
    it('refuses ' .. text, function()
      local ok, err = pcall(start, text)
      assert.is_false(ok)
      assert.matches(message, tostring(err), 1, true)
    end)
  end
end)
