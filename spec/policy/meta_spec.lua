-- The types in lua/meta must not fall behind, nor run ahead of, what the runtime gives to Lua.
local helper = require 'helper'
local kumo = require 'kumo'
local host = require 'tr.host'
local testing = require 'tr.testing'

local META = host.c.share_dir .. '/lua/meta/'

-- --- what is declared ---------------------------------------------------------------------------------

local texts = {} -- file name -> text
for name in helper.sh('ls ' .. helper.quote(META)):gmatch '(%S+%.lua)' do
  texts[name] = helper.read(META .. name)
end

--- Functions "NAME:METHOD" and "NAME.FUNCTION" of a text, as a set.
local function functions_of(text)
  local found = {}
  for name in text:gmatch '\nfunction ([%w_]+[.:][%w_]+)%(' do
    found[name] = true
  end
  return found
end

local declared = {} -- functions of `kumo`, from all files
local types = {} -- metatable -> { class, methods, fields }
local classes = {} -- class -> { fields, parent }

for _, text in pairs(texts) do
  local functions = functions_of(text)
  for name in pairs(functions) do
    declared[name:match '^kumo%.(.+)$' or false] = true
  end
  for comment, rest in text:gmatch '(%-%-%-@class[^\n]*)\n(.-\n)\n' do
    local class, parent = comment:gsub('%(exact%) ', ''):match '@class ([%w_.]+)%s*:?%s*([%w_.]*)'
    local fields = {}
    for field in ('\n' .. rest):gmatch '\n%-%-%-@field ([%w_]+)' do
      fields[field] = true
    end
    classes[class] = { fields = fields, parent = parent ~= '' and parent or nil }
  end
  for metatable, class, rest in text:gmatch '%-%-%- Metatable: (%S+)\n%-%-%-@class ([%w_.]+)\n(.-)\n\n' do
    local variable = rest:match 'local ([%w_]+) = {}$'
    local methods = {}
    for name in pairs(functions) do
      local owner, method = name:match '^([%w_]+):(.+)$'
      if owner == variable then
        methods[method] = true
      end
    end
    types[metatable] = { class = class, methods = methods }
  end
end

