-- `tailrace test`: busted's own runner, with what kumo.test needs around each test.

local raw_exit = os.exit
local EXTRA_FRAMES = 3

local found = pcall(require, 'busted.runner')
if not found then
  io.stderr:write(
    'tailrace test: busted is not there. Install the package lua-busted, or `luarocks --lua-version 5.1 install busted`.\n'
  )
  raw_exit(69)
end

-- Modules beside the tests; the policy under test has a state, and a path, of its own.
package.path = package.path .. ';./?.lua;./spec/?.lua'

local args = rawget(_G, 'arg')

--- Text of a file ('' of a directory); nil if there is none.
local function read(path)
  local file = io.open(path)
  if not file then
    return nil
  end
  local text = file:read '*a' or ''
  file:close()
  return text
end

-- busted looks into spec/; a policy's directory often has its tests beside the policy.
local any = read 'spec' ~= nil or (read '.busted' or ''):find('ROOT', 1, true) ~= nil
for i, value in ipairs(args) do
  if value == '--help-busted' then
    args[i], any = '--help', true
  end
  -- What looks like a path is one: a name that is not there is told by busted, and is no wish to run everything.
  any = any or read(value) ~= nil or value:find '^[^%-].*_spec%.lua$' ~= nil or value:find '^[^%-].*/$' ~= nil
end
if not any then
  args[#args + 1] = '.'
end

local test = require 'kumo.test'
local inside = false -- a file of tests, or a test, runs

--- os.exit in a test would end all of them, in silence.
function os.exit(code, ...) -- luacheck: ignore
  if inside then
    error(('os.exit(%s) in a test: it would end all tests'):format(code == nil and '' or tostring(code)), 2)
  end
  raw_exit(code == true and 0 or code == false and 1 or code, ...)
end

--- Around each test: what it has started ends with it, and what it leaves behind fails it.
local function wrap(it, fail)
  return function(element)
    local run = element.run
    element.run = setfenv(function(...)
      run(...)
      test._finish(function(text)
        fail(text, 0)
      end)
    end, getfenv(run))
    it(element)
    element.run = run
    test.stop_all()
  end
end

-- The one instance of busted's core that its runner makes.
local core = require 'busted.core'
package.loaded['busted.core'] = function(...)
  local busted = core(...)
  local register, fail = busted.register, busted.fail
  -- pcall has two frames more here than in plain Lua, and this function is one: the line of the assertion is meant.
  busted.fail = function(message, level)
    if type(level) == 'number' and level <= 0 then
      fail(message, level)
    end
    fail(message, type(level) == 'number' and level + EXTRA_FRAMES or level or 1 + EXTRA_FRAMES)
  end
  -- What a peer or a policy said may hold control characters: they do not reach the terminal.
  local publish = busted.publish
  busted.publish = function(channel, element, parent, message, ...)
    if (channel[1] == 'error' or channel[1] == 'failure') and type(message) == 'string' then
      message = message:gsub('[%c\127]', function(char)
        return char ~= '\n' and char ~= '\t' and ('\\x%02x'):format(char:byte()) or nil
      end)
    end
    return publish(channel, element, parent, message, ...)
  end
  busted.register = function(descriptor, executor, attributes)
    if descriptor == 'it' and type(executor) == 'function' then
      executor = wrap(executor, fail)
    end
    return register(descriptor, executor, attributes)
  end
  busted.subscribe({ 'suite', 'start' }, function()
    inside = true
    return nil, true
  end)
  busted.subscribe({ 'suite', 'end' }, function()
    inside = false
    return nil, true
  end)
  return busted
end

assert(loadstring("require 'busted.runner' { standalone = false }", '@tailrace test'))()
