--- What comes in, for tests: mail by the policy's own ESMTP listener, or past it; records.
local host = require 'tr.host'
local wire = host.internal 'scripted.wire'

local client = {}

client.FIELDS = {
  from = 'string',
  to = '*',
  headers = 'table',
  body = 'string',
  data = 'string',
  meta = 'table',
  via = 'string',
  client = 'string',
  ehlo = 'string',
  listener = 'string',
}
client.RECORD_FIELDS = {
  type = 'string',
  sender = 'string',
  recipient = '*',
  from = 'string',
  to = '*',
  headers = 'table',
  body = 'string',
  data = 'string',
  meta = 'table',
  queue = 'string',
  site = 'string',
  response = 'table',
  num_attempts = 'number',
  peer_address = 'table',
  egress_pool = 'string',
  egress_source = 'string',
  source_address = 'string',
  delivery_protocol = 'string',
  provider_name = 'string',
}

local DEFAULT_FROM, DEFAULT_TO = 'sender@example.com', 'rcpt@example.org'

--- Header and body as bytes. headers: a list of lines, or a map; sorted, so that a run repeats itself.
local function compose(mail)
  if mail.data then
    return (mail.data:gsub('\r\n', '\n'):gsub('\n', '\r\n'))
  end
  local lines, names = {}, {}
  for key, value in pairs(mail.headers or {}) do
    if type(key) == 'number' then
      lines[key] = tostring(value)
    else
      names[#names + 1] = key
    end
  end
  table.sort(names)
  for _, name in ipairs(names) do
    lines[#lines + 1] = ('%s: %s'):format(name, tostring(mail.headers[name]))
  end
  if not mail.headers then
    lines[1] = 'Subject: test'
  end
  local body = mail.body or 'test\n'
  return (table.concat(lines, '\n') .. '\n\n' .. body):gsub('\r\n', '\n'):gsub('\n', '\r\n')
end

local function list_of(to)
  return type(to) == 'table' and to or { to }
end

--- A reply: its code and text with all lines; nil: the connection has ended.
local function reply(wired)
  local lines = {}
  while true do
    local line = wired:line()
    if not line then
      return nil, 'the listener closed the connection' .. (#lines > 0 and ': ' .. table.concat(lines, '\n') or '')
    end
    lines[#lines + 1] = line
    if line:match '^%d%d%d ' or line:match '^%d%d%d$' then
      return tonumber(line:sub(1, 3)), table.concat(lines, '\n')
    end
  end
end

local function by_esmtp(net, address, mail)
  local place = address:gsub('^0%.0%.0%.0:', '127.0.0.1:'):gsub('^%[::%]:', '[::1]:')
  local conn, err = net._net:connect(place, mail.client or '127.0.0.1')
  if not conn then
    return nil, err
  end
  local wired = wire.new(conn, address)
  local function say(line, good)
    if line then
      wired:write(line .. '\r\n')
    end
    local code, text = reply(wired)
    if code ~= good then
      if code then
        wired:write 'QUIT\r\n'
      end
      conn:close()
      return nil, text
    end
    return text
  end
  local text
  text, err = say(nil, 220)
  if text then
    text, err = say('EHLO ' .. (mail.ehlo or 'client.example.com'), 250)
  end
  if not text then
    return nil, err
  end
  text, err = say(('MAIL FROM:<%s>'):format(mail.from or DEFAULT_FROM), 250)
  if not text then
    return nil, err
  end
  for _, to in ipairs(list_of(mail.to or DEFAULT_TO)) do
    text, err = say(('RCPT TO:<%s>'):format(to), 250)
    if not text then
      return nil, err
    end
  end
  text, err = say('DATA', 354)
  if not text then
    return nil, err
  end
  local data = compose(mail):gsub('^%.', '..'):gsub('\n%.', '\n..')
  text, err = say(data .. (data:sub(-2) == '\r\n' and '' or '\r\n') .. '.', 250)
  if not text then
    return nil, err
  end
  wired:write 'QUIT\r\n'
  conn:close()
  return text:match 'ids=(%x+)' or text
end

--- See kumo.test.
---@async
function client.receive(rt, net, mail)
  local listener = mail.listener
  if net and not listener and mail.via ~= 'queue' then
    listener = (net._net:listeners() or ''):match '[^\n]+$'
  end
  if listener and net then
    if mail.meta then
      error("receive: meta is set by the policy's events; with via = 'queue' the message goes straight into its queue", 3)
    end
    return by_esmtp(net, listener, mail)
  end
  return rt:receive { from = mail.from, to = mail.to, data = compose(mail), meta = mail.meta }
end

local RESPONSES = {
  Reception = { code = 250, content = 'OK' },
  Delivery = { code = 250, content = '2.0.0 OK' },
  Bounce = { code = 550, content = '5.1.1 no such user' },
  TransientFailure = { code = 451, content = '4.3.0 try again later' },
  Expiration = { code = 551, content = 'expired' },
  AdminBounce = { code = 551, content = 'administrative bounce' },
  Rejection = { code = 550, content = '5.7.1 refused' },
}
local AT_A_PEER = { Delivery = true, Bounce = true, TransientFailure = true }

--- See kumo.test: fills in what a record of that type has from real traffic.
---@async
function client.event(rt, record)
  local kind = record.type or 'Delivery'
  local to = record.recipient or record.to or DEFAULT_TO
  local domain = list_of(to)[1]:match '@(.*)$' or 'example.org'
  local options = {
    type = kind,
    from = record.sender or record.from,
    to = to,
    data = compose(record),
    meta = record.meta,
    queue = record.queue or domain,
    response = record.response or RESPONSES[kind] or { code = 0, content = '' },
    num_attempts = record.num_attempts or 0,
    provider_name = record.provider_name,
  }
  if AT_A_PEER[kind] then
    local peer = record.peer_address or { name = 'mx.' .. domain, addr = '192.0.2.25:25' }
    options.site = record.site or ('unspecified->mx.%s@smtp_client'):format(domain)
    options.peer_name, options.peer_addr = peer.name, peer.addr
    options.egress_pool = record.egress_pool or 'unspecified'
    options.egress_source = record.egress_source or 'unspecified'
    options.source_address = record.source_address or '192.0.2.1:40000'
    options.delivery_protocol = record.delivery_protocol or 'ESMTP'
  elseif kind == 'Reception' then
    local peer = record.peer_address or { name = 'client.example.com', addr = '192.0.2.9' }
    options.peer_name, options.peer_addr = peer.name, peer.addr
  end
  local ok, err = rt:event(options)
  if not ok then
    error(err, 3)
  end
end

return client
