-- What a connection object of the policy answers, and what becomes of the message: record, queue, session. The table of
-- outcomes on the real engine, under the virtual clock.
local helper = require 'helper'
local testing = require 'tr.testing'

--- Mail goes to a connection that runs the global `answer(self, message)`; hook `cap` keeps each record of it.
local POLICY = [[
local kumo = require 'kumo'
local log_hooks = require 'policy-extras.log_hooks'
records, made, closed, sent = {}, 0, 0, 0
batch_size, retry = 1, '10m'
function construct() made = made + 1 return { send = relay, send_batch = relay, close = shut } end
function relay(self, msg) sent = sent + 1 return answer(self, msg) end
function shut() closed = closed + 1 end
log_hooks:new {
  name = 'cap',
  constructor = function()
    return { send = function(_, msg)
      table.insert(records, msg:get_meta('log_record'))
      return 'ok'
    end }
  end,
}
kumo.on('init', function()
  kumo.define_spool { name = 'data', path = DIR .. '/data' }
  kumo.define_spool { name = 'meta', path = DIR .. '/meta' }
end)
kumo.on('get_queue_config', function(domain)
  return kumo.make_queue_config {
    retry_interval = retry, max_age = '1 day',
    protocol = { custom_lua = { constructor = 'make.it', batch_size = batch_size } },
  }
end)
kumo.on('make.it', function(...) return construct(...) end)
]]

local REJECT = "local kumo = require 'kumo'\nfunction answer() kumo.reject(%s) end"
local PEER = { name = 'Lua via make.it', addr = '0.0.0.0' }

--- A row: policy code; then type, code, peer of the record; whether the message is kept, and the session.
local CASES = {
  ['a text'] = { "function answer() return 'stored' end", 'Delivery', 200, 'stored', peer = true, session = true },
  ['a number'] = { 'function answer() return 42 end', 'Delivery', 200, '42', peer = true, session = true },
  ['an empty text'] = { "function answer() return '' end", 'Delivery', 200, '', peer = true, session = true },
  ['nothing'] = { 'function answer() end', 'TransientFailure', 400, 'got nil', kept = true },
  ['true'] = { 'function answer() return true end', 'TransientFailure', 400, 'got boolean', kept = true },
  ['a table'] = { 'function answer() return {} end', 'TransientFailure', 400, 'got table', kept = true },
  ['bytes that are no UTF-8'] = {
    [[function answer() return '\255\254' end]], 'TransientFailure', 400, 'not UTF-8', kept = true,
  },
  ['reject 450'] = { REJECT:format "450, 'busy'", 'TransientFailure', 450, 'busy', peer = true, kept = true, session = true },
  ['reject 499'] = {
    REJECT:format "499, '4.2.1 x'", 'TransientFailure', 499, '4.2.1 x', peer = true, kept = true, session = true,
  },
  ['reject 421'] = { REJECT:format "421, 'bye'", 'TransientFailure', 421, 'bye', peer = true, kept = true },
  ['reject 500'] = { REJECT:format "500, 'no'", 'Bounce', 500, 'no', peer = true, session = true },
  ['reject 554'] = { REJECT:format "554, '5.7.1 no'", 'Bounce', 554, '5.7.1 no', peer = true, session = true },
  ['reject 200'] = { REJECT:format "200, 'odd'", 'Bounce', 200, 'odd', peer = true, session = true },
  ['reject 0'] = { REJECT:format "0, 'odd'", 'Bounce', 0, 'odd', peer = true, session = true },
  ['a rejection raised again'] = {
    "local kumo = require 'kumo'\nfunction answer() local _, err = pcall(kumo.reject, 550, 'no') error(err, 0) end",
    'Bounce', 550, 'no', peer = true, session = true,
  },
  ['a rejection as the cause of another error'] = {
    "local kumo = require 'kumo'\nfunction answer() local _, err = pcall(kumo.reject, 451, 'x') error({ cause = err }, 0) end",
    'TransientFailure', 451, 'x', peer = true, kept = true, session = true,
  },
  ['a rejection in a coroutine'] = {
    "local kumo = require 'kumo'\nfunction answer() return coroutine.wrap(function() kumo.reject(552, 'big') end)() end",
    'Bounce', 552, 'big', peer = true, session = true,
  },
  ['an error'] = { "function answer() error('oops') end", 'TransientFailure', 400, 'oops', kept = true },
  ['an error object without text'] = {
    "function answer() error(setmetatable({}, { __tostring = function() error('no text') end })) end",
    'TransientFailure', 400, 'KumoMTA internal: ', kept = true,
  },
  ['error(nil)'] = { 'function answer() error() end', 'TransientFailure', 400, 'nil', kept = true },
  ['an error of bytes that are no UTF-8'] = {
    [[function answer() error('bad \255\254\0 bytes', 0) end]], 'TransientFailure', 400, 'bytes', kept = true,
  },
  ['an endless error'] = {
    "function answer() local s = ('x'):rep(5000000) error(s) end", 'TransientFailure', 400, 'xxx', kept = true,
  },
  ['too deep a recursion'] = {
    'function answer() return 1 + answer() end', 'TransientFailure', 400, 'stack overflow', kept = true,
  },
  ['no method'] = { 'function construct() return {} end', 'TransientFailure', 400, "send", kept = true, unclosed = true },
  ['a method that is no function'] = {
    'function construct() return { send = 42 } end', 'TransientFailure', 400, 'send', kept = true, unclosed = true,
  },
  ['no constructor value'] = {
    'function construct() end', 'TransientFailure', 400, "'make.it' returned nil", kept = true, unclosed = true,
  },
  ['a userdata of the constructor'] = {
    'function construct() return io.stdout end', 'TransientFailure', 400, 'send', kept = true, unclosed = true,
  },
  ['a constructor that raises'] = {
    "function construct() error('no luck') end", 'TransientFailure', 400, 'no luck', kept = true, unclosed = true,
  },
  ['a constructor that rejects'] = {
    "function construct() require('kumo').reject(550, 'never') end", 'TransientFailure', 400, 'never',
    kept = true, unclosed = true,
  },
  ['a close that raises'] = {
    "function answer() error('oops') end function shut() closed = closed + 1 error('close, too') end",
    'TransientFailure', 400, 'oops', kept = true,
  },
  ['methods by __index'] = {
    "function construct() return setmetatable({}, { __index = function(_, key) if key:find '^send' then return relay end end }) end"
      .. " function answer() return 'far' end",
    'Delivery', 200, 'far', peer = true, session = true, unclosed = true,
  },
  ['an end only after a wait inside gsub'] = {
    "local kumo = require 'kumo' function answer() return (('a'):gsub('a', function() kumo.sleep(1) return 'late' end)) end",
    'Delivery', 200, 'late', peer = true, session = true,
  },
}

