--- One process of tailrace-campaign: cases [from, to) of a kind. A sample takes so many cases of all, spread evenly.
local kind, from, to, sample, option = arg[1], tonumber(arg[2]), tonumber(arg[3]), tonumber(arg[4]), arg[5]
local each = tonumber(arg[7]) -- of allocations from the same place, so many; 0: all
local directory = arg[0]:match '^(.*)/'
package.path = directory .. '/?.lua;' .. package.path

io.stdout:setvbuf 'line'
local campaign = require 'tr.campaign'
local disk = require 'tr.sim_disk'
local life = require(arg[6] == 'mail' and 'life' or 'life_' .. arg[6])

local CASE_S = 60 -- real seconds, with sanitizers
local EVER = 1e9

-- What each operation can give.
local ERRORS = {
  open = { 'EIO', 'ENOSPC', 'EDQUOT', 'EMFILE' },
  read = { 'EIO', 'short' },
  write = { 'EIO', 'ENOSPC', 'EDQUOT', 'short' },
  sync = { 'EIO', 'ENOSPC', 'EDQUOT' },
  truncate = { 'EIO' },
  allocate = { 'EIO', 'ENOSPC', 'EDQUOT' },
  rename = { 'EIO', 'ENOSPC' },
  unlink = { 'EIO' },
  mkdir = { 'EIO', 'ENOSPC' },
  sync_dir = { 'EIO' },
  stat = { 'EIO' },
  list = { 'EIO', 'EMFILE' },
  space = { 'EIO' },
  lock = { 'ENOLCK' },
  close = { 'EIO' },
}
-- Whose failure must be told of: in an answer, in the log, or by a start that does not come to be. What fails to look at
-- something, or to tidy up, is tried again or does not matter.
local TOLD = { write = true, sync = true, rename = true, sync_dir = true, allocate = true, mkdir = true, list = true, lock = true }
local OPS = {}
for op in pairs(ERRORS) do
  OPS[#OPS + 1] = op
end
table.sort(OPS)

--- A life in which nothing fails; returns how much there is to fail.
local function count()
  disk.reset(1)
  campaign.catch_log()
  local one = life.new(directory, kind == 'lua')
  if each > 0 then
    campaign.choose(each)
  end
  campaign.arm('malloc', EVER, 0)
  campaign.arm('lua', EVER, 0)
  one:run()
  local malloc, lua = campaign.disarm()
  local ops = disk.ops()
  one:finish()
  one:check(1)
  one:close()
  for number, mail in pairs(one.mails) do
    if mail.state ~= 'stored' then
      one:wrong('mail %d: %s', number, mail.why)
    end
  end
  local _, text = campaign.log()
  if not one:is_whole(text) then
    one:wrong('something does not happen in it: %s', require('kumo').serde.json_encode(one.ledger))
  end
  if one.faults then
    error('the life without faults: ' .. table.concat(one.faults, '\n') .. '\n' .. text, 0)
  end
  return { ops = ops, malloc = malloc, lua = lua }
end

local make = {}

function make.io(counts)
  local cases = {}
  for _, op in ipairs(OPS) do
    for n = 0, counts.ops[op] - 1 do
      for _, name in ipairs(ERRORS[op]) do
        for _, times in ipairs { 1, EVER } do
          cases[#cases + 1] = {
            op = op, after = n, times = times ~= EVER and times or nil, errno = name ~= 'short' and name or nil,
            short = name == 'short',
            text = ('%s %d: %s%s'):format(op, n, name, times == EVER and ', and all after it' or ''),
          } -- stylua: ignore
        end
      end
    end
  end
  for n = 0, counts.ops.any - 1 do
    cases[#cases + 1] = { op = 'any', after = n, times = 1, kill = true, text = 'killed in operation ' .. n }
  end
  for n = 0, counts.ops.changes - 1 do
    for seed = 1, 3 do
      cases[#cases + 1] = { op = 'changes', after = n, times = 1, cut = true, seed = seed,
        text = ('power cut in change %d, seed %d'):format(n, seed) } -- stylua: ignore
    end
  end
  return cases
end

local function allocations(what, total, windows)
  local cases = {}
  local numbers = each > 0 and campaign.chosen(what) or {}
  for i = 1, each > 0 and #numbers or total do
    local n = numbers[i] or i - 1
    for j, times in ipairs(windows) do
      cases[#cases + 1] = { memory = what, after = n, times = times, number = n * #windows + j - 1,
        text = ('%s %d: %d times no memory'):format(what, n, times) } -- stylua: ignore
    end
  end
  return cases
end

function make.malloc(counts)
  return allocations('malloc', counts.malloc, { 1, 50 })
end

function make.lua(counts)
  return allocations('lua', counts.lua, { 1, 50, 5000 })
end

local function run(case)
  disk.reset(case.seed or 1)
  campaign.catch_log()
  local one = life.new(directory, kind == 'lua')
  if case.memory then
    campaign.arm(case.memory, case.after, case.times)
  else
    local rule = {}
    for _, key in ipairs { 'op', 'after', 'times', 'errno', 'short', 'kill', 'cut' } do
      rule[key] = case[key]
    end
    disk.fail(rule)
  end
  local ok, err = pcall(one.run, one)
  campaign.disarm()
  if not ok then
    one:wrong('%s', tostring(err))
    if one.rt then
      pcall(one.stop, one)
    end
  end
  local faults = disk.ops().faults
  local crashed = disk.is_ghost()
  campaign.faults(faults)
  if faults > 0 and TOLD[case.op] and case.errno then
    if campaign.log() == 0 and one.refusals == 0 and not one.start_error then
      one:wrong 'nothing tells of it'
    end
  end
  ok, err = pcall(one.finish, one)
  if not ok then
    one:wrong('%s', tostring(err))
  else
    one:check(case.memory and 4 or case.times == nil and 3 or crashed and 2 or 1)
  end
  one:close()
  return one
end

--- The log without tracebacks.
local function heads(text)
  local lines = {}
  for line in text:gmatch '[^\n]+' do
    if line:find '^%u+ %a' or line:find '^info' then
      lines[#lines + 1] = line:sub(1, 200)
    end
  end
  return table.concat(lines, '\n')
end

local counts = count()
local cases = make[kind](counts)
local step = sample > 0 and math.max(1, #cases / sample) or 1
local total = sample > 0 and math.floor(#cases / step) or #cases
campaign.total(total)
if from == 0 then
  local parts = {}
  for _, op in ipairs(OPS) do
    parts[#parts + 1] = ('%s %d'):format(op, counts.ops[op])
  end
  print(('a life has %d file operations (%s), %d allocations of ours, %d of Lua: %s, %d cases of %d'):format(
    counts.ops.any, table.concat(parts, ', '), counts.malloc, counts.lua, kind, total, #cases)) -- stylua: ignore
end
for index = from, math.min(to, total) - 1 do
  local case = cases[1 + math.floor(index * step)]
  campaign.begin(index, ('case %d of --%s (%s)'):format(case.number or math.floor(index * step), kind, case.text), CASE_S)
  local one = run(case)
  local _, text = campaign.log()
  if one.faults then
    campaign.wrong(table.concat(one.faults, '\n') .. '\n' .. (option == 'verbose' and text or heads(text)))
  elseif option == 'verbose' then
    print(case.text .. '\n' .. text)
  end
end
campaign.done()