--- Fields of an option class with those of its parent, sorted.
local function fields_of(class)
  local list = {}
  while class do
    for field in pairs(classes[class].fields) do
      list[#list + 1] = field
    end
    class = classes[class].parent
  end
  table.sort(list)
  return list
end

-- --- what is there ------------------------------------------------------------------------------------

local modules = {} -- name -> what require gives
for name in pairs(package.preload) do
  if name:match '^tr%.' then
    modules[name] = require(name)
  end
end

-- metatables that are made with the first object
local own = kumo.make_message('a@example.com', 'b@example.com', 'Subject: x\r\n\r\n')
local objects = {
  ['tr.address'] = own:sender(),
  ['tr.smtp_domain'] = kumo.make_listener_domain {},
  ['tr.rejection'] = select(2, pcall(kumo.reject, 500, 'no')),
}

local registered = {} -- metatable of an object for Lua -> { method = true }
for name, metatable in pairs(debug.getregistry()) do
  if type(name) == 'string' and name:match '^tr%.' and type(metatable) == 'table' and rawget(metatable, '__index') then
    local index, methods = rawget(metatable, '__index'), {}
    for method in pairs(type(index) == 'table' and index or {}) do
      if not method:match '^__' then
        methods[method] = true
      end
    end
    registered[name] = methods
  end
end

local function is_c(fn)
  return type(fn) == 'function' and debug.getinfo(fn, 'S').what == 'C'
end

-- --- the specs ----------------------------------------------------------------------------------------

describe('lua/meta', function()
  it('declares the functions of kumo that are C, and none that is not there', function()
    assert.is_true(is_c(kumo.make_message) and is_c(kumo.define_spool) and is_c(kumo.make_queue_config)) -- it looks at these
    for name, value in pairs(kumo) do
      if is_c(value) then
        assert.is_true(declared[name], 'kumo.' .. name .. ' is not declared')
      end
    end
    for name in pairs(declared) do
      assert.is_true(not name or rawget(kumo, name) ~= nil, 'kumo.' .. tostring(name) .. ' is declared and not there')
    end
  end)

  it('declares the methods of each metatable, and no others', function()
    assert.is_true(registered['tr.message'].get_meta and registered['tr.session'].take) -- it has looked
    assert.is_not_nil(registered['tr.testing'])
    for name, methods in pairs(registered) do
      assert.is_not_nil(types[name], 'there is no line "--- Metatable: ' .. name .. '"')
      assert.are.same(methods, types[name].methods, name)
    end
    for name in pairs(types) do
      assert.is_not_nil(debug.getregistry()[name], name .. ' is declared and not there')
    end
  end)

  for name, object in pairs(objects) do
    it('declares the fields of ' .. name, function()
      local fields = fields_of(types[name].class)
      assert.is_true(#fields > 0)
      for _, field in ipairs(fields) do
        assert.is_not_nil(object[field], field)
      end
    end)
  end

  for name, module in pairs(modules) do
    it('declares the functions of the module ' .. name, function()
      local text = texts[name:gsub('%.', '_') .. '.lua'] or '' -- tr.bytes: tr_bytes.lua
      local found = functions_of(text)
      local variable = text:match '\nreturn ([%w_]+)\n$'
      for fn, value in pairs(module) do
        -- bindings of `kumo` are looked at above
        if is_c(value) and rawget(kumo, fn) ~= value then
          assert.is_true(found[tostring(variable) .. '.' .. fn], name .. '.' .. fn .. ' is not declared')
        end
      end
    end)
  end

  it('declares the functions that host.lua gets', function()
    local found = functions_of(texts['host.lua'])
    for name, value in pairs(host.c) do
      if is_c(value) then
        assert.is_true(found['c.' .. name], 'c.' .. name .. ' is not declared')
      end
    end
  end)

  describe('has the option names of', function()
    -- A call with a key that nobody knows is answered with the list of those that are known.
    local CALLS = {
      ['kumo.QueueConfigOptions'] = 'kumo.make_queue_config { zz = 1 }',
      ['kumo.CustomLuaProtocol'] = 'kumo.make_queue_config { protocol = { custom_lua = { zz = 1 } } }',
      ['kumo.EgressPathOptions'] = 'kumo.make_egress_path { zz = 1 }',
      ['kumo.ListenerDomainOptions'] = 'kumo.make_listener_domain { zz = 1 }',
      ['kumo.SpoolOptions'] = 'kumo.define_spool { zz = 1 }',
      ['kumo.EsmtpListenerOptions'] = 'kumo.start_esmtp_listener { zz = 1 }',
      ['kumo.TraceHeaderOptions'] = 'kumo.start_esmtp_listener { trace_headers = { zz = 1 } }',
      ['kumo.HttpListenerOptions'] = 'kumo.start_http_listener { zz = 1 }',
      ['kumo.LogHookOptions'] = 'kumo.configure_log_hook { zz = 1 }',
      ['kumo.LogDispositionHookOptions'] = 'kumo.configure_log_disposition_hook { zz = 1 }',
      ['kumo.LocalLogsOptions'] = 'kumo.configure_local_logs { zz = 1 }',
      ['kumo.PerRecord'] = "kumo.configure_log_hook { name = 'zz', per_record = { Any = { zz = 1 } } }",
      ['tr.testing.Options'] = "require('tr.testing').start { zz = 1 }",
    }
    local runtime, answers

    -- some of these functions answer only while `init` runs
    setup(function()
      local dir = helper.dir()
      local lines = { "local kumo = require 'kumo'\nanswers = {}\nkumo.on('init', function()\n" }
      for class, call in pairs(CALLS) do
        lines[#lines + 1] = ('answers[%q] = tostring(select(2, pcall(function() %s end)))\n'):format(class, call)
      end
      lines[#lines + 1] = ([[
        kumo.define_spool { name = 'meta', path = %q }
        kumo.define_spool { name = 'data', path = %q }
      end)]]):format(dir .. '/meta', dir .. '/data')
      runtime = testing.start { policy = helper.write(dir .. '/policy.lua', table.concat(lines)) }
      answers = runtime:eval 'return answers'
    end)

    teardown(function()
      if runtime then
        runtime:stop(1)
      end
      helper.cleanup()
    end)

    for class in pairs(CALLS) do
      it(class, function()
        local list = answers[class]:match "unknown field 'zz', expected one of (.-), while processing"
        assert.is_not_nil(list, answers[class])
        local known, names = {}, {}
        for name in list:gsub(' %(did you mean.*', ''):gmatch "'([%w_]+)'" do
          if not known[name] then
            known[name], names[#names + 1] = true, name
          end
        end
        table.sort(names)
        assert.are.same(names, fields_of(class))
      end)
    end
  end)
end)
