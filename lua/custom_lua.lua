--- Protocol `custom_lua` of the session loop: a connection object of the policy, and the outcomes of what it was given.
--- Source: contract events.md section 7, log-hooks.md; one outcome a message and bisection: docs/compatibility.md.
local error_text = require 'error_text'
local host = require 'tr.host'
local outcome = require 'outcome'
local queue = require 'tr.session'
local session = host.internal 'session'

local raw_xpcall, CANCELLED = host.raw_xpcall, host.CANCELLED
local rawequal = rawequal
local mono, utf8_valid = host.c.mono, host.c.utf8_valid
local INTERNAL, MAX_TEXT = error_text.INTERNAL, error_text.MAX_TEXT
local one_line, refused = error_text.one_line, error_text.is_refused

local TRACES_S = 60 -- at most one traceback a minute for a constructor: an outage is no news
local traced, untold = {}, {} -- constructor -> when the last one was logged, failures since
local trace -- of the error that keep_trace saw last

local function keep_trace(err)
  trace = type(err) == 'string' and debug.traceback('', 2) or nil
  if trace and rawequal(err, host.inner_error) then
    trace = trace .. '\nin a coroutine of the policy, ' .. host.inner_trace
  end
  return err
end

--- Logs where an error of the policy was raised. What the network did has no place in a file, and is told by the record.
local function tell_trace(s, config, err)
  local now = mono()
  local name = config.constructor
  if not trace or not err:find '^[^\n]-:%d+: ' then
    return
  elseif traced[name] and now - traced[name] < TRACES_S then
    untold[name] = (untold[name] or 0) + 1
    return
  end
  host.c.log('error', ("%s%s\nin %s of '%s', %d in hand, the first is message %s%s"):format(
    err:sub(1, MAX_TEXT), trace, config.batch_size == 1 and 'send' or 'send_batch', name, s:count(), s:message():id(),
    untold[name] and (' (%d more failures since the last such line)'):format(untold[name]) or ''))
  traced[name], untold[name] = now, nil
end

-- --- what `send` and `send_batch` say of their messages ------------------------------------------------------------

--- Reports an outcome object for the first `count` in hand; nil: all.
local function report(s, peer, verdict, count)
  if verdict.kind == 'delivered' then
    s:report('delivered', 200, verdict.text, peer, nil, 'counts', count)
  elseif verdict.kind == 'transient' then
    s:report('transient', verdict.code, verdict.text, peer, verdict.retry_after,
      refused(verdict.text) and 'at_once' or 'counts', count)
  else
    s:report('bounced', verdict.code, verdict.text, peer, nil, nil, count)
  end
end

--- The outcome that an entry of send_batch's list stands for; a text is a delivery, as it is for the whole batch.
local function verdict_of(entry, i, count)
  if outcome.is(entry) then
    return entry
  elseif type(entry) == 'string' and utf8_valid(entry) then
    return outcome.delivered(entry)
  end
  local got = type(entry) == 'string' and 'a string that is not UTF-8' or type(entry)
  return nil, ('%ssend_batch gave no outcome for message %d of %d: a string or an outcome expected, got %s'):format(
    INTERNAL, i, count, got)
end

--- One outcome a message. Neighbours with the same one are reported together.
local function report_each(s, peer, list, count)
  local i = 1
  while i <= count do
    local entry, last = list[i], i
    while last < count and entry ~= nil and rawequal(list[last + 1], entry) do
      last = last + 1
    end
    local verdict, err = verdict_of(entry, i, count)
    if verdict then
      report(s, peer, verdict, last - i + 1)
    else
      s:report('transient', 400, err, nil, nil, 'counts', last - i + 1)
    end
    i = last + 1
  end
  if list[count + 1] ~= nil then
    host.c.log('error', ('send_batch returned more outcomes than the %d messages that it was given'):format(count))
  end
end

-- Here and not where they are called: a closure for each message is garbage. No tail calls: see host.try_lua.
local function send_one(conn, s)
  return (conn:send(s:message()))
end
local function send_all(conn, s)
  return (conn:send_batch(s:batch()))
end

--- Gives what is in hand to the connection. Returns an outcome object if all of it is refused for good, and otherwise nil
--- with the outcomes reported; then whether the connection can go on.
local function attempt(conn, s, config)
  local peer = config.peer
  local ok, result = raw_xpcall(config.send, keep_trace, conn, s)
  if ok then
    if s:delivered(result, peer) then
      return nil, true
    elseif outcome.is(result) then
      if result.kind == 'permanent' then
        return result, true
      end
      report(s, peer, result)
      return nil, result.code ~= 421
    elseif type(result) == 'table' and result[1] ~= nil and config.batch_size > 1 then
      report_each(s, peer, result, s:count())
      return nil, true
    end
    local got = type(result) == 'string' and 'a string that is not UTF-8' or type(result)
    s:report('transient', 400, ('%s%s must return a string or an outcome, got %s'):format(INTERNAL,
      config.batch_size == 1 and 'send' or 'send_batch', got), nil, nil, 'counts')
    return nil, false
  end
  if rawequal(result, CANCELLED) then
    error(CANCELLED, 0)
  end
  local code, message = queue.find_rejection(result)
  if not code then
    tell_trace(s, config, result)
    s:report('transient', 400, INTERNAL .. one_line(result), nil, nil, refused(result) and 'at_once' or 'counts')
    return nil, false
  elseif code >= 400 and code <= 499 then
    s:report('transient', code, message, peer, nil, refused(message) and 'at_once' or 'counts')
    return nil, code ~= 421
  end
  return { kind = 'permanent', code = code, text = message }, true
end

--- Delivers what is in hand. A batch that is refused for good is parted until the message that is to blame is alone.
local function deliver(conn, s, config)
  local refusal, usable = attempt(conn, s, config)
  if not refusal then
    return usable
  end
  local count = s:count()
  if count <= 1 then
    report(s, config.peer, refusal)
    return true
  end
  s:keep(math.floor(count / 2))
  usable = session.pace(s) and deliver(conn, s, config)
  s:resume()
  if usable and session.pace(s) then
    return deliver(conn, s, config)
  end
  s:requeue 'DispatcherDrop' -- the second half was not tried
  return usable
end

session.add_protocol('custom_lua', {
  connect = function(s, config)
    if not host.has_handler(config.constructor) then
      error(("the constructor '%s' has no handler: kumo.on('%s', function(domain, tenant, campaign) ... end)"):format(
        config.constructor, config.constructor), 0)
    end
    config.peer = 'Lua via ' .. config.constructor
    config.send = config.batch_size == 1 and send_one or send_all
    local conn = host.dispatch(config.constructor, s:feeding())
    if type(conn) ~= 'table' and type(conn) ~= 'userdata' then
      error(("the constructor '%s' returned %s, not a connection object"):format(config.constructor, type(conn)), 0)
    end
    return conn
  end,

  send = deliver,

  close = function(conn)
    if type(conn) ~= 'table' and type(conn) ~= 'userdata' then
      return
    end
    local close = conn.close
    if type(close) == 'function' then
      close(conn)
    end
  end,
})
