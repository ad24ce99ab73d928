--- Testing a policy: a fresh engine for each test, the production code under a virtual clock, with a scripted network.
--- docs/testing.md.
---
---     local test = require 'kumo.test'
---     local rt = test.start { policy = 'init.lua' }
---     rt:http('http://10.0.0.1:4242/log', { 503, 200 })
---     rt:receive { to = 'a@example.org' }
---     rt:advance '20m'
---     assert.delivered(rt, 'webhook', 1)
local testing = require 'tr.testing'
local host = require 'tr.host'
local scripted = host.internal 'scripted'
local checks = host.internal 'test.checks'
local client = host.internal 'test.client'
local c = host.c

local test = {}

---@class kumo.test.Runtime
---@field private _rt tr.testing.Runtime
---@field private _net tr.scripted.Network
local Runtime = {}
Runtime.__index = Runtime

local OPTIONS = {
  policy = 'string',
  clock = 'string',
  seed = 'number',
  wall = 'number',
  spool = 'string',
  network = 'string',
  before = 'function',
  log = 'string',
}
local LIMIT_S = 7 * 86400 -- of rt:run_until, unless it says another

local live = {} -- started and not stopped, in order

--- Seconds of a duration: a number, or a text such as '20m', '1h 30m'.
local function seconds(value, what, level)
  local ok, s, ns = pcall(c.duration, value, what, 'duration')
  if not ok then
    error(tostring(s), level + 1)
  end
  return s + ns / 1e9
end

