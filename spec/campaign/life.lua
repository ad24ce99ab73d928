--- The life of some messages in one engine after the other over one disk, and what must have come of it. Whatever fails
--- meanwhile: what was answered with 250 is delivered, what was refused is not, each end has its one event, and in the end
--- the ledger balances with nothing waiting.
local testing = require 'tr.testing'
local disk = require 'tr.sim_disk'
local host = require 'tr.host'
local scripted = host.internal 'scripted'
local client = host.internal 'test.client'

local life = {}
life.__index = life

-- so small that segments roll and are reclaimed; a parked record with its traceback is half of one
local SIZES = { segment_bytes = 8192, reserve_bytes = 8192, floor_bytes = 16384, body_file_bytes = 3000 }
local ROOMY = { segment_bytes = 32768, reserve_bytes = 32768, floor_bytes = 65536, body_file_bytes = 3000 }
local DEAD = 'dead@example.org' -- records for it are refused for good, until `forgiving`

--- roomy: Lua's failures are told in records of their own; class: of another life that is made of this one.
function life.new(directory, roomy, class)
  local self = setmetatable({
    policy = directory .. '/policy.lua',
    sizes = roomy and ROOMY or SIZES,
    mails = {}, -- by number: { to =, state = 'stored', 'refused', 'unknown' }
    sent = {}, -- by "number address": how often an SMTP peer took it
    bounced = {},
    events = {}, -- by event_id: "type number address"
    http = 0,
    refusals = 0,
    starts = 0,
    forgiving = false,
  }, class or life)
  self.net = scripted.new()
  self.net:http('http://10.0.0.1:4242/log', function(request)
    return self:answer_http(request)
  end)
  self.net:smtp('10.0.0.2:25', {
    rcpt = function(address)
      if disk.is_ghost() then
        return { reset = true }
      end
      return address:match '^bounce' and 550 or 250
    end,
    message = function(mail)
      return self:answer_smtp(mail)
    end,
  })
  return self
end

-- --- peers ------------------------------------------------------------------------------------------------------------

function life:answer_smtp(mail)
  if disk.is_ghost() then
    return { reset = true }
  end
  local number = tonumber(mail:header 'Subject')
  if number == 1 and not self.busy_once then
    self.busy_once = true
    return 450
  end
  self:take(mail, number)
  return 250
end

