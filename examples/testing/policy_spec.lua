-- Run it in this folder: tailrace lua /usr/bin/busted --lpath='./?.lua' policy_spec.lua
local site = require 'site'
local testing = require 'tr.testing'

-- Runs in the policy's state: a spool of the test's own, no mail out, and a CRM that says no twice.
local AROUND = [[
  package.path = './?.lua;' .. package.path
  local site = require 'site'
  site.spool = %q
  site.next_hop = function() return '127.0.0.1:1' end
  site.calls = {}
  site.tell_crm = function(line)
    table.insert(site.calls, os.time())
    return #site.calls < 3 and require('kumo').reject(450, 'busy') or 'stored'
  end
  dofile './policy.lua'
]]

describe('the next hop', function()
  it('of example.org is its own host', function()
    assert.are.equal('192.0.2.10:25', site.next_hop 'example.org')
  end)
end)

describe('the CRM hook', function()
  local dir, rt

  before_each(function()
    local pipe = io.popen 'mktemp -d'
    dir = pipe:read '*l'
    pipe:close()
    local file = assert(io.open(dir .. '/around.lua', 'w'))
    file:write(AROUND:format(dir))
    file:close()
    rt = testing.start { policy = dir .. '/around.lua' }
  end)

  after_each(function()
    assert.is_true((rt:stop(1))) -- the ledger balances
    os.execute('rm -r ' .. dir)
  end)

  it('tries again after a minute, then after two', function()
    rt:receive { to = 'a@example.org', data = 'X-Customer: 7\r\n\r\nhello\r\n' }
    rt:advance(3600)
    local calls = rt:eval "return require('site').calls"
    assert.are.equal(3, #calls)
    assert.is_true(math.abs(calls[2] - calls[1] - 60) <= 3) -- with some jitter
    assert.is_true(math.abs(calls[3] - calls[2] - 120) <= 3)
    assert.are.equal(1, rt:ledger().crm.delivered)
  end)

  it('does not hear of mail without a customer', function()
    rt:receive { to = 'a@example.org' }
    rt:advance(60)
    assert.are.equal(0, rt:eval "return #require('site').calls")
    assert.are.equal(1, rt:ledger().crm.filtered)
  end)
end)
