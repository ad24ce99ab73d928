--- Compares the sums of the model (model.lua) with the ledger and the counts of the queues.
local laws = require 'laws'

local sums = {}

sums.COLUMNS = { 'delivered', 'bounced', 'expired', 'dead' } -- that the model counts

local function between(self, what, low, value, high)
  if value < low or value > high then
    self:wrong('%s: %d to %d expected, the ledger has %d', what, low, high, value)
  end
end

--- What its sessions may have in hand, which no budget takes away from them.
local function in_hand_of(hook)
  return hook.limit * hook.batch_size
end

--- With the engine at rest, everything told taken. begins: it has just started, and has not asked for a configuration yet.
function sums.compare(self, ledger, figures, begins)
  laws.check(self, ledger)
  local sum = figures.line + figures.timers + figures.ready + figures.in_flight + figures.undecided + figures.parked
  local waiting, in_hand = 0, 0 -- in_hand: of handlers that run
  local open = figures.undecided + figures.parked -- accepted, and not decided yet
  for _, account in ipairs(self.accounts) do
    open = open + (ledger[account.name] and ledger[account.name].waiting or 0)
  end
  open = open - sum
  for _, account in ipairs(self.accounts) do
    local name, row = account.name, ledger[account.name]
    if row then
      for _, column in ipairs(sums.COLUMNS) do
        between(self, name .. ' ' .. column, account.sealed[column], row[column],
          account.sealed[column] + account.loose[column])
      end
      -- what a filter drops is filtered, or, if it was stored before it was decided, accepted and dropped
      local policy = row.dropped_by.policy or 0
      -- what was accepted may be in a hole, though the end, or what was stored again, is there
      local unsaid = self.damaged and account.filtered[2] + math.max(0, -(row.dropped_by.damaged or 0)) or 0
      local undropped = self.damaged and account.filtered[2] or 0 -- or in a hole is that they were dropped
      between(self, name .. ' accepted', account.certain - unsaid, row.accepted - policy,
        account.certain + account.maybe + (account.hook and open or 0) + undropped)
      if account.hook then
        local sealed, loose = account.filtered[1], account.filtered[2]
        between(self, name .. ' filtered', sealed - open, row.filtered + policy, sealed + loose)
        for reason, count in pairs(row.dropped_by) do
          local explained = reason == 'policy' or reason == 'damaged' and self.damaged
            or reason == 'shed' and account.hook.overflow == 'shed_oldest'
          if count ~= 0 and not explained then
            self:wrong('%s: %d dropped: %s', name, count, reason)
          end
        end
      end
      -- twice: what sessions give back at this moment is not dropped yet, and they may have the next in hand
      if account.hook and account.hook.overflow == 'shed_oldest' and not begins and not self.has_starved
        and self.now() > self.troubled_at + 60 -- what is to be dropped is read before
        and row.waiting > account.hook.max_waiting + 2 * in_hand_of(account.hook) then
        self:wrong('%s: %d wait, the budget is %d', name, row.waiting, account.hook.max_waiting)
      end
      waiting = waiting + row.waiting
      in_hand = in_hand + (account.hook and account.hook.slow and row.waiting or 0)
    elseif account.certain > 0 then
      self:wrong('the ledger has no account %s, %d were accepted', name, account.certain)
    end
  end
  if sum > waiting or sum < waiting - in_hand then
    self:wrong('%d wait in queues, the ledger says %d', sum, waiting)
  end
end

--- All is over: what was accepted has ended in some way. letters: name -> number of dead letters
function sums.finish(self, ledger)
  for _, account in ipairs(self.accounts) do
    local name, missing, row = account.name, {}, ledger[account.name]
    local back = 0 -- letters that were replayed, and may have been dropped then
    for key, item in pairs(account.items) do
      back = back + (item.again and 1 or 0)
      if item.state == 'certain' and not item.terminal then
        missing[#missing + 1] = key
      end
    end
    table.sort(missing)
    local dropped = row and row.dropped_by.shed or 0
    if row and row.waiting > 0 then
      self:wrong('%s: %d still wait', name, row.waiting)
    end
    if #missing > dropped then
      self:wrong('%s: %d of %d have not ended (%d dropped): %s', name, #missing, account.certain, dropped,
        table.concat(missing, ' ', 1, math.min(#missing, 5)))
    elseif dropped > #missing + account.maybe + back then
      self:wrong('%s: %d dropped, only %d have not ended', name, dropped, #missing)
    end
  end
end

return sums
