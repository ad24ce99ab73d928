--- What a runtime under test shows: states as text, leftovers, assertions. Used by lua/kumo/test.lua.

local checks = {}

local COLUMNS = {
  'offered',
  'filtered',
  'accepted',
  'moved_in',
  'delivered',
  'bounced',
  'dead',
  'dropped',
  'expired',
  'moved_out',
  'waiting',
}
local MANY = 20 -- lines of a list that a failure shows
local ID = ('%x'):rep(12) .. '+' -- of records and messages; a line may be cut in one

function checks.decode(line)
  return require('kumo').serde.json_parse(line)
end

function checks.names(map)
  local names = {}
  for name in pairs(map) do
    names[#names + 1] = name
  end
  table.sort(names)
  return table.concat(names, ', ')
end

--- Bytes of data for a terminal: control characters never reach it raw.
local function show(text, max)
  text = tostring(text):gsub('[%c\127]', function(char)
    return char == '\n' and '\\n' or char == '\r' and '\\r' or char == '\t' and '\\t' or ('\\x%02x'):format(char:byte())
  end)
  return #text > max and text:sub(1, max) .. '...' or text
end

local function moment(seconds)
  return os.date('!%Y-%m-%d %H:%M:%S', math.floor(seconds)) .. ('.%03d'):format(math.floor(seconds % 1 * 1000))
end

--- A request in one line.
function checks.request_line(request)
  local what
  if request.protocol == 'http' then
    what = ('%s %s -> %s'):format(request.method, request.url, request.status or request.answered or 'no answer')
  elseif request.protocol == 'smtp' then
    what = ('MAIL %s RCPT %s -> %s'):format(request.from, table.concat(request.to, ','), request.code or 'no answer')
  else
    what = ('%s %s -> %s'):format(request.protocol, request.target or request.address or '', request.outcome or 'no answer')
  end
  return ('%s %s: %s'):format(moment(request.at), show(what, 160), show(request.body or '', 100))
end

--- Lines of one moment that differ in nothing but ids are one line with a count.
local function add_list(out, title, list, line_of)
  out[#out + 1] = ('%s: %d'):format(title, #list)
  local lines, counts, at = {}, {}, {}
  for _, entry in ipairs(list) do
    local line = line_of(entry)
    local key = line:gsub(ID, '')
    local i = at[key]
    if not i then
      i = #lines + 1
      lines[i], counts[i], at[key] = line, 0, i
    end
    counts[i] = counts[i] + 1
  end
  local shown = 0
  for i = 1, math.min(#lines, MANY) do
    shown = shown + counts[i]
    out[#out + 1] = '  ' .. lines[i] .. (counts[i] > 1 and (' (%d times)'):format(counts[i]) or '')
  end
  if shown < #list then
    out[#out + 1] = ('  ... and %d more'):format(#list - shown)
  end
end

function checks.ledger_text(ledger)
  local out, names = {}, {}
  for name in pairs(ledger) do
    names[#names + 1] = name
  end
  table.sort(names)
  for _, name in ipairs(names) do
    local parts = {}
    for _, column in ipairs(COLUMNS) do
      local count = ledger[name][column]
      if count and count ~= 0 then
        parts[#parts + 1] = column .. ' ' .. count
      end
    end
    out[#out + 1] = ('  %s: %s'):format(name, #parts > 0 and table.concat(parts, ', ') or 'nothing')
  end
  return table.concat(out, '\n')
end

--- The state of a runtime, for a failure's message.
function checks.state(self)
  local out = { 'ledger:', checks.ledger_text(self._rt:ledger()) }
  local strays = self._net and self._net:strays() or {}
  if strays[1] then
    add_list(out, 'not scripted', strays, function(stray)
      return show(stray, 200)
    end)
  end
  if self._net then
    add_list(out, 'requests', self._net:requests(), checks.request_line)
  end
  local log = self:log()
  if #log > 0 then
    add_list(out, 'log', log, function(line)
      return show(line, 300)
    end)
  end
  return table.concat(out, '\n')
end

-- --- what a test leaves behind ------------------------------------------------------------------------------------------

--- What of the policy's tasks is not a session that waits for work.
local function busy_tasks(text)
  local busy = {}
  for line in text:gmatch '[^\n]+' do
    if line:match '^waiting event=' or line:match '^running event=' then
      if not line:find('event=eval ', 1, true) and not line:find ' for work$' then
        busy[#busy + 1] = line
      end
    end
  end
  return busy
end

---@return string[]
function checks.leftovers(self)
  local found = {}
  local net = self._net
  if net then
    for _, stray in ipairs(net:strays()) do
      found[#found + 1] = ('not scripted: %s'):format(show(stray, 200))
    end
    for _, err in ipairs(net:errors()) do
      found[#found + 1] = err
    end
    for _, endpoint in ipairs(net:endpoints()) do
      if endpoint.waiting > 0 then
        found[#found + 1] = ('%s: %d requests without an answer yet'):format(endpoint.name, endpoint.waiting)
      end
    end
  end
  for _, line in ipairs(busy_tasks(self._rt:tasks())) do
    found[#found + 1] = 'a handler has not ended: ' .. show(line, 300)
  end
  local balances, differences = self._rt:balances()
  if not balances then
    found[#found + 1] = 'the ledger does not balance:\n' .. differences
  end
  return found
end

-- --- queues ---------------------------------------------------------------------------------------------------------------

function checks.queue(rt, name)
  local text = rt:eval(("return require('tr.http_server').inspect('sched', %q, 1000, false)"):format(name))
  if not text then
    return nil
  end
  return checks.decode(text)
end

-- --- the transcript ---------------------------------------------------------------------------------------------------------

local function plain(value, indent)
  if type(value) ~= 'table' then
    return type(value) == 'string' and ('%q'):format(value) or tostring(value)
  end
  local keys, out = {}, {}
  for key in pairs(value) do
    keys[#keys + 1] = key
  end
  table.sort(keys, function(a, b)
    return tostring(a) < tostring(b)
  end)
  for _, key in ipairs(keys) do
    out[#out + 1] = ('%s%s = %s'):format(indent, tostring(key), plain(value[key], indent .. '  '))
  end
  return '\n' .. table.concat(out, '\n')
end

function checks.transcript(self)
  local out = {}
  for _, record in ipairs(self:records()) do
    out[#out + 1] = 'record' .. plain(record, '  ')
  end
  if self._net then
    for _, request in ipairs(self._net:requests()) do
      out[#out + 1] = 'request' .. plain(request, '  ')
    end
  end
  for _, line in ipairs(self:log()) do
    out[#out + 1] = 'log ' .. line
  end
  return table.concat(out, '\n') .. '\n'
end

-- --- assertions ---------------------------------------------------------------------------------------------------------------

local function fail(state, text, self)
  state.failure_message = text .. '\n' .. checks.state(self)
  return false
end

local function is_runtime(value)
  return type(value) == 'table' and rawget(value, '_failures') ~= nil
end

local function runtime_of(arguments, name)
  if not is_runtime(arguments[1]) then
    error(('assert.%s: a runtime of test.start expected, got %s'):format(name, type(arguments[1])), 4)
  end
  return arguments[1]
end

--- assert.delivered(rt, 'webhook', 3) and its like: a column of the ledger.
local function column_assertion(column)
  return function(state, arguments)
    local rt = runtime_of(arguments, column)
    local account, expected = arguments[2], arguments[3]
    local ledger = rt:ledger()
    if not ledger[account] then
      return fail(state, ('there is no account %q in the ledger, only %s'):format(tostring(account), checks.names(ledger)), rt)
    end
    local count = ledger[account][column] or 0
    if expected == nil and count > 0 or expected == count then
      return true
    end
    return fail(
      state,
      ('%s %s: expected %s, got %d'):format(account, column, expected == nil and 'some' or tostring(expected), count),
      rt
    )
  end
end

local function is_of(record, account)
  if account == 'mail' then
    return record.reception_protocol ~= 'LogRecord'
  end
  return record.reception_protocol == 'LogRecord' and (record.queue == account or record.queue == account .. '.log_hook')
end

--- assert.requeued(rt, 'webhook', 2): attempts that failed for now.
local function requeued(state, arguments)
  local rt = runtime_of(arguments, 'requeued')
  local account, expected = arguments[2], arguments[3]
  local found = rt:records(function(record)
    return record.type == 'TransientFailure' and is_of(record, account)
  end)
  if expected == nil and #found > 0 or expected == #found then
    return true
  end
  return fail(
    state,
    ('%s requeued: expected %s, got %d'):format(account, expected == nil and 'some' or tostring(expected), #found),
    rt
  )
end

local function ledger_balances(state, arguments)
  local rt = runtime_of(arguments, 'ledger_balances')
  local balances, differences = rt._rt:balances()
  return balances or fail(state, 'the ledger does not balance: ' .. differences, rt)
end

--- assert.requested(rt, 'http://10.0.0.1:4242/log', 3)
local function requested(state, arguments)
  local rt = runtime_of(arguments, 'requested')
  local which, expected = arguments[2], arguments[3]
  local count = #rt:requests(which)
  if expected == nil and count > 0 or expected == count then
    return true
  end
  return fail(state, ('requests to %s: expected %s, got %d'):format(tostring(which), tostring(expected or 'some'), count), rt)
end

--- Tells luassert, if it is there.
function checks.register()
  local found, luassert = pcall(require, 'luassert')
  if not found then
    return
  end
  local say = require 'say'
  say:set('assertion.kumo_test.negative', 'It was expected not to be so.')
  for _, column in ipairs { 'delivered', 'bounced', 'expired', 'dead', 'dropped', 'waiting', 'accepted', 'filtered' } do
    luassert:register('assertion', column, column_assertion(column), nil, 'assertion.kumo_test.negative')
  end
  for name, fn in pairs { requeued = requeued, ledger_balances = ledger_balances, requested = requested } do
    luassert:register('assertion', name, fn, nil, 'assertion.kumo_test.negative')
  end
  luassert:add_formatter(function(value)
    if is_runtime(value) then
      return '(the runtime of ' .. value.options.policy .. ')'
    end
  end)
end

return checks
