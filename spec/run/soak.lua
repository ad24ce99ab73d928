-- A soak: mail under load, its events over HTTP, Kafka and AMQP, while the program is killed, brokers are killed, restarted
-- and hung, and endpoints fail at random. Ends with the account: each mail that was answered with 250 has its Reception and
-- its Delivery at each of the three receivers, and the ledger balances.
--
--   build/release/tailrace lua spec/run/soak.lua [MINUTES] [SEED]      default: 10 minutes, a fresh seed
--
-- Needs RabbitMQ, amqp-tools and luasocket of Debian, and `ninja -C build/release kafka_bench amqp_bench`.
package.path = 'spec/?.lua;' .. package.path
local helper = require 'helper'
local kumo = require 'kumo'
local rabbitmq = require 'rabbitmq'

local MINUTES, SEED = tonumber(arg[1] or 10), tonumber(arg[2] or os.time())
local BUILD = helper.TAILRACE:match '^(.*)/'
local RATE = os.getenv 'TAILRACE_SOAK_RATE' or '100/s'
local PATIENCE_S = 180 -- for what waits at the end
local HOOKS = { 'http', 'kafka', 'amqp' }

math.randomseed(SEED)
local function say(...)
  print(os.date '!%H:%M:%S ' .. string.format(...))
  io.stdout:flush()
end

-- --- the peers -----------------------------------------------------------------------------------------------

local dir = helper.dir()
say('seed %d, %g minutes, %s mails, in %s', SEED, MINUTES, RATE, dir)

local orders = dir .. '/orders' -- to the Kafka cluster
os.execute(('mkfifo %s'):format(orders))
local cluster = helper.start(('sh -c "exec %s/kafka_bench cluster 3 <>%s"'):format(BUILD, orders))
local brokers = cluster:line 'bootstrap (%S+)'
local consumer = helper.start(('%s/kafka_bench consume %s events %s/kafka'):format(BUILD, brokers, dir))
consumer:line '(consuming)'

local rabbit = rabbitmq.start()
rabbit:declare 'events'

local sink = helper.sink(
  ('--http 127.0.0.1:0 --smtp 127.0.0.1:0 --record %s/http --status-share 503=5 --reset-share 1 --smtp-code dot=451=2'):format(dir))

