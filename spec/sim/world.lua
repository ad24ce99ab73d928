--- What is around the engine: HTTP endpoints of hooks and mail servers, each with weather that changes. A peer tells the
--- model of each attempt before it answers, and after: `ok` (the answer is out), `lost` (it has taken what came, and its
--- answer does not arrive as such) or `no`.
local host = require 'tr.host'
local binding = require 'tr.scripted'
local disk = require 'tr.sim_disk'
local http = host.internal 'scripted.http'
local smtp = host.internal 'scripted.smtp'
local wire = host.internal 'scripted.wire'
local c = host.c

local world = {}
world.__index = world

-- Weather of an endpoint: what it does to a request, with weights.
local HTTP_WEATHER = {
  fine = { { 1, 'ok' } },
  fair = { { 60, 'ok' }, { 10, 'slow' }, { 2, '503' }, { 1, 'reset' }, { 1, 'lost_reset' }, { 1, 'poison' } },
  mixed = {
    { 30, 'ok' }, { 10, 'slow' }, { 8, '503' }, { 4, '429' }, { 3, '500' }, { 2, '404' }, { 2, '302' }, { 4, 'reset' },
    { 4, 'hang' }, { 4, 'lost_reset' }, { 4, 'lost_hang' }, { 4, 'late' }, { 4, 'partial' }, { 3, 'garbage' },
    { 4, 'twice' }, { 6, 'poison' }, { 3, '413' }, { 2, 'close' },
  },
  lossy = { { 10, 'ok' }, { 5, 'lost_reset' }, { 5, 'lost_hang' }, { 5, 'late' }, { 5, 'partial' } },
  busy = { { 1, '503' } },
  sluggish = { { 1, 'slow' } },
  limited = { { 3, '429' }, { 1, 'ok' } },
  refusing = { { 3, '413' }, { 1, 'poison' } },
  hung = { { 1, 'hang' } },
  resetting = { { 1, 'reset' } },
  refused = { { 1, 'ok' } },
  silent = { { 1, 'ok' } },
} -- stylua: ignore
local SMTP_WEATHER = {
  fine = { { 1, 'ok' } },
  fair = { { 60, 'ok' }, { 10, 'slow' }, { 4, '450' }, { 1, 'reset' }, { 1, '550' } },
  mixed = {
    { 30, 'ok' }, { 10, 'slow' }, { 10, '450' }, { 8, '550' }, { 4, '421' }, { 4, 'reset' }, { 4, 'lost_reset' },
    { 2, 'lost_hang' }, { 2, 'hang' }, { 4, 'close' }, { 2, 'late' }, { 3, 'twice' }, { 2, 'garbage' },
  },
  lossy = { { 10, 'ok' }, { 8, 'lost_reset' }, { 2, 'lost_hang' }, { 2, 'late' } },
  busy = { { 1, '450' } },
  sluggish = { { 1, 'slow' } },
  limited = { { 3, '421' }, { 1, 'ok' } },
  refusing = { { 1, '550' } },
  hung = { { 1, 'hang' } },
  resetting = { { 1, 'reset' } },
  refused = { { 1, 'ok' } },
  silent = { { 1, 'ok' } },
} -- stylua: ignore
world.WEATHERS = {
  { 20, 'fine' }, { 30, 'fair' }, { 30, 'mixed' }, { 8, 'lossy' }, { 8, 'busy' }, { 6, 'sluggish' }, { 4, 'limited' }, { 3, 'hung' },
  { 3, 'resetting' }, { 4, 'refused' }, { 3, 'refusing' }, { 2, 'silent' },
} -- stylua: ignore

