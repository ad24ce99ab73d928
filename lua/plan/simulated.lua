--- Connections that only take time, for `tailrace plan --simulate`: loaded in the state of the policy that is simulated. Queues,
--- shaping and the session loop are those of production; what a session would send to answers after the planned latency.
local host = require 'tr.host'
local kumo = require 'kumo'
local session = host.internal 'session'

local simulated = {}

local latency = {} -- of a queue's domain: seconds
local mail_s

local function domain_of(s)
  return (s:feeding())
end

--- Replaces what the protocols of sessions connect to.
---@param of table<string, number> by the domain of a hook's queue: seconds of a request
---@param of_mail number seconds of a message
function simulated.install(of, of_mail)
  latency, mail_s = of, of_mail
  local function protocol(seconds_of)
    return {
      connect = function(s)
        return { seconds = seconds_of(s) }
      end,
      send = function(conn, s)
        kumo.sleep(conn.seconds)
        return s:delivered('simulated', 'simulation')
      end,
      close = function() end,
    }
  end
  session.add_protocol('custom_lua', protocol(function(s)
    return latency[domain_of(s)] or mail_s
  end))
  session.add_protocol('smtp', protocol(function()
    return mail_s
  end))
end

return simulated
