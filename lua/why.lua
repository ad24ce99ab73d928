--- `tailrace why NAME`: asks a running node what holds a queue or a message, and prints it. Run by runtime/cli/why.c with the
--- base URL of its HTTP listener, the name, and 'json' or 'text'.
local kumo = require 'kumo'

local TIMEOUT = '10s'

local base, name, form = ...

local function fail(text)
  io.stderr:write('tailrace why: ', text, '\n')
  error() -- exit status 1
end

local function encode(text)
  return (text:gsub('[^%w%-._~]', function(c)
    return ('%%%02X'):format(c:byte())
  end))
end

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

local function text_of(answer)
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

local url = base:gsub('/+$', '') .. '/api/admin/tailrace/why?name=' .. encode(name)
local client = kumo.http.build_client { timeout = TIMEOUT }
local ok, response = pcall(function()
  return (client:get(url):send())
end)
if not ok then
  fail(('%s cannot be asked: %s'):format(base, tostring(response)))
end
local body = response:text()
if response:status_code() ~= 200 then
  fail((body:gsub('^Error: ', ''):gsub('%s+$', '')))
end
print(form == 'json' and body or text_of(kumo.serde.json_parse(body)))
