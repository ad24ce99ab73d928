-- One outcome a message of a batch, and the parting of a batch that is refused for good, on the real engine under the
-- virtual clock.
local helper = require 'helper'
local testing = require 'tr.testing'

--- A batch of mail goes to the global `answer(batch, names)`; hook `cap` keeps what each record says by the recipient.
local POLICY = [[
local kumo = require 'kumo'
local log_hooks = require 'policy-extras.log_hooks'
seen, calls, closed = {}, {}, 0
local function note(msg)
  local record = kumo.serde.json_parse(msg:get_meta('log_record') and kumo.serde.json_encode(msg:get_meta('log_record')) or msg:get_data())
  local name = record.recipient:match '^[^@]+'
  if record.type ~= 'Reception' then
    seen[name] = (seen[name] and seen[name] .. '; ' or '') .. ('%s %d %s'):format(record.type, record.response.code,
      record.response.content)
  end
end
log_hooks:new { name = 'cap', constructor = function()
  return { send = function(_, msg) note(msg) return 'ok' end }
end }
kumo.on('init', function()
  kumo.define_spool { name = 'data', path = DIR .. '/data' }
  kumo.define_spool { name = 'meta', path = DIR .. '/meta' }
end)
kumo.on('get_queue_config', function()
  return kumo.make_queue_config { retry_interval = '10m', protocol = { custom_lua = {
    constructor = 'make.it', batch_size = 8, min_batch_size = 8, max_batch_latency = '1s' } } }
end)
kumo.on('get_egress_path_config', function(domain)
  return kumo.make_egress_path { connection_limit = 1, idle_timeout = '60s' }
end)
kumo.on('make.it', function()
  return {
    send_batch = function(_, messages)
      local names = {}
      for i, msg in ipairs(messages) do names[i] = msg:recipient().user end
      table.insert(calls, table.concat(names, ' '))
      return answer(messages, names)
    end,
    close = function() closed = closed + 1 end,
  }
end)
]]