describe('the outcome of a connection object', function()
  local dir, rt

  local function start(extra)
    dir = helper.dir()
    helper.write(dir .. '/policy.lua', ('DIR = %q\n'):format(dir) .. POLICY .. (extra or ''))
    rt = testing.start { policy = dir .. '/policy.lua' }
  end

  --- The record of the first outcome (after the Reception).
  local function outcome()
    for _, record in ipairs(rt:eval 'return records') do
      if record.type ~= 'Reception' then
        return record
      end
    end
  end

  after_each(function()
    if rt then
      local balances, text = rt:stop(1)
      rt = nil
      assert.is_true(balances, text)
    end
    helper.cleanup()
  end)

  for batch_size = 1, 2 do
    for what, case in pairs(CASES) do
      it(('of %s, batch_size %d'):format(what, batch_size), function()
        start(case[1] .. ('\nbatch_size = %d'):format(batch_size))
        rt:receive { to = 'a@example.org' }
        rt:advance(2)
        local record = outcome()
        assert.is_table(record)
        assert.are.equal(case[2], record.type)
        assert.are.equal(case[3], record.response.code)
        assert.is_truthy(record.response.content:find(case[4], 1, true), record.response.content)
        assert.are.same(case.peer and PEER or nil, record.peer_address)
        assert.is_nil(record.response.enhanced_code)
        assert.is_nil(record.response.command)
        assert.are.equal('Lua', record.delivery_protocol)
        assert.are.equal('unspecified->example.org@lua:make.it', record.site)
        assert.are.equal('unspecified', record.egress_source)
        assert.are.equal(36, #(record.session_id or ''))
        assert.are.equal(0, record.num_attempts)
        assert.are.equal('a@example.org', type(record.recipient) == 'table' and record.recipient[1] or record.recipient)
        assert.is_true(#record.response.content < 3000)
        assert.are.equal(case.kept and 1 or 0, rt:ledger().mail.waiting)
        assert.are.equal(case[2] == 'Delivery' and 1 or 0, rt:ledger().mail.delivered)
        assert.are.equal(case[2] == 'Bounce' and 1 or 0, rt:ledger().mail.bounced)
        if not case.unclosed then
          assert.are.equal(case.session and 0 or 1, rt:eval 'return closed')
        end
        rt:advance(300)
        assert.are.equal(case.unclosed and 0 or 1, rt:eval 'return closed') -- once, when it was idle at the latest
        if case.kept then -- the attempt counted: the next one is its second
          rt:advance(400)
          local list, last = rt:eval 'return records', nil
          for _, one in ipairs(list) do
            last = one
          end
          assert.are.equal(1, last.num_attempts)
        end
      end)
    end
  end

  it('of a send that never returns: Delayed 451 4.4.1, no attempt counted, no close', function()
    start [[
local kumo = require 'kumo'
function answer() if sent == 1 then kumo.sleep(1e6) end return 'at last' end
kumo.on('get_egress_path_config', function() return kumo.make_egress_path { system_shutdown_timeout = '10s' } end)
]]
    rt:receive { to = 'a@example.org' }
    rt:advance(599)
    assert.is_nil(outcome())
    rt:advance(120)
    local list = rt:eval 'return records'
    assert.are.equal('Delayed', list[2].type)
    assert.are.equal(0, list[2].num_attempts)
    assert.are.equal('Delivery', list[3].type)
    assert.are.equal(0, list[3].num_attempts)
    assert.are.equal(2, rt:eval 'return made')
    assert.are.equal(1, rt:ledger().mail.delivered)
  end)

  it('of an error tells the log where, across coroutines, with the message, and once a minute', function()
    local run = helper.start(("%s lua %s"):format(helper.quote(helper.TAILRACE), helper.quote(helper.write(helper.dir() .. '/t.lua', ([[
local testing = require 'tr.testing'
local rt = testing.start { policy = %q }
local id = rt:receive { to = 'a@example.org' }
for _ = 1, 3 do rt:receive { to = 'a@example.org' } end
rt:advance(30)
print('ID', id)
rt:stop(1)
]]):format(helper.write(helper.dir() .. '/p.lua', ('DIR = %q\n'):format(helper.dir()) .. POLICY .. [[
local function deep() local none = nil return none.field end
function answer() return coroutine.wrap(function() return deep() end)() end
]]))))))
    assert.are.equal(0, run:wait())
    local id = run:output():match 'ID%s+(%x+)'
    local log = run:log()
    local _, lines = log:gsub("attempt to index local 'none'", '')
    assert.are.equal(1, lines, log)
    assert.is_truthy(log:find("in send of 'make.it', 1 in hand, the first is message " .. id, 1, true), log)
    assert.is_truthy(log:find('in a coroutine of the policy', 1, true), log)
  end)

  it('after an error does not fail the next message', function()
    start "function answer() if sent == 1 then error('oops') end return 'ok' end"
    rt:receive { to = 'a@example.org' }
    rt:receive { to = 'a@example.org' }
    rt:advance(5)
    assert.are.equal(1, rt:ledger().mail.delivered)
    rt:advance(700)
    assert.are.equal(2, rt:ledger().mail.delivered)
    assert.are.equal(3, rt:eval 'return sent')
  end)

  it('makes a message handle useless once the owner has let go', function()
    start [[
function answer(self, msg)
  self.all = self.all or {}
  for _, old in ipairs(self.all) do raised = select(2, pcall(old.get_data, old)) end
  table.insert(self.all, msg)
  return 'ok'
end]]
    rt:receive { to = 'a@example.org' }
    rt:advance(1)
    rt:receive { to = 'a@example.org' }
    rt:advance(1)
    assert.is_string(rt:eval 'return raised')
    assert.are.equal(2, rt:ledger().mail.delivered)
  end)
end)
