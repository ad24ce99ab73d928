--- Sends a record or a mail through the whole flow at the prompt and shows each step: what handlers answer, the queue and its
--- configuration, the path, the connection, what goes over the wire, the outcome. The transports are the production ones; in
--- dry mode a script plays the network (lua/scripted.lua).
local host = require 'tr.host'
local core = require 'tr.repl'
local server = require 'tr.http_server'
local show = host.internal 'repl.show'
local commands = host.internal 'repl.commands'
local build = host.internal 'repl.build'
local wire = host.internal 'scripted.wire'
local c = host.c
local fail = commands.fail

local MAX_LINES = 400 -- of one :send
local MAX_WIRE = 4000 -- bytes of one piece
local MAX_REQUESTS = 50 -- of one :advance
local MAX_STEPS = 1200 -- of STEP_S: how long :send lets things happen
local STEP_S = 0.05

---@class tr.repl.Flow
---@field session tr.repl.Session
---@field network? tr.scripted.Network  nil: the real one
---@field answers table                 of :dry
---@field current? table                { kind = 'record', fields } or { kind = 'mail', from, to, data }
local Flow = {}
Flow.__index = Flow
Flow.make_message, Flow.arguments = build.make_message, build.arguments

-- --- lines of the trace --------------------------------------------------------------------------------------------------