describe('send_batch', function()
  local rt

  local function run(answer, count)
    local dir = helper.dir()
    helper.write(dir .. '/policy.lua', ("DIR = %q\nlocal kumo = require 'kumo'\n%s\n%s"):format(dir, answer, POLICY))
    rt = testing.start { policy = dir .. '/policy.lua' }
    for i = 1, count or 8 do
      assert(rt:receive { to = ('m%d@example.org'):format(i) })
    end
    rt:advance(10)
    return rt:eval 'return seen', rt:eval 'return calls'
  end

  after_each(function()
    if rt then
      local balances, text = rt:stop(1)
      rt = nil
      assert.is_true(balances, text)
    end
    helper.cleanup()
  end)

  it('may give each message its own outcome', function()
    local seen, calls = run [[
      function answer()
        return { 'plain', kumo.delivered 'stored', kumo.transient(451, '4.2.0 later'), kumo.permanent(550, '5.1.1 never'),
          kumo.delivered 'stored', kumo.delivered 'stored', 'plain', kumo.transient(421, 'wait', 90) }
      end]]
    assert.are.same({
      m1 = 'Delivery 200 plain', m2 = 'Delivery 200 stored', m3 = 'TransientFailure 451 4.2.0 later', m4 = 'Bounce 550 5.1.1 never',
      m5 = 'Delivery 200 stored', m6 = 'Delivery 200 stored', m7 = 'Delivery 200 plain', m8 = 'TransientFailure 421 wait',
    }, seen)
    assert.are.equal(1, #calls)
    assert.are.equal(0, rt:eval 'return closed') -- the connection goes on
    assert.are.equal(2, rt:figures().timers)
  end)

  it('must give one to each', function()
    local seen = run [[
      function answer(_, names) return { 'a', false, 42, ('\255'), {}, 'f' } end]]
    assert.are.equal('Delivery 200 a', seen.m1)
    assert.are.equal('Delivery 200 f', seen.m6)
    for name, got in pairs { m2 = 'boolean', m3 = 'number', m4 = 'a string that is not UTF%-8', m5 = 'table', m7 = 'nil', m8 = 'nil' } do
      assert.matches(('^TransientFailure 400 KumoMTA internal: send_batch gave no outcome for message %d of 8: .* got %s'):format(
        name:sub(2), got), seen[name])
    end
  end)

  it('that raises on the third message fails all of them, and none is lost: they go over a new connection', function()
    local seen, calls = run [[
      function answer(messages, names)
        for i, msg in ipairs(messages) do
          if i == 3 and #calls == 1 then error('message ' .. names[i]:upper() .. ' is odd') end
          msg:get_data()
        end
        return 'stored'
      end]]
    assert.are.equal(1, #calls)
    for i = 1, 8 do
      assert.matches('^TransientFailure 400 KumoMTA internal: .*message M3 is odd', seen['m' .. i])
    end
    assert.are.equal(1, rt:eval 'return closed')
    rt:advance(1300)
    seen = rt:eval 'return seen'
    for i = 1, 8 do
      assert.matches('; Delivery 200 stored$', seen['m' .. i])
    end
  end)

  it('that refuses the third message for good by raising costs the others nothing', function()
    local seen = run [[
      function answer(_, names)
        for _, name in ipairs(names) do
          if name == 'm3' then kumo.reject(550, 'not ' .. name) end
        end
        return 'stored'
      end]]
    for i = 1, 8 do
      assert.are.equal(i == 3 and 'Bounce 550 not m3' or 'Delivery 200 stored', seen['m' .. i])
    end
  end)

  for code, got in pairs {
    ['nil'] = 'nil', ['{}'] = 'table', ['true'] = 'boolean', ["{ kind = 'delivered', code = 200, text = 'x' }"] = 'table',
    ['("\\255")'] = 'a string that is not UTF%-8', ['function() end'] = 'function',
  } do
    it(('that returns %s has told nothing: all are tried again'):format(code), function()
      local seen = run(('function answer() return %s end'):format(code))
      for i = 1, 8 do
        assert.matches('^TransientFailure 400 KumoMTA internal: send_batch must return a string or an outcome, got ' .. got, seen['m' .. i])
      end
      assert.are.equal(8, rt:ledger().mail.waiting)
    end)
  end

  it('that gives more outcomes than messages is heeded for those that there are', function()
    local seen = run "function answer() return { '1', '2', '3', '4', '5', '6', '7', '8', kumo.permanent(550, 'nobody') } end"
    for i = 1, 8 do
      assert.are.equal('Delivery 200 ' .. i, seen['m' .. i])
    end
  end)

  it('may give one outcome to all', function()
    local seen = run "function answer() return kumo.transient(452, 'full') end"
    for i = 1, 8 do
      assert.are.equal('TransientFailure 452 full', seen['m' .. i])
    end
  end)

  it('that is refused for good is parted until the one to blame is alone', function()
    local seen, calls = run [[
      function answer(_, names)
        for _, name in ipairs(names) do
          if name == 'm6' then kumo.reject(554, 'bad record ' .. name) end
        end
        return 'ok'
      end]]
    for i = 1, 8 do
      assert.are.equal(i == 6 and 'Bounce 554 bad record m6' or 'Delivery 200 ok', seen['m' .. i])
    end
    assert.are.same({ 'm1 m2 m3 m4 m5 m6 m7 m8', 'm1 m2 m3 m4', 'm5 m6 m7 m8', 'm5 m6', 'm5', 'm6', 'm7 m8' }, calls)
  end)

  it('is parted for an outcome as for a rejection, each with its own text', function()
    local seen, calls = run [[
      function answer(_, names) return kumo.permanent(500, 'no ' .. names[1]) end]]
    for i = 1, 8 do
      assert.are.equal(('Bounce 500 no m%d'):format(i), seen['m' .. i])
    end
    assert.are.equal(15, #calls)
  end)

  it('stops being parted when the endpoint hangs up meanwhile; the rest was not tried', function()
    local seen, calls = run [[
      local before = 0
      function answer(_, names)
        before = before + 1
        if before == 1 then kumo.reject(500, 'no') end
        if before == 2 then kumo.reject(421, 'bye') end
        return 'ok'
      end]]
    assert.are.same({ 'm1 m2 m3 m4 m5 m6 m7 m8', 'm1 m2 m3 m4', 'm5 m6 m7 m8' }, calls)
    assert.are.equal('TransientFailure 421 bye', seen.m1)
    assert.are.equal('Delivery 200 ok', seen.m8) -- by the next session, at its first attempt
    assert.are.equal(1, rt:eval 'return closed')
  end)

  it('gives back what it has put away when the session is cancelled', function()
    local _, calls = run [[
      local before = 0
      function answer()
        before = before + 1
        if before == 1 then kumo.reject(500, 'no') end
        kumo.sleep(3600)
      end]]
    assert.are.equal(2, #calls)
    local balances, text = rt:stop(1)
    rt = nil
    assert.is_true(balances, text)
  end)

  it('checks the outcomes that are made', function()
    local dir = helper.dir()
    helper.write(dir .. '/policy.lua', ('DIR = %q\nfunction answer() end\n%s'):format(dir, POLICY))
    rt = testing.start { policy = dir .. '/policy.lua' }
    for expected, code in pairs {
      ['kumo.transient: code: 400 to 499 expected, got 500'] = "kumo.transient(500, 'x')",
      ['kumo.permanent: code: 500 to 599 expected, got nil'] = "kumo.permanent(nil, 'x')",
      ['kumo.permanent: text: string expected, got nil'] = 'kumo.permanent(500)',
      ['kumo.delivered: text: it is not UTF%-8'] = [[kumo.delivered '\255']],
      ['kumo.transient: retry_after: seconds >= 0 expected, got %-1'] = "kumo.transient(400, 'x', -1)",
    } do
      assert.matches(expected, rt:eval(("local kumo = require 'kumo' return tostring(select(2, pcall(function() return %s end)))"):format(code)))
    end
  end)
end)
