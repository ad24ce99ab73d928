--- `tailrace dead`: dead letters, of a running node through its HTTP listener, or of a stopped node's spool. Run by
--- runtime/cli/dead.c with the request as JSON.
local kumo = require 'kumo'

local TIMEOUT = '10m' -- a replay of a million takes a while
local PAGE = 1000

local request = kumo.serde.json_parse((...))

local function fail(text)
  io.stderr:write('tailrace dead: ', tostring(text), '\n')
  os.exit(1)
end

--- Control bytes of what a receiver said never reach the terminal.
local function show(text)
  return (tostring(text):gsub('[%c\127]', ' '))
end

-- --- where the letters are ----------------------------------------------------------------------------------------

local filter = {}
for _, name in ipairs { 'hook', 'ids', 'since', 'until', 'reason' } do
  filter[name] = request[name]
end

--- ask(verb, filter) -> the answer's table; `verb` is list, replay or purge.
local function node()
  local client = kumo.http.build_client { timeout = TIMEOUT, max_response_bytes = 2 ^ 28 }
  local base = request.admin:gsub('/+$', '') .. '/api/admin/tailrace/dead/'
  return function(verb, body)
    local ok, response = pcall(function()
      return (client:post(base .. verb):header('Content-Type', 'application/json'):body(kumo.serde.json_encode(body)):send())
    end)
    if not ok then
      fail(('%s cannot be asked: %s'):format(request.admin, tostring(response)))
    end
    local text = response:text()
    if response:status_code() ~= 200 then
      fail((text:gsub('^Error: ', ''):gsub('%s+$', '')))
    end
    return kumo.serde.json_parse(text)
  end
end

local function spool()
  local dead = require('tr.host').internal 'dead'
  local probe = io.open(request.meta .. '/.')
  if not probe then
    fail(request.meta .. ': there is no such directory')
  end
  probe:close()
  local store, err = require('tr.dead').open(request.meta, request.data)
  if not store then
    fail(err)
  end
  return function(verb, body)
    local ok, answer = pcall(function()
      if verb == 'list' then
        return kumo.serde.json_parse(dead.list_json(body, store))
      end
      return dead[verb](body, store)
    end)
    if not ok then
      store:close()
      fail(answer)
    end
    return answer
  end, function()
    store:close()
  end
end

local ask, close
if request.meta then
  ask, close = spool()
else
  ask = node()
end

-- --- what is done with them ---------------------------------------------------------------------------------------

local function copy(more)
  local out = {}
  for name, value in pairs(filter) do
    out[name] = value
  end
  for name, value in pairs(more) do
    out[name] = value
  end
  return out
end

--- Calls fn for each letter and each parked record, in pages of one hook after the other. Returns how many could not be
--- read.
local function each(payload, fn)
  local left, unreadable = request.limit or math.huge, 0
  local hooks = { request.hook }
  if not request.hook then -- one letter of each hook tells their names
    hooks = ask('list', { hooks = true }).hooks
  end
  local function pages(hook, kind)
    local after = 0
    while left > 0 do
      local limit = math.min(PAGE, left)
      local page = ask('list', copy { hook = hook, kind = kind, payload = payload, after_seq = after, limit = limit })
      unreadable = unreadable + page.unreadable
      for _, letter in ipairs(page.letters) do
        fn(letter)
        after = letter.seq
        left = left - 1
      end
      if #page.letters == 0 then
        break
      end
    end
  end
  for _, hook in ipairs(hooks) do
    if request.reason ~= 'policy_error' then
      pages(hook, 'letters')
    end
    if not request.reason or request.reason == 'policy_error' then
      pages(hook, 'parked')
    end
  end
  return unreadable
end

--- "1 dead letter", "2 dead letters"
local function number(count, what)
  return ('%d %s%s'):format(count, what, count == 1 and '' or 's')
end

--- "2 dead letters", "1 parked record", "2 dead letters, 1 parked record"
local function both(letters, parked)
  if parked == 0 then
    return number(letters, 'dead letter')
  end
  return (letters > 0 and number(letters, 'dead letter') .. ', ' or '') .. number(parked, 'parked record')
end

local function line_of(letter)
  local what = letter.letter
  local answer = what.answer or ''
  if request.action == 'list' then -- of an error of the policy
    answer = answer:match '^(.-)\nstack traceback:' or answer
  end
  local line = ('%s  %s  %s  %s  %s  %s'):format(letter.id, what.at or '?', show(what.hook or '?'), what.reason or '?',
    number(what.attempts or 0, 'attempt'), show(answer))
  return (line:gsub('%s+$', ''))
end

local action = request.action
local unreadable, refused
if action == 'list' or action == 'show' or action == 'export' then
  local letters, parked = 0, 0
  local json = request.json or action == 'export'
  unreadable = each(action ~= 'list', function(letter)
    if letter.letter.reason == 'policy_error' then
      parked = parked + 1
    else
      letters = letters + 1
    end
    if json then
      print(kumo.serde.json_encode(letter))
    else
      print(line_of(letter))
      if action == 'show' then
        print('    ' .. show((letter.payload:gsub('%s+$', ''))))
      end
    end
  end)
  if not json then
    print(both(letters, parked))
  end
elseif not (next(filter) or request.all) then
  if close then
    close()
  end
  fail 'say which letters: --hook, --id, --since, --until or --reason; --all for all of them'
else
  local answer = ask(action, copy { limit = request.limit, all = request.all or nil })
  unreadable = answer.unreadable
  refused = answer.refused and answer
  if request.json then
    print(kumo.serde.json_encode(answer))
  else
    local parked = answer.parked or 0
    local letters = answer.matched - parked
    if action == 'purge' then
      print(both(letters, parked) .. ' dropped')
    else
      if letters > 0 or parked == 0 then
        print(number(letters, 'dead letter') .. (letters == 1 and ' is back in its queue' or ' are back in their queues'))
      end
      if parked > 0 then
        print(number(parked, 'parked record') .. (parked == 1 and ' is' or ' are') .. ' decided again'
          .. (request.meta and ' at the next start' or ''))
      end
    end
  end
end
if close then
  close()
end
if refused then
  fail(('the disk takes no more (%s): %d letters that were under way stay, and those behind them'):format(refused.why,
    refused.refused))
end
if unreadable > 0 then
  fail(('%d letters could not be read now; they stay'):format(unreadable))
end
