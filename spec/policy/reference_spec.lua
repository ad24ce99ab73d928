-- Each function of a policy has a type entry and a place on a page of docs/reference, and there is nothing else in either.
local helper = require 'helper'
local kumo = require 'kumo'
local host = require 'tr.host'
local reference = host.internal 'reference'
local text = host.internal 'reference_text'

local ROOT = host.c.share_dir
local all = reference.all()

--- Functions that policies can call, by the names of their entries.
local function callable()
  local out = reference.exported()
  for _, name in ipairs(reference.extras()) do
    for key, value in pairs(require(name)) do
      if type(value) == 'function' and not key:find '^_' then
        out[name .. '.' .. key] = value
      end
    end
  end
  return out
end

local function entry_of(name)
  return all.by_name[name] or all.by_name[name:gsub('%.([%w_]+)$', ':%1')]
end

describe('the reference', function()
  it('has an entry for each function', function()
    local functions, missing = callable(), {}
    assert.is_function(functions['kumo.http.build_client']) -- it has looked
    assert.is_function(functions['policy-extras.log_hooks.new_json'])
    for name in pairs(functions) do
      if not entry_of(name) then
        missing[#missing + 1] = name .. ': add a type entry in lua/meta, or a comment beside the function'
      end
    end
    table.sort(missing)
    assert.are.same({}, missing)
    assert.are.same({}, all.undocumented)
  end)

  it('has no entry for what is not there', function()
    local functions, wrong = callable(), {}
    for _, entry in ipairs(all.list) do
      local owner = entry.name:match '^(.-):'
      local of_class = owner and all.by_name[owner] ~= nil
      if entry.kind == 'function' and not of_class and not functions[entry.name:gsub(':', '.')] then
        wrong[#wrong + 1] = entry.name
      end
    end
    for name in helper.sh(('ls %s/lua/meta'):format(helper.quote(ROOT))):gmatch '%S+%.lua' do
      for _, fn in ipairs(reference.read('lua/meta/' .. name).functions) do
        local full = fn.owner .. '.' .. fn.short
        if fn.owner:find '^kumo' and fn.sep == '.' and not functions[full] then
          wrong[#wrong + 1] = ('%s:%d: %s'):format(fn.file, fn.line, full)
        end
      end
    end
    assert.are.same({}, wrong)
  end)

  it('says something of each function, and of each of its parameters', function()
    local wrong = {}
    for _, entry in ipairs(all.list) do
      if entry.kind == 'function' then
        local names = {}
        for name in (entry.signature or '()'):sub(2, -2):gmatch '[%w_%.]+' do
          names[#names + 1] = name
        end
        if #entry.text == 0 and #entry.returns == 0 and #entry.params == 0 and #names > 0 then
          wrong[#wrong + 1] = ('%s:%d: %s: nothing is said'):format(entry.file, entry.line, entry.name)
        end
        local said = {}
        for _, param in ipairs(entry.params) do
          said[param.name] = true
        end
        local first = entry.sep == '.' and entry.name:find ':' and 2 or 1 -- `self` written out
        for i = first, #names do
          if not said[names[i]] then
            wrong[#wrong + 1] = ('%s:%d: %s: @param %s is missing'):format(entry.file, entry.line, entry.name, names[i])
          end
        end
      end
    end
    assert.are.same({}, wrong)
  end)

  it('has the options of each function that names those it knows', function()
    local functions, owners, wrong, looked = callable(), {}, {}, 0
    for _, name in ipairs(reference.extras()) do
      owners[name] = require(name)
    end
    for name, fn in pairs(functions) do
      local entry = entry_of(name)
      for i, param in ipairs(entry and entry.params or {}) do
        local class = all.by_name[(param.type:gsub('%?', ''))]
        if class and class.kind == 'class' and class.exact then
          local args = { n = i }
          for j = 1, i - 1 do
            args[j] = 'x'
          end
          args[i] = { zz = 1 } -- raises, unless it does nothing with it
          if entry.sep == ':' then
            table.insert(args, 1, owners[name:match '^(.*)%.'])
          end
          local _, err = pcall(fn, unpack(args, 1, i + 1))
          local list = tostring(err):match 'expected one of (.*)$'
          local known, fields = {}, list and reference.fields(class.name) or {}
          for one in (list or ''):gsub(', while processing.*$', ''):gsub('%(did you.*$', ''):gmatch '[%w_]+' do
            one = one:gsub('_$', '') -- until_
            known[one] = true
            if not fields[one] then
              wrong[#wrong + 1] = ('%s: %s lacks the option %s'):format(name, class.name, one)
            end
          end
          for field in pairs(fields) do
            if not known[field] then
              wrong[#wrong + 1] = ('%s: %s has the option %s, which the function does not know'):format(name, class.name, field)
            end
          end
          looked = looked + (list and 1 or 0)
        end
      end
    end
    table.sort(wrong)
    assert.are.same({}, wrong)
    assert.is_true(looked > 20, looked .. ' functions')
  end)

  it('tells the truth about what is not supported', function()
    local functions, looked = callable(), 0
    for name, fn in pairs(functions) do
      local entry = entry_of(name)
      if entry and table.concat(entry.text, ' '):find '^Not supported: raises' then
        looked = looked + 1
        local ok, err = pcall(fn)
        assert.is_false(ok, name)
        assert.is_truthy(tostring(err):find 'not supported by Tailrace', name .. ': ' .. tostring(err))
      end
    end
    assert.is_true(looked > 0)
  end)

  it('names each class that an entry speaks of', function()
    local wrong, known = {}, {}
    for _, entry in ipairs(all.list) do
      known[entry.name] = true
    end
    local function look(entry, kind)
      for name in kind:gsub("'[^']*'", ''):gmatch 'kumo%.[%w_%.]+' do
        name = name:gsub('%.+$', '')
        if not known[name] then
          wrong[#wrong + 1] = ('%s:%d: %s: there is no type %s'):format(entry.file, entry.line, entry.name, name)
        end
      end
    end
    for _, entry in ipairs(all.list) do
      for _, list in ipairs { entry.params, entry.returns, entry.fields } do
        for _, value in ipairs(list) do
          look(entry, value.type)
        end
      end
      look(entry, entry.type or '')
    end
    assert.are.same({}, wrong)
  end)

  it('is what docs/reference holds', function()
    local pages = text.markdown_pages()
    local count = 0
    for name, page in pairs(pages) do
      count = count + 1
      local committed = helper.read(ROOT .. '/docs/reference/' .. name)
      assert(committed == page, ('docs/reference/%s is behind: run `build/release/tailrace lua spec/reference_pages.lua`'):format(name))
    end
    local there = helper.sh(('ls %s/docs/reference | wc -l'):format(helper.quote(ROOT)))
    assert.are.equal(count, tonumber(there), 'docs/reference has pages that nobody writes')
  end)

  it('has each function on a page', function()
    local whole = {}
    for _, page in pairs(text.markdown_pages()) do
      whole[#whole + 1] = page
    end
    whole = table.concat(whole)
    for name in pairs(callable()) do
      local entry = entry_of(name)
      assert.is_truthy(whole:find('\n## `' .. (entry and entry.name or name) .. '(', 1, true), name)
    end
  end)
end)

describe('the events of lua/meta/events.lua', function()
  local events = reference.events()

  it('are those that the runtime fires', function()
    local fired = {}
    for line in helper.sh(([[cd %s && grep -rhoE "tr_event_(fire|id)\(([^\"]*, )?\"[a-z_]+\"|dispatch\('[a-z_]+'" runtime lua]]):format(
      helper.quote(ROOT))):gmatch '[^\n]+' do -- stylua: ignore
      fired[#fired + 1] = line:match '["\']([a-z_]+)["\']$'
    end
    assert.is_true(#fired > 10)
    local section = helper.read(ROOT .. '/docs/policy.md'):match '\n## Events\n(.-)\n## '
    for name in section:gmatch '\n| `([%l_]+)`' do
      fired[#fired + 1] = name
    end
    for _, name in ipairs(fired) do
      assert.is_not_nil(events[name], name .. ' is fired and not there')
    end
  end)

  it('are overloads of kumo.on', function()
    local meta = helper.read(ROOT .. '/lua/meta/kumo.lua')
    local count = 0
    for name in pairs(events) do
      count = count + 1
      local line = ("---@overload fun(event: '%s', handler: kumo.event.%s)"):format(name, name)
      assert.is_truthy(meta:find(line, 1, true), line)
    end
    assert.are.equal(count, select(2, meta:gsub('%-%-%-@overload fun%(event: ', '')))
  end)
end)

describe('tailrace help', function()
  teardown(helper.cleanup)

  local function help(name, program)
    return helper.sh(('%s help %s'):format(helper.quote(program or helper.TAILRACE), name and helper.quote(name) or ''))
  end

  it('prints an entry by its full name, or by the end of it', function()
    local out, status = help 'kumo.make_message'
    assert.are.equal(0, status)
    assert.are.equal([[
kumo.make_message(sender, recipient, data) -> kumo.Message

  A message of your own, for kumo.inject_message. Raises for a bad address.

  sender     string|kumo.EnvelopeAddress
  recipient  string|kumo.EnvelopeAddress
  data       string              complete message: header, blank line, body

More: docs/reference/messages.md
]], out)
    assert.are.equal(out, (help 'make_message'))
    assert.are.equal((help 'kumo.Message:get_meta'), (help 'Message:get_meta'))
  end)

  it('prints options with a function, methods with an object, and what an event hands over', function()
    assert.is_truthy(help('define_spool'):find 'min_free_space%?')
    assert.is_truthy(help('kumo.Message'):find(':set_due([when]) -> string?', 1, true))
    assert.is_truthy(help('smtp_server_ehlo'):find('fun(domain: string, conn: kumo.ConnMeta, extensions: string[]?)', 1, true))
  end)

  it('lists topics, and what is in one', function()
    local out, status = help()
    assert.are.equal(0, status)
    assert.is_truthy(out:find('kumo.http', 1, true), out)
    assert.is_truthy(help('events'):find 'smtp_server_message_received')
    assert.are.equal((help 'policy-extras.log_hooks'), (help 'log_hooks'))
    assert.is_truthy(help('get_meta'):find 'kumo.ConnMeta:get_meta') -- two objects have it
  end)

  it('prints the text of a command', function()
    assert.is_truthy(help('sink'):find 'Usage: tailrace sink')
  end)

  it('names the nearest for what is not there', function()
    for name, near in pairs { make_mesage = 'make_message', ['kumo.http.build_clent'] = 'kumo.http.build_client', chek = 'check' } do
      local out, status = help(name)
      assert.are.equal(64, status)
      assert.are.equal(("tailrace help: there is no '%s', did you mean '%s'?\nTry 'tailrace help'.\n"):format(name, near), out)
    end
  end)

  it('reads what is installed with the program', function()
    local dir = helper.dir()
    helper.sh(([[cd %s && mkdir -p bin share/tailrace && cp %s bin/tailrace && cp -r %s/lua %s/policy-extras share/tailrace
      sed -i 's/^--- Suspends the calling task.$/--- Sleeps, as installed./' share/tailrace/lua/kumo.lua]]):format(dir,
      helper.quote(helper.TAILRACE), helper.quote(ROOT), helper.quote(ROOT))) -- stylua: ignore
    local out, status = help('kumo.sleep', dir .. '/bin/tailrace')
    assert.are.equal(0, status, out)
    assert.is_truthy(out:find('Sleeps, as installed.', 1, true), out)
  end)

  it('writes the files for editors and linters', function()
    local luarc = kumo.serde.json_parse((help '--luarc'))
    for _, path in ipairs(luarc['workspace.library']) do
      assert.are.equal('', (helper.sh('test -d ' .. helper.quote(path) .. ' || echo missing')))
    end
    local rc, env = help '--luacheckrc', { stds = {}, files = {} }
    setfenv(assert(loadstring(rc)), env)()
    assert.are.equal('luajit+tailrace', env.std)
    assert.is_not_nil(env.stds.tailrace.read_globals.table.fields.pack)
    assert.is_not_nil(env.stds.tailrace.read_globals.utf8.fields.char)
  end)
end)
