--- What must be true of each attempt that a peer sees, and of an end: not earlier than due, not after max_age, in order, within
--- limits, not again. Each check takes the model (model.lua) and tells it what is wrong.
local checks = {}

local SLACK_S = 0.1
local SETTLING_S = 120 -- what is under way when a queue is suspended

local GRACE_S = 700 -- so long what was begun under the former configuration may go on: an attempt that hangs

--- The most, and the least, that a value of a domain or hook may have been when it was looked at.
function checks.most(of, key, now)
  local former = of.former
  return former and now < former.at + GRACE_S and math.max(of[key], former[key] or of[key]) or of[key]
end

function checks.least(of, key, now)
  local former = of.former
  return former and now < former.at + GRACE_S and math.min(of[key], former[key] or of[key]) or of[key]
end

function checks.key_of(hook, number)
  return number % hook.keys
end

--- It must have been there for max_age, but for the time until the attempt that would come too late.
function checks.expired(self, account, item, at)
  local config, age = item.config, at - item.born
  local now = self.now()
  local least = checks.least(config, 'max_age', now) - checks.most(config, 'max_retry', now) * 1.03 - 3 - (self.steps - item.steps)
  if age < least and not account.rebound and not item.again then
    self:wrong('%s: %s has expired after %.1f s, max_age is %d s', account.name, item.key, age, config.max_age)
  end
end

function checks.again(self, name, item)
  if item.again then
    return
  elseif item.terminal and item.terminal.sealed then
    self:wrong('%s: %s is tried again after it has ended as %s', name, item.key, item.terminal.column)
  elseif item.state == 'refused' then
    self:wrong('%s: %s was refused, and is sent', name, item.key)
  elseif item.accepted == 'ok' then
    if item.accepted_life == self.life then
      self:wrong('%s: %s is sent again in the same life', name, item.key)
    elseif item.accepted_sealed then
      self:wrong('%s: %s is sent again though its delivery was on disk', name, item.key)
    else
      self.duplicates.crash = self.duplicates.crash + 1
    end
  elseif item.accepted == 'lost' then
    self.duplicates.answer = self.duplicates.answer + 1
  end
end

function checks.due(self, account, item)
  local fail, now = item.fail, self.now()
  if not fail or item.again or (account.flushed_at or -1) >= fail.at then
    return
  end
  local tolerance = SLACK_S
  if fail.life ~= self.life then
    if not fail.sealed then
      return
    end
    tolerance = tolerance + math.abs(self.steps - fail.steps) + 1
  end
  if now < fail.at + fail.delay - tolerance then
    self:wrong('%s: %s is tried %.3f s after it failed (attempt %s), not before %.3f s', account.name, item.key, now - fail.at,
      tostring(fail.tries), fail.delay)
  end
end

function checks.age(self, account, item)
  local age, max_age = self.now() - item.born, checks.most(item.config, 'max_age', self.now())
  if account.rebound then -- it may be in another queue
    for _, of in pairs(self.plan.domains) do
      max_age = math.max(max_age, checks.most(of, 'max_age', self.now()))
    end
  end
  -- a session that waits for its rate, up to its idle_timeout, has what it will send in hand
  local slack = account.hook and account.hook.rate and 65 or 5
  if age > max_age + self.steps - item.steps + slack and not item.again then
    self:wrong('%s: %s is tried %.1f s after it came to be, max_age is %d s', account.name, item.key, age, max_age)
  end
end

function checks.suspended(self, account, item)
  local rule = self.suspended[account.hook and account.name .. '.log_hook' or item.key:match '@(.*)$']
  local now = self.now()
  if rule and not account.rebound and now > rule.from + SETTLING_S and now < rule.to - 1 then
    self:wrong('%s: %s is tried while its queue is suspended', account.name, item.key)
  end
end

--- What has passed max_age behind others of its key ends there, and need not be the next.
local function has_ended(self, item)
  if item.ended or item.accepted == 'ok' or item.state == 'refused' then
    return true
  elseif item.state == 'maybe' and (item.doubtful or item.life ~= self.life or item.mail and item.mail.answered) then
    return true
  end
  return self.now() > item.born + item.config.max_age - self.steps + item.steps
end

--- The first of the same key that has not ended, if it is before the item.
local function earlier(self, account, item)
  local list = account.keys[checks.key_of(account.hook, item.number)]
  while list[list.first] and has_ended(self, list[list.first]) do
    list.first = list.first + 1
  end
  local other = list[list.first]
  return other and other.at < item.at and other or nil
end

function checks.order(self, account, item)
  if item.again or not earlier(self, account, item) then
    return
  end
  self:listen() -- it may just have ended
  local other = earlier(self, account, item)
  if other then
    self:wrong('%s: %s goes before %s of the same key', account.name, item.key, other.key)
  end
end

function checks.limits(self, account, attempt)
  local hook, now = account.hook, self.now()
  if #attempt.items > hook.batch_size then
    self:wrong('%s: a batch of %d', account.name, #attempt.items)
  end
  local count = 0
  for other in pairs(account.active) do
    if other.life ~= self.life or other.over or now - other.at >= hook.timeout - 0.001 then
      account.active[other] = nil
    else
      count = count + 1
    end
  end
  account.active[attempt] = true
  if count + 1 > checks.most(hook, 'limit', now) then
    self:wrong('%s: %d requests at once, the limit is %d', account.name, count + 1, hook.limit)
  end
  if hook.rate_n then
    local bucket = account.bucket
    if not bucket or bucket.life ~= self.life then
      bucket = { life = self.life, tokens = hook.rate_n, at = now }
      account.bucket = bucket
    end
    bucket.tokens = math.min(hook.rate_n, bucket.tokens + (now - bucket.at) * hook.rate_n / hook.rate_s)
    bucket.at = now
    bucket.tokens = bucket.tokens - 1 -- a call of send or send_batch
    if bucket.tokens < -1.01 then
      self:wrong('%s: faster than %s by %.2f calls', account.name, hook.rate, -bucket.tokens)
      bucket.tokens = hook.rate_n
    end
  end
end

return checks
