--- Records and mails that are made at the prompt, for :send and :fire.
local host = require 'tr.host'
local show = host.internal 'repl.show'
local commands = host.internal 'repl.commands'
local c = host.c
local fail = commands.fail

local build = {} -- make_message and arguments are methods of a tr.repl.Flow

-- --- :record -----------------------------------------------------------------------------------------------------------------

local TYPES = {
  'Reception', 'Delivery', 'Bounce', 'TransientFailure', 'Expiration', 'AdminBounce', 'OOB', 'Feedback', 'Rejection',
  'AdminRebind', 'DeferredInjectionRebind', 'Delayed', 'XferOut', 'XferIn',
} -- stylua: ignore
local RESPONSES = {
  Reception = { 250, '' },
  Delivery = { 250, '2.0.0 OK' },
  Bounce = { 550, '5.1.1 no such user' },
  TransientFailure = { 451, '4.3.0 try again later' },
  Expiration = { 551, 'Next delivery time would be at a time past the max_age' },
  Rejection = { 550, '5.7.1 not here' },
  Delayed = { 400, '' },
}
local FIELDS = {
  type = 'string', sender = 'string', recipient = '*', queue = 'string', site = 'string', response = 'table',
  headers = 'table', meta = 'table', body = 'string', peer_address = 'table', num_attempts = 'number',
  egress_pool = 'string', egress_source = 'string', delivery_protocol = 'string', provider_name = 'string',
  session_id = 'string',
} -- stylua: ignore

