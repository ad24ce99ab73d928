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

---@class kumo.test.Options
---@field policy string                  the file; unchanged, as it runs in production
---@field clock? 'virtual'|'real'        default virtual: time passes only while the test waits, and then at once
---@field seed? integer                  of jitter and ids, default 1: the same seed, the same run
---@field wall? integer                  unix seconds at the start, default 1785000000 (2026-07-25 17:20 UTC)
---@field spool? string                  'temporary' (default): gone with the engine; a directory: kept; 'policy': what it defines
---@field network? 'scripted'|'real'     default scripted: what was not scripted is refused, and fails the test
---@field before? fun(rt: kumo.test.Runtime)  scripts what the policy asks while it is loaded
---@field log? 'error'|'warn'|'info'|'debug'|'trace'  what rt:log() keeps, default warn

---@class kumo.test.Mail
---@field from? string                   default sender@example.com
---@field to? string|string[]            default rcpt@example.org
---@field headers? table<string, string> or a list of lines; default Subject: test
---@field body? string
---@field data? string                   header and body, in place of both
---@field client? string                 address that it comes from, default 127.0.0.1
---@field ehlo? string                   default client.example.com
---@field listener? string               "ip:port" of the policy's, if it has several
---@field via? 'queue'                   past the listener and its events
---@field meta? table<string, string>    with via = 'queue'

---@class kumo.test.Record
---@field type? string                   default Delivery
---@field recipient? string|string[]     default rcpt@example.org
---@field sender? string
---@field headers? table<string, string>
---@field body? string
---@field meta? table<string, string>
---@field queue? string                  default the recipient's domain
---@field site? string
---@field response? { code: integer, content?: string, command?: string }  default what goes with the type
---@field num_attempts? integer          default 0
---@field peer_address? { name: string, addr: string }
---@field egress_pool? string
---@field egress_source? string
---@field source_address? string
---@field delivery_protocol? string      default ESMTP
---@field provider_name? string

---@class kumo.test.Endpoint what rt:http() and its like return
---@field count integer                  requests so far
---@field waiting integer                those whose answer is not out yet
---@field set fun(self: kumo.test.Endpoint, answer: any)  answers from now on with something else

---@class kumo.test.Request
---@field protocol 'http'|'smtp'|'amqp'|'kafka'|'nats'
---@field n integer                      its number in the test
---@field at number                      unix seconds
---@field endpoint? string               as it was scripted; nil: nothing was there
---@field body string
---@field headers? table<string, string> HTTP: names in lower case
---@field method? string                 HTTP
---@field url? string                    HTTP
---@field path? string                   HTTP
---@field query? string                  HTTP
---@field status? integer                HTTP: what it was answered
---@field from? string                   SMTP
---@field to? string[]                   SMTP: the recipients that were accepted
---@field data? string                   SMTP: header and body
---@field code? integer                  SMTP: what the data was answered
---@field target? string                 brokers: topic, subject, or "exchange/routing key"
---@field key? string                    Kafka
---@field outcome? string                brokers: 'taken', or the error
---@field json fun(self: kumo.test.Request): any            the body as JSON; not of SMTP
---@field lines fun(self: kumo.test.Request): string[]      the lines of the body; not of SMTP
---@field header fun(self: kumo.test.Request, name: string): string?  SMTP: a header's value

---@class kumo.test.Queue
---@field queue_name string
---@field num_scheduled integer          messages that wait for their time
---@field messages { id: string, due: string, num_attempts: integer, message: table }[]
---@field queue_config table

---@class kumo.test.Runtime an engine under test
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

local function running(self)
  if self._stopped or not self._rt then
    error('this runtime has been stopped', 3)
  end
  return self._rt
end

-- Takes over what the engine has collected.
local function collect(self)
  self._rt:take_records(self._records)
  self._rt:take_log(self._log)
end

local function forget(self)
  for i = #live, 1, -1 do
    if live[i] == self then
      table.remove(live, i)
    end
  end
end

-- Ends it without asking whether all was well: after a test that failed.
local function abandon(self)
  forget(self)
  if self._rt and not self._stopped then
    collect(self)
    self._stopped = true
    self._balances, self._table = self._rt:stop(0)
  end
  if self._net then
    self._net:close()
  end
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
      abandon(self)
      error(err, 0)
    end
  end
  ok, err = start_engine(self)
  if not ok then
    abandon(self)
    error(err, 0)
  end
  return self
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
  running(self)
  local found = checks.leftovers(self)
  abandon(self)
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
  running(self)
  local spool = self.options.spool
  if not spool or spool == 'temporary' then
    error('restart: start with spool = DIRECTORY, a temporary spool ends with the engine', 2)
  end
  local now = math.floor(c.wall())
  collect(self)
  local balances, ledger = self._rt:stop(20)
  if not balances then
    error('restart: the ledger does not balance:\n' .. ledger, 2)
  end
  self._wall = now + 1 + math.floor(seconds(after or 0, 'restart', 2))
  local ok, err = start_engine(self)
  if not ok then
    self._rt = nil
    abandon(self)
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
---@return kumo.test.Endpoint
function Runtime:http(url, answer)
  return network_of(self, 'http'):http(url, answer)
end

