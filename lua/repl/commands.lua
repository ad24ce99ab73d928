--- The commands of the prompt, which begin with a colon.
local host = require 'tr.host'
local core = require 'tr.repl'
local show = host.internal 'repl.show'
local why_text = host.internal 'why_text'
local c = host.c

local commands = {}

---@class tr.repl.Command
---@field name string
---@field args? string    as the help shows them
---@field about string
---@field where? 'local'|'attached'  only there; nil: in both
---@field unlocked? boolean          in a live process only after :unlock
---@field run fun(session: tr.repl.Session, args: string): string?  a status for the program; nil: "ok". Raises or returns false
local list = {}
local by_name = {}

local function command(spec)
  list[#list + 1] = spec
  by_name[spec.name] = spec
end

local function fail(fmt, ...)
  error({ told = fmt:format(...) }, 0)
end
commands.fail = fail

-- --- help -----------------------------------------------------------------------------------------------------------

local function is_here(spec, session)
  return spec.where == nil or (spec.where == 'attached') == (session.attached == true)
end

command {
  name = ':help',
  args = '[COMMAND]',
  about = 'this text',
  run = function(session, args)
    local wanted = args:match '^:?(%a+)'
    if wanted and not by_name[':' .. wanted] then
      fail("there is no command ':%s'", wanted)
    end
    for _, spec in ipairs(list) do
      if is_here(spec, session) and (not wanted or spec.name == ':' .. wanted) then
        local head = spec.name .. (spec.args and ' ' .. spec.args or '')
        local about = spec.about .. (spec.unlocked and session.attached and ' (after :unlock)' or '')
        local indent = session.width < 70 and 2 or 25
        about = show.wrapped(about, session.width - indent - 1, (' '):rep(indent))
        local gap = #head >= indent and '\n' .. (' '):rep(indent) or (' '):rep(indent - #head)
        session:say(session:paint('bold', head), gap, about)
      end
    end
    if not wanted then
      session:say(session:paint('dim', show.wrapped('All else is Lua: an expression shows its value, `_` is the last one, '
        .. '`local` at the start of an input lasts. Tab completes, Ctrl-C interrupts, Ctrl-D leaves. An input that begins '
        .. 'with a blank is not remembered.', session.width - 1, '')))
    end
  end,
}

command {
  name = ':quit',
  about = 'leave (also Ctrl-D)',
  run = function()
    return 'quit'
  end,
}

-- --- events and functions ------------------------------------------------------------------------------------------------

command {
  name = ':events',
  args = '[NAME]',
  about = 'who handles what: file:line, in the order in which they are asked',
  run = function(session, args)
    local wanted = args:match '%S+'
    local count = 0
    for _, name in ipairs(host.handler_names()) do
      if not wanted or name:find(wanted, 1, true) then
        for i, fn in ipairs(host.handlers_of(name)) do
          count = count + 1
          local head = show.plain(i == 1 and name or '')
          local narrow = session.width < 70
          session:say(narrow and head .. '\n  ' or ('%-36s '):format(head), show.place(fn))
        end
      end
    end
    if count == 0 then
      session:say(wanted and ('no handler for an event with %q in its name'):format(wanted) or 'the policy handles no event')
    end
  end,
}

local function evaluate(session, text, what)
  if text:find '^%s*$' then
    fail('%s expected', what)
  end
  local chunk, err = loadstring('return ' .. text, '=(' .. what .. ')')
  if not chunk then
    fail('%s', err)
  end
  return setfenv(chunk, session.env)
end
commands.evaluate = evaluate

local function source_lines(session, info)
  local text
  if info.source:sub(1, 1) == '@' then
    local file = io.open(info.source:sub(2), 'rb')
    if not file then
      fail('%s cannot be read', info.source:sub(2))
    end
    text = file:read '*a'
    file:close()
  else
    text = session.sources[info.source]
  end
  if not text then
    fail('its source is not there any more')
  end
  local lines, number = {}, 0
  for line in (text:gsub('\n?$', '\n')):gmatch '(.-)\r?\n' do
    number = number + 1
    if number >= info.linedefined and number <= info.lastlinedefined then
      lines[#lines + 1] = { number, line }
    end
  end
  return lines
end

command {
  name = ':source',
  args = 'FUNCTION|EVENT',
  about = 'its text, with file and line',
  run = function(session, args)
    local name = args:match '^%s*([%w_.]+)%s*$'
    local functions = name and host.handlers_of(name) or {}
    if #functions == 0 then
      local fn = evaluate(session, args, 'a function or an event')()
      fn = session.unwrap and session.unwrap(fn) or fn
      if type(fn) ~= 'function' then
        fail('that is a %s, not a function', type(fn))
      end
      functions = { fn }
    end
    for _, fn in ipairs(functions) do
      local info = debug.getinfo(fn, 'S')
      if info.what == 'C' then
        session:say('a function in C')
      else
        session:say(session:paint('head', show.place(fn)))
        for _, line in ipairs(source_lines(session, info)) do
          session:say(session:paint('dim', ('%5d  '):format(line[1])), show.plain(line[2]))
        end
      end
    end
  end,
}

command {
  name = ':time',
  args = 'EXPRESSION',
  about = 'how long it takes, in real time; a short one is run again and again for 0.2 s',
  run = function(session, args)
    local fn = evaluate(session, args, 'an expression')
    local started = core.real_s()
    local values = { (function(...)
      return select('#', ...), ...
    end)(fn()) }
    local took = core.real_s() - started
    if values[1] > 0 then
      session:show_results(values[1], unpack(values, 2, values[1] + 1))
    end
    local runs = 1
    if took < 0.01 then
      started = core.real_s()
      repeat
        fn()
        runs = runs + 1
        took = core.real_s() - started
      until took > 0.2 or runs >= 1e6
      took = took / (runs - 1)
    end
    local text = took >= 1 and ('%.3f s'):format(took) or took >= 1e-3 and ('%.3f ms'):format(took * 1e3)
      or ('%.3f us'):format(took * 1e6)
    session:say(session:paint('note', text), runs > 1 and ('  mean of %s runs'):format(show.with_commas(runs - 1)) or '')
  end,
}

command {
  name = ':fire',
  args = 'EVENT [ARGUMENTS]',
  about = 'call its handlers; without arguments, with the message of :mail',
  unlocked = true,
  run = function(session, args)
    local name, rest = args:match '^(%S+)%s*(.*)$'
    if not name then
      fail 'the name of an event expected'
    end
    name = name:gsub('^[\'"](.*)[\'"]$', '%1')
    if not host.has_handler(name) then
      local near = c.nearest(name, host.handler_names())
      fail("the policy has no handler for '%s'%s", name, near and (", did you mean '%s'?"):format(near) or '')
    end
    local results
    local function keep(...)
      results = { n = select('#', ...), ... }
    end
    if rest ~= '' then
      keep(host.dispatch(name, evaluate(session, rest, 'arguments')()))
    elseif session.flow and name:find '^smtp_server_' then
      keep(host.dispatch(name, session.flow:arguments(name)))
    else
      keep(host.dispatch(name))
    end
    if results.n == 0 then
      session:say(session:paint('dim', 'no value'))
    end
    session:show_results(results.n, unpack(results, 1, results.n))
  end,
}

-- --- queues ------------------------------------------------------------------------------------------------------------

local admin
local function ask(what, name, ...)
  admin = admin or host.internal 'admin'
  local json = admin.inspect(what, name, ...)
  return json and require('kumo').serde.json_parse(json) or nil
end

local function queue_names()
  local server = require 'tr.http_server'
  local metrics = require('kumo').serde.json_parse(server.metrics('json', 'scheduled_count'))
  local names = {}
  for metric, body in pairs(metrics) do
    if metric == 'scheduled_count' and type(body.value) == 'table' then
      for _, counts in pairs(body.value) do
        for name, count in pairs(counts) do
          if type(count) == 'number' then
            names[#names + 1] = name
          end
        end
      end
    end
  end
  table.sort(names)
  return names
end

command {
  name = ':queues',
  args = '[NAME]',
  about = 'what waits where; of one queue, its messages with their due times',
  run = function(session, args)
    local wanted = args:match '%S+'
    local figures = core.figures()
    if not wanted then
      session:say(('%d in line, %d on timers, %d ready, %d in flight, %d undecided, %d parked, %d sessions'):format(figures.line,
        figures.timers, figures.ready, figures.in_flight, figures.undecided, figures.parked, figures.sessions))
    end
    local shown = 0
    for _, name in ipairs(wanted and { wanted } or queue_names()) do
      local queue = ask('sched', name, wanted and 50 or 1, false)
      if queue and (wanted or queue.num_scheduled > 0) then
        shown = shown + 1
        if shown > 100 then
          session:say '...'
          break
        end
        local first = queue.messages[1]
        session:say(session:paint('head', ('%-36s'):format(show.plain(name))), (' %d wait'):format(queue.num_scheduled),
          not wanted and first and (', one is due %s'):format(first.due) or '')
        for _, message in ipairs(wanted and queue.messages or {}) do
          local envelope = message.message or {}
          local to = type(envelope.recipients) == 'table' and table.concat(envelope.recipients, ' ') or envelope.recipient
          session:say(show.plain(('  %s  due %s, %d attempts  %s'):format(message.id, message.due, message.num_attempts,
            type(to) == 'string' and to or '')))
        end
      elseif wanted then
        fail("there is no queue '%s'", wanted)
      end
    end
  end,
}

command {
  name = ':why',
  args = 'QUEUE|MESSAGE',
  about = 'what holds back a queue, a ready queue or a message',
  run = function(session, args)
    local name = args:match '^%s*(%S.-)%s*$'
    if not name then
      fail 'the name of a queue or the id of a message expected'
    end
    local answer = ask('why', name)
    if not answer then
      fail("there is no queue and no message '%s'", name)
    end
    session:say(show.plain(why_text(answer)))
  end,
}

command {
  name = ':explain',
  args = 'DOMAIN [SOURCE]',
  about = 'what is in force for the path of a domain, and which line says so',
  run = function(session, args)
    local domain, source = args:match '^(%S+)%s*(%S*)'
    if not domain then
      fail 'a domain expected'
    end
    local answer = require('kumo').explain(domain, { source = source ~= '' and source or nil })
    session:say(show.plain((answer.text:gsub('\n+$', ''))))
  end,
}

local LEDGER = { 'offered', 'filtered', 'accepted', 'moved_in', 'delivered', 'bounced', 'dead', 'dropped', 'expired', 'moved_out',
  'waiting' }

command {
  name = ':ledger',
  about = 'what came and what became of it, for the mail and each hook',
  run = function(session)
    local accounts, names = require('kumo').serde.json_parse(require('tr.http_server').ledger()), {}
    for name in pairs(accounts) do
      names[#names + 1] = name
    end
    table.sort(names)
    for _, name in ipairs(names) do
      local parts, by = {}, { filtered = 'filtered_by', dropped = 'dropped_by' }
      for _, column in ipairs(LEDGER) do
        local count = accounts[name][column] or 0
        if count ~= 0 then
          local why = accounts[name][by[column]]
          parts[#parts + 1] = ('%s %d%s'):format(column, count, why and next(why) and ' ' .. show.value(why) or '')
        end
      end
      session:say(('%-13s %s'):format(show.plain(name), #parts > 0 and table.concat(parts, ', ') or 'nothing'))
    end
  end,
}

-- --- time and the policy -------------------------------------------------------------------------------------------------

local function now_text()
  return os.date('!%Y-%m-%d %H:%M:%S', os.time()) .. ' UTC'
end

command {
  name = ':advance',
  args = '20m',
  about = 'let virtual time pass: whatever becomes due happens',
  where = 'local',
  run = function(session, args)
    local kumo = require 'kumo'
    local ok, duration = pcall(kumo.time.parse_duration, args:match '^%s*(.-)%s*$')
    if not ok or args:find '^%s*$' then
      fail 'a duration such as 90s, 20m or "1h 30m" expected'
    end
    session.flow:watch(function()
      kumo.sleep(duration.seconds)
    end)
    session:say(session:paint('note', 'it is ' .. now_text()))
  end,
}

command {
  name = ':reload',
  about = 'load the policy again, with empty queues; globals of the prompt are gone',
  where = 'local',
  run = function()
    return 'reload'
  end,
}

-- --- adding them to a session ---------------------------------------------------------------------------------------------

local function run(session, text)
  local name, args = text:match '^%s*(:[%a_]*)%s*(.-)%s*$'
  local spec = by_name[name]
  if not spec or not is_here(spec, session) then
    local names = {}
    for i, each in ipairs(session.commands) do
      names[i] = each
    end
    local near = c.nearest(name, names)
    session:show_error(("there is no command '%s'%s (:help lists them)"):format(name,
      near and (", did you mean '%s'?"):format(near) or ''))
    return 'error'
  elseif spec.unlocked and session.attached and session.locked then
    session:show_error(('%s may change something: :unlock first'):format(name))
    return 'error'
  end
  local status
  local ok = session:protected(function()
    local done, result = pcall(spec.run, session, args)
    if done then
      status = result
    elseif type(result) == 'table' and result.told then
      session:show_error(result.told)
      status = 'error'
    else
      error(result, 0)
    end
  end)
  return ok and (status or 'ok') or 'error'
end

--- Gives a session its commands.
function commands.add(session)
  local flow = not session.attached and host.internal 'repl.flow' -- has commands of its own
  for _, spec in ipairs(list) do
    if is_here(spec, session) then
      session.commands[#session.commands + 1] = spec.name
    end
  end
  session.command = run
  if flow then
    session.flow = flow.new(session)
  end
end

commands.command = command
commands.now_text = now_text
return commands
