--- What is true of the ledger alone at each rest, however little the script knows of what has come to be: what failed for want
--- of memory, or was under way in a crash, is no excuse. A power cut that leaves holes is (model.damaged).
local laws = {}

local CUMULATIVE = { 'offered', 'filtered', 'accepted', 'moved_in', 'delivered', 'bounced', 'dead', 'dropped', 'expired', 'moved_out' }

--- What was counted once stays counted, over each restart; without flush and after a power cut, what the kernel had written.
local function only_grows(self, ledger)
  local counted = self.counted
  for name, row in pairs(ledger) do
    local known = counted[name] or {}
    for _, column in ipairs(CUMULATIVE) do
      if row[column] < (known[column] or 0) then
        self:wrong('%s %s: %d, it has been %d', name, column, row[column], known[column])
      end
    end
  end
  for name in pairs(counted) do
    if not ledger[name] then
      self:wrong('the ledger has no account %s any more', name)
    end
  end
end

--- A letter is stored with the end of the record that it was, and comes back as that record.
local function letters_come_of_the_dead(self, name, row, letters)
  if row.dead ~= (letters and letters.accepted or 0) then
    self:wrong('%s: %d have died, of which there have been %d letters', name, row.dead, letters and letters.accepted or 0)
  end
  if row.moved_in ~= (letters and letters.moved_out or 0) then
    self:wrong('%s: %d came back, %d letters have been replayed', name, row.moved_in, letters and letters.moved_out or 0)
  end
  if row.moved_out ~= 0 or letters and letters.moved_in ~= 0 then
    self:wrong('%s: a record was moved away', name)
  end
end

--- What happens to a mail is stored with its records, so each hook was offered as many as there are ends of mail of the kinds
--- that it wants. Of attempts that failed there is no count; what was refused may have records that tell why.
local function records_come_with_mail(self, account, row, mail)
  local wants = account.wants
  local least = (wants.Reception and mail.accepted or 0) + (wants.Delivery and mail.delivered or 0)
    + (wants.Expiration and mail.expired or 0)
  local most = wants.TransientFailure and math.huge or least
  if wants.Bounce and wants.AdminBounce then
    least, most = least + mail.bounced, most + mail.bounced
  elseif wants.Bounce or wants.AdminBounce then
    most = most + mail.bounced
  end
  if self.ever_starved and (wants.Bounce or wants.Reception) then
    most = math.huge
  end
  if row.offered < least or row.offered > most then
    self:wrong('%s: %d records were offered, by what became of mail it is %d to %.0f', account.name, row.offered, least, most)
  end
  if row.offered ~= row.accepted + row.filtered then
    self:wrong('%s: %d offered, %d accepted and %d filtered', account.name, row.offered, row.accepted, row.filtered)
  end
end

local NOTHING = { accepted = 0, delivered = 0, expired = 0, bounced = 0 }

---@param ledger table of the engine at rest, all that it has done on disk
function laws.check(self, ledger)
  if self.damaged then
    return
  end
  only_grows(self, ledger)
  self.counted = ledger
  if not self.lax then
    self.counted_and_written = ledger
  end
  for _, account in ipairs(self.accounts) do
    local row = ledger[account.name]
    if row and account.hook then
      letters_come_of_the_dead(self, account.name, row, ledger['dead:' .. account.name])
      records_come_with_mail(self, account, row, ledger.mail or NOTHING)
    end
  end
end

return laws
