--- The session loop: one connection of a ready queue, the same for every protocol. It takes what is ready, connects when it
--- has something to send, sends, reports each outcome and closes. C (runtime/queue/session_lua.c) holds the messages, so
--- whatever happens here none is lost.
--- Source: contract events.md section 7, queues.md section 3; differences: docs/compatibility.md.
local host = require 'tr.host'
local queue = require 'tr.session'
local retry_after = require 'retry_after'

local session = {}

local raw_xpcall, CANCELLED = host.raw_xpcall, host.CANCELLED
local min, rawequal = math.min, rawequal

local MAX_TEXT = 1024 -- bytes of an error text that go into a record
local INTERNAL = 'KumoMTA internal: ' -- policies match on this prefix: contract log-record.md section 1

--- The text of an error value, which may be an object of the policy whose __tostring raises.
local function text_of(err)
  local ok, text = pcall(tostring, err)
  return ok and text or 'an error object that cannot be shown'
end

--- One line, no control bytes, bounded.
local function one_line(text)
  text = text_of(text):sub(1, 2 * MAX_TEXT):gsub('%s+', ' ')
  if #text > MAX_TEXT then
    text = text:sub(1, MAX_TEXT) .. '...'
  end
  return text
end

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
  local now = queue.now_s()
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

--- A peer that refuses connections is down for all sessions: the gate need not wait for more proof.
local function refused(err)
  return text_of(err):sub(1, MAX_TEXT):lower():find('connection refused', 1, true) ~= nil
end

-- Here and not where they are called: a closure for each message is garbage. No tail calls: see host.try_lua.
local function send_one(conn, s)
  return (conn:send(s:message()))
end
local function send_all(conn, s)
  return (conn:send_batch(s:batch()))
end

--- How one protocol connects and sends. connect(s, config) -> connection, raises; nil: there is nothing to connect to, and
--- it has reported that for all in hand. send(conn, s, config) reports the
--- outcome of all in hand and returns true if the connection can go on. close(conn).
local protocols = {}

protocols.custom_lua = {
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

  send = function(conn, s, config)
    local peer = config.peer
    local ok, result = raw_xpcall(config.send, keep_trace, conn, s)
    if ok then
      if s:delivered(result, peer) then
        return true
      end
      local got = type(result) == 'string' and 'a string that is not UTF-8' or type(result)
      s:report('transient', 400, INTERNAL .. 'send must return a string, got ' .. got, nil, nil, 'counts')
      return false
    end
    if rawequal(result, CANCELLED) then
      error(CANCELLED, 0)
    end
    local code, message = queue.find_rejection(result)
    if not code then
      tell_trace(s, config, result)
      s:report('transient', 400, INTERNAL .. one_line(result), nil, nil, refused(result) and 'at_once' or 'counts')
      return false
    end
    if code >= 400 and code <= 499 then
      s:report('transient', code, message, peer, retry_after.get(result), refused(message) and 'at_once' or 'counts')
      return code ~= 421
    end
    s:report('bounced', code, message, peer)
    return true
  end,

  close = function(conn)
    if type(conn) ~= 'table' and type(conn) ~= 'userdata' then
      return
    end
    local close = conn.close
    if type(close) == 'function' then
      close(conn)
    end
  end,
}

--- Fills the hand up to a batch. Returns true with something in hand, or false and why not ("idle", "gate", "close").
local function collect(s, config, left)
  local want = min(config.batch_size, left)
  local need = min(config.min_batch_size, want)
  local deadline -- of a partial batch, monotonic seconds
  want = want - s:count() -- session:next() may have left some
  while true do
    local have, why = s:take(want, config.max_batch_bytes)
    if why == 'close' then
      return false, why -- a part of a batch goes back, untried
    elseif why == 'gate' then
      return have > 0, why
    end
    if have >= need then
      return true
    end
    local wait = config.idle_timeout_s
    if have > 0 then
      local now = queue.now_s()
      deadline = deadline or now + config.max_batch_latency_s
      wait = deadline - now
      if wait <= 0 then
        return true
      end
      s:phase 'AccumulatingBatch'
      want = min(config.batch_size, left) - have
    else
      s:phase 'Idle'
    end
    if not s:wait(wait) then
      if have > 0 then
        return true
      end
      return false, 'idle'
    end
  end
end

--- Asks until there is an answer: each time it waits for a moment, a token or what another node says.
local function ask(s, question)
  while true do
    local answer = question(s)
    if answer ~= nil then
      return answer
    end
  end
end

--- Runs one session to its end. Raises only if something in here is broken: its messages then go back to their queues.
---@async
function session.run(s)
  local config = s:config()
  local protocol = protocols[config.protocol]
  local conn
  local left = config.max_deliveries
  local batch, least, max_bytes = config.batch_size, config.min_batch_size, config.max_batch_bytes
  while left > 0 do
    local want = min(batch, left)
    local count = conn ~= nil and s:next(want, min(least, want), max_bytes)
    if not count then
      s:settle()
      if not ask(s, s.extend) or not collect(s, config, left) then
        break
      end
      count = s:count()
      if conn == nil then
        s:phase 'AttemptingConnection'
        local ok, result = pcall(protocol.connect, s, config)
        if not ok then
          s:connect_failed(refused(result), one_line(result))
          s:report('transient', 400, INTERNAL .. one_line(result))
          break
        end
        if result == nil then -- nothing to connect to: what was in hand has its outcome
          break
        end
        conn = result or false
        s:connected()
      end
      if ask(s, s.pace) then
        if count < want then -- what came while it waited goes along
          s:take(want - count, max_bytes)
          count = s:count()
        end
        s:phase 'DeliveringMessage'
      else
        count = 0
      end
    end
    left = left - count
    if count > 0 and not protocol.send(conn, s, config) then
      break
    end
  end
  if conn ~= nil then
    s:phase 'Closing'
    local ok, err = pcall(protocol.close, conn)
    if not ok then
      host.c.log('error', 'close of ' .. (config.constructor or config.protocol) .. ': ' .. text_of(err))
    end
  end
end

--- Built-in connections add themselves here (lua/smtp_client.lua).
function session.add_protocol(name, protocol)
  protocols[name] = protocol
end

host.entry.session = session.run

--- Event requeue_message: C gives the delay in seconds, handlers get a TimeDelta.
function host.entry.requeue(msg, response, insert_context, increment_attempts, delay_s)
  local delay = delay_s and require('kumo').time.parse_duration(delay_s)
  return host.dispatch('requeue_message', msg, response, insert_context, increment_attempts, delay)
end

return session
