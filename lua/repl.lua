--- The prompt: reads chunks and commands, evaluates them in the policy's state, shows what came of it. `tailrace repl` and, in a
--- live process, its socket start it through `entry.repl` of lua/host.lua; runtime/cli/repl*.c do the terminal and the socket.
local host = require 'tr.host'
local core = require 'tr.repl'
local show = host.internal 'repl.show'
local complete = host.internal 'repl.complete'
local c = host.c

---@class tr.repl.Session
---@field id integer           for core.write
---@field terminal boolean     the other end is a terminal
---@field colour boolean
---@field width integer
---@field attached boolean     in a live process
---@field script boolean       no prompt: os.exit ends the process, strings are shown as they are
---@field env table            what chunks see as globals
---@field own table            names of the session: kumo, _, print, and what `local` at the prompt made
---@field results any[]        of the last expression
---@field commands string[]    names, for completion
local Session = {}
Session.__index = Session

local MAX_FRAMES = 12 -- of a coroutine's
local sessions = {} -- id -> session

-- --- output ---------------------------------------------------------------------------------------------------------

local COLOURS = { error = '\27[31m', dim = '\27[2m', bold = '\27[1m', note = '\27[33m', good = '\27[32m', head = '\27[36m' }

--- Text for the other end, as it is: what comes from outside must have gone through show.plain.
function Session:write(text)
  core.write(self.id, text)
end

function Session:say(...)
  self:write(table.concat { ... } .. '\n')
end

function Session:paint(kind, text)
  return self.colour and COLOURS[kind] .. text .. '\27[0m' or text
end

function Session:shown(value)
  return show.value(value, { width = self.width - 1, colour = self.colour, unwrap = self.unwrap })
end

--- Text of the policy or of data: nothing of it moves a terminal's cursor.
function Session:clean(text)
  return self.terminal and show.plain(text) or text
end

--- print, for what is typed.
function Session:print(...)
  local parts = {}
  for i = 1, select('#', ...) do
    local value = select(i, ...)
    parts[i] = tostring(self.unwrap and self.unwrap(value) or value)
  end
  self:say(self:clean(table.concat(parts, '\t')))
end

local function one_line(values, n, session)
  local parts, length = {}, 0
  for i = 1, n do
    parts[i] = session:shown(values[i])
    length = length + #parts[i]
    if parts[i]:find('\n', 1, true) then
      return nil
    end
  end
  return length < session.width and table.concat(parts, ', ') or nil
end

function Session:show_results(n, ...)
  local values = { ... }
  if n == 0 then
    return
  end
  self.own._ = (...)
  self.results = values
  if not self.terminal and n == 1 and type(values[1]) == 'string' then
    self:say(values[1])
    return
  end
  local line = one_line(values, n, self)
  if line then
    self:say(line)
    return
  end
  for i = 1, n do
    self:say(self:shown(values[i]))
  end
end

-- --- errors -----------------------------------------------------------------------------------------------------------

local OURS = {
  '/lua/repl%.lua:', '/lua/repl/%a+%.lua:', '/lua/host%.lua:', '/lua/standard%.lua:', "^%[C%]: in function '[%a_]*x?pcall'$",
  "^%[C%]: in function 'error'$",
} -- stylua: ignore

