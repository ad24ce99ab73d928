--- What a prompt in a live process may touch before :unlock. Globals cannot be assigned, tables of the policy are seen through
--- proxies that refuse writes, and what changes something (io, os, debug, package, most of kumo) is hidden wherever it is met.
--- A function of the policy that is called does what it does: docs/repl.md says so.
local host = require 'tr.host'
local core = require 'tr.repl'
local commands = host.internal 'repl.commands'
local show = host.internal 'repl.show'
local c = host.c

local REFUSED = ' may change something: :unlock first'

-- Names in kumo that only look, compute or wait.
local HARMLESS = {
  '^version$', '^available_parallelism$', '^traceback$', '^get_event_registrars$', '^explain$', '^invoke_get_[%w_]+$',
  '^make_[%w_]+$', '^reject$', '^disconnect$', '^transient$', '^permanent$', '^delivered$', '^sleep$', '^time%.', '^serde%.',
  '^encode%.', '^digest%.', '^string%.', '^regex%.', '^uuid%.', '^domain_map%.', '^cidr%.', '^dns%.lookup_', '%.list$',
} -- stylua: ignore

local real = setmetatable({}, { __mode = 'k' }) -- proxy -> what it stands for
local proxies = setmetatable({}, { __mode = 'kv' }) -- what it stands for -> proxy
local hidden -- function or table -> its name

local function refuse(name)
  error(name .. REFUSED, 0)
end

local wrap

local function wrap_all(...)
  local n = select('#', ...)
  if n == 0 then
    return
  elseif n == 1 then
    return wrap((...))
  end
  local values = { ... }
  for i = 1, n do
    values[i] = wrap(values[i])
  end
  return unpack(values, 1, n)
end

local function unwrap(value)
  local object = real[value]
  if object ~= nil then
    return object
  end
  return value
end

local function unwrap_all(...)
  local values = { ... }
  local n = select('#', ...)
  for i = 1, n do
    if values[i] ~= nil then
      values[i] = unwrap(values[i])
    end
  end
  return unpack(values, 1, n)
end

local PROXY = {
  __index = function(proxy, key)
    return wrap(real[proxy][key])
  end,
  __newindex = function(_, key)
    refuse('assigning to field ' .. show.value(key, { width = 60 }))
  end,
  __pairs = function(proxy)
    local object = real[proxy]
    return function(_, key)
      local value
      key, value = next(object, unwrap(key))
      return wrap(key), wrap(value)
    end, nil, nil
  end,
  __len = function(proxy)
    return #real[proxy]
  end,
  __call = function(proxy, ...)
    return wrap_all(real[proxy](unwrap_all(...)))
  end,
  __tostring = function(proxy)
    return tostring(real[proxy])
  end,
  __metatable = 'read-only',
}

function wrap(value)
  local kind = type(value)
  if kind ~= 'table' and kind ~= 'function' then
    return value
  end
  local name = hidden[value]
  if real[value] ~= nil then
    return value
  end
  local proxy = proxies[value]
  if proxy ~= nil then
    return proxy
  end
  if kind == 'function' then
    if name then
      proxy = function()
        refuse(name)
      end
    else
      proxy = function(...)
        return wrap_all(value(unwrap_all(...)))
      end
    end
  elseif name then
    proxy = c.userdata {
      __index = function(_, key)
        refuse(name .. '.' .. tostring(key))
      end,
      __newindex = function()
        refuse(name)
      end,
      __metatable = 'read-only',
      __tostring = function()
        return name
      end,
    }
  else
    proxy = c.userdata(PROXY)
  end
  real[proxy] = value
  proxies[value] = proxy
  return proxy
end

local function hide(value, name)
  if type(value) == 'table' or type(value) == 'function' then
    hidden[value] = name
  end
end

local function hide_members(object, prefix, seen)
  if seen[object] then
    return
  end
  seen[object] = true
  for key, value in next, object do
    if type(key) == 'string' then
      local name = prefix .. key
      local harmless = false
      for _, pattern in ipairs(HARMLESS) do
        harmless = harmless or name:find(pattern) ~= nil
      end
      if type(value) == 'function' and not harmless then
        hide(value, 'kumo.' .. name)
      elseif type(value) == 'table' then
        hide_members(value, name .. '.', seen)
      end
    end
  end
end

local function find_hidden()
  if hidden then
    return
  end
  hidden = {}
  hide_members(require 'kumo', '', {})
  for _, name in ipairs { 'io', 'os', 'debug', 'package', 'jit', 'coroutine' } do
    hide(_G[name], name)
    for key, value in next, _G[name] do
      hide(value, name .. '.' .. tostring(key))
    end
  end
  for name in ('_G rawset setmetatable setfenv getfenv load loadstring loadfile dofile require module newproxy collectgarbage ')
    :gmatch '%S+' do
    hide(_G[name], name)
  end
  for name, module in next, package.loaded do
    if type(name) == 'string' and (name:find '^tr%.' or name == 'ffi') then
      hide(module, name)
    end
  end
end

local function copy(from, names)
  local to = {}
  for name in names:gmatch '%S+' do
    to[name] = from[name]
  end
  return to