local function check_options(options, allowed, what)
  if type(options) ~= 'table' then
    error(('%s: table of options expected, got %s'):format(what, type(options)), 3)
  end
  local names = {}
  for name in pairs(allowed) do
    names[#names + 1] = name
  end
  table.sort(names)
  for key, value in pairs(options) do
    local kind = allowed[key]
    if not kind then
      local near = c.nearest(tostring(key), names)
      error(
        ("%s: unknown field '%s', expected one of '%s'%s"):format(
          what,
          tostring(key),
          table.concat(names, "', '"),
          near and (" (did you mean '%s'?)"):format(near) or ''
        ),
        3
      )
    elseif kind ~= '*' and type(value) ~= kind then
      error(("%s: field '%s': %s expected, got %s"):format(what, key, kind, type(value)), 3)
    end
  end
end

-- --- life -----------------------------------------------------------------------------------------------------------

--- The error of a policy that does not start, without the machinery of tests around it.
local function start_engine(self)
  local options = self.options
  local ok, rt = pcall(testing.start, {
    policy = options.policy,
    seed = options.seed,
    clock = options.clock,
    wall = self._wall,
    offline = options.spool ~= 'policy' and (options.spool or 'temporary') or nil,
    scripted = self._net ~= nil,
    log = options.log or 'warn',
  })
  if not ok then
    return nil, rt
  end
  self._rt = rt
  return true
end

--- Starts an engine with a policy. Raises what was wrong with the policy, with its traceback.
---@async
---@param options kumo.test.Options
---@return kumo.test.Runtime
function test.start(options)
  check_options(options, OPTIONS, 'test.start')
  if type(options.policy) ~= 'string' then
    error("test.start: field 'policy': the path of a file is required", 2)
  end
  local network = options.network or 'scripted'
  if network ~= 'scripted' and network ~= 'real' then
    error(("test.start: field 'network': 'scripted' or 'real' expected, got '%s'"):format(network), 2)
  elseif live[1] then
    error('test.start: the runtime of ' .. live[1].options.policy .. ' is not stopped yet', 2)
  end
  local file, why = io.open(options.policy)
  if not file then
    error('test.start: ' .. why, 2)
  end
  file:close()
  local self = setmetatable({ options = options, _wall = options.wall, _records = {}, _log = {}, _failures = {} }, Runtime)
  local info = debug.getinfo(2, 'Sl')
  self._place = info and ('%s:%d'):format(info.short_src, info.currentline) or options.policy
  if network == 'scripted' then
    self._net = scripted.new()
  end
  live[#live + 1] = self
  local ok, err
  if options.before then
    ok, err = pcall(options.before, self)
    if not ok then
      self:_abandon()
      error(err, 0)
    end
  end
  ok, err = start_engine(self)
  if not ok then
    self:_abandon()
    error(err, 0)
  end
  return self
end

local function forget(self)
  for i = #live, 1, -1 do
    if live[i] == self then
      table.remove(live, i)
    end
  end
end

--- Ends it without asking whether all was well: after a test that failed.
function Runtime:_abandon()
  forget(self)
  if self._rt and not self._stopped then
    self:_collect()
    self._stopped = true
    self._balances, self._table = self._rt:stop(0)
  end
  if self._net then
    self._net:close()
  end
end

function Runtime:_check()
  if self._stopped or not self._rt then
    error('this runtime has been stopped', 3)
  end
  return self._rt
end

--- Ends the engine and fails, naming it, if something was left behind: an address that was not scripted, an answer
--- function that raised, a request without its answer, a handler that runs or waits, a ledger that does not balance. What
--- waits in queues is no fault. A second time does nothing.
---@async
---@param fail? fun(text: string) in place of error()
function Runtime:stop(fail)
  if self._stopped then
    return
  end
  self:_check()
  local found = checks.leftovers(self)
  self:_abandon()
  if not self._balances then
    found[#found + 1] = 'the ledger does not balance:\n' .. self._table
  end
  if #found > 0 then
    local text = ('%s: what was started here left something behind:\n- %s'):format(self._place, table.concat(found, '\n- '))
    if fail then
      fail(text)
    end
    error(text, 0)
  end
end

--- Stops the engine in order and starts it again with the same spool, `after` later: what waits is kept. Needs a spool
--- that outlives the engine: test.start { spool = DIRECTORY }.
---@async
---@param after? number|string
function Runtime:restart(after)
  self:_check()
  local spool = self.options.spool
  if not spool or spool == 'temporary' then
    error('restart: start with spool = DIRECTORY, a temporary spool ends with the engine', 2)
  end
  local now = math.floor(c.wall())
  self:_collect()
  local balances, ledger = self._rt:stop(20)
  if not balances then
    error('restart: the ledger does not balance:\n' .. ledger, 2)
  end
  self._wall = now + 1 + math.floor(seconds(after or 0, 'restart', 2))
  local ok, err = start_engine(self)
  if not ok then
    self._rt = nil
    self:_abandon()
    error(err, 0)
  end
end

-- --- the network ---------------------------------------------------------------------------------------------------

local function network_of(self, what)
  if not self._net then
    error(what .. ": started with network = 'real'", 3)
  end
  return self._net
end

--- An HTTP endpoint: rt:http('http://10.0.0.1:4242/log', answer). The answer is a status, a body, a table, a function of the
--- request that returns one of these, or a list of them (the last one for ever). https is served, too.
---@param url string
---@param answer? any
---@return tr.scripted.Endpoint
function Runtime:http(url, answer)
  return network_of(self, 'http'):http(url, answer)
end

--- An SMTP server: rt:smtp('10.0.0.2:25', answer), rt:smtp('mx.example.org', answer).
---@param at string
---@param answer? any
---@return tr.scripted.Endpoint
function Runtime:smtp(at, answer)
  return network_of(self, 'smtp'):smtp(at, answer)
end

--- Addresses of names: rt:dns { ['mx.example.org'] = '10.0.0.2', ['x.test'] = { '10.0.0.3', '10.0.0.4' } }. A name that was
--- scripted has one of its own without that; `false` says that there is no such name. MX and other records:
--- kumo.dns.configure_test_resolver in the policy.
---@param names table<string, string|string[]|false>
function Runtime:dns(names)
  local net = network_of(self, 'dns')
  local sorted = {}
  for name in pairs(names) do
    sorted[#sorted + 1] = name
  end
  table.sort(sorted)
  for _, name in ipairs(sorted) do
    local addresses = names[name]
    if addresses == false then
      net:no_name(name)
    end
    for _, address in ipairs(type(addresses) == 'table' and addresses or { addresses or nil }) do
      net:name(name, address)
    end
  end
end

for _, protocol in ipairs { 'amqp', 'kafka', 'nats' } do
  Runtime[protocol] = function(self, at, answer)
    local net = network_of(self, protocol)
    return net[protocol](net, at, answer)
  end
end

--- The requests so far, in order: of HTTP endpoints, mails that SMTP servers got the data of, and messages to brokers.
---@param which? string an endpoint as it was scripted, or a protocol
---@return table[]
function Runtime:requests(which)
  return network_of(self, 'requests'):requests(which)
end

-- --- what comes in --------------------------------------------------------------------------------------------------

--- A message comes in. By ESMTP, through the policy's smtp_server_* events, if the policy has an ESMTP listener; else, or
--- with via = 'queue', straight into its queue. Returns its id, or nil and the reply.
---@async
---@param mail kumo.test.Mail
---@return string? id
---@return string? reply
function Runtime:receive(mail)
  local rt = self:_check()
  check_options(mail or {}, client.FIELDS, 'receive')
  return client.receive(rt, self._net, mail or {})
end

--- A log record comes to be, as if it had happened: rt:event { type = 'Delivery', recipient = 'a@example.org' }. Hooks are
--- asked, and local logs written; the mail's own ledger is not touched.
---@async
---@param record kumo.test.Record
function Runtime:event(record)
  local rt = self:_check()
  check_options(record, client.RECORD_FIELDS, 'event')
  client.event(rt, record)
end

-- --- time -----------------------------------------------------------------------------------------------------------

--- Time passes: all that becomes due in it happens, in order, before the call returns.
---@async
---@param duration number|string seconds, or '20m'
function Runtime:advance(duration)
  self:_check():advance(seconds(duration, 'advance', 2))
  self:_collect()
end

--- Everything that is due now happens; no time passes.
---@async
function Runtime:settle()
  self:_check():advance(0)
  self:_collect()
end

--- Time passes until cond() gives something true, which is returned. Fails when `limit` (7 days) is over.
---@async
---@param cond fun(rt: kumo.test.Runtime): any
---@param limit? number|string
---@return any
function Runtime:run_until(cond, limit)
  local rt = self:_check()
  local left = limit and seconds(limit, 'run_until', 2) or LIMIT_S
  local step, first = 0, left
  while true do
    rt:advance(step)
    self:_collect()
    local value = cond(self)
    if value then
      return value
    elseif left <= 0 then
      error(('run_until: not true after %g s\n%s'):format(first, checks.state(self)), 2)
    end
    -- small steps at first, so that the moment is met well; then a hundredth of what has passed
    step = math.min(left, math.max(0.1, (first - left) / 100))
    left = left - step
  end
end

--- Unix seconds of the clock.
function Runtime:now()
  return c.wall()
end

--- The wall clock is set to another time, as by an administrator.
---@param seconds_more number
function Runtime:step_clock(seconds_more)
  self:_check():step_clock(seconds_more)
end

-- --- what has happened ------------------------------------------------------------------------------------------------

--- Takes over what the engine has collected.
function Runtime:_collect()
  for line in self._rt:take_records():gmatch '[^\n]+' do
    self._records[#self._records + 1] = line
  end
  for line in self._rt:take_log():gmatch '[^\n]+' do
    self._log[#self._log + 1] = line
  end
end

--- The log records so far, those about records of hooks, too: their `queue` is the hook's. With a table: those whose fields
--- are equal; with a function: those for which it gives something true.
---@param which? table|fun(record: table): any
---@return table[]
function Runtime:records(which)
  if not self._stopped then
    self:_collect()
  end
  local all = self._records
  for i, line in ipairs(all) do
    if type(line) == 'string' then
      all[i] = checks.decode(line)
    end
  end
  if which == nil then
    return { unpack(all) }
  end
  local found = {}
  for _, record in ipairs(all) do
    local fits = true
    if type(which) == 'function' then
      fits = which(record)
    else
      for key, value in pairs(which) do
        fits = fits and record[key] == value
      end
    end
    if fits then
      found[#found + 1] = record
    end
  end
  return found
end

--- Lines of the log so far, from `log` of test.start on ('warn'); with a pattern: those that match.
---@param pattern? string
---@return string[]
function Runtime:log(pattern)
  if not self._stopped then
    self:_collect()
  end
  local found = {}
  for _, line in ipairs(self._log) do
    if not pattern or line:find(pattern) then
      found[#found + 1] = line
    end
  end
  return found
end

--- What came and what became of it: `mail` and each hook by its name.
---@param account? string
---@return table
function Runtime:ledger(account)
  local ledger = self:_check():ledger()
  if account and not ledger[account] then
    error(('ledger: there is no %q, only %s'):format(account, checks.names(ledger)), 2)
  end
  return account and ledger[account] or ledger
end

--- Counts of all queues: line, timers, ready, in_flight, undecided, parked, sessions.
function Runtime:figures()
  return self:_check():figures()
end

--- A scheduled queue: its name, size and messages with their attempts and due times. nil: there is no such queue now.
---@async
---@param name string
---@return kumo.test.Queue?
function Runtime:queue(name)
  return checks.queue(self:_check(), name)
end

--- Runs code in the policy's Lua state; it may wait. What it returns must fit into JSON.
---@async
---@param code string
---@return any
function Runtime:eval(code)
  return self:_check():eval(code)
end

--- Everything that happened, as one text: records, requests, log. Two runs with the same seed have the same.
---@return string
function Runtime:transcript()
  return checks.transcript(self)
end

-- --- for `tailrace test` --------------------------------------------------------------------------------------------------

--- At the end of a test: stops what runs, and raises what was left behind.
---@async
---@param fail? fun(text: string)
function test.finish(fail)
  while live[1] do
    live[1]:stop(fail)
  end
end

--- After a test that failed: stops what runs, quietly.
---@async
function test.abandon()
  while live[1] do
    live[1]:_abandon()
  end
end

checks.register()

return test