function Flow:line(kind, text)
  self.lines = (self.lines or 0) + 1
  if self.lines == MAX_LINES then
    self.session:say(self.session:paint('dim', '... more is not shown'))
  end
  if self.lines >= MAX_LINES then
    return
  end
  local session = self.session
  local narrow = session.width < 60
  local pad = (' '):rep(narrow and 2 or 14)
  text = session.terminal and show.wrapped(text, session.width - #pad - 1, pad) or text:gsub('\n', '\n' .. pad)
  session:say(session:paint('head', narrow and kind .. ':\n  ' or ('%-13s '):format(kind)), text)
end

function Flow:brief(value, width)
  local text = show.value(value, { width = 10000 })
  if #text > (width or 300) then
    text = text:sub(1, (width or 300)):gsub('[\128-\191]*$', ''):gsub('[\192-\255]$', '') .. ' ...'
  end
  return text
end

-- --- the wire ---------------------------------------------------------------------------------------------------------------

local listening -- the flow that wants to see what goes over the wire
local raw_new = wire.new

local Tap = {} -- in the place of a connection: tells what it reads and writes
Tap.__index = Tap

function Tap:told(mark, bytes)
  if not listening then
    return
  end
  local text = show.plain(bytes:sub(1, MAX_WIRE)):gsub('\\x0d\n', '\n'):gsub('\\x0d$', ''):gsub('\n$', '')
  local lines = {}
  for line in (text .. '\n'):gmatch '(.-)\n' do
    lines[#lines + 1] = mark .. ' ' .. line
  end
  if #bytes > MAX_WIRE then
    lines[#lines + 1] = ('%s ... %s more bytes'):format(mark, show.with_commas(#bytes - MAX_WIRE))
  end
  if not self.shown then
    self.shown = true
    listening:line('connection', ('to %s, played by the script'):format(self.address))
  end
  listening:line('wire', table.concat(lines, '\n'))
end

function Tap:read(...)
  local bytes, why = self.conn:read(...)
  if bytes then
    self:told('>', bytes)
  end
  return bytes, why
end

function Tap:write(bytes)
  self:told('<', bytes)
  return self.conn:write(bytes)
end

for _, name in ipairs { 'close', 'reset', 'client' } do
  Tap[name] = function(self, ...)
    return self.conn[name](self.conn, ...)
  end
end

function wire.new(conn, address)
  return raw_new(setmetatable({ conn = conn, address = address }, Tap), address)
end

--- The network is played by a script from now on: HTTP answers 200, SMTP 250, others take what they get, unless `answers`
--- say otherwise.
function Flow:go_dry(answers)
  if self.network then
    self.network:close()
  end
  self.answers, self.turns = answers, {}
  self.network = host.internal('scripted').new()
  self.network:answer_all { http = answers.http, smtp = answers.smtp }
end

function Flow:go_live()
  if self.network then
    self.network:close()
    self.network = nil
    core.set_live(true)
  end
end

-- --- what handlers, connections and sessions do --------------------------------------------------------------------------------

local function pack(...)
  return { n = select('#', ...), ... }
end

function Flow:arguments_text(args)
  local parts = {}
  for i = 1, args.n do
    parts[i] = self:brief(args[i], 160)
  end
  return table.concat(parts, ', ')
end

--- A connection object in a word; nil: it is none.
function Flow:connection_text(value)
  if type(value) ~= 'table' or (rawget(value, 'send') == nil and rawget(value, 'send_batch') == nil) then
    return nil
  end
  local names = {}
  for name in pairs(value) do
    names[#names + 1] = show.plain(tostring(name))
  end
  table.sort(names)
  return ('a connection with %s'):format(table.concat(names, ', '))
end

--- fn, and what it gets and gives is told. `after` sees the results.
function Flow:tapped(kind, label, fn, after)
  local flow = self
  return function(...)
    local args = pack(...)
    if kind == 'connection' then -- a method: the object says nothing
      args = pack(select(2, ...))
    end
    flow:line(kind, ('%s(%s)'):format(label, flow:arguments_text(args)))
    local results = pack(host.raw_xpcall(fn, function(err)
      if not rawequal(err, c.CANCELLED) then
        local info = debug.getinfo(2, 'Sl')
        local at = info and info.currentline > 0 and (' at %s:%d'):format(info.short_src, info.currentline) or ''
        flow:line(kind, show.plain(('  raised%s: %s'):format(type(err) == 'string' and '' or at,
          type(err) == 'string' and err:sub(1, 2000) or flow:brief(err))))
      end
      return err
    end, ...))
    if not results[1] then
      error(results[2], 0)
    end
    local text = results.n == 1 and 'no value' or nil
    if not text then
      local parts = {}
      for i = 2, results.n do
        parts[i - 1] = flow:connection_text(results[i]) or flow:brief(results[i], 400)
      end
      text = table.concat(parts, ', ')
    end
    flow:line(kind, '  -> ' .. text)
    if after then
      after(flow, results, ...)
    end
    return unpack(results, 2, results.n)
  end
end

local function after_decision(flow, results, msg)
  if results[2] == true then
    local ok, queue = pcall(msg.get_meta, msg, 'queue')
    if ok and queue then
      flow:line('queue', show.plain(tostring(queue)))
    end
  end
end

local function after_constructor(flow, results)
  local conn = results[2]
  if type(conn) ~= 'table' then
    return
  end
  for _, name in ipairs { 'send', 'send_batch' } do
    local fn = conn[name]
    if type(fn) == 'function' then
      rawset(conn, name, flow:tapped('connection', name, fn))
    end
  end
end

local function methods_of(name)
  local meta = debug.getregistry()[name]
  return type(meta) == 'table' and rawget(meta, '__index') or nil
end

--- Everything that is told is set, and taken back when fn has ended, however it did.
function Flow:traced(fn, ...)
  local flow, undo = self, {}
  local function replace(object, key, value)
    local old = rawget(object, key)
    undo[#undo + 1] = function()
      rawset(object, key, old)
    end
    rawset(object, key, value)
  end
  for _, name in ipairs(host.handler_names()) do
    local list = host.handlers_of(name)
    for i, handler in ipairs(list) do
      local after = name == 'should_enqueue_log_record' and after_decision or not name:find '^get_' and after_constructor or nil
      local asks = name ~= 'should_enqueue_log_record' and handler or function(...)
        flow.asked = true -- also when it raises
        return handler(...)
      end
      replace(list, i, self:tapped('event', name .. ' ' .. show.place(handler) .. '\n  ', asks, after))
    end
  end
  local session = methods_of 'tr.session'
  for _, name in ipairs { 'report', 'requeue', 'connect_failed', 'delivered' } do
    local raw = session and rawget(session, name)
    if raw then
      replace(session, name, function(s, first, second, third, ...)
        if name == 'report' then
          flow:line('outcome', show.plain(('%s: %s %s'):format(tostring(first), tostring(second), tostring(third))))
        elseif name == 'requeue' then
          flow:line('outcome', show.plain('not tried, back into the queue: ' .. tostring(first)))
        elseif name == 'connect_failed' then
          flow:line('connection', show.plain('failed: ' .. tostring(second)))
        end
        local results = pack(raw(s, first, second, third, ...))
        if name == 'delivered' and results[1] then
          flow:line('outcome', show.plain('delivered: ' .. tostring(first)))
        end
        return unpack(results, 1, results.n)
      end)
    end
  end
  local config = session and rawget(session, 'config')
  if config then
    replace(session, 'config', function(s)
      local result = config(s)
      local domain, tenant, campaign = s:feeding()
      local name = (campaign and campaign .. ':' or '') .. (tenant and tenant .. '@' or '') .. tostring(domain)
      flow.queues[name] = true
      local size = result.batch_size > 1 and ('batches of %d to %d'):format(result.min_batch_size, result.batch_size)
        or ('at most %d deliveries'):format(result.max_deliveries)
      flow:line('session', show.plain(('of %s by %s, %s, idle for at most %g s'):format(name,
        result.constructor or result.protocol, size, result.idle_timeout_s)))
      return result
    end)
  end
  listening, self.lines, self.tracing, self.queues = self, 0, true, {}
  local results = pack(host.try(fn, ...))
  listening, self.tracing = nil, false
  for i = #undo, 1, -1 do
    undo[i]()
  end
  if not results[1] then
    error(results[2], 0)
  end
  return unpack(results, 2, results.n)
end

local function ledger()
  return require('kumo').serde.json_parse(server.ledger())
end

local COLUMNS = { 'offered', 'filtered', 'accepted', 'delivered', 'bounced', 'dead', 'dropped', 'expired', 'waiting' }

function Flow:tell_ledger(before)
  local after, names = ledger(), {}
  for name in pairs(after) do
    names[#names + 1] = name
  end
  table.sort(names)
  for _, name in ipairs(names) do
    local parts = {}
    for _, column in ipairs(COLUMNS) do
      local was = before[name] and before[name][column] or 0
      local change = (tonumber(after[name][column]) or 0) - (tonumber(was) or 0)
      if change ~= 0 then
        parts[#parts + 1] = ('%s %+d'):format(column, change)
      end
    end
    if #parts > 0 then
      self:line('ledger', ('%s: %s'):format(show.plain(name), table.concat(parts, ', ')))
    end
  end
end

--- Lets happen what can happen without waiting for a retry.
function Flow:settle()
  local kumo = require 'kumo'
  for _ = 1, MAX_STEPS do
    kumo.sleep(STEP_S)
    local figures = core.figures()
    if figures.line + figures.ready + figures.in_flight + figures.undecided == 0 then
      return
    end
  end
  self:line('note', 'something still waits for its turn; :queues and :why tell more')
end

--- Time passes in fn; requests and outcomes are told, a line each.
function Flow:watch(fn)
  local before = ledger()
  local network, requests = self.network, 0
  local function tell(what)
    requests = requests + 1
    if requests <= MAX_REQUESTS then
      self:line(os.date('!%H:%M:%S', os.time()), show.plain(what))
    end
  end
  if network then
    network.on_request = function(request)
      tell(request.protocol == 'http' and ('%s %s'):format(request.method, request.url)
        or ('mail from <%s> to %s'):format(tostring(request.from), request.address))
    end
  end
  self.lines, self.on_message = 0, tell
  local ok, err = host.try(fn)
  self.on_message = nil
  if network then
    network.on_request = nil
  end
  if not ok then
    error(err, 0)
  end
  if requests > MAX_REQUESTS then
    self:line('', ('... %s more requests'):format(show.with_commas(requests - MAX_REQUESTS)))
  end
  self:tell_ledger(before)
end

-- --- :send ---------------------------------------------------------------------------------------------------------------------

function Flow:send_record()
  local fields = self.current.fields
  self:line('record', show.plain(('%s of <%s>'):format(fields.type, fields.recipient)))
  self.asked = false
  local ok, err = core.emit(fields)
  if not ok then
    fail('the record could not be stored: %s', err)
  elseif not self.asked then
    self:line('filter', 'none was asked: a hook without one takes each record that it logs, into its own queue')
  end
end

function Flow:send_mail()
  local msg, mail = self:make_message()
  self:line('mail', show.plain(('from <%s> to <%s>'):format(mail.from, mail.to)))
  local name = 'smtp_server_message_received'
  if host.has_handler(name) then
    local ok, err = pcall(host.dispatch, name, msg, build.new_conn())
    if not ok then
      self:line('refused', type(err) == 'userdata' and 'the client is told: ' .. show.plain(tostring(err))
        or 'the client is told 421 or 451; the error is logged')
      return
    end
  end
  local ok, queue = pcall(msg.queue_name, msg)
  self:line('queue', show.plain(ok and tostring(queue) or 'none: ' .. tostring(queue)))
  local results, err = server.receive({ msg }, '192.0.2.1')
  if not results then
    fail('it could not be stored: %s', err)
  end
  local result = results[1]
  self:line('received', result.error and show.plain('refused: ' .. result.error)
    or result.dropped and 'dropped: the queue is null' or 'stored, its id is ' .. result.id)
end

--- The paths that sessions were opened for.
function Flow:tell_paths()
  local names = {}
  for name in pairs(self.queues) do
    names[#names + 1] = name
  end
  table.sort(names)
  for _, name in ipairs(names) do
    local answer = host.internal('admin').why(name)
    for _, ready in ipairs(answer and require('kumo').serde.json_parse(answer).ready_queues or {}) do
      self:line('path', show.plain(('%s: %d of at most %d connections'):format(ready.name, ready.connections,
        ready.connection_limit)))
    end
  end
end

--- What waits after it, with its due time.
function Flow:tell_waiting()
  local figures = core.figures()
  if figures.timers > 0 then
    self:line('waiting', ('%d on timers, to be tried again; :queues shows them'):format(figures.timers))
  end
  if figures.parked > 0 then
    self:line('parked', ('%d records, because a handler raised'):format(figures.parked))
  end
end

commands.command {
  name = ':send',
  about = 'push the record or the mail through the whole flow and show each step',
  where = 'local',
  run = function(session)
    local flow = session.flow
    if not flow.current then
      fail 'there is nothing to send: :record {...} or :mail FILE.eml first'
    end
    local before = ledger()
    flow:traced(function()
      if flow.current.kind == 'record' then
        flow:send_record()
      else
        flow:send_mail()
      end
      flow:settle()
    end)
    flow:tell_paths()
    flow:tell_ledger(before)
    flow:tell_waiting()
  end,
}

commands.command {
  name = ':dry',
  args = '[{http = 503, smtp = 451, kafka = "down"}]',
  about = 'a script plays the network: HTTP answers 200, SMTP 250, or what is said here (docs/repl.md)',
  where = 'local',
  run = function(session, args)
    local answers = args ~= '' and commands.evaluate(session, args, 'a table')() or {}
    if type(answers) ~= 'table' then
      fail('a table expected, got a %s', type(answers))
    end
    build.check_fields(':dry', answers, { http = '*', smtp = '*', kafka = '*', amqp = '*', nats = '*' })
    if not session.flow.network then
      fail 'connections to the real network may be open still: :reload goes back, with empty queues'
    end
    session.flow:go_dry(answers)
    session:say(session:paint('note', 'dry: '), 'nothing leaves this process')
  end,
}

commands.command {
  name = ':live',
  about = 'the real network: what is sent is sent',
  where = 'local',
  run = function(session)
    session.flow:go_live()
    session:say(session:paint('error', 'live: '), 'what is sent now is sent; :reload goes back to the script')
  end,
}

local flow = {}

--- A new flow, dry.
function flow.new(session)
  local self = setmetatable({ session = session }, Flow)
  self:go_dry {}
  host.internal('repl.doubles').install(self)
  return self
end

return flow
