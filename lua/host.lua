-- The Lua half of runtime/policy: what C starts by name (`entry`), the dispatcher of events, and protected calls,
-- coroutines and `require` through which a policy can wait, which LuaJIT's cannot: it has them in C. standard.lua replaces
-- the others. Internal: policies cannot require it. The chunk gets the functions of runtime/policy/library.c and returns
-- { body, entry }.
local c = ...

local PARK, CANCELLED = c.PARK, c.CANCELLED
local raw_create, raw_resume, raw_yield = coroutine.create, coroutine.resume, coroutine.yield
local running, raw_status = coroutine.running, coroutine.status
local raw_pcall, raw_xpcall = pcall, xpcall
local isyieldable, block, push_args = c.isyieldable, c.block, c.push_args
local select, unpack, rawequal, type, error = select, unpack, rawequal, type, error

local sub, getinfo = string.sub, debug.getinfo
local raw_pairs = pairs

-- thaw[kind](data) makes an object that was memoized: see lua/kumo/memoize.lua.
local host = { entry = {}, thaw = {} }
local entry = host.entry

-- A function called here has a Lua frame between it and C: LuaJIT cannot raise in a suspended C function, so a host call
-- that fails after its wait raises at the next instruction of its caller, which must be inside the same pcall.
local function pass(...)
  return ...
end
local function call(fn, ...)
  return pass(fn(...))
end

-- The loop of a pooled coroutine. C resumes it with a function, the event's name for the dispatcher, and the pointer
-- behind the arguments; it yields the results.
local function run(fn, name, args)
  if name then
    return pass(fn(name, push_args(args)))
  end
  return pass(fn(push_args(args)))
end
local function body(fn, name, args)
  return body(raw_yield(run(fn, name, args)))
end
host.body = body

-- --- protected calls: cancellation passes through them ----------------------------------------

-- What error(text, 2) puts before the text when `call` is the caller: a place that no policy knows.
local _, CALL_PLACE = raw_pcall(call, function()
  error('', 2)
end)