function world.new(plan, model, random, trace)
  local self = setmetatable({ plan = plan, model = model, trace = trace, places = {}, list = {}, connections = 0 }, world)
  self._net = binding.new(function(conn, address)
    local place = self.places[address]
    self.connections = self.connections + 1
    local number = self.connections
    -- a cancellation passes through pcall
    local ok, err = pcall(place.serve, self, place, wire.new(conn, address), number)
    if not ok then
      conn:reset()
      self.model:wrong('the peer %s: %s', address, tostring(err))
    end
  end)
  for _, hook in ipairs(plan.hooks) do
    self:add(hook.address, { hook = hook, serve = self.serve_http, weathers = HTTP_WEATHER, account = hook.name }, random)
  end
  local names = {}
  for name in pairs(plan.domains) do
    names[#names + 1] = name
  end
  table.sort(names)
  for _, name in ipairs(names) do
    local of = plan.domains[name]
    self:add(of.ip .. ':25', { domain = of, serve = self.serve_smtp, weathers = SMTP_WEATHER, account = 'mail' }, random)
  end
  return self
end

function world:add(address, place, random)
  place.address, place.random, place.weather = address, random:fork(), 'fine'
  place.open, place.open_count = {}, 0 -- connections in a transaction
  self.places[address] = place
  self.list[#self.list + 1] = place
  self._net:set(address, 'open')
end

function world:set_weather(place, name)
  place.weather = name
  self._net:set(place.address, name == 'refused' and 'refused' or name == 'silent' and 'silent' or 'open')
  self.trace('weather %s %s', place.address, name)
end

function world:heal()
  for _, place in ipairs(self.list) do
    self:set_weather(place, 'fine')
  end
end

--- The process has ended: whom a peer still has, it has not.
function world:life_ends()
  for _, place in ipairs(self.list) do
    place.open, place.open_count = {}, 0
  end
end

function world:close()
  self._net:close()
end

-- --- HTTP -----------------------------------------------------------------------------------------------------------

local RECORD = '"type":"(%a+)","id":"%x+","event_id":"(%x+)","sender":"[^"]*","recipient":"([^"]*)"'

--- The events of a request.
local function take_events(body)
  local events = {}
  for kind, id, address in body:gmatch(RECORD) do
    events[#events + 1] = { kind = kind, id = id, address = address }
  end
  return events
end

--- Whether the receiver finds fault with one of these for good: with some it always does, by their number.
local function poisoned(events)
  for _, event in ipairs(events) do
    if tonumber(event.id:sub(1, 8), 16) % 5 == 0 then
      return true
    end
  end
  return false
end

--- Waits; false: the client has gone meanwhile, or will not see an answer.
local function wait(seconds)
  if seconds > 0 then
    c.sleep(seconds)
  end
  return not disk.is_ghost()
end

local STATUS = { ['503'] = 503, ['500'] = 500, ['404'] = 404, ['302'] = 302, ['413'] = 413 }

--- Answers a request. Returns the verdict(s), and what is to be done with the connection.
local function answer_http(place, events, deed)
  local hook, random = place.hook, place.random
  local answer = { status = 200, body = 'fine' }
  local verdict, after, delay = 'ok', nil, 0
  local letters
  if hook.kind == 'custom' then -- an outcome a record
    letters = {}
    for i = 1, #events do
      letters[i] = 'k'
      if deed == 'poison' then
        letters[i] = random:weighted { { 6, 'k' }, { 2, 't' }, { 1, 'p' } }
      end
    end
    if deed == 'garbage' then
      letters[1], verdict = 'r', 'lost'
    end
    answer.body = table.concat(letters)
  elseif deed == 'poison' then
    if poisoned(events) then
      answer.status, verdict = 422, 'refused'
    end
  end
  if STATUS[deed] then
    answer.status, verdict = STATUS[deed], STATUS[deed] == 413 and 'refused' or 'no'
    if hook.kind == 'custom' then
      verdict, answer.body = 'no', ''
    end
  elseif deed == '429' then
    local seconds = random:log(5, 900)
    answer.status, answer.headers, verdict = 429, { ['Retry-After'] = tostring(seconds) }, 'no'
  elseif deed == 'slow' then
    delay = random:next() * hook.timeout * 0.7
  elseif deed == 'late' then
    delay, verdict = hook.timeout + 1 + random:next() * 5, 'lost'
  elseif deed == 'reset' then
    verdict, after = 'no', 'reset'
  elseif deed == 'hang' then
    verdict, after = 'hung', 'hang'
  elseif deed == 'lost_reset' then
    verdict, after = 'lost', 'reset'
  elseif deed == 'lost_hang' then
    verdict, after = 'lost', 'hang'
  elseif deed == 'partial' then
    verdict, after = 'lost', 'partial'
  elseif deed == 'garbage' and hook.kind ~= 'custom' then
    verdict, after = 'no', 'garbage'
  elseif deed == 'twice' then
    after = 'twice'
  elseif deed == 'close' then
    answer.close = true
  end
  return answer, verdict, after, delay, letters
end

local VERDICT_OF = { k = 'ok', t = 'no', p = 'refused' }

function world.serve_http(self, place, wired, number)
  local hook, model = place.hook, self.model
  while true do
    local request = http.read_request(wired, 'http')
    if not request or disk.is_ghost() then
      wired.conn:reset()
      return
    end
    local events = take_events(request.body)
    local deed = place.random:weighted(place.weathers[place.weather])
    local tries = tonumber(request.headers['tailrace-attempt'] or '')
    self.trace('http %s #%d %s %s %d %s', hook.name, number, deed, events[1] and events[1].id or '-', #events, tostring(tries))
    local attempt = model:attempt(hook.name, events, { tries = #events == 1 and tries or nil })
    local answer, verdict, after, delay, letters = answer_http(place, events, deed)
    if verdict == 'lost' then -- the receiver has it whatever becomes of the answer
      model:answered(attempt, 'lost')
    end
    local there = wait(delay)
    if not there then
      wired.conn:reset()
      return
    end
    if verdict == 'refused' then
      model:answered(attempt, #events == 1 and 'refused' or 'parted')
    elseif verdict ~= 'lost' then
      if letters and verdict == 'ok' then
        for i, letter in ipairs(letters) do
          model:answered(attempt, VERDICT_OF[letter], i)
        end
      else
        model:answered(attempt, verdict)
      end
    end
    model:ended(attempt)
    if after == 'reset' then
      wired.conn:reset()
      return
    elseif after == 'hang' then
      repeat
      until not wired:fill()
      return
    elseif after == 'garbage' then
      wired:write(place.random:of { 'HTTP/1.1 fine\r\n\r\n', '\0\255\r\n\r\n', 'HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n', '220 mail\r\n' })
      return
    end
    local text = http.compose(answer, request.method)
    if after == 'partial' then
      wired:write(text:sub(1, place.random:int(1, #text - 1)))
      return
    end
    if after == 'twice' then
      text = text .. text
    end
    if not wired:write(text) or answer.close then
      return
    end
  end
end

-- --- SMTP -----------------------------------------------------------------------------------------------------------

--- What the client of a ghost sees: the end of the connection.
local function gone()
  return { reset = true }
end

function world.serve_smtp(self, place, wired, number)
  local model, random = self.model, place.random
  local deed, attempt, count = nil, nil, 0
  local function over()
    if place.open[number] then
      place.open[number], place.open_count = nil, place.open_count - 1
    end
  end
  local function steady(code)
    return function()
      return disk.is_ghost() and gone() or code
    end
  end
  local session = {
    name = place.address,
    waiting = 0,
    count = 0,
    next = function(_, answer, argument)
      if type(answer) == 'function' then
        return answer(argument)
      end
      return answer
    end,
    answer = {
      banner = function()
        return disk.is_ghost() and gone() or place.weather == 'limited' and random:chance(0.5) and 421 or 220
      end,
      mail = function()
        if disk.is_ghost() then
          return gone()
        end
        deed = random:weighted(place.weathers[place.weather])
        count = count + 1
        attempt = nil
        if not place.open[number] then
          place.open[number], place.open_count = true, place.open_count + 1
        end
        model:transaction(place.domain, number, count, place.open_count)
        return 250
      end,
      rcpt = function(address)
        if disk.is_ghost() then
          return gone()
        end
        self.trace('smtp %s #%d %s %s', place.address, number, deed, address)
        local this = model:attempt('mail', { address }, {})
        if deed == '450' or deed == '550' then
          local code = random:chance(0.5) and tonumber(deed) or nil
          if code then
            model:answered(this, code == 450 and 'no' or 'refused')
            model:ended(this)
            return code
          end
        end
        attempt = attempt or {}
        attempt[#attempt + 1] = this
        return 250
      end,
      data = steady(354),
      message = function(mail)
        if disk.is_ghost() then
          return gone()
        end
        local verdict, answer = 'ok', 250
        if deed == '450' or deed == '550' or deed == '421' then
          verdict, answer = deed == '550' and 'refused' or 'no', tonumber(deed)
        elseif deed == 'slow' then
          answer = { code = 250, delay = ('%dms'):format(random:int(1, 20000)) }
        elseif deed == 'reset' then
          verdict, answer = 'no', { reset = true }
        elseif deed == 'hang' then
          verdict, answer = 'hung', { hang = true }
        elseif deed == 'lost_reset' then
          verdict, answer = 'lost', { reset = true }
        elseif deed == 'lost_hang' then
          verdict, answer = 'lost', { hang = true }
        elseif deed == 'late' then
          verdict, answer = 'lost', { code = 250, delay = ('%ds'):format(random:int(301, 600)) }
          over() -- the client has gone by then
        elseif deed == 'twice' then
          wired:write '250 2.0.0 once\r\n'
        elseif deed == 'garbage' then
          verdict, answer = 'no', { hang = true }
          wired:write(random:of { 'HTTP/1.1 200 OK\r\n', '\0\255\r\n', '25O OK\r\n', '\r\n' })
        elseif deed == 'close' then
          answer = { code = 250, close = true }
        end
        for _, address in ipairs(mail.to) do
          model:content(address, mail.data)
        end
        if type(answer) == 'table' and answer.delay then
          for _, this in ipairs(attempt or {}) do
            model:answered(this, 'lost') -- until the answer is out
          end
          c.sleep((c.duration(answer.delay, 'answer', 'delay')))
          answer.delay = nil
          if disk.is_ghost() then
            return gone()
          end
        end
        for _, this in ipairs(attempt or {}) do
          model:answered(this, verdict)
          model:ended(this)
        end
        attempt = nil
        if verdict ~= 'hung' and not (type(answer) == 'table' and answer.hang) then
          over()
        end
        return answer
      end,
    },
  }
  smtp.serve({ _note = function(_, _, mail)
    mail.n = 1
  end }, wired, { session })
  over()
end

return world
