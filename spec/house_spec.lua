-- The order of the house: docs/architecture.md says which room may use which, and this reads it there.
local helper = require 'helper'
local host = require 'tr.host'

local ROOT = host.c.share_dir
local MAX_LINES = 700 -- of a file; beyond it there is more than one idea in it
local MAX_TEST_LINES = 1100
local HOST_ROOMS = { policy = true, cli = true } -- they hold Lua states themselves
local LUA_HEADERS = { ['lua.h'] = true, ['lauxlib.h'] = true, ['lualib.h'] = true, ['luajit.h'] = true }
local TEXT = '-name "*.c" -o -name "*.h" -o -name "*.lua" -o -name "*.sh" -o -name "*.md" -o -name CMakeLists.txt'

local function files(dirs, what)
  local list = {}
  for _, dir in ipairs(dirs) do
    for path in helper.sh(('cd %s && find %s -type f \\( %s \\)'):format(helper.quote(ROOT), dir, what)):gmatch '[^\n]+' do
      list[#list + 1] = path
    end
  end
  table.sort(list)
  return list
end

local function read(path)
  return assert(helper.read(ROOT .. '/' .. path), path)
end

local function lines_of(text)
  return select(2, text:gsub('\n', '\n'))
end

--- Names of the rooms in a cell of the table, as a set; `above`: what "all above" means.
local function set_of(cell, above)
  local set = {}
  for word in cell:gmatch '[%w_]+' do
    set[word] = true
  end
  if cell:find 'all above' then
    for room in pairs(above) do
      set[room] = true
    end
  end
  return set
end

--- room -> { mechanism = set, binding = set }, from the table of docs/architecture.md.
local function read_table()
  local rooms, above, count = {}, {}, 0
  for room, cell in read('docs/architecture.md'):gmatch '\n| `runtime/([%w_]+)` |[^|\n]*| ([^|\n]*) |' do
    local all, bindings = cell:match '^(.-); bindings: (.*)$'
    local mechanism = set_of(all or cell, above)
    local binding = set_of((all or cell) .. ' policy ' .. (bindings or ''), above)
    mechanism[room], binding[room] = true, true
    rooms[room] = { mechanism = mechanism, binding = binding }
    above[room] = true
    count = count + 1
  end
  return rooms, count
end

local rooms, room_count = read_table()
local sources = files({ 'runtime' }, '-name "*.c" -o -name "*.h"')

local function is_binding(path)
  return path:find '_lua%.[ch]$' ~= nil
end

local function includes(path)
  return ('\n' .. read(path)):gmatch '\n#include ([<"])([^>"]+)[>"]'
end

--- The first Lua header that a file includes, through headers of ours too, with the way to it; nil: none.
local function way_to_lua(path, seen)
  if seen[path] then
    return nil
  end
  seen[path] = true
  for kind, name in includes(path) do
    if kind == '<' and LUA_HEADERS[name] then
      return path .. ' -> ' .. name
    end
    local own = 'runtime/' .. name
    local further = kind == '"' and helper.read(ROOT .. '/' .. own) and way_to_lua(own, seen)
    if further then
      return path .. ' -> ' .. further
    end
  end
end

describe('the house', function()
  it('has a row in docs/architecture.md for each room', function()
    local there = {}
    for _, path in ipairs(sources) do
      local room = path:match '^runtime/([%w_]+)/'
      assert(room, path .. ' is in no room')
      assert(rooms[room], path .. ': docs/architecture.md has no row for the room')
      there[room] = true
    end
    local count = 0
    for _ in pairs(there) do
      count = count + 1
    end
    assert.are.equal(count, room_count)
  end)

  it('includes only what lies below', function()
    local wrong = {}
    for _, path in ipairs(sources) do
      local room = path:match '^runtime/([%w_]+)/'
      local may = rooms[room][is_binding(path) and 'binding' or 'mechanism']
      for kind, name in includes(path) do
        local from = kind == '"' and name:match '^([%w_]+)/'
        if kind == '"' and not from then
          wrong[#wrong + 1] = ('%s: "%s" must be named with its room'):format(path, name)
        elseif from and not may[from] then
          wrong[#wrong + 1] = ('%s may not include %s'):format(path, name)
        end
      end
    end
    assert.are.same({}, wrong)
  end)

  it('keeps Lua out of the mechanisms', function()
    local wrong = {}
    for _, path in ipairs(sources) do
      if not HOST_ROOMS[path:match '^runtime/([%w_]+)/'] and not is_binding(path) then
        wrong[#wrong + 1] = way_to_lua(path, {})
      end
    end
    assert.are.same({}, wrong)
  end)

  it(('has no file of more than %d lines, no test of more than %d'):format(MAX_LINES, MAX_TEST_LINES), function()
    local wrong = {}
    for _, path in ipairs(files({ 'runtime', 'lua', 'policy-extras', 'examples', 'docs', 'spec' }, TEXT)) do
      local count = lines_of(read(path))
      if count > (path:find '^spec/' and MAX_TEST_LINES or MAX_LINES) then
        wrong[#wrong + 1] = ('%s: %d lines'):format(path, count)
      end
    end
    assert.are.same({}, wrong)
  end)

  it('names no path of one machine', function()
    local wrong = {}
    local dirs = { 'runtime', 'lua', 'policy-extras', 'examples', 'docs', 'spec', 'README.md', 'CMakeLists.txt' }
    for _, path in ipairs(files(dirs, TEXT)) do
      local text = '\n' .. read(path)
      for _, place in ipairs { 'work', 'root', 'home/%w+', 'Users' } do
        local found = text:match('[%s"\'`=(](/' .. place .. '/[%w._-]*)')
        if found then
          wrong[#wrong + 1] = ('%s: %s'):format(path, found)
        end
      end
    end
    assert.are.same({}, wrong)
  end)
end)