local function caught(ok, err, ...)
  if not ok then
    if rawequal(err, CANCELLED) then
      error(CANCELLED, 0)
    elseif type(err) == 'string' and sub(err, 1, #CALL_PLACE) == CALL_PLACE then
      err = sub(err, #CALL_PLACE + 1)
    end
  end
  return ok, err, ...
end

function pcall(fn, ...) -- luacheck: ignore
  return caught(raw_pcall(call, fn, ...))
end

function xpcall(fn, handler, ...) -- luacheck: ignore
  return caught(raw_xpcall(call, function(err)
    if rawequal(err, CANCELLED) then
      return err
    end
    return handler(err)
  end, fn, ...))
end

--- As pcall, and returns cancellation too: (false, host.CANCELLED). For clean-up only: raise it again with level 0.
function host.try(fn, ...)
  return raw_pcall(call, fn, ...)
end
host.CANCELLED = CANCELLED
--- The same without the frame of `call`: FN must be a Lua function that makes its calls not as tail calls.
host.try_lua = raw_pcall
host.raw_xpcall = raw_xpcall -- the handler sees CANCELLED, too

-- --- coroutines of policies: a wait of the host passes through them to the scheduler ------------

local policy_made = setmetatable({}, { __mode = 'k' }) -- coroutine -> true
local parked = setmetatable({}, { __mode = 'k' }) -- coroutine that waits for the host -> true

local function pump(co, ok, first, ...)
  if ok and rawequal(first, PARK) then
    parked[co] = true
    return pump(co, raw_resume(co, raw_yield(PARK)))
  end
  parked[co] = nil
  if not ok then
    if rawequal(first, CANCELLED) then
      error(CANCELLED, 0)
    end
    -- Where its stack could not grow, LuaJIT leaves a frame behind that cannot be read: it crashes.
    local trace = first == 'not enough memory' and '(no memory for a traceback)' or debug.traceback(co)
    host.inner_error, host.inner_trace = first, trace
    c.remember(first, host.inner_trace)
  end
  return ok, first, ...
end

local function unblock(...)
  block(-1)
  return ...
end

function coroutine.create(fn)
  if type(fn) ~= 'function' then
    error("bad argument #1 to 'create' (function expected, got " .. type(fn) .. ')', 2)
  end
  local co = raw_create(function(...)
    return pass(fn(...))
  end)
  policy_made[co] = true
  return co
end

function coroutine.resume(co, ...)
  if parked[co] then
    return false, 'cannot resume a coroutine that waits for the host'
  end
  if isyieldable() then
    return pump(co, raw_resume(co, ...))
  end
  block(1)
  return unblock(pump(co, raw_resume(co, ...)))
end
local resume = coroutine.resume

local function unwrap(ok, ...)
  if not ok then
    error((...), 0)
  end
  return ...
end

function coroutine.wrap(fn)
  local co = coroutine.create(fn)
  return function(...)
    return unwrap(resume(co, ...))
  end
end

function coroutine.yield(...)
  local co = running()
  if not co or not policy_made[co] then
    error('attempt to yield from outside a coroutine', 2)
  end
  return raw_yield(...)
end

function coroutine.status(co)
  return parked[co] and 'normal' or raw_status(co)
end

function coroutine.isyieldable()
  return policy_made[running() or false] ~= nil and isyieldable()
end

-- As in Lua 5.4: the second result says whether it is the outermost, i.e. the task itself.
function coroutine.running()
  local co = running()
  return co, not policy_made[co or false]
end

-- --- require: the top level of a module may wait -------------------------------------------------

local loading = {} -- name -> { task, latch }

function require(name) -- luacheck: ignore
  if type(name) == 'number' then
    name = tostring(name)
  elseif type(name) ~= 'string' then
    error("bad argument #1 to 'require' (string expected, got " .. type(name) .. ')', 2)
  end
  local loaded = package.loaded
  while true do
    local value = loaded[name]
    if value ~= nil then
      return value
    end
    local other = loading[name]
    if not other then
      break
    end
    if other.task == c.current() then
      error(("loop or previous error loading module '%s'"):format(name), 2)
    end
    other.latch = other.latch or c.latch()
    other.latch:wait()
  end
  local tried = {}
  for _, searcher in ipairs(package.loaders) do
    local loader, extra = searcher(name)
    if type(loader) == 'function' then
      local mine = { task = c.current() } -- latch: made by the first who waits for it
      loading[name] = mine
      local ok, value = host.try(loader, name, extra)
      loading[name] = nil
      if mine.latch then
        mine.latch:open()
      end
      if not ok then
        error(value, 0)
      end
      if value ~= nil then
        loaded[name] = value
      elseif loaded[name] == nil then
        loaded[name] = true
      end
      return loaded[name]
    elseif type(loader) == 'string' then
      tried[#tried + 1] = loader
    end
  end
  error(("module '%s' not found:%s"):format(name, table.concat(tried)), 2)
end

function dofile(path) -- luacheck: ignore
  local chunk, err = loadfile(path)
  if not chunk then
    error(err, 0)
  end
  return chunk()
end

do
  local share = c.share_dir
  local dirs = { share }
  if c.policy then
    dirs[2] = c.policy:match '^(.*)/[^/]*$' or '.'
  end
  dirs[#dirs + 1] = share .. '/lua'
  local parts = {}
  for _, dir in ipairs(dirs) do
    parts[#parts + 1] = dir .. '/?.lua;' .. dir .. '/?/init.lua'
  end
  parts[#parts + 1] = package.path
  package.path = table.concat(parts, ';')
end

-- --- events (contract/events.md sections 1 and 2) --------------------------------------------------------

local MULTIPLE = {
  pre_init = true,
  validate_config = true,
  get_queue_config = true,
  should_enqueue_log_record = true,
  requeue_message = true,
  throttle_insert_ready_queue = true,
  get_acl_definition = true,
}
host.MULTIPLE = MULTIPLE
local handlers = {} -- name -> list of functions
local registrars = {} -- name -> list of call stacks

local function call_stack(level)
  local stack = {}
  while true do
    local info = getinfo(level, 'Sl')
    if not info then
      return c.array(stack)
    end
    if info.currentline > 0 and not info.short_src:find('lua/host%.lua$') then
      stack[#stack + 1] = info.short_src .. ':' .. info.currentline
    end
    level = level + 1
  end
end

--- kumo.on
function host.on(name, fn)
  if type(name) ~= 'string' then
    error("bad argument #1 to 'on' (string expected, got " .. type(name) .. ')', 2)
  elseif type(fn) ~= 'function' then
    error("bad argument #2 to 'on' (function expected, got " .. type(fn) .. ')', 2)
  end
  local event = rawget(_G, '_KUMO_CURRENT_EVENT')
  if event ~= nil and event ~= 'main' then
    error(
      ("Attempting to register an event handler via kumo.on('%s', ...) from within the event handler '%s'. "):format(name, event)
        .. 'Handlers have to be registered while the policy is loaded',
      2
    )
  end
  local stacks = registrars[name]
  if not stacks then
    stacks = c.array {}
    registrars[name] = stacks
  end
  stacks[#stacks + 1] = call_stack(3)
  local list = handlers[name]
  if not list then
    handlers[name] = { fn }
    c.handled(name)
  elseif MULTIPLE[name] then
    list[#list + 1] = fn
  else
    local info = getinfo(list[1], 'S')
    error(('%s event already has a handler defined at %s:%d'):format(name, info.short_src, info.linedefined), 2)
  end
end

--- kumo.get_event_registrars
function host.get_event_registrars(name)
  return registrars[name]
end

--- The handler that is asked first; nil: none.
function host.first_handler(name)
  local list = handlers[name]
  return list and list[1]
end

--- True if the policy has registered a handler.
function host.has_handler(name)
  return handlers[name] ~= nil
end

--- The list of an event's handlers in order; not to be changed.
function host.handlers_of(name)
  return handlers[name] or {}
end

--- Names of all events and constructors that have a handler.
function host.handler_names()
  local names = {}
  for name in raw_pairs(handlers) do
    names[#names + 1] = name
  end
  table.sort(names)
  return names
end

local function pack(...)
  return { n = select('#', ...), ... }
end

-- The number of returned values decides, not nil: `return nil` ends the chain.
local function after(list, i, args, ...)
  local fn = list[i + 1]
  if select('#', ...) > 0 or not fn then
    return ...
  end
  return after(list, i + 1, args, fn(unpack(args, 1, args.n)))
end

--- Calls the handlers of an event; no value if there is none. C starts it; Lua of the runtime may call it inside a task.
function entry.dispatch(name, ...)
  local list = handlers[name]
  if not list then
    return
  end
  if not list[2] then
    return pass(list[1](...))
  end
  return after(list, 1, pack(...), list[1](...))
end
host.dispatch = entry.dispatch

-- --- entries --------------------------------------------------------------------------------------------------

--- Evaluates the policy file.
function entry.load(path)
  local chunk, err = loadfile(path)
  if not chunk then
    error(err, 0)
  end
  call(chunk)
end

--- Runs a script to its end: `tailrace lua`.
function entry.script(path, ...)
  rawset(_G, 'arg', { [0] = path, ... })
  local chunk, err = loadfile(path)
  if not chunk then -- where it was raised here would tell nothing
    io.stderr:write('tailrace: ', (err:gsub('[%c\127]', function(char)
      return char ~= '\n' and ('\\x%02x'):format(char:byte()) or nil
    end)), '\n')
    error()
  end
  return call(chunk, ...)
end

--- A chunk of code: `eval` of tests.
function entry.evaluate(code)
  local chunk, err = loadstring(code, '=eval')
  if not chunk then
    error(err, 0)
  end
  return call(chunk)
end

--- The peer of a scripted connection: runtime/net/scripted_lua.c.
function entry.scripted(serve, conn, address)
  pass(serve(conn, address))
end

--- A function as a task of its own: c.spawn.
function entry.spawned(fn)
  pass(fn())
end

-- Modules of lua/ with names that a policy may well use for its own: `require` does not see them.
local hidden = {}
local PUBLIC = { kumo = true, retry_after = true }

--- Loads a module of lua/ by its path there, whatever package.path and the policy's directory hold.
function host.internal(name)
  local loaded = (PUBLIC[name] or name:find '^kumo%.') and package.loaded or hidden
  if loaded[name] == nil then
    local chunk, err = loadfile(('%s/lua/%s.lua'):format(c.share_dir, (name:gsub('%.', '/'))))
    if not chunk then
      error(err, 0)
    end
    local value = chunk(name)
    loaded[name] = value == nil and true or value
  end
  return loaded[name]
end

--- All bytes of a file, read by another thread while the task waits; nil and what is wrong, with the path.
---@async
---@param path string
---@return string? bytes
---@return string? message
function host.read_file(path)
  if package.preload['tr.fs'] then
    local bytes, message = require('tr.fs').load(path)
    return bytes, not bytes and ('%s: %s'):format(path, message) or nil
  end
  local file, message = io.open(path, 'rb') -- a program without the room
  local bytes = file and file:read '*a'
  if file then
    file:close()
  end
  return bytes, not bytes and (message or 'cannot read ' .. path) or nil
end

--- Loads a module of lua/ that adds entries of its own: for a command that needs more than a policy has.
function entry.use(name)
  host.internal(name)
end

--- Loads the modules that every policy has. Other Lua files of the runtime add their own entries to `host.entry`.
function entry.boot()
  host.c = c
  package.loaded['tr.host'] = host
  if c.validating then
    rawset(_G, '_VALIDATING_CONFIG', true)
  end
  host.internal 'standard'
  host.internal 'kumo.compat'
  host.internal 'kumo.pack'
  host.internal 'kumo.syntax'
  host.internal 'kumo'
end

return host
