-- Two simulated days of retries of 1,000 records: `tailrace lua spec/bench/two_days.lua [RECORDS]`. The endpoint answers 503
-- all the time: the queue retries after 20 minutes, doubling up to 4 hours, and rests while its gate is closed.
local kumo = require 'kumo'
local test = require 'kumo.test'

local RECORDS = tonumber(arg[1]) or 1000

local POLICY = [[
local kumo = require 'kumo'
local log_hooks = require 'policy-extras.log_hooks'
log_hooks:new_json {
  name = 'webhook',
  url = 'http://10.0.0.1:4242/log',
  log_parameters = { per_record = { Delivery = { enable = true }, Any = { enable = false } } },
  queue_config = { max_age = '3 days', retry_interval = '20m', max_retry_interval = '4h' },
}
kumo.on('init', function()
  kumo.define_spool { name = 'data', path = '/nowhere' }
  kumo.define_spool { name = 'meta', path = '/nowhere' }
end)
]]

local path = os.tmpname()
local file = assert(io.open(path, 'w'))
file:write(POLICY)
file:close()

local function seconds()
  local pipe = assert(io.open '/proc/uptime')
  local text = pipe:read '*a'
  pipe:close()
  return tonumber(text:match '%S+')
end

local began = seconds()
local rt = test.start { policy = path, seed = 1 }
rt:http('http://10.0.0.1:4242/log', 503)
for i = 1, RECORDS do
  rt:event { type = 'Delivery', recipient = ('user%d@example.org'):format(i) }
end
local fed = seconds()
rt:advance '48h'
local ended = seconds()
local ledger, requests = rt:ledger 'webhook', #rt:requests()
rt:stop()
os.remove(path)
print(
  kumo.serde.json_encode {
    records = ledger.accepted,
    waiting = ledger.waiting,
    requests = requests,
    feed_s = fed - began,
    two_days_s = ended - fed,
    all_s = seconds() - began,
  }
)
