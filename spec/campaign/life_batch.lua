--- A second life: batches with an outcome for each record, in order; a budget; records that are parked; a queue that is
--- suspended, one that is bounced, one that is moved, one whose mail expires; an injection. Peers, steps and ends differ
--- from those of life.lua, all else is that.
local life = require 'life'
local disk = require 'tr.sim_disk'
local serde = require('kumo').serde

local batch = setmetatable({}, { __index = life })
batch.__index = batch

local ENDS = { Delivery = true, Bounce = true, Expiration = true, AdminBounce = true }
-- Domains whose peer is not ready; in the end only the first: the administrator's order may have been what failed.
local HELD_UP = { ['old.test'] = 'always', ['adm.test'] = 'once', ['from.test'] = 'once' }

function batch.new(directory)
  local self = life.new(directory, true, batch) -- a change holds the records of three hooks, parked ones with their tracebacks
  self.policy = directory .. '/policy_batch.lua'
  self.seen = { b = {}, j = {}, p = {} } -- by event_id: the record
  self.away = true -- the endpoint of j
  for name in pairs(self.seen) do
    self.net:http('http://10.0.0.1:4242/' .. name, function(request)
      if disk.is_ghost() then
        return { reset = true }
      end
      return self['answer_' .. name](self, serde.json_parse(request.body))
    end)
  end
  return self
end

-- --- peers ------------------------------------------------------------------------------------------------------------

function batch:answer_smtp(mail)
  local domain = mail.to[1]:match '@([%w.]+)'
  if disk.is_ghost() then
    return { reset = true }
  elseif HELD_UP[domain] == 'always' or HELD_UP[domain] and not self.finishing then
    return 450
  end
  self:take(mail, tonumber(mail:header 'Subject'))
  return 250
end

--- Mail that came past the listener is one message for all its recipients, and has records about several.
local function addresses_of(record)
  return type(record.recipient) == 'table' and record.recipient or { record.recipient }
end

local function address_of(record)
  return addresses_of(record)[1]
end

function batch:note(name, record)
  self.seen[name][record.event_id] = record
end

--- A letter for each: the first batch is put off, records of c are refused until `forgiving`.
function batch:answer_b(records)
  local letters = {}
  local busy = not self.busy_once
  self.busy_once = true
  for i, record in ipairs(records) do
    letters[i] = busy and i % 2 == 1 and 't' or address_of(record):find '^c' and not self.forgiving and 'p' or 'k'
    if letters[i] == 'k' then
      self:note('b', record)
    end
    if (record.meta or {}).tenant ~= address_of(record):sub(1, 1) then
      self:wrong('%s of %s: its tenant is %s', record.type, address_of(record), tostring((record.meta or {}).tenant))
    end
  end
  return { status = 200, body = table.concat(letters) }
end

--- One is refused for good, and with it each batch that it is in.
function batch:answer_j(records)
  if self.away then
    return 503
  end
  records = records[1] and records or { records }
  for _, record in ipairs(records) do
    if address_of(record):find '^f' and not self.forgiving then
      return 413
    end
  end
  for _, record in ipairs(records) do
    self:note('j', record)
  end
  return 200
end

function batch:answer_p(record)
  self:note('p', record)
  return 200
end

-- --- steps ------------------------------------------------------------------------------------------------------------

--- Something that an administrator asks for. It may fail; then it is as if nobody had asked.
function batch:ask(text, ...)
  if not disk.is_ghost() then
    return pcall(self.rt.eval, self.rt, text:format(...))
  end
  return false
end

function batch:inject(number, to, bytes)
  local body = ('0123456789abcd%02d\n'):format(number):rep(math.ceil(bytes / 17)):sub(1, -2)
  local mail = { to = to, injected = true, state = 'unknown', body = body }
  self.mails[number] = mail
  local ok, answer = pcall(
    self.rt.eval, self.rt,
    ("return campaign.inject({ '%s' }, '%d', %q)"):format(table.concat(to, "', '"), number, (mail.body:gsub('\n', '\r\n')) .. '\r\n')
  ) -- stylua: ignore
  if disk.is_ghost() then
    return
  elseif not ok then
    mail.why = tostring(answer)
    return
  end
  mail.failed = answer.fail_count
  if answer.success_count == #to then
    mail.state = 'stored'
  elseif answer.fail_count == #to then
    mail.state, mail.why = 'refused', 'of an injection'
    self.refusals = self.refusals + 1
  end
end

function batch:replay()
  self.forgiving, self.away = true, false
  for name in pairs(self.seen) do
    if not disk.is_ghost() then
      local ok, err = pcall(self.rt.eval, self.rt, ("require('kumo').api.admin.dead_letters.replay { hook = '%s' }"):format(name))
      self.replay_error = not ok and tostring(err) or self.replay_error
    end
  end
end

function batch:run()
  if not self:start() then
    return
  end
  self:ask 'campaign.broken(true)'
  self:receive(1, { 'a@ok.test' }, 100)
  self:receive(2, { 'bounce@ok.test' }, 100)
  self:receive(3, { 'b@ok.test', 'c@ok.test' }, 4000)
  self:ask "campaign.suspend 'sus.test'"
  self:receive(4, { 's@sus.test' }, 4000)
  self:receive(5, { 'o@old.test' }, 100)
  self:receive(6, { 'm@adm.test' }, 4000)
  self:receive(7, { 'r@from.test' }, 1500)
  self:inject(8, { 'd@ok.test', 'e@ok.test' }, 200)
  self:advance(20)
  self:ask "campaign.bounce 'adm.test'"
  self:ask "campaign.rebind('from.test', 'to.test')"
  self:advance(200)
  self:ask 'campaign.epoch()'
  self.away = false
  self:advance(700) -- what is old expires, what was suspended goes
  self:stop()
  if disk.is_ghost() or not self:start() then
    return
  end
  self:receive(9, { 'f@ok.test' }, 4000)
  self:inject(10, { 'g@ok.test' }, 4000)
  self:advance(300)
  self:receive(11, { 'o@old.test' }, 4000)
  self:stop()
