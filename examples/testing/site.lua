--- What differs from site to site, and in tests. The policy requires it; a test puts other things in its fields first.
local kumo = require 'kumo'

local site = { spool = '/var/spool/tailrace' }

--- Where mail for a domain goes: "HOST:PORT".
function site.next_hop(domain)
  return domain == 'example.org' and '192.0.2.10:25' or '192.0.2.1:25'
end

--- Tells the CRM of an event. The text of its answer, or a rejection.
---@async
function site.tell_crm(line)
  local answer = kumo.http.build_client({}):post('http://127.0.0.1:4242/crm'):body(line):send()
  if not answer:status_is_success() then
    kumo.reject(450, answer:text())
  end
  return answer:text()
end

return site
