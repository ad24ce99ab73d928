--- Plays ESMTP servers of a scripted network. An answer for a message (after its data) is a code, { code, text, delay ... },
--- a function of the transaction, or a list of these; a table with the names of steps says more:
--- `{ banner =, ehlo =, mail =, rcpt =, data =, message =, extensions = { 'PIPELINING' } }`.
local host = require 'tr.host'
local c = host.c

local smtp = {}

local function set(text)
  local names = {}
  for name in text:gmatch '%S+' do
    names[name] = true
  end
  return names
end
local STEPS = set 'banner ehlo mail rcpt data message quit rset'
local OTHER_KEYS = set 'extensions connect'
local ANSWER_KEYS = set 'code text delay reset hang close'
local TEXTS = {
  [220] = 'ready',
  [221] = '2.0.0 bye',
  [250] = '2.0.0 OK',
  [354] = 'go ahead',
  [421] = '4.3.2 not now',
  [450] = '4.2.0 busy',
  [451] = '4.3.0 try again later',
  [452] = '4.5.3 too much',
  [500] = '5.5.1 what?',
  [550] = '5.1.1 no such user',
  [552] = '5.3.4 too big',
  [554] = '5.0.0 no',
}
local EXTENSIONS = { 'PIPELINING', '8BITMIME', 'ENHANCEDSTATUSCODES', 'SMTPUTF8', 'SIZE 0' }

---@class tr.scripted.Transaction
---@field protocol string 'smtp'
---@field n integer its number in the network
---@field at number unix seconds
---@field from string
---@field to string[] the recipients that were accepted
---@field data string header and body, as received, without the dots of transparency
---@field body string what stands behind the header
---@field ehlo string
---@field address string 'ip:port' of the endpoint
---@field client string 'ip:port' that it came from
---@field code? integer what the message was answered; nil: not yet
local transaction_methods = {}
smtp.transaction_meta = { __index = transaction_methods }

--- The first value of a header; nil: none.
function transaction_methods:header(name)
  local head = ('\n' .. self.data):match '^(.-)\r?\n\r?\n' or '\n' .. self.data
  for field, value in head:gsub('\r?\n[ \t]+', ' '):gmatch '\n([^:\n]+):[ \t]*([^\r\n]*)' do
    if field:lower() == name:lower() then
      return value
    end
  end
end

local function is_steps(answer)
  if type(answer) ~= 'table' or answer[1] ~= nil then
    return false
  end
  for key in pairs(answer) do
    if STEPS[key] or OTHER_KEYS[key] then
      return true
    end
  end
  return false
end

local function answer_of(place, step)
  local answer = place.answer
  if is_steps(answer) then
    for key in pairs(answer) do
      if not STEPS[key] and not OTHER_KEYS[key] then
        error(
          ("unknown step '%s', expected one of 'banner', 'ehlo', 'mail', 'rcpt', 'data', 'message', 'rset', 'quit'"):format(
            tostring(key)
          ),
          0
        )
      end
    end
    return answer[step]
  end
  return step == 'message' and answer or nil
end

local function normal(answer, code)
  if answer == nil then
    answer = {}
  elseif type(answer) == 'number' then
    answer = { code = answer }
  elseif type(answer) == 'string' then
    local digits, text = answer:match '^(%d%d%d) ?(.*)$'
    if not digits then
      error(('an SMTP reply is "CODE TEXT", got %q'):format(answer), 0)
    end
    answer = { code = tonumber(digits), text = text }
  elseif type(answer) ~= 'table' then
    error(('an answer is a code, a reply or a table, got %s'):format(type(answer)), 0)
  end
  for key in pairs(answer) do
    if not ANSWER_KEYS[key] then
      error(
        ("unknown field '%s' in an SMTP answer, expected one of 'code', 'text', 'delay', 'reset', 'hang', 'close'"):format(
          tostring(key)
        ),
        0
      )
    end
  end
  return answer, answer.code or code
end

---@class tr.scripted.SmtpSession
---@field place tr.scripted.Endpoint
local session = {}
session.__index = session

