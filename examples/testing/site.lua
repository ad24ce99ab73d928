--- What differs from site to site. A module of plain functions: a test calls them as they are.
local site = { spool = '/var/spool/tailrace', crm = 'http://10.0.0.1:4242/crm' }

--- Where mail for a domain goes: "HOST:PORT".
function site.next_hop(domain)
  return domain == 'example.org' and '192.0.2.10:25' or '192.0.2.1:25'
end

return site