--- The frames of a traceback, innermost first, without those of the prompt itself and what called it.
local function frames_of(text)
  local frames = {}
  for line in (text or ''):gsub('^stack traceback:\n', ''):gmatch '%s*([^\n]+)' do
    local ours
    for i, pattern in ipairs(OURS) do
      ours = ours or line:find(pattern) and i or nil
    end
    if ours == 1 and frames[1] then
      break
    elseif not ours then
      frames[#frames + 1] = line
    end
  end
  return frames
end

local function is_rejection(value)
  return type(value) == 'userdata' and debug.getmetatable(value) == debug.getregistry()['tr.rejection']
end

--- Tells an error of any type, with where it was raised.
function Session:show_error(err, frames)
  local text
  if type(err) == 'string' then
    text = show.plain(#err > 4000 and err:sub(1, 4000) .. '...' or err)
  elseif is_rejection(err) then
    text = ('kumo.reject: %s'):format(show.plain(tostring(err)))
  else
    text = err == nil and 'an error that is nil' or ('an error that is a %s: %s'):format(type(err),
      show.value(err, { width = self.width, unwrap = self.unwrap }))
  end
  self:say(self:paint('error', 'error: '), text)
  for _, frame in ipairs(frames or {}) do
    self:say(self:paint('dim', '  ' .. show.plain(frame)))
  end
  if frames and rawequal(err, host.inner_error) and host.inner_trace then
    self:say(self:paint('dim', '  in a coroutine of its own:'))
    local count = 0
    for line in show.plain(host.inner_trace):gmatch '\n%s*([^\n]+)' do
      count = count + 1
      if count <= MAX_FRAMES and not (line:find 'lua/host%.lua:' or line:find 'lua/standard%.lua:') then
        self:say(self:paint('dim', '    ' .. line))
      end
    end
  end
end

-- --- reading a chunk ------------------------------------------------------------------------------------------------

local function is_incomplete(err)
  return type(err) == 'string' and err:find "near '<eof>'$" ~= nil and not err:find 'unfinished string near'
end

--- True of a command whose table or call goes on behind the text.
local function is_open(text)
  local args = text:match '^%s*:%a+%s+[%w_%.]*%s*([{%(].*)$'
  return args ~= nil and is_incomplete(select(2, loadstring('return ' .. args)))
end

--- `local NAME = ...` at the start of an input lasts: NAME becomes one of the session's.
function Session:keep_locals(text)
  local name = text:match '^%s*local%s+function%s+([%a_][%w_]*)'
  if name then
    self.kept[name] = true
    return (text:gsub('^(%s*)local(%s+function)', '%1     %2', 1))
  end
  local head, names = text:match '^(%s*local%s+)([%a_][%w_%s,]*)='
  if not names or text:match('^=', #head + #names + 2) then
    return text
  end
  for each in names:gmatch '[%a_][%w_]*' do
    self.kept[each] = true
  end
  return (text:gsub('^(%s*)local', '%1     ', 1))
end

--- A function, or nil, the error, and whether more text may mend it.
function Session:compile(text)
  self.count = self.count + 1
  local name = self.script and '=stdin' or ('=(input %d)'):format(self.count)
  if self.chunk_name then
    name = self.chunk_name
  end
  local expression, marked = text:gsub('^%s*=', '', 1)
  local err
  local chunk = loadstring('return (...)(' .. expression .. '\n)', name) -- no tail call: it would lose its frame
  if chunk then
    self.sources[name] = text
    return chunk
  elseif marked == 0 then
    chunk, err = loadstring(self:keep_locals(text), name)
  else
    chunk, err = loadstring('return ' .. expression, name)
  end
  if not chunk then
    self.count = self.count - 1
    return nil, err, is_incomplete(err)
  end
  self.sources[name] = text
  return chunk
end

-- --- evaluating -------------------------------------------------------------------------------------------------------

local function count_results(ok, ...)
  return ok, select('#', ...), ...
end

--- Calls fn(...) so that an error is told here. Returns true and the results, or false.
function Session:protected(fn, ...)
  local function finish(ok, n, ...)
    if ok then
      return true, n, ...
    elseif rawequal((...), c.CANCELLED) then
      error(c.CANCELLED, 0)
    end
    self:show_error((...), frames_of(core.take_trace()))
    return false
  end
  return finish(count_results(host.raw_xpcall(fn, core.keep_trace, ...)))
end

local function pass(...)
  return ...
end

function Session:run_chunk(chunk)
  setfenv(chunk, self.env)
  local function finish(ok, n, ...)
    if ok then
      self:show_results(n, ...)
    end
    return ok
  end
  return finish(self:protected(chunk, pass))
end

--- One input: "ok", "error", "incomplete", or what the program is to do: "quit", "reload", "worker N" ...
---@async
function Session:eval(text, is_last)
  if text:find '^%s*$' then
    return 'ok'
  elseif text:find '^%s*:' then
    return not is_last and is_open(text) and 'incomplete' or self:command(text)
  end
  local chunk, err, incomplete = self:compile(text)
  if chunk then
    return self:run_chunk(chunk) and 'ok' or 'error'
  elseif incomplete and not is_last then
    return 'incomplete'
  end
  self:show_error(err)
  return 'error'
end

--- A script without a terminal: as one chunk if it is one, else line by line; lines that begin with a colon are commands.
---@async
function Session:script_text(text)
  local pending = {}
  local function flush(is_last)
    local chunk_text = table.concat(pending, '\n')
    if chunk_text:find '^%s*$' then
      pending = {}
      return 'ok'
    end
    self.chunk_name = '=stdin'
    local chunk, _, incomplete = self:compile(chunk_text)
    if chunk then
      pending = {}
      return self:run_chunk(chunk) and 'ok' or 'error'
    elseif incomplete and not is_last then
      return 'incomplete'
    end
    local lines, buffer = pending, {}
    pending = {}
    for i, line in ipairs(lines) do
      buffer[#buffer + 1] = line
      local status = self:eval(table.concat(buffer, '\n'), i == #lines)
      if status == 'error' or status == 'quit' then
        return status
      elseif status == 'ok' then
        buffer = {}
      end
    end
    return 'ok'
  end
  text = text:gsub('^#![^\n]*', '')
  text = text:gsub('%s*$', '\n')
  local open -- a command that goes on
  for line, at in text:gmatch '(.-)\r?\n()' do
    line = open and open .. '\n' .. line or line
    open = nil
    if line:find '^%s*:%a' then
      local status = flush(false)
      if status == 'incomplete' then -- a label, or a method call that goes on
        pending[#pending + 1] = line
      elseif status == 'ok' and at <= #text and is_open(line) then
        open = line
      else
        status = status == 'ok' and self:eval(line, true) or status
        if status ~= 'ok' then
          if status ~= 'error' and status ~= 'quit' and at <= #text then
            self:show_error(('%s must be the last line of a script'):format(line))
            return 'error'
          end
          return status
        end
      end
    else
      pending[#pending + 1] = line
    end
  end
  return flush(true)
end

-- --- environment ------------------------------------------------------------------------------------------------------

--- A global for completion, raw.
function Session:lookup(name)
  local value = self.own[name]
  if value == nil then
    value = rawget(_G, name)
  end
  return value
end

function Session:each_global(see)
  for _, names in ipairs { self.own, _G } do
    for name, value in next, names do
      if type(name) == 'string' then
        see(name, value)
      end
    end
  end
end

function Session:make_env()
  self.own.kumo = require 'kumo'
  self.own.print = function(...)
    self:print(...)
  end
  self.own.show = function(value)
    self:say(show.value(value, { width = self.width - 1, colour = self.colour }))
  end
  self.env = setmetatable({}, {
    __index = function(_, name)
      local value = self.own[name]
      if value ~= nil then
        return value
      end
      return _G[name]
    end,
    __newindex = function(_, name, value)
      if self.kept[name] or name == '_' then
        self.own[name] = value
      else
        rawset(_G, name, value)
      end
    end,
  })
  self.own._G = self.env
end

-- What a policy writes itself must not move the cursor either, and os.exit would end more than the input.
local function tame(session)
  if session.terminal then
    local methods = getmetatable(io.stdout).__index
    local raw_write = methods.write
    methods.write = function(file, ...)
      if file ~= io.stdout and file ~= io.stderr then
        return raw_write(file, ...)
      end
      local parts = { ... }
      for i, part in ipairs(parts) do
        parts[i] = type(part) == 'string' and show.plain(part) or part
      end
      return raw_write(file, unpack(parts))
    end
    local default = io.stdout
    local raw_output, raw_io_write = io.output, io.write
    io.write = function(...) -- luacheck: ignore
      if raw_output() == default then
        return default:write(...)
      end
      return raw_io_write(...)
    end
    rawset(_G, 'print', function(...)
      session:print(...)
    end)
  end
  os.exit = function(code) -- luacheck: ignore
    if session.script then
      core.exit(code == nil and 0 or code == true and 0 or code == false and 1 or tonumber(code) or 1)
      error(c.CANCELLED, 0)
    end
    error(('os.exit(%s) was called: it would end the process, the prompt stays (:quit leaves it)'):format(
      code == nil and '' or tostring(code)), 2)
  end
end

local prompts = setmetatable({}, { __mode = 'k' }) -- the tasks of a live process in which an input runs
local raw_exit

-- In a live process, os.exit of an input, or of what it calls, would end the service at once. The policy's own tasks may.
local function keep_process()
  if raw_exit then
    return
  end
  raw_exit = os.exit
  os.exit = function(code) -- luacheck: ignore
    if prompts[coroutine.running()] then
      error(('os.exit(%s) was called: it would end the service (SIGTERM stops it in order)'):format(
        code == nil and '' or tostring(code)), 2)
    end
    raw_exit(code)
  end
end

--- Before the policy is loaded: what it prints and os.exit are the session's.
local function prepare(options)
  local session = setmetatable(options, Session)
  session.own, session.kept, session.sources, session.count = {}, {}, {}, 0
  session.commands = {}
  sessions[session.id] = session
  tame(session)
  host.internal 'repl.commands'.add(session) -- the network is a script before the policy can reach it
end

--- Two lines that say what this is.
function Session:banner()
  if self.script then
    return
  end
  local events, count = host.handler_names(), 0
  for _, name in ipairs(events) do
    count = count + #host.handlers_of(name)
  end
  local what = 'no policy'
  if self.loaded then
    local path = #self.loaded > 30 and self.loaded:match '[^/]*$' or self.loaded
    what = ('%s, %d handlers for %d events'):format(show.plain(path), count, #events)
  end
  self:say(self:paint('bold', 'Tailrace'), ': ', what)
  self:say(self:paint('dim', self.width < 85 and ':help lists commands, Tab completes'
    or 'virtual time, scripted network; :help lists commands, Tab completes, Ctrl-D leaves'))
end

-- --- what C starts ------------------------------------------------------------------------------------------------------

local repl = {}

--- The first call for a session; `options` has the fields of tr.repl.Session that C knows.
function repl.prepare(id, options)
  options.id = id
  prepare(options)
end

--- After the policy has been loaded.
function repl.open(id, options)
  local session = sessions[id]
  session.loaded = options.policy
  session:make_env()
  session:banner()
end

--- A session of a live process.
function repl.attach(id, options)
  options.id = id
  local session = setmetatable(options, Session)
  session.own, session.kept, session.sources, session.count = {}, {}, {}, 0
  session.attached, session.commands = true, {}
  sessions[id] = session
  keep_process() -- before it is known what is hidden while the session is locked
  local locked = host.internal 'repl.locked' -- has commands of its own
  host.internal 'repl.commands'.add(session)
  locked.lock(session)
  if session.terminal then
    session:say(session:paint('bold', 'Tailrace'), (': worker %d of %d, %s'):format(c.worker, session.workers,
      c.policy and show.plain(c.policy) or 'no policy'))
    session:say(session:paint('dim', 'read-only until :unlock; :help lists commands, Tab completes, Ctrl-D leaves'))
  end
  return 'ok', session:prompt()
end

--- What stands before the next input, in a live process.
function Session:prompt()
  return self.attached and ('%s %d> '):format(self.locked and 'locked' or 'unlocked', c.worker) or nil
end

function repl.close(id)
  sessions[id] = nil
end

function repl.resize(id, width)
  sessions[id].width = width
  return 'ok', sessions[id]:prompt()
end

---@async
function repl.eval(id, text, is_last)
  local session = sessions[id]
  if session.attached and not session.locked then
    c.log('info', ('repl: %s: %s'):format(session.peer, show.quoted(text, 500)))
  end
  local task = session.attached and coroutine.running()
  if not task then
    return session:eval(text, is_last), session:prompt()
  end
  prompts[task] = true
  local ok, status = host.raw_xpcall(session.eval, pass, session, text, is_last)
  prompts[task] = nil -- also of one that was cancelled: the coroutine may be used again
  if not ok then
    error(status, 0)
  end
  return status, session:prompt()
end

---@async
function repl.script(id, text)
  local session = sessions[id]
  if session.attached and not session.locked then
    c.log('info', ('repl: %s: %s'):format(session.peer, show.quoted(text, 500)))
  end
  return session:script_text(text), session:prompt()
end

function repl.complete(id, line)
  return complete.answer(sessions[id], line)
end

function host.entry.repl(op, ...)
  return repl[op](...)
end

return repl