--- An SMTP server: rt:smtp('10.0.0.2:25', answer), rt:smtp('mx.example.org', answer).
---@param at string
---@param answer? any
---@return kumo.test.Endpoint
function Runtime:smtp(at, answer)
  return network_of(self, 'smtp'):smtp(at, answer)
end

--- Addresses of names: rt:dns { ['mx.example.org'] = '10.0.0.2', ['x.test'] = { '10.0.0.3', '10.0.0.4' } }. A name that was
--- scripted has one of its own without that; `false` says that there is no such name. A text is a zone, with MX and other
--- records: rt:dns [[example.org. MX 10 mx1.example.org.]].
---@param names string|table<string, string|string[]|false>
function Runtime:dns(names)
  local net = network_of(self, 'dns')
  if type(names) == 'string' then
    net:zone(names)
    return
  end
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

--- A RabbitMQ broker: rt:amqp('10.0.0.5', answer), port 5672. The answer is true, an error text, a table
--- `{ error =, permanent =, delay =, reset =, hang = }`, a function of the message, or a list of these.
---@param at string
---@param answer? any
---@return kumo.test.Endpoint
function Runtime:amqp(at, answer)
  return network_of(self, 'amqp'):amqp(at, answer)
end

--- A Kafka broker, port 9092; the first of a producer's list is the one that is asked. Answers as of amqp.
---@param at string
---@param answer? any
---@return kumo.test.Endpoint
function Runtime:kafka(at, answer)
  return network_of(self, 'kafka'):kafka(at, answer)
end

--- A NATS server, port 4222; the first of a client's list is the one that is asked. Answers as of amqp.
---@param at string
---@param answer? any
---@return kumo.test.Endpoint
function Runtime:nats(at, answer)
  return network_of(self, 'nats'):nats(at, answer)
end

--- The requests so far, in order: of HTTP endpoints, mails that SMTP servers got the data of, and messages to brokers.
---@param which? string an endpoint as it was scripted, or a protocol
---@return kumo.test.Request[]
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
  local rt = running(self)
  check_options(mail or {}, client.FIELDS, 'receive')
  return client.receive(rt, self._net, mail or {})
end

--- A log record comes to be, as if it had happened: rt:event { type = 'Delivery', recipient = 'a@example.org' }. Hooks are
--- asked, and local logs written; the mail's own ledger is not touched.
---@async
---@param record kumo.test.Record
function Runtime:event(record)
  local rt = running(self)
  check_options(record, client.RECORD_FIELDS, 'event')
  client.event(rt, record)
end

-- --- time -----------------------------------------------------------------------------------------------------------

--- Time passes: all that becomes due in it happens, in order, before the call returns.
---@async
---@param duration number|string seconds, or '20m'
function Runtime:advance(duration)
  running(self):advance(seconds(duration, 'advance', 2))
  collect(self)
end

--- Everything that is due now happens; no time passes.
---@async
function Runtime:settle()
  running(self):advance(0)
  collect(self)
end

--- Time passes until cond() gives something true, which is returned. Fails when `limit` (7 days) is over.
---@async
---@param cond fun(rt: kumo.test.Runtime): any
---@param limit? number|string
---@return any
function Runtime:run_until(cond, limit)
  local rt = running(self)
  local left = limit and seconds(limit, 'run_until', 2) or LIMIT_S
  local step, first = 0, left
  while true do
    rt:advance(step)
    collect(self)
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
---@return number
function Runtime:now()
  return c.wall()
end

--- The wall clock is set to another time, as by an administrator.
---@param seconds_more number
function Runtime:step_clock(seconds_more)
  running(self):step_clock(seconds_more)
end

-- --- what has happened ------------------------------------------------------------------------------------------------

--- The log records so far, those about records of hooks, too: their `queue` is the hook's. With a table: those whose fields
--- are equal; with a function: those for which it gives something true.
---@param which? table|fun(record: table): any
---@return table[]
function Runtime:records(which)
  if not self._stopped then
    collect(self)
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
    collect(self)
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
  local ledger = running(self):ledger()
  if account and not ledger[account] then
    error(('ledger: there is no %q, only %s'):format(account, checks.names(ledger)), 2)
  end
  return account and ledger[account] or ledger
end

--- Counts of all queues: line, timers, ready, in_flight, undecided, parked, sessions.
---@return table<string, integer>
function Runtime:figures()
  return running(self):figures()
end

--- A scheduled queue: its name, size and messages with their attempts and due times. nil: there is no such queue now.
---@async
---@param name string
---@return kumo.test.Queue?
function Runtime:queue(name)
  return checks.queue(running(self), name)
end

--- Runs code in the policy's Lua state; it may wait. What it returns must fit into JSON.
---@async
---@param code string
---@return any
function Runtime:eval(code)
  return running(self):eval(code)
end

--- Everything that happened, as one text: records, requests, log. Two runs with the same seed have the same.
---@return string
function Runtime:transcript()
  return checks.transcript(self)
end

-- --- the end of a test --------------------------------------------------------------------------------------------------

-- At the end of a test: stops what runs, and raises what was left behind.
function test._finish(fail)
  while live[1] do
    live[1]:stop(fail)
  end
end

--- Stops what runs, without asking whether all was well: for after_each, where `tailrace test` does not do it.
---@async
function test.stop_all()
  while live[1] do
    abandon(live[1])
  end
end

checks.register()

return test