end

function batch:finish()
  self.finishing, self.replay_error = true, nil
  life.finish(self)
end

-- --- what must have come of it ------------------------------------------------------------------------------------------

--- What an injection refuses as it has no queue gets a Reception and a Bounce, and was never mail: `NotQueued`.
local function end_of(record)
  local why = record.type == 'Bounce' and (record.response or {}).content or ''
  return why:find('failed to insert the message into its queue', 1, true) and 'NotQueued' or record.type
end

function batch:sort_in(name, record, key, ends, receptions, total)
  if name == 'b' and ENDS[record.type] then
    local kind = end_of(record)
    if ends[key] then
      self:wrong('%s has two ends: %s, %s', key, ends[key], kind)
    end
    ends[key] = kind
    total[kind] = (total[kind] or 0) + 1
  elseif record.type == 'Reception' and receptions[name] then
    if receptions[name][key] then
      self:wrong('two Receptions of %s for %s', key, name)
    end
    receptions[name][key] = true
  end
end

function batch:check(most)
  if not self.ledger then
    return
  end
  local ends, receptions, counts, total = {}, { b = {}, p = {} }, { j = 0, p = 0, b = 0 }, {}
  for name, records in pairs(self.seen) do
    for _, record in pairs(records) do
      counts[name] = counts[name] + 1
      for _, address in ipairs(addresses_of(record)) do
        self:sort_in(name, record, ('%s %s'):format(record.headers.Subject or '?', address), ends, receptions, total)
      end
    end
  end
  for number, mail in pairs(self.mails) do
    local queued, not_queued = 0, 0
    for _, address in ipairs(mail.to) do
      local key = number .. ' ' .. address
      local sent, last = self.sent[key] or 0, ends[key]
      if last == 'NotQueued' then
        not_queued = not_queued + 1
      elseif last then
        queued = queued + 1
      end
      if last == 'NotQueued' and (mail.state == 'stored' or not mail.injected) then
        self:wrong('mail %s was taken (%s), and not queued', key, mail.state)
      end
      if sent > most then
        self:wrong('mail %s was delivered %d times', key, sent)
      end
      if mail.state == 'stored' and not last then
        self:wrong('mail %s was answered with 250 and has no end', key)
      elseif mail.state == 'refused' and (sent > 0 or last and last ~= 'NotQueued') then
        self:wrong('mail %s was refused (%s) and is there', key, mail.why)
      end
      if last == 'Delivery' and sent == 0 or sent > 0 and last ~= 'Delivery' and last ~= 'AdminBounce' then
        self:wrong('mail %s: delivered %d times, its end is %s', key, sent, tostring(last))
      end
      for name, of in pairs(receptions) do
        if (of[key] ~= nil) ~= (last ~= nil) then
          self:wrong('mail %s: its end is %s, its Reception for %s %s', key, tostring(last), name, tostring(of[key]))
        end
        of[key] = nil
      end
      ends[key] = nil
    end
    if mail.failed and (queued ~= #mail.to - mail.failed or not_queued > mail.failed) then
      self:wrong('mail %d: %d of %d were refused; %d have an end, %d were not queued', number, mail.failed, #mail.to, queued, not_queued)
    end
  end
  for name, of in pairs { ends = ends, b = receptions.b, p = receptions.p } do
    if next(of) then
      self:wrong('%s of nothing: %s', name, next(of))
    end
  end
  self:check_ledger(total, counts)
end

function batch:check_ledger(total, counts)
  local mail, of = self.ledger.mail, self.ledger
  local bounced = (total.Bounce or 0) + (total.AdminBounce or 0)
  if mail.waiting ~= 0 or mail.dropped ~= 0 then
    self:wrong('mail: waiting %d, dropped %d', mail.waiting, mail.dropped)
  elseif mail.delivered ~= (total.Delivery or 0) or mail.bounced ~= bounced or mail.expired ~= (total.Expiration or 0) then
    self:wrong('mail: ledger delivered %d, bounced %d, expired %d; seen %d, %d, %d', mail.delivered, mail.bounced, mail.expired,
      total.Delivery or 0, bounced, total.Expiration or 0) -- stylua: ignore
  end
  for name, count in pairs(counts) do
    local account = of[name]
    local waiting = account.waiting + (of['dead:' .. name] or { waiting = 0 }).waiting
    if waiting ~= 0 or account.expired ~= 0 or account.delivered ~= count or (name ~= 'j' and account.dropped ~= 0) then
      self:wrong('%s: waiting %d, dropped %d, expired %d, delivered %d of %d', name, waiting, account.dropped, account.expired,
        account.delivered, count) -- stylua: ignore
    end
  end
  if of.j.delivered + of.j.dropped ~= of.b.delivered then
    self:wrong('j: delivered %d, dropped %d, where b has %d', of.j.delivered, of.j.dropped, of.b.delivered)
  end
end

--- Of a life without faults: that it is the one that it says it is.
function batch:is_whole(log)
  local of = self.ledger
  return of.mail.expired == 2 and of.mail.bounced == 2 and of.b.dead == 2 and of.j.dead == 2 and of.j.dropped > 10
    and log:find('is parked', 1, true) ~= nil
end

return batch