function build.check_fields(what, fields, known)
  local names = {}
  for name in pairs(known) do
    names[#names + 1] = name
  end
  table.sort(names)
  for name, value in pairs(fields) do
    local kind = known[name]
    if not kind then
      local near = c.nearest(tostring(name), names)
      fail("%s: unknown field '%s'%s; there are %s", what, tostring(name), near and (", did you mean '%s'?"):format(near) or '',
        table.concat(names, ', '))
    elseif kind ~= '*' and type(value) ~= kind then
      fail('%s: %s: a %s expected, got %s', what, name, kind, type(value))
    end
  end
end

local function data_of(headers, body)
  local names = {}
  for name in pairs(headers) do
    names[#names + 1] = tostring(name)
  end
  table.sort(names)
  local lines = {}
  for i, name in ipairs(names) do
    lines[i] = ('%s: %s\r\n'):format(name, tostring(headers[name]))
  end
  return table.concat(lines) .. '\r\n' .. body
end

local function record_of(fields)
  build.check_fields(':record', fields, FIELDS)
  local kind = fields.type or 'Delivery'
  local known = false
  for _, name in ipairs(TYPES) do
    known = known or name == kind
  end
  if not known then
    local near = c.nearest(kind, TYPES)
    fail(":record: there is no record of type '%s'%s", kind, near and (", did you mean '%s'?"):format(near) or '')
  end
  local recipient = fields.recipient or 'rcpt@example.org'
  recipient = type(recipient) == 'table' and recipient[1] or recipient
  local response = fields.response or {}
  build.check_fields(':record: response', response, { code = 'number', content = 'string', command = 'string' })
  local default = RESPONSES[kind] or { 250, '' }
  local outgoing = kind ~= 'Reception' and kind ~= 'Rejection'
  local peer = fields.peer_address or { name = outgoing and 'mx.example.org' or 'client.example.com', addr = '192.0.2.1' }
  return {
    type = kind,
    sender = fields.sender or 'sender@example.com',
    recipient = recipient,
    queue = fields.queue or tostring(recipient):match '@(.+)$' or 'example.org',
    site = fields.site or (outgoing and 'unspecified->mx.example.org@smtp_client' or nil),
    code = response.code or default[1],
    content = response.content or default[2],
    command = response.command,
    data = data_of(fields.headers or { Subject = 'a test' }, fields.body or 'a test\r\n'),
    meta = fields.meta or {},
    num_attempts = fields.num_attempts or 0,
    peer_name = peer.name,
    peer_addr = peer.addr,
    egress_pool = fields.egress_pool or (outgoing and 'unspecified' or nil),
    egress_source = fields.egress_source or (outgoing and 'unspecified' or nil),
    delivery_protocol = fields.delivery_protocol or (outgoing and 'ESMTP' or nil),
    provider = fields.provider_name,
    session_id = fields.session_id,
  }
end

commands.command {
  name = ':record',
  args = "{type='Delivery', ...}",
  about = 'make a log record for :send: fields as in a record; headers and meta are its message\'s',
  where = 'local',
  run = function(session, args)
    local fields = args == '' and {} or commands.evaluate(session, args, 'a table')()
    if type(fields) ~= 'table' then
      fail('a table expected, got a %s', type(fields))
    end
    session.flow.current = { kind = 'record', fields = record_of(fields) }
    session:say(session:shown(session.flow.current.fields))
  end,
}

-- --- :mail -------------------------------------------------------------------------------------------------------------------

local MAIL = { from = 'string', to = '*', headers = 'table', body = 'string', data = 'string', meta = 'table' }

local function address_in(data, header)
  local head = ('\n' .. data):match '^(.-)\r?\n\r?\n' or '\n' .. data
  local value = head:gsub('\r?\n[ \t]+', ' '):match('\n' .. header .. ':%s*([^\r\n]*)')
  return value and (value:match '<([^<>%s]+@[^<>%s]+)>' or value:match '([^%s<>,;"]+@[^%s<>,;"]+)')
end

local function crlf(text)
  return (text:gsub('\r\n', '\n'):gsub('\n', '\r\n'))
end

local function mail_of_file(args)
  local path, from, to = args:match '^"([^"]+)"%s*(%S*)%s*(%S*)$'
  if not path then
    path, from, to = args:match '^(%S+)%s*(%S*)%s*(%S*)$'
  end
  if not path then
    fail 'FILE.eml [FROM [TO]] expected; a path with blanks stands in "..."'
  end
  local file, err = io.open(path, 'rb')
  if not file then
    fail('%s', err)
  end
  local data = file:read '*a'
  file:close()
  if not data then
    fail('%s cannot be read', path)
  end
  data = crlf(data)
  return {
    from = from ~= '' and from or address_in(data, 'Return%-[Pp]ath') or address_in(data, 'From') or '',
    to = to ~= '' and to or address_in(data, 'To') or 'rcpt@example.org',
    data = data,
  }
end

local function mail_of_table(fields)
  build.check_fields(':mail', fields, MAIL)
  local to = type(fields.to) == 'table' and fields.to[1] or fields.to or 'rcpt@example.org'
  local from = fields.from or 'sender@example.com'
  return {
    from = from,
    to = to,
    data = fields.data
      or data_of(fields.headers or { From = from, To = to, Subject = 'a test' }, crlf(fields.body or 'a test\n')),
    meta = fields.meta,
  }
end

commands.command {
  name = ':mail',
  args = 'FILE.eml [FROM [TO]]',
  about = 'make a mail for :send; also :mail {from=, to=, headers=, body=, meta=}',
  where = 'local',
  run = function(session, args)
    local mail
    if args:find '^{' or args == '' then
      mail = mail_of_table(args == '' and {} or commands.evaluate(session, args, 'a table')())
    else
      mail = mail_of_file(args)
    end
    mail.kind = 'mail'
    session.flow.current = mail
    session:say(('from <%s> to <%s>, %s bytes'):format(show.plain(mail.from), show.plain(mail.to), show.with_commas(#mail.data)))
  end,
}

-- What handlers of an SMTP session get beside the message.
local Conn = {}
Conn.__index = Conn
function Conn:get_meta(name)
  return self.meta[name]
end
function Conn:set_meta(name, value)
  self.meta[name] = value
end

--- A connection of a session that does not exist.
function build.new_conn()
  return setmetatable({
    meta = {
      received_from = '192.0.2.1:40000',
      received_via = '127.0.0.1:25',
      hostname = 'client.example.com',
      ehlo_domain = 'client.example.com',
      reception_protocol = 'ESMTP',
    },
  }, Conn)
end

--- Message and mail of :mail, or of a mail that is made up.
function build:make_message()
  local mail = self.current
  if not mail or mail.kind ~= 'mail' then
    mail = mail_of_table {}
  end
  local msg = require('kumo').make_message(mail.from, mail.to, mail.data)
  for name, value in pairs { reception_protocol = 'ESMTP', received_from = '192.0.2.1:40000', received_via = '127.0.0.1:25' } do
    msg:set_meta(name, value)
  end
  for name, value in pairs(mail.meta or {}) do
    msg:set_meta(name, value)
  end
  return msg, mail
end

--- What :fire gives to a handler of an SMTP event when nothing else is said.
function build:arguments(name)
  local conn = build.new_conn()
  if name:find '_data$' or name:find '_message_received$' or name:find '_split_transaction$' then
    return self:make_message(), conn
  end
  local msg = self:make_message()
  if name:find '_rcpt_to$' then
    return msg:recipient(), conn
  elseif name:find '_mail_from$' then
    return msg:sender(), conn
  elseif name:find '_ehlo$' then
    return conn.meta.ehlo_domain, conn, { 'PIPELINING', '8BITMIME' }
  end
  return conn
end

return build
