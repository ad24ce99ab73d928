--- The session loop: one connection of a ready queue, the same for every protocol. It takes what is ready, connects when it
--- has something to send, sends, reports each outcome and closes. C (runtime/queue/session_lua.c) holds the messages, so
--- whatever happens here none is lost.
--- Source: contract events.md section 7, queues.md section 3; differences: docs/compatibility.md.
local host = require 'tr.host'
local error_text = require 'error_text'

local session = {}

local min, mono = math.min, host.c.mono
local INTERNAL = error_text.INTERNAL
local one_line, refused = error_text.one_line, error_text.is_refused

--- How one protocol connects and sends. connect(s, config) -> connection, raises; nil: there is nothing to connect to, and
--- it has reported that for all in hand. send(conn, s, config) reports the
--- outcome of all in hand and returns true if the connection can go on. close(conn).
local protocols = {}

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
      local now = mono()
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
      host.c.log('error', 'close of ' .. (config.constructor or config.protocol) .. ': ' .. error_text.of(err))
    end
  end
end

--- A token of each message rate for what is in hand. False: it was given back.
---@async
function session.pace(s)
  return ask(s, s.pace)
end

--- Protocols add themselves here: lua/custom_lua.lua, lua/smtp_client.lua.
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