function life:take(mail, number)
  for _, address in ipairs(mail.to) do
    local key = number .. ' ' .. (address:match '<(.-)>' or address)
    self.sent[key] = (self.sent[key] or 0) + 1
  end
  if self.mails[number] and mail.body:gsub('\r\n', '\n'):gsub('\n$', '') ~= self.mails[number].body then
    self:wrong('mail %d: its body has %d bytes: %s ...', number, #mail.body, mail.body:sub(1, 40))
  end
end

function life:answer_http(request)
  if disk.is_ghost() then
    return { reset = true }
  end
  self.http = self.http + 1
  if self.http == 1 then
    return 503
  end
  local record = require('kumo').serde.json_parse(request.body)
  local address = type(record.recipient) == 'table' and record.recipient[1] or record.recipient
  if address == DEAD and not self.forgiving then
    return 400
  end
  self.events[record.event_id] = ('%s %s %s'):format(record.type, record.headers.Subject or '?', address)
  return 200
end

-- --- steps ------------------------------------------------------------------------------------------------------------

--- Starts an engine; false: it says that it cannot.
function life:start()
  self.starts = self.starts + 1
  local ok, rt = pcall(testing.start, {
    policy = self.policy,
    seed = self.starts,
    scripted = true,
    spool_sizes = self.sizes,
    log = 'info',
    wall = 1785000000 + self.starts * 7200,
  })
  if not ok then
    self.start_error = tostring(rt)
    if #self.start_error < 8 then
      self:wrong('the start failed without saying why: %q', self.start_error)
    end
    return false
  end
  self.rt = rt
  return true
end

function life:receive(number, to, bytes, via)
  local mail = { to = to, state = 'unknown', body = ('0123456789abcd%02d\n'):format(number):rep(math.ceil(bytes / 17)):sub(1, -2) }
  self.mails[number] = mail
  local ok, id, reply = pcall(client.receive, self.rt, self.net, {
    to = to,
    via = via,
    headers = { Subject = tostring(number) },
    body = mail.body .. '\n',
  })
  if disk.is_ghost() then
    return -- what it says does not count any more
  elseif not ok then
    mail.why = tostring(id)
  elseif id then
    mail.state = 'stored'
  elseif tostring(reply):match '^[45]%d%d' then
    mail.state, mail.why = 'refused', reply
    self.refusals = self.refusals + 1
  else
    mail.why = tostring(reply)
  end
end

--- Time passes; nothing does in a ghost.
function life:advance(seconds)
  if not disk.is_ghost() then
    self.rt:advance(seconds)
  end
end

function life:replay()
  self.forgiving = true
  if not disk.is_ghost() then
    local ok, err = pcall(self.rt.eval, self.rt, "require('kumo').api.admin.dead_letters.replay { hook = 'h' }")
    self.replay_error = not ok and tostring(err) or nil
  end
end

function life:stop()
  local balances, ledger = self.rt:stop(disk.is_ghost() and 0 or 20)
  self.rt = nil
  if not balances and not disk.is_ghost() then
    self:wrong('the ledger does not balance at the stop:\n%s', ledger)
  end
  if disk.open_files() > 0 then
    self:wrong('%d descriptors are still open', disk.open_files())
  end
end

--- All of it: calls each(step) before each.
function life:run()
  if not self:start() then
    return
  end
  self:receive(1, { 'a@example.org' }, 100)
  self:receive(2, { 'bounce@example.org' }, 100)
  self:receive(3, { 'b@example.org', 'c@example.org' }, 4000)
  self:receive(4, { DEAD }, 100)
  self:advance(900)
  self:receive(5, { 'd@example.org' }, 100, 'queue')
  self:replay()
  self:advance(300)
  for number = 6, 12 do
    self:receive(number, { 'e@example.org' }, 1500)
    self:advance(10)
  end
  self:stop()
  if disk.is_ghost() or not self:start() then
    return
  end
  self:receive(13, { 'f@example.org' }, 100)
  self:advance(300)
  self:receive(14, { 'g@example.org' }, 4000) -- its delivery is under way at the stop
  self:stop()
end

--- Nothing fails any more: an engine ends what there is.
function life:finish()
  disk.heal()
  disk.capacity()
  disk.revive()
  if not self:start() then
    self:wrong('no start after all is well again: %s', self.start_error)
    return
  end
  self:receive(20, { 'z@example.org' }, 100)
  if self.mails[20].state ~= 'stored' then
    self:wrong('mail is not taken after all is well again: %s', self.mails[20].why)
  end
  self:advance(1800)
  self:replay()
  if self.replay_error then
    self:wrong('replay: %s', self.replay_error)
  end
  self:advance(1800)
  self.ledger = self.rt:ledger()
  self:stop()
end

-- --- what must have come of it ------------------------------------------------------------------------------------------

function life:wrong(text, ...)
  self.faults = self.faults or {}
  self.faults[#self.faults + 1] = text:format(...)
end

local function sorted(map)
  local list = {}
  for key in pairs(map) do
    list[#list + 1] = key
  end
  table.sort(list)
  return list
end

--- most: how often a receiver may have it.
function life:check(most)
  if not self.ledger then
    return
  end
  local kinds, delivered, bounced = {}, 0, 0
  for id, what in pairs(self.events) do
    if kinds[what] then
      self:wrong('two events of one: %s (%s, %s)', what, kinds[what], id)
    end
    kinds[what] = id
  end
  for _, number in ipairs(sorted(self.mails)) do
    local mail = self.mails[number]
    local there = false
    for _, address in ipairs(mail.to) do
      local key = number .. ' ' .. address
      local sent, bounce = self.sent[key] or 0, kinds['Bounce ' .. key]
      delivered, bounced = delivered + (kinds['Delivery ' .. key] and 1 or 0), bounced + (bounce and 1 or 0)
      there = there or sent > 0 or bounce ~= nil
      if sent > most then
        self:wrong('mail %s was delivered %d times', key, sent)
      end
      if mail.state == 'stored' and sent == 0 and not bounce then
        self:wrong('mail %s was answered with 250 and is lost', key)
      elseif mail.state == 'refused' and (sent > 0 or bounce) then
        self:wrong('mail %s was refused (%s) and is there', key, mail.why)
      end
      if (sent > 0) ~= (kinds['Delivery ' .. key] ~= nil) then
        self:wrong('mail %s: delivered %d times, its Delivery %s', key, sent, tostring(kinds['Delivery ' .. key]))
      end
      if (sent > 0 or bounce) and not kinds['Reception ' .. key] then
        self:wrong('mail %s has no Reception', key)
      end
      kinds['Delivery ' .. key], kinds['Bounce ' .. key], kinds['Reception ' .. key] = nil, nil, nil
    end
    mail.there = there
  end
  if next(kinds) then
    self:wrong('events of nothing: %s', table.concat(sorted(kinds), ', '))
  end
  local mail, h = self.ledger.mail, self.ledger.h
  if mail.waiting ~= 0 or mail.dropped ~= 0 or mail.expired ~= 0 then
    self:wrong('mail: waiting %d, dropped %d, expired %d', mail.waiting, mail.dropped, mail.expired)
  elseif mail.delivered ~= delivered or mail.bounced ~= bounced then
    self:wrong('mail: ledger delivered %d, bounced %d; seen %d, %d', mail.delivered, mail.bounced, delivered, bounced)
  end
  local events = #sorted(self.events)
  if h.waiting ~= 0 or h.dropped ~= 0 or h.expired ~= 0 or h.delivered ~= events then
    self:wrong('h: waiting %d, dropped %d, expired %d, delivered %d of %d events', h.waiting, h.dropped, h.expired, h.delivered, events)
  end
end

--- Of a life without faults: that it is the one that it says it is.
function life:is_whole()
  return self.ledger.mail.bounced == 1 and self.ledger.h.dead > 0
end

function life:close()
  if self.rt then
    self.rt:stop(0)
    self.rt = nil
  end
  self.net:close()
end

return life
