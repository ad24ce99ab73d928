-- Run it in this folder: tailrace test
local test = require 'kumo.test'
local site = require 'site'

describe('the next hop', function()
  it('of example.org is its own host', function()
    assert.are.equal('192.0.2.10:25', site.next_hop 'example.org')
  end)
end)

describe('the policy', function()
  local rt

  before_each(function()
    rt = test.start { policy = 'policy.lua' }
    rt:smtp('192.0.2.10:25', 250)
  end)

  local function mail_of_a_customer()
    return assert(rt:receive { to = 'a@example.org', headers = { ['X-Customer'] = '7' }, body = 'hello\n' })
  end

  it('delivers mail, and tells the CRM', function()
    rt:http(site.crm, 200)
    mail_of_a_customer()
    rt:advance '1s'
    assert.delivered(rt, 'mail', 1)
    assert.are.equal('hello\r\n', rt:requests('smtp')[1].body)
    assert.are.equal('7', rt:requests(site.crm)[1]:json().headers['X-Customer'])
  end)

  it('asks a busy CRM again, not before it says', function()
    rt:http(site.crm, { { status = 503, headers = { ['Retry-After'] = '600' } }, { reset = true }, 200 })
    mail_of_a_customer()
    rt:advance '2h'
    local calls = rt:requests(site.crm)
    assert.are.equal(3, #calls)
    assert.is_true(calls[2].at - calls[1].at >= 600)
    assert.requeued(rt, 'crm', 2)
    assert.delivered(rt, 'crm', 1)
  end)

  it('gives up after two days, and keeps the record', function()
    rt:http(site.crm, 503)
    mail_of_a_customer()
    rt:advance '47h'
    assert.waiting(rt, 'crm', 1)
    rt:advance '3h'
    assert.waiting(rt, 'crm', 0)
    assert.dead(rt, 'crm', 1)
  end)

  it('does not tell of mail without a customer', function()
    rt:receive { to = 'a@example.org' }
    rt:advance '1m'
    assert.filtered(rt, 'crm', 1)
  end)

  it('refuses a sender', function()
    local id, reply = rt:receive { from = 'x@spam.example' }
    assert.is_nil(id)
    assert.are.equal('550 5.7.1 not from you', reply)
  end)
end)
