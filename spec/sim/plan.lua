--- The shape of a run, out of its seed: domains, hooks, sizes.
local plan = {}

local KINDS = { 'Reception', 'Delivery', 'Bounce', 'TransientFailure', 'Expiration', 'AdminBounce' }

local function domain(random, i)
  local retry = random:of { 20, 300, 300, 1200 }
  return {
    ip = '10.2.0.' .. i,
    retry = retry,
    max_retry = math.max(retry, random:of { 300, 1200, 7200 }),
    max_age = random:of { 600, 7200, 43200, 172800 },
    limit = random:of { 1, 2, 5 },
    max_ready = random:of { 1, 3, 100, 1000, 1000 },
    per_connection = random:of { 1, 3, 100 },
  }
end

local function hook(random, i)
  local self = {
    name = 'h' .. i,
    url = ('http://10.1.0.%d/log'):format(i),
    address = ('10.1.0.%d:80'):format(i),
    kind = random:of { 'json', 'json', 'custom' },
    batch_size = random:of { 1, 1, 2, 5, 20 },
    retry = random:of { 5, 60, 300, 300 },
    max_age = random:of { 1800, 14400, 86400, 604800 },
    limit = random:of { 1, 2, 4 },
    per_connection = random:of { 1, 5, 1000 },
    max_ready = random:of { 1, 3, 100, 1000, 1000 },
    gate_failures = random:of { 0, 2, 5 },
    timeout = random:of { 2, 10, 30 },
    back_pressure = random:of { 1, 4, 100 },
  }
  self.max_retry = math.max(self.retry, random:of { 300, 1200, 7200 })
  if self.batch_size > 1 and random:chance(0.5) then
    self.min_batch_size = random:int(2, self.batch_size)
  end
  if random:chance(0.25) then
    self.rate_n, self.rate_s = random:of { 1, 5, 20 }, random:of { 1, 60 }
    self.rate = ('%d/%s'):format(self.rate_n, self.rate_s == 1 and 's' or 'min')
  end
  if random:chance(0.3) then
    self.filter = random:of { 2, 3, 7 }
  end
  self.slow = random:chance(0.2) or nil
  local special = random:int(1, 6)
  if special == 1 then
    self.keys = random:of { 1, 3, 20 }
  elseif special == 2 and not self.slow then -- what waits for its decision is in no queue yet
    self.max_waiting, self.overflow = random:of { 5, 30 }, random:of { 'spill', 'shed_oldest' }
  elseif special == 3 then
    self.broken = random:of { 3, 10 }
  end
  self.types = {}
  for _, kind in ipairs(KINDS) do
    if random:chance(kind == 'Delivery' and 0.8 or 0.4) then
      self.types[#self.types + 1] = kind
    end
  end
  if #self.types == 0 then
    self.types[1] = 'Reception'
  end
  return self
end

---@param extra table another source of chance
function plan.new(random, extra)
  local self = { domains = {}, hooks = {}, min_free = 0 }
  self.flush = not extra:chance(0.25)
  self.memory = extra:chance(0.3) -- allocations fail
  for i = 1, random:int(1, 3) do
    self.domains[('d%d.test'):format(i)] = domain(random, i)
  end
  for i = 1, random:of { 1, 1, 2, 3 } do
    self.hooks[i] = hook(random, i)
  end
  -- a mail and the records of all its recipients, or what ends at once, are often more than a segment
  local segment = #self.hooks == 1 and random:of { 16384, 32768, 65536 } or random:of { 65536, 131072 }
  if extra:chance(0.4) then
    segment = extra:of { 4096, 4096, 8192, 16384 }
  end
  self.sizes = {
    segment_bytes = segment,
    first_segment = random:of { 1, 2 ^ 24 - 40, 2 ^ 24 - 3, 2 ^ 24 - 1, random:int(1, 2 ^ 24 - 1) },
    first_generation = random:of { 1, 2 ^ 32 - 20, 2 ^ 32 - 2, random:int(1, 2 ^ 32 - 1) },
    group_bytes = random:of { 4096, segment / 2, segment * 4 },
    body_file_bytes = random:of { 1500, 4096, 262144 },
    floor_bytes = segment * extra:of { 1, 1, 2, 4 }, -- beyond it what lives is copied forward
  }
  self.busy = random:of { 1, 2, 4 } -- mails at once
  self.recipients = segment < 65536 and 1 or random:of { 1, 3 }
  return self
end

--- What another version of a policy may have: of what is stored nothing changes its meaning.
function plan.change(self, random)
  local old, new = random:of(self.hooks), hook(random, 1)
  for _, key in ipairs { 'batch_size', 'min_batch_size', 'limit', 'per_connection', 'max_ready', 'gate_failures', 'timeout', 'back_pressure' } do
    old[key] = new[key]
  end
  if not old.max_waiting and not old.keys then
    old.rate, old.rate_n, old.rate_s = new.rate, new.rate_n, new.rate_s
  end
  self.broken = random:chance(0.3)
  -- a start with flush again does not know which body files nobody has synced
  if self.sizes.body_file_bytes > 100000 and random:chance(0.2) then
    self.flush = not self.flush
  end
end

--- Other limits of a path, and delays of a domain, for a new configuration epoch. The former ones may be in use for a while.
function plan.retune(of, random, now)
  local new = of.ip and domain(random, 0) or hook(random, 1)
  local values, former = {}, { at = now }
  local keys = { 'limit', 'max_ready', 'per_connection', of.ip and 'retry', of.ip and 'max_retry', of.ip and 'max_age' }
  for _, key in ipairs(keys) do
    values[key], former[key], of[key] = new[key], of[key], new[key]
  end
  of.former = former
  return values
end

--- As the text of a Lua table.
function plan.text(value)
  if type(value) ~= 'table' then
    return type(value) == 'string' and ('%q'):format(value) or type(value) == 'number' and ('%.17g'):format(value)
      or tostring(value)
  end
  local keys, out = {}, {}
  for key in pairs(value) do
    keys[#keys + 1] = key
  end
  table.sort(keys, function(a, b)
    return tostring(a) < tostring(b)
  end)
  for _, key in ipairs(keys) do
    out[#out + 1] = ('[%s]=%s'):format(plan.text(key), plan.text(value[key]))
  end
  return '{' .. table.concat(out, ',') .. '}'
end

return plan
