-- kill -9 at any moment under load: every message answered with 250 arrives, every delivered message has its Delivery event,
-- nothing is invented. A third of the kills hits a start, a third a stop. TAILRACE_KILLS sets how often (10).
local durable = require 'run.durable'
local helper = require 'helper'
local kumo = require 'kumo'

local KILLS = tonumber(os.getenv 'TAILRACE_KILLS' or '') or 10
local PER_KILL_S = 0.9 -- what a round takes on an idle machine: the load lasts as long as the rounds

--- Small mail by HTTP goes to http%d@, so that the two sources can be told by their recipients.
local CASES = {
  { name = 'small mail', inject = '--size 2k --rate 300/s' },
  {
    name = 'mail in body files, two workers, an endpoint and a next hop that fail a fifth',
    inject = '--size 300k --rate 40/s',
    run = '--workers 2',
    sink = '--status-share 503=20 --reset-share 1 --smtp-code dot=451=20',
  },
}

local function kill(command, run, env)
  local how = math.random(3)
  if how == 1 then -- it had better be ready, and busy
    run:line '(initialization complete)'
    kumo.sleep(math.random() * 0.8) -- a random moment, not a wait for something
  elseif how == 2 then
    kumo.sleep(math.random() * 0.25) -- during the start
  else
    run:line '(initialization complete)'
    kumo.sleep(math.random() * 0.4)
    run:signal 'TERM'
    kumo.sleep(math.random() * 0.1) -- during the stop
  end
  run:stop 'KILL'
  return helper.start(command, env)
end

describe('kill -9 under load', function()
  after_each(helper.cleanup)

  for _, case in ipairs(CASES) do
    it(('loses nothing in %d kills: %s'):format(KILLS, case.name), function()
      local dir, env = durable.setup(case.sink)
      local seed = os.time()
      math.randomseed(seed)
      local run = durable.run(env, case.run) -- and the same ports from now on, so that the load finds them again
      local command = ('%s run --policy %s --ledger %s'):format(helper.quote(helper.TAILRACE), durable.POLICY, case.run or '')
      local inject = helper.quote(helper.TAILRACE)
        .. (' inject --duration %d --keep-going --json --quiet '):format(2 + KILLS * PER_KILL_S)
      local by_smtp = helper.start(('%s --smtp %s --connections 10 --ids %s/ids %s'):format(inject, run.smtp, dir, case.inject))
      local by_http =
        helper.start(('%s --http http://%s --connections 4 --rate 50/s --to http%%d@example.net'):format(inject, run.http))
      local runs = { run }
      for _ = 1, KILLS do
        run = kill(command, run, env)
        runs[#runs + 1] = run
      end
      run:line '(initialization complete)'
      run.http = env.TAILRACE_HTTP
      by_smtp:wait(KILLS * 10 + 120)
      by_http:wait(KILLS * 10 + 120)
      durable.wait_empty(run, 300)
      assert.are.equal(0, run:stop())
      for i, one in ipairs(runs) do -- a kill leaves a torn tail at most
        for _, word in ipairs { 'balance', ' should be waiting', 'damaged bytes', 'missing', 'makes no sense', 'ERROR', 'Sanitizer' } do
          assert.is_nil(one:log():find(word, 1, true), ('run %d (seed %d): %s'):format(i, seed, one:log()))
        end
      end

      local got = durable.read_sink(dir)
      local lost, accepted = durable.lost(dir, got)
      assert.are.same({}, lost)
      local from = { smtp = kumo.serde.json_parse(by_smtp:output()), http = kumo.serde.json_parse(by_http:output()) }
      local received = { smtp = 0, http = 0 }
      for id, recipient in pairs(got.Reception) do
        local source = recipient:find '^http' and 'http' or 'smtp'
        received[source] = received[source] + 1
        assert.is_truthy(got.Delivery[id], 'received and not delivered: ' .. id)
      end
      for id in pairs(got.Delivery) do
        assert.is_truthy(got.Reception[id], 'delivered and not received: ' .. id)
      end
      assert.are.equal(from.smtp.accepted, accepted)
      for source, count in pairs(received) do -- what was not answered may have been stored; nothing else may
        assert.is_true(from[source].accepted > 0)
        assert.is_true(count >= from[source].accepted, ('%s: %d of %d'):format(source, count, from[source].accepted))
        assert.is_true(count <= from[source].accepted + from[source].unknown, ('%s: %d invented'):format(source, count))
      end
      assert.are.equal(0, durable.body_files(dir .. '/spool/data'), 'body files of messages that have ended')
      print(
        ('\n%d kills: accepted %d by SMTP (%d unanswered) and %d by HTTP (%d); none lost; '):format(
          KILLS, from.smtp.accepted, from.smtp.unknown, from.http.accepted, from.http.unknown)
          .. ('%d + %d came; duplicates: %d events, %d mails'):format(
            received.smtp, received.http, got.duplicates, got.mails - received.smtp - received.http)
      )
    end)
  end
end)