--- Answers a step; returns the code, or nil when the connection is over.
---@async
function session:reply(step, default, argument, text)
  local place = self.place
  place.waiting = place.waiting + 1
  local answer, code = normal(place:next(answer_of(place, step), argument), default)
  if answer.delay then
    c.sleep((c.duration(answer.delay, 'answer', 'delay')))
  end
  if answer.hang then
    repeat
    until not self.wired:fill()
  end
  place.waiting = place.waiting - 1
  if answer.hang then
    return nil
  elseif answer.reset then
    self.wired.conn:reset()
    return nil
  end
  text = answer.text or (code == default and text) or TEXTS[code] or 'reply'
  self.wired:write(('%d %s\r\n'):format(code, (text:gsub('\n', ('\r\n%d-'):format(code)))))
  if answer.close or code == 421 then
    return nil
  end
  return code
end

function session:greet()
  local names = type(self.place.answer) == 'table' and self.place.answer.extensions or EXTENSIONS
  local lines = { 'scripted' }
  for _, name in ipairs(names) do
    lines[#lines + 1] = name
  end
  local out = {}
  for i, line in ipairs(lines) do
    out[i] = ('250%s%s\r\n'):format(i < #lines and '-' or ' ', line)
  end
  self.wired:write(table.concat(out))
  return 250
end

function session:receive()
  if self:reply('data', 354, self.mail) ~= 354 then
    return
  end
  local data = self.wired.buffer:sub(1, 3) == '.\r\n' and '' or nil
  if data then
    self.wired.buffer = self.wired.buffer:sub(4)
  else
    data = self.wired:upto '\r\n.\r\n'
    if not data then
      return nil
    end
    data = (data .. '\r\n'):gsub('\r\n%.', '\r\n'):gsub('^%.', '')
  end
  local mail = self.mail
  mail.data = data
  mail.body = data:match '\r?\n\r?\n(.*)$' or ''
  self.network:_note(self.place, mail)
  self.mail = nil
  mail.code = self:reply('message', 250, mail, ('2.0.0 OK queued as %d'):format(mail.n))
  return mail.code
end

local function new_mail(self, from)
  return setmetatable({
    protocol = 'smtp',
    from = from,
    to = {},
    ehlo = self.ehlo,
    address = self.wired.address,
    client = self.wired.conn:client(),
  }, smtp.transaction_meta)
end

--- One command; nil: the connection is over.
---@async
function session:command(line)
  local verb, rest = line:match '^(%a+)%s*(.-)%s*$'
  verb = (verb or ''):upper()
  if verb == 'EHLO' or verb == 'HELO' or verb == 'LHLO' then
    self.ehlo, self.mail = rest, nil
    if answer_of(self.place, 'ehlo') == nil and verb ~= 'HELO' then
      return self:greet()
    end
    return self:reply('ehlo', 250, rest)
  elseif verb == 'MAIL' then
    local from = rest:match '^[Ff][Rr][Oo][Mm]:%s*<(.-)>' or ''
    local code = self:reply('mail', 250, from)
    self.mail = code == 250 and new_mail(self, from) or nil
    return code
  elseif verb == 'RCPT' then
    local to = rest:match '^[Tt][Oo]:%s*<(.-)>' or ''
    local code = self:reply('rcpt', self.mail and 250 or 503, to)
    if code == 250 and self.mail then
      table.insert(self.mail.to, to)
    end
    return code
  elseif verb == 'DATA' then
    if not self.mail or #self.mail.to == 0 then
      self.wired:write '503 5.5.1 no recipients\r\n'
      return 503
    end
    return self:receive()
  elseif verb == 'RSET' or verb == 'NOOP' then
    self.mail = verb == 'NOOP' and self.mail or nil
    return self:reply('rset', 250)
  elseif verb == 'QUIT' then
    self:reply('quit', 221)
    return nil
  end
  self.wired:write '500 5.5.1 what?\r\n'
  return 500
end

--- Serves one connection until it ends.
---@async
function smtp.serve(network, wired, places)
  local self = setmetatable({ network = network, wired = wired, place = places[1] }, session)
  if self:reply('banner', 220, nil, 'scripted ESMTP') ~= 220 then
    return
  end
  repeat
    local line = wired:line()
  until not line or not self:command(line)
end

return smtp
