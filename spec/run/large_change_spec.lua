-- Changes that are larger than a segment: a mail to many with three hooks, an end with large records. All that was answered
-- is there, over a kill at any moment, and what was not answered is whole or absent.
local helper = require 'helper'
local kumo = require 'kumo'
local testing = require 'tr.testing'

local POLICY = [[
local kumo = require 'kumo'
local log_hooks = require 'policy-extras.log_hooks'

for i = 1, 3 do
  log_hooks:new_json {
    name = 'hook' .. i,
    url = os.getenv 'TAILRACE_WEBHOOK' .. '/' .. i,
    queue_config = { retry_interval = '500ms', max_retry_interval = '500ms' },
    log_parameters = {
      headers = { 'Message-ID', 'X-*' },
      per_record = { Any = { enable = false }, Reception = { enable = true }, Delivery = { enable = true } },
    },
  }
end

kumo.on('init', function()
  for _, name in ipairs { 'data', 'meta' } do
    kumo.define_spool { name = name, path = os.getenv 'TAILRACE_DIR' .. '/' .. name, min_free_space = '1%' }
  end
  kumo.start_esmtp_listener { listen = os.getenv 'TAILRACE_SMTP', relay_hosts = { '127.0.0.0/8' } }
  kumo.start_http_listener { listen = '127.0.0.1:0' }
end)
kumo.on('get_queue_config', function()
  return kumo.make_queue_config {
    retry_interval = '500ms',
    max_retry_interval = '500ms',
    protocol = { smtp = { mx_list = { os.getenv 'TAILRACE_NEXT_HOP' } } },
  }
end)
kumo.on('get_egress_path_config', function()
  return kumo.make_egress_path { connection_limit = 10, enable_tls = 'Disabled' }
end)
]]
local HOOKS = 3

--- Headers of so many bytes.
local function headers(bytes)
  local list = {}
  for i = 1, math.ceil(bytes / 800) do
    list[i] = ("--header 'X-Large-%d: %s'"):format(i, ('abcdefgh'):rep(100))
  end
  return table.concat(list, ' ')
end

--- The events in a sink's record, by hook, type and mail: how many, each counted once; and the mails of the messages.
local function read(path)
  local events, seen = {}, {}
  for line in helper.lines(path) do
    local entry = kumo.serde.json_parse(line)
    local record = entry.body and entry.status == 200 and kumo.serde.json_parse(entry.body)
    local hook = entry.path and entry.path:match '%d$'
    if record and not seen[hook .. record.event_id] then
      seen[hook .. record.event_id] = true
      local key = ('%s %s %s'):format(hook, record.type, record.headers['Message-ID'])
      events[key] = (events[key] or 0) + 1
      seen[record.id] = record.headers['Message-ID']
    end
  end
  return events, seen
end

local function waiting(run)
  local text = helper.sh(('curl -s -m 60 http://%s/api/tailrace/ledger'):format(run.http))
  local ok, ledger = pcall(kumo.serde.json_parse, text)
  if not ok or not ledger.mail then
    return nil
  end
  local sum = 0
  for _, account in pairs(ledger) do
    sum = sum + account.waiting
  end
  return sum
end

local BOUNDED = [[
local kumo = require 'kumo'
got = 0
kumo.on('pre_init', function()
  for i = 1, 3 do kumo.configure_log_hook { name = 'hook' .. i, headers = { 'Subject' } } end
end)
kumo.on('should_enqueue_log_record', function(msg, name)
  kumo.sleep(1) -- it is stored before it is decided
  msg:set_meta('queue', name .. '.hook')
  return true
end)
kumo.on('init', function()
  for _, name in ipairs { 'data', 'meta' } do kumo.define_spool { name = name, path = '/nowhere/' .. name } end
end)
kumo.on('get_queue_config', function(domain)
  return kumo.make_queue_config { protocol = { custom_lua = { constructor = domain:find 'hook$' and 'make.hook' or 'make.mail' } } }
end)
kumo.on('make.hook', function() return { send = function() got = got + 1 return 'ok' end } end)
kumo.on('make.mail', function() return { send = function() return 'ok' end } end)
]]

