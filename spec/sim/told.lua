--- What the engine tells of itself, a line of JSON for each event: it makes and ends items of the model (model.lua).
local checks = require 'checks'

local told = {}

-- the column of the ledger in which a mail ends, and a hook's record
local MAIL_COLUMN = { Delivery = 'delivered', Bounce = 'bounced', Expiration = 'expired', AdminBounce = 'bounced' }
local HOOK_COLUMN = { Delivery = 'delivered', Bounce = 'dead', Expiration = 'dead', AdminBounce = 'bounced' }

local function filtered_out(hook, number)
  return hook.filter ~= nil and number % hook.filter == 0
end

-- An event of mail: an item for each hook that wants it.
local function event_of_mail(self, kind, id, address, at, line)
  local mail = self.accounts.mail.items[address]
  if not mail then
    self:wrong('a %s of %s, which nobody has sent', kind, address)
    return
  end
  local number = tonumber(address:match '^r(%d+)') or 0
  for _, account in ipairs(self.accounts) do
    if account.wants and account.wants[kind] then
      if filtered_out(account.hook, number) then
        self.fresh[#self.fresh + 1] = { account = account, filtered = true, mail = kind == 'Reception' and mail or nil }
      elseif not account.items[id] then
        local item = self:new_item(account, id, at)
        item.kind, item.address, item.config, item.number = kind, address, account.hook, number
        item.mail = kind == 'Reception' and mail or nil
        if account.keys then
          local list = account.keys[checks.key_of(account.hook, number)]
          if not list then
            list = { first = 1 }
            account.keys[checks.key_of(account.hook, number)] = list
          end
          item.at = #list + 1
          list[item.at] = item
        end
        self.fresh[#self.fresh + 1] = { account = account, item = item, mail = kind == 'Reception' and mail or nil }
      else
        self:wrong('the event %s is told twice', id)
      end
    end
  end
  local column = MAIL_COLUMN[kind]
  if kind == 'Bounce' and line:find('"response":{"code":500', 1, true) then
    column = nil -- its queue could not be configured (no memory): it was refused, and yet there are these records
  end
  if kind == 'Delivery' and not mail.accepted then
    self:wrong('%s is said to be delivered, and its server has not taken it', address)
  end
  if kind == 'Expiration' then
    checks.expired(self, self.accounts.mail, mail, at)
  end
  if column then
    self.fresh[#self.fresh + 1] = { account = self.accounts.mail, item = mail, column = column, kind = kind }
  end
end

local function event_of_record(self, kind, line, queue, at)
  local name = queue:match '^(.-)%.log_hook$'
  local account, id = self.accounts[name or ''], line:match '\\"event_id\\":\\"(%x+)\\"'
  local item = account and id and account.items[id]
  if not item then
    self:wrong('a %s of the record %s in %s, which nobody has made', kind, tostring(id), queue)
    return
  end
  local column = HOOK_COLUMN[kind]
  if not column then
    return
  end
  if kind == 'Delivery' and not item.accepted then
    self:wrong('%s: %s is said to be delivered, and its endpoint has not taken it', name, id)
  end
  if kind == 'Expiration' then
    checks.expired(self, account, item, at)
  end
  item.ended = true
  self.fresh[#self.fresh + 1] = { account = account, item = item, column = column, kind = kind }
end

--- Takes what the engine has told since the last call.
function told.listen(self)
  for _, line in ipairs(self.pull()) do
    local kind, _, id = line:match '^{"type":"(%a+)","id":"(%x*)","event_id":"(%x+)"'
    if kind then
      local address, queue = line:match '"recipient":"([^"]*)","queue":"([^"]*)"'
      local at = tonumber(line:match '"timestamp":(%d+)') - self.wall - self.stepped -- up to a second early
      self.trace('record %s %s %s at %d %s', kind, id, queue or '-', at, line:match '\\"event_id\\":\\"(%x+)\\"' or '')
      if line:find('"reception_protocol":"LogRecord"', 1, true) then
        event_of_record(self, kind, line, queue or '', at)
      elseif kind ~= 'Rejection' then
        event_of_mail(self, kind, id, address or '', at, line)
      end
    else
      self:wrong('a record that cannot be read: %s', line:sub(1, 200))
    end
  end
end

return told
