--- `tailrace plan`: the plan for people.
local host = require 'tr.host'
local arithmetic = host.internal 'plan.arithmetic'

local report = {}

local number, time = arithmetic.number, arithmetic.time
local WAITING_BYTES = 64 -- of memory: see docs/performance.md

local function bytes(count)
  local units = { 'bytes', 'KB', 'MB', 'GB', 'TB' }
  local at = 1
  while count >= 1000 and at < #units do
    count, at = count / 1000, at + 1
  end
  return ('%.3g %s'):format(count, units[at])
end

--- Lines of cells in columns; numbers (from the second cell on) stand to the right where `right` says so.
local function columns(rows, right)
  local widths, out = {}, {}
  for _, row in ipairs(rows) do
    for i, cell in ipairs(row) do
      widths[i] = math.max(widths[i] or 0, #cell)
    end
  end
  for _, row in ipairs(rows) do
    local line = {}
    for i, cell in ipairs(row) do
      local pad = (' '):rep(widths[i] - #cell)
      line[i] = right[i] and pad .. cell or cell .. pad
    end
    out[#out + 1] = (table.concat(line, '  '):gsub('%s+$', ''))
  end
  return out
end

local function totals(result, add)
  local function row(name, a_second)
    return { name, number(math.floor(a_second * 3600 + 0.5)), number(a_second) }
  end
  local rows = {
    { '', 'an hour', 'a second' },
    row('mails', result.mails_s),
    row('log records', result.records_s),
    row('queued messages', result.messages_s),
  }
  for _, line in ipairs(columns(rows, { false, true, true })) do
    add(line)
  end
  add('%s/s into the spool, %s a day; about %.2g busy cores (docs/performance.md says of which machine)',
    bytes(result.bytes_s), bytes(result.bytes_s * 86400), result.cores)
end

local function queue_rows(queues)
  local rows = { { 'queue', 'comes/s', 'limit/s', 'load', 'limited by' } }
  for _, queue in ipairs(queues) do
    local by = queue.bound_by or 'nothing'
    if queue.source then
      by = ('%s, of source %s'):format(by, queue.source)
    end
    rows[#rows + 1] = {
      queue.queue,
      number(queue.demand),
      queue.limit and number(queue.limit) or '-',
      queue.load and ('%.0f %%'):format(queue.load * 100) or '-',
      by,
    }
  end
  return rows
end

local function outages(result, add)
  add('')
  add('When what a queue sends to is down for %s:', time(result.load.outage_s))
  local rows = {}
  for _, queue in ipairs(result.queues) do
    local rest = queue.drains_s and ('gone %s after it is back'):format(time(queue.drains_s)) or 'never gone at this load'
    rows[#rows + 1] = {
      '  ' .. queue.queue,
      ('%s wait'):format(number(math.floor(queue.after_outage + 0.5))),
      bytes(queue.after_outage * (queue.is_hook and result.load.event_size or result.load.mail_size)) .. ' on disk',
      bytes(queue.after_outage * WAITING_BYTES) .. ' of memory',
      rest,
    }
  end
  for _, line in ipairs(columns(rows, { false, true, true, true })) do
    add(line)
  end
end

local function verdict(result, add)
  add('')
  local first
  for _, queue in ipairs(result.queues) do
    if queue.queue == result.bottleneck and (not first or queue.load > first.load) then
      first = queue
    end
  end
  if not first then
    add 'Nothing in the policy limits these queues.'
    return
  end
  if first.load > 1 then
    add('%s does not keep up: %s messages a second more than it lets through.', first.queue, number(first.grows))
  else
    add('All queues keep up. The first to be full is %s, at %.3g times this load.', first.queue, 1 / first.load)
  end
  add('  limited by %s (%s)', first.bound_by, first.origin)
  add('  to change: %s', first.advice)
  for _, queue in ipairs(result.queues) do
    if queue ~= first and queue.load and queue.load > 1 then
      add('%s does not keep up, either: %s more a second; %s', queue.queue, number(queue.grows), queue.advice)
    end
  end
end

---@param result table of lua/plan.lua
---@param options table of the command
---@return string
function report.text(result, options)
  local out = {}
  local function add(text, ...)
    out[#out + 1] = select('#', ...) > 0 and text:format(...) or text
  end
  local hooks = {}
  for _, queue in ipairs(result.queues) do
    if queue.is_hook then
      hooks[#hooks + 1] = ('%s (%s)'):format(queue.name, table.concat(queue.types, ', '))
    end
  end
  add('%s: %s', options.policy, #hooks > 0 and 'hooks ' .. table.concat(hooks, '; ') or 'no log hook')
  add('')
  totals(result, add)
  add('')
  for _, line in ipairs(columns(queue_rows(result.queues), { false, true, true, true })) do
    add(line)
  end
  outages(result, add)
  verdict(result, add)
  if result.simulation then
    host.internal('plan.plot').write(result, options, add)
  end
  return table.concat(out, '\n') .. '\n'
end

return report
