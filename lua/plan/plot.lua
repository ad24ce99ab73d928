--- `tailrace plan`: queue depth over time, in the terminal and as SVG.
local host = require 'tr.host'
local arithmetic = host.internal 'plan.arithmetic'

local plot = {}

local number, time = arithmetic.number, arithmetic.time
local WIDTH, HEIGHT = 60, 6 -- characters of a chart
local EIGHTHS = { '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█' }

---@class tr.plan.Series
---@field queue string
---@field step_s number   between two samples
---@field depth number[]  messages that wait or are under way

--- The samples in `count` columns: the highest of each.
local function columns(depth, count)
  local out = {}
  for i = 1, count do
    local from, to = math.floor((i - 1) * #depth / count) + 1, math.max(math.floor(i * #depth / count), 1)
    local high = 0
    for at = from, math.max(from, to) do
      high = math.max(high, depth[at] or 0)
    end
    out[i] = high
  end
  return out
end

local function highest(depth)
  local high = 0
  for _, value in ipairs(depth) do
    high = math.max(high, value)
  end
  return high
end

--- A chart of one queue as lines of text.
---@param series tr.plan.Series
---@return string[]
function plot.chart(series)
  local high, lines = highest(series.depth), {}
  local top = math.max(high, 1)
  local label = math.max(#number(high), 1)
  local values = columns(series.depth, math.min(WIDTH, #series.depth))
  for row = HEIGHT, 1, -1 do
    local cells = {}
    for i, value in ipairs(values) do
      local eighths = value / top * HEIGHT * 8 - (row - 1) * 8
      if value > 0 and row == 1 then
        eighths = math.max(eighths, 1) -- what is there is seen
      end
      cells[i] = eighths < 0.5 and ' ' or EIGHTHS[math.max(1, math.min(8, math.floor(eighths + 0.5)))]
    end
    local mark = row == HEIGHT and number(high) or row == 1 and '0' or ''
    lines[#lines + 1] = (('%s%s │%s'):format((' '):rep(label - #mark), mark, table.concat(cells)):gsub('%s+$', ''))
  end
  local span = time(#series.depth * series.step_s)
  lines[#lines + 1] = ('%s └%s'):format((' '):rep(label), ('─'):rep(#values))
  lines[#lines + 1] = ('%s  0%s%s'):format((' '):rep(label), (' '):rep(math.max(1, #values - 1 - #span)), span)
  return lines
end

local function escape(text)
  return (text:gsub('[&<>"]', { ['&'] = '&amp;', ['<'] = '&lt;', ['>'] = '&gt;', ['"'] = '&quot;' }))
end

local SVG_WIDTH, SVG_HEIGHT, LEFT, TOP, GAP = 640, 150, 90, 40, 50
local COLOURS = { '#2563eb', '#dc2626', '#059669', '#d97706', '#7c3aed', '#0891b2' }

--- All queues as one drawing, a panel each.
---@param title string
---@param list tr.plan.Series[]
---@return string
function plot.svg(title, list)
  local height = TOP + #list * (SVG_HEIGHT + GAP)
  local out = {
    ('<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="12">'):format(
      LEFT + SVG_WIDTH + 20, height),
    '<rect width="100%" height="100%" fill="white"/>',
    ('<text x="10" y="20" font-size="14">%s</text>'):format(escape(title)),
  }
  for i, series in ipairs(list) do
    local y, high = TOP + (i - 1) * (SVG_HEIGHT + GAP) + 15, highest(series.depth)
    local points, count = {}, #series.depth
    for at, value in ipairs(series.depth) do
      points[at] = ('%.1f,%.1f'):format(LEFT + (at - 1) / math.max(count - 1, 1) * SVG_WIDTH,
        y + SVG_HEIGHT - 20 - value / math.max(high, 1) * (SVG_HEIGHT - 20))
    end
    local bottom = y + SVG_HEIGHT - 20
    out[#out + 1] = ('<text x="%d" y="%d">%s</text>'):format(LEFT, y - 4,
      escape(series.queue .. ', messages that wait'))
    out[#out + 1] = ('<path d="M%d %d V%d H%d" fill="none" stroke="#888"/>'):format(LEFT, y, bottom, LEFT + SVG_WIDTH)
    out[#out + 1] = ('<text x="%d" y="%d" text-anchor="end">%s</text>'):format(LEFT - 6, y + 10, number(high))
    out[#out + 1] = ('<text x="%d" y="%d" text-anchor="end">0</text>'):format(LEFT - 6, bottom)
    out[#out + 1] = ('<text x="%d" y="%d">0</text>'):format(LEFT, bottom + 15)
    out[#out + 1] = ('<text x="%d" y="%d" text-anchor="end">%s</text>'):format(LEFT + SVG_WIDTH, bottom + 15,
      time(count * series.step_s))
    out[#out + 1] = ('<polyline points="%s" fill="none" stroke="%s" stroke-width="1.5"/>'):format(
      table.concat(points, ' '), COLOURS[(i - 1) % #COLOURS + 1])
  end
  out[#out + 1] = '</svg>\n'
  return table.concat(out, '\n')
end

--- Writes the drawing into a file. nil, and why not.
---@param path string
---@param title string
---@param list tr.plan.Series[]
---@return true?, string?
function plot.draw(path, title, list)
  local file, err = io.open(path, 'w')
  local ok = file
  if file then
    ok, err = file:write(plot.svg(title, list))
    file:close()
  end
  return ok and true, err
end

--- The simulation for people.
---@param result table of lua/plan.lua
---@param options table of the command
---@param add fun(text: string, ...: any)
function plot.write(result, options, add)
  local simulation = result.simulation
  add('')
  add('Simulated: %s of this load, %s messages through the real queues%s', time(simulation.duration_s),
    number(simulation.messages), simulation.cut and ' (a longer one was cut)' or '')
  for _, queue in ipairs(simulation.queues) do
    add('  %-20s %s/s delivered, planned %s/s: off by %.1f %%', queue.name, number(queue.simulated), number(queue.planned),
      math.abs(queue.off) * 100)
    if queue.off > 0.05 then
      add '    a rate by the minute or hour lets a whole minute or hour of messages through at first: --duration'
    end
  end
  for _, series in ipairs(simulation.series) do
    add('')
    if highest(series.depth) == 0 then
      add('%s: no message waits', series.queue)
    else
      add('%s, messages that wait', series.queue)
      for _, line in ipairs(plot.chart(series)) do
        add(line)
      end
    end
  end
  if options.svg then
    add('')
    add('drawn in %s', options.svg)
  end
end

return plot
