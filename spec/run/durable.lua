--- What the specs about durability share: the processes of the main job, and the account of what went in and came out.
local helper = require 'helper'
local kumo = require 'kumo'

local durable = { POLICY = 'spec/run/durable_policy.lua' }

--- A sink, a directory and the environment for the policy. more: further variables.
function durable.setup(sink_options, more)
  local dir = helper.dir()
  local sink = helper.sink(('--http %s --smtp 127.0.0.1:0 --record %s/got %s'):format(helper.address(), dir, sink_options or ''))
  local env = {
    TAILRACE_DIR = dir,
    TAILRACE_WEBHOOK = ('http://%s/log'):format(sink.http),
    TAILRACE_NEXT_HOP = sink.smtp,
    TAILRACE_SMTP = helper.address(), -- the next start has the same
    TAILRACE_HTTP = helper.address(),
  }
  for name, value in pairs(more or {}) do
    env[name] = value
  end
  return dir, env, sink
end

--- Starts the runtime.
function durable.run(env, options)
  return helper.run(durable.POLICY, options, env)
end

function durable.ledger(run)
  local text = helper.sh(('curl -s -m 60 http://%s/api/tailrace/ledger'):format(run.http))
  local ok, ledger = pcall(kumo.serde.json_parse, text)
  return ok and type(ledger) == 'table' and ledger or {}
end

function durable.wait_empty(run, limit_s)
  local ledger
  local ok = pcall(helper.wait_for, 'the last events', function()
    ledger = durable.ledger(run)
    return ledger.webhook and ledger.webhook.waiting == 0 and ledger.mail.waiting == 0
  end, limit_s)
  if not ok then
    local metrics = helper.sh(("curl -s -m 60 http://%s/metrics | grep -v '^#' | head -c 20000"):format(run.http))
    error(('still waiting: %s\n%s\n%s'):format(kumo.serde.json_encode_pretty(ledger), run:log(), metrics), 2)
  end
end

--- What the sink took, from its record file: events by type and message id, how often each event came, mails.
function durable.read_sink(dir)
  local got = { Reception = {}, Delivery = {}, events = {}, mails = 0, duplicates = 0 }
  for line in helper.lines(dir .. '/got') do
    local entry = kumo.serde.json_parse(line)
    if entry.body and entry.status == 200 then
      local record = kumo.serde.json_parse(entry.body)
      if got[record.type] then
        got[record.type][record.id] = record.recipient
      end
      if got.events[record.event_id] then
        got.duplicates = got.duplicates + 1
      end
      got.events[record.event_id] = true
    elseif entry.code == 250 then
      got.mails = got.mails + 1
    end
  end
  return got
end

--- Ids of DIR/ids (inject --ids) that have no Reception or no Delivery in `got`; how many ids there are.
function durable.lost(dir, got)
  local lost, count = {}, 0
  for id in (helper.read(dir .. '/ids') or ''):gmatch '%x+' do
    count = count + 1
    if not got.Reception[id] or not got.Delivery[id] then
      lost[#lost + 1] = id
    end
  end
  return lost, count
end

--- Body files in the spool.
function durable.body_files(dir)
  return tonumber((helper.sh(('ls %s | grep -c ^body-'):format(dir)):match '%d+'))
end

return durable