local env = {
  TAILRACE_DIR = dir,
  TAILRACE_WEBHOOK = ('http://%s/log'):format(sink.http),
  TAILRACE_NEXT_HOP = sink.smtp,
  TAILRACE_SMTP = helper.address(), -- the next start has the same
  TAILRACE_HTTP = helper.address(),
  TAILRACE_BROKERS = brokers,
  TAILRACE_AMQP_PORT = rabbit.port,
}
local COMMAND = ('%s run --policy spec/run/soak_policy.lua --ledger --workers 2'):format(helper.quote(helper.TAILRACE))
local runs = {}
local function start()
  runs[#runs + 1] = helper.start(COMMAND, env)
  return runs[#runs]
end

local run = start()
run:line '(initialization complete)'

local load = helper.start(
  ('%s inject --smtp %s --duration %d --rate %s --connections 8 --keep-going --json --quiet --ids %s/ids'):format(
    helper.quote(helper.TAILRACE), env.TAILRACE_SMTP, MINUTES * 60, RATE, dir))

-- --- the trouble ---------------------------------------------------------------------------------------------

local done = {}
local function pause(from_s, to_s)
  kumo.sleep(from_s + math.random() * (to_s - from_s))
end
local function order(text)
  local file = assert(io.open(orders, 'w'))
  file:write(text, '\n')
  file:close()
end

local TROUBLE = {
  { 'tailrace killed', function()
    run:stop 'KILL'
    run = start()
  end },
  { 'tailrace killed twice', function()
    run:stop 'KILL'
    run = start()
    pause(0, 0.3)
    run:stop 'KILL'
    run = start()
  end },
  { 'tailrace stopped in order', function()
    run:stop('TERM', 60)
    run = start()
  end },
  { 'tailrace frozen', function()
    run:signal 'STOP'
    pause(0.5, 2)
    run:signal 'CONT'
  end },
  { 'RabbitMQ killed', function()
    rabbit:kill()
    pause(0, 3)
    rabbit:restart()
  end },
  { 'RabbitMQ hung', function()
    rabbit:hang(true)
    pause(1, 6)
    rabbit:hang(false)
  end },
  { 'a Kafka broker down', function()
    local id = math.random(3)
    order('down ' .. id)
    pause(1, 6)
    order('up ' .. id)
  end },
  { 'all Kafka brokers down', function()
    for id = 1, 3 do
      order('down ' .. id)
    end
    pause(1, 6)
    for id = 1, 3 do
      order('up ' .. id)
    end
  end },
} -- stylua: ignore

local function ledger()
  local text = helper.sh(('curl -s -m 5 http://%s/api/tailrace/ledger'):format(env.TAILRACE_HTTP))
  local ok, value = pcall(kumo.serde.json_parse, text)
  return ok and type(value) == 'table' and value or {}
end

local ends = os.time() + MINUTES * 60
while os.time() < ends do
  pause(1, 5)
  local name, cause = unpack(TROUBLE[math.random(#TROUBLE)])
  done[name] = (done[name] or 0) + 1
  local before = ledger()
  say('%s; waiting: mail %s, http %s, kafka %s, amqp %s', name, before.mail and before.mail.waiting or '?',
    before.http and before.http.waiting or '?', before.kafka and before.kafka.waiting or '?',
    before.amqp and before.amqp.waiting or '?')
  cause()
end

-- --- the account ---------------------------------------------------------------------------------------------

load:wait(120)
local last
local ok = pcall(helper.wait_for, 'what waits', function()
  last = ledger()
  for _, name in ipairs { 'mail', 'http', 'kafka', 'amqp' } do
    if not last[name] or last[name].waiting > 0 then
      return false
    end
  end
  return true
end, PATIENCE_S)
say('%s', kumo.serde.json_encode(last))
local wrong = {}
local function expect(truth, ...)
  if not truth then
    wrong[#wrong + 1] = string.format(...)
  end
end
expect(ok, 'something waits after %d s', PATIENCE_S)
expect(run:stop('TERM', 60) == 0, 'the last stop: %s', run:log())
for i, one in ipairs(runs) do
  for _, word in ipairs { 'balance', ' should be waiting', 'damaged bytes', 'makes no sense', 'ERROR lua', 'Sanitizer' } do
    expect(not one:log():find(word, 1, true), 'run %d says %s: %s', i, word, one:log():sub(-2000))
  end
end
local text, status = helper.sh(('%s/amqp_bench drain 127.0.0.1 %d events %s/amqp'):format(BUILD, rabbit.port, dir))
expect(status == 0, 'draining the queue: %s', text)
helper.wait_for('the consumer to rest', function() -- as large as three seconds ago
  local size = helper.sh(('stat -c %%s %s/kafka'):format(dir))
  kumo.sleep(3)
  return size == helper.sh(('stat -c %%s %s/kafka'):format(dir))
end)
consumer:stop 'TERM'

-- By receiver: calls fn(record) for each record that it has taken.
local RECEIVED = {
  http = function(fn)
    for line in io.lines(dir .. '/http') do
      local entry = kumo.serde.json_parse(line)
      if entry.body and entry.status == 200 then
        local records = kumo.serde.json_parse(entry.body)
        for _, record in ipairs(records.type and { records } or records) do
          fn(record)
        end
      end
    end
  end,
}
for _, name in ipairs { 'kafka', 'amqp' } do
  RECEIVED[name] = function(fn)
    for line in io.lines(dir .. '/' .. name) do
      if line ~= '' then -- a record has a line end of its own
        fn(kumo.serde.json_parse(line))
      end
    end
  end
end

local sent = kumo.serde.json_parse(load:output())
local figures = {}
for _, name in ipairs(HOOKS) do
  local events, mails, count, twice = {}, {}, 0, 0
  RECEIVED[name](function(record)
    if events[record.event_id] then
      twice = twice + 1
    else
      events[record.event_id] = true
      count = count + 1
      local key = record.id .. record.type
      mails[key] = (mails[key] or 0) + 1
    end
  end)
  local lost, accepted = 0, 0
  for id in (helper.read(dir .. '/ids') or ''):gmatch '%x+' do
    accepted = accepted + 1
    lost = lost + (mails[id .. 'Reception'] and 0 or 1) + (mails[id .. 'Delivery'] and 0 or 1)
  end
  for key, times in pairs(mails) do
    expect(times == 1, '%s: %d events of %s', name, times, key)
  end
  expect(accepted == sent.accepted, '%d ids for %d mails', accepted, sent.accepted)
  expect(lost == 0, '%s: %d events are missing', name, lost)
  expect(count <= 2 * (accepted + sent.unknown), '%s: %d events of %d mails', name, count, accepted)
  expect(last[name] and last[name].delivered == count, '%s: the ledger says %s delivered, %d events came', name,
    tostring(last[name] and last[name].delivered), count)
  figures[#figures + 1] = ('%s %d events, %d missing, %d twice'):format(name, count, lost, twice)
end

local causes = {}
for name, times in pairs(done) do
  causes[#causes + 1] = ('%s %d times'):format(name, times)
end
table.sort(causes)
say('trouble: %s', table.concat(causes, '; '))
say('%d mails accepted, %d not answered; %s', sent.accepted, sent.unknown, table.concat(figures, '; '))
cluster:stop 'TERM'
rabbit:stop()
if #wrong == 0 then
  helper.cleanup()
  say 'all is accounted for'
else
  for i = 1, math.min(#wrong, 20) do
    say('WRONG: %s', wrong[i])
  end
  say('%d findings; files are kept in %s', #wrong, dir)
  os.exit(1)
end
