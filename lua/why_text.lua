--- The answer of `why` (docs/shaping.md names the kinds of holds) in lines for people: of `tailrace why`, and at the prompt.
local function number(count, one, many)
  return ('%d %s'):format(count, count == 1 and one or many)
end

local function holds(out, list, indent)
  for _, hold in ipairs(list) do
    out[#out + 1] = ('%s- %s: %s'):format(indent, hold.kind, hold.text)
  end
  return #list
end

local function ready_queue(out, ready, indent)
  out[#out + 1] = ('%sready queue %s: %d ready, %s of at most %d (%d idle)'):format(indent, ready.name, ready.ready,
    number(ready.connections, 'connection', 'connections'), ready.connection_limit, ready.idle)
  if holds(out, ready.holds, indent .. '  ') == 0 then
    out[#out + 1] = indent .. '  nothing holds it'
  end
end

local function queue(out, what, indent)
  local waiting = number(what.waiting, 'waits', 'wait')
  out[#out + 1] = ('%squeue %s: %s, %d of them in line'):format(indent, what.name, waiting, what.line)
  holds(out, what.holds, indent .. '  ')
  for _, ready in ipairs(what.ready_queues) do
    ready_queue(out, ready, indent .. '  ')
  end
end

---@param answer table  decoded
---@return string
return function(answer)
  local out = {}
  if answer.kind == 'message' then
    out[1] = ('message %s: %s'):format(answer.name, number(answer.attempts, 'attempt', 'attempts'))
    holds(out, answer.holds, '  ')
    if answer.queue then
      queue(out, answer.queue, '  ')
    end
  elseif answer.kind == 'ready' then
    ready_queue(out, answer, '')
  else
    queue(out, answer, '')
  end
  return table.concat(out, '\n')
end