end

local function copy_all(from)
  local to = {}
  for name, value in next, from do
    to[name] = value
  end
  return to
end

--- Globals that know proxies. Libraries are copies: whoever changes one changes it for himself.
local function make_base(session)
  local base = copy(_G, 'assert error pcall xpcall tonumber select ipairs pairs')
  local env = {}
  local function own_table(name, fn)
    return function(object, ...)
      if real[object] ~= nil then
        refuse(name)
      end
      return fn(object, ...)
    end
  end
  base.type = function(...)
    if select('#', ...) > 0 and (...) ~= nil and type((...)) == 'userdata' and real[(...)] ~= nil then
      return 'table'
    end
    return type(...)
  end
  base.tostring = function(value)
    return tostring(value == nil and value or unwrap(value))
  end
  base.next = function(object, key)
    return wrap_all(next(unwrap(object), key ~= nil and unwrap(key) or key))
  end
  base.rawget = function(object, key)
    return wrap(rawget(unwrap(object), key))
  end
  base.rawequal = function(a, b)
    return rawequal(a, b)
  end
  base.unpack = function(object, ...)
    return wrap_all(unpack(unwrap(object), ...))
  end
  base.getmetatable = function(object)
    return wrap(getmetatable(object))
  end
  base.setmetatable = own_table('setmetatable', setmetatable)
  base.rawset = own_table('rawset', rawset)
  base.loadstring = function(text, name)
    local chunk, err = loadstring(text, name)
    return chunk and setfenv(chunk, env.env), err
  end
  base.load = base.loadstring
  base.require = function(name)
    local value = package.loaded[name]
    if value == nil then
      refuse(('loading the module %q'):format(tostring(name)))
    end
    return wrap(value)
  end
  base.string, base.math, base.bit = copy_all(string), copy_all(math), copy_all(bit)
  base.utf8 = type(utf8) == 'table' and copy_all(utf8) or nil -- luacheck: ignore
  base.os = setmetatable(copy(os, 'time date clock difftime'), {
    __index = function(_, name)
      refuse('os.' .. tostring(name))
    end,
  })
  base.coroutine = copy_all(coroutine)
  base.table = copy_all(table)
  for _, name in ipairs { 'insert', 'remove', 'sort' } do
    base.table[name] = own_table('table.' .. name, table[name])
  end
  for _, name in ipairs { 'concat', 'maxn', 'unpack' } do
    local fn = table[name]
    base.table[name] = fn and function(object, ...)
      return wrap_all(fn(unwrap(object), ...))
    end
  end
  base.kumo = wrap(require 'kumo')
  base.print = function(...)
    session:print(...)
  end
  base.show = function(value)
    session:say(session:shown(value))
  end
  return base, env
end

local locked = {}

--- The session sees and does not touch.
function locked.lock(session)
  find_hidden()
  local base, env = make_base(session)
  session.locked, session.unwrap = true, unwrap
  session.own = base
  session.env = setmetatable({}, {
    __index = function(_, name)
      local value = base[name]
      if value ~= nil then
        return value
      end
      return wrap(_G[name])
    end,
    __newindex = function(_, name, value)
      if session.kept[name] or name == '_' then
        base[name] = value
      else
        refuse(('assigning to the global %s'):format(tostring(name)))
      end
    end,
  })
  env.env = session.env
end

commands.command {
  name = ':unlock',
  about = 'allow what changes this worker: assignments, all of kumo, :fire. Each input is then logged',
  where = 'attached',
  run = function(session)
    if not session.locked then
      session:say('it is unlocked')
      return
    end
    session.locked, session.unwrap = false, nil
    session.own, session.kept = {}, {}
    session:make_env()
    c.log('warn', ('repl: %s unlocked worker %d'):format(session.peer, c.worker))
    session:say(session:paint('error', 'unlocked: '), ('what is changed is changed in worker %d, until the process ends'):format(
      c.worker))
  end,
}

commands.command {
  name = ':lock',
  about = 'only look again',
  where = 'attached',
  run = function(session)
    session.kept = {}
    locked.lock(session)
  end,
}

commands.command {
  name = ':worker',
  args = 'N',
  about = 'evaluate in another worker: each has a Lua state of its own',
  where = 'attached',
  run = function(session, args)
    local number = tonumber(args:match '^%d+$' or '')
    if not number or number >= session.workers then
      commands.fail('the number of a worker, 0 to %d, expected', session.workers - 1)
    end
    return 'worker ' .. number
  end,
}

commands.command {
  name = ':tasks',
  about = 'what the worker\'s tasks wait for, with tracebacks',
  where = 'attached',
  run = function(session)
    local text, own = {}, false
    for line in core.tasks():gmatch '[^\n]+' do
      if not line:find '^[\tsi]' then -- the head of a task; what follows is its traceback
        own = line:find '^running event=main at the prompt' ~= nil
      end
      text[#text + 1] = not own and line or nil
    end
    text = #text == 0 and 'none waits' or table.concat(text, '\n')
    session:say(show.plain(text))
  end,
}

return locked
