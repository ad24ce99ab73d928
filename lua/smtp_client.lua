--- Protocol `smtp` of the session loop: delivery to the next hop over a built-in connection. The dialogue itself is C
--- (runtime/transport/smtp_client.c); here are the order of events and what policy may change.
--- Source: contract smtp.md part 3, events.md (smtp_client_rewrite_delivery_status).
local host = require 'tr.host'
local session = host.internal 'session'
local smtp = require 'tr.smtp_client'
local INTERNAL = require('error_text').INTERNAL

local REWRITE = 'smtp_client_rewrite_delivery_status'

--- Lets policy give another code to what the peer said to each recipient. Its mistakes are logged and change nothing.
local function rewrite(conn, s)
  local domain, tenant, campaign, routing_domain = conn:queue(s)
  for i = 1, math.huge do
    local line = conn:refusal(i)
    if line == nil then
      return
    end
    if line then
      local ok, code = pcall(host.dispatch, REWRITE, line, domain, tenant, campaign, routing_domain)
      if not ok then
        host.c.log('error', ('%s: %s'):format(REWRITE, tostring(code)))
      elseif type(code) == 'number' and code >= 200 and code <= 599 and code % 1 == 0 then
        conn:rewrite(i, code)
      elseif code ~= nil then
        host.c.log('error', ('%s: a code from 200 to 599 or nil expected, got %s'):format(REWRITE, tostring(code)))
      end
    end
  end
end

local GIVE_UP = 100 -- messages at once: a null MX may have met a long queue

--- There is nothing to connect to: what is in hand gets its outcome, and all of the ready queue if it is true of all.
local function give_up(conn, s)
  while conn:give_up(s) do
    s:settle()
    if s:take(GIVE_UP) == 0 then
      return
    end
  end
end

session.add_protocol('smtp', {
  connect = function(s)
    local conn = smtp.new(s)
    local ok, why = conn:connect(s)
    if ok then
      return conn
    end
    local suspended = why and conn:source_suspended(s, why)
    if not why then
      give_up(conn, s)
    elseif suspended then -- untried: for another source
      s:requeue 'SourceIsUnhealthyAndSuspended'
    end
    conn:close()
    if why and not suspended then
      error(why, 0)
    end
    return nil
  end,

  send = function(conn, s)
    while true do
      local tried = conn:send(s)
      if not tried then -- the peer had hung up meanwhile: no attempt
        s:requeue 'DispatcherDrop'
        return false
      end
      if host.has_handler(REWRITE) then
        rewrite(conn, s)
      end
      if not conn:goes_on(s) then
        local usable = conn:report(s)
        return usable
      elseif not conn:tell(s) then
        return false
      end
      s:phase 'AttemptingConnection'
      local ok, why = conn:next_host()
      if not ok then
        s:report('transient', 400, INTERNAL .. why)
        return false
      end
      s:phase 'DeliveringMessage'
    end
  end,

  close = function(conn)
    conn:close()
  end,
})