describe('a change that is larger than a segment', function()
  local rt

  after_each(function()
    if rt then
      rt:stop(1)
      rt = nil
    end
    helper.cleanup()
  end)

  it('and than the bound is refused whole, and the next one is taken', function()
    rt = testing.start {
      policy = helper.write(helper.dir() .. '/policy.lua', BOUNDED),
      offline = 'temporary',
      log = 'error',
      spool_sizes = { segment_bytes = 8192, change_bytes = 65536 },
    }
    local function receive(bytes)
      return rt:receive { data = ('Subject: %s\r\n\r\nbody\r\n'):format(('x'):rep(bytes)) }
    end
    local id, why = receive(20000)
    assert.is_nil(id)
    assert.is_truthy(why:find 'too big')
    rt:advance(5)
    local lines = {}
    rt:take_log(lines)
    assert.is_truthy(table.concat(lines, '\n'):find 'a record cannot be stored: too big; nor is what it tells of')
    assert.are.equal(0, rt:ledger().mail.accepted)
    assert.are.equal(0, rt:ledger().hook1 and rt:ledger().hook1.offered or 0)
    assert.is_string(receive(12000))
    rt:advance(5)
    assert.are.equal(6, rt:eval 'return got') -- Reception and Delivery, three hooks
    assert.is_true(rt:balances())
    assert.are.equal(1, rt:ledger().mail.delivered)
  end)

  for _, case in ipairs {
    { title = 'a mail to 200', recipients = 200, bytes = 2000, mails = 4 },
    { title = 'ends with large records', recipients = 4, bytes = 40000, mails = 6 },
  } do
    it('loses no event of ' .. case.title .. ', over kills', function()
      local dir = helper.dir()
      local policy = helper.write(dir .. '/policy.lua', POLICY)
      local sink = helper.sink(('--http 127.0.0.1:0 --smtp 127.0.0.1:0 --record %s/got'):format(dir))
      local env = {
        TAILRACE_DIR = dir .. '/spool',
        TAILRACE_WEBHOOK = ('http://%s'):format(sink.http),
        TAILRACE_NEXT_HOP = sink.smtp,
        TAILRACE_SMTP = helper.address(), -- the next start has the same
      }
      local run = helper.run(policy, '--segment-size 64K', env)
      local load = helper.start(
        ('%s inject --smtp %s --count %d --connections 2 --recipients-per-message %d --ids %s/ids --keep-going --json --quiet %s'):format(
          helper.quote(helper.TAILRACE),
          run.smtp,
          case.mails,
          case.recipients,
          dir,
          headers(case.bytes)
        )
      )
      for kill = 1, 2 do
        helper.wait_for('an answer', function()
          local ids = helper.read(dir .. '/ids') or ''
          return select(2, ids:gsub('\n', '')) >= kill * case.recipients or load:status()
        end)
        run:stop 'KILL'
        local text, status = helper.sh(
          ('%s spool check --meta %s/spool/meta --data %s/spool/data'):format(helper.TAILRACE, dir, dir))
        assert.are.equal(0, status, text)
        run = helper.run(policy, '--segment-size 64K', env)
      end
      load:wait()
      helper.wait_for('the last event', function()
        return waiting(run) == 0
      end)
      local count = 0
      local events, mail_of = read(dir .. '/got')
      for key, n in pairs(events) do -- none is there in part; one whose answer a kill has cut off was sent again
        assert.are.equal(0, n % case.recipients, key)
        count = count + 1
      end
      assert.is_true(count >= 2 * HOOKS)
      for id in helper.lines(dir .. '/ids') do
        assert.is_truthy(mail_of[id], id)
        local first = assert(events['1 Reception ' .. mail_of[id]], id)
        for hook = 1, HOOKS do
          for _, kind in ipairs { 'Reception', 'Delivery' } do
            assert.are.equal(first, events[('%d %s %s'):format(hook, kind, mail_of[id])], id)
          end
        end
      end
      assert.are.equal(0, run:stop())
      assert.is_nil(run:log():find 'ERROR', run:log())
      assert.is_nil(run:log():find 'does not balance', run:log())
    end)
  end
end)
