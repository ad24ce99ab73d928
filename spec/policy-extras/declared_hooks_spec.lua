-- kumo.declare_hook_queue: a handler that says the same of each record needs not be asked, and every other one is asked as
-- before (contract events.md section 2).
local helper = require 'helper'
local testing = require 'tr.testing'

local POLICY = [[
local kumo = require 'kumo'
asked, sent, declared = {}, {}, {}
kumo.on('init', function()
  kumo.define_spool { name = 'data', path = DIR .. '/data' }
  kumo.define_spool { name = 'meta', path = DIR .. '/meta' }
end)
function note(who)
  return function(msg, hook)
    asked[#asked + 1] = who .. ':' .. hook
  end
end
function constructor_of(hook)
  return function()
    return { send = function(_, msg)
      local log_record = msg:get_meta 'log_record'
      if log_record then
        sent[#sent + 1] = { hook = hook, queue = msg:get_meta 'queue', type = log_record.type }
      end
      return 'ok'
    end }
  end
end
local only = { per_record = { Any = { enable = false }, Reception = { enable = true } } }
function helper_hook(name, filter)
  require('policy-extras.log_hooks'):new {
    name = name, log_parameters = only, filter = filter, constructor = constructor_of(name),
  }
end
]]

local LAST = [[
kumo.on('get_queue_config', function(domain)
  return kumo.make_queue_config { protocol = { custom_lua = { constructor = 'make.it' } } }
end)
kumo.on('make.it', constructor_of 'own')
]]

describe('a declared hook', function()
  local rt

  local function run(policy)
    local dir = helper.dir()
    helper.write(dir .. '/policy.lua', ('DIR = %q\n'):format(dir) .. POLICY .. policy .. LAST)
    rt = testing.start { policy = dir .. '/policy.lua', seed = 3 }
    rt:receive { to = 'a@example.org', data = 'Subject: x\r\n\r\nbody\r\n' }
    rt:advance(1)
    local asked, sent = rt:eval 'return asked', rt:eval 'return sent'
    table.sort(asked)
    table.sort(sent, function(a, b)
      return a.hook < b.hook
    end)
    return asked, sent
  end
  after_each(function()
    if rt then
      rt:stop(5)
      rt = nil
    end
    helper.cleanup()
  end)

  local function record(hook)
    return { hook = hook, queue = hook .. '.log_hook', type = 'Reception' }
  end

  it('gets its records, and later handlers are not asked about them', function()
    local asked, sent = run [[
      helper_hook 'a'
      helper_hook 'b'
      kumo.on('should_enqueue_log_record', note 'late')
    ]]
    assert.are.same({}, asked)
    assert.are.same({ record 'a', record 'b' }, sent)
  end)

  it('leaves other hooks to their handlers', function()
    local asked, sent = run [[
      helper_hook 'a'
      kumo.on('pre_init', function()
        kumo.configure_log_hook { name = 'own', per_record = { Any = { enable = false }, Reception = {} } }
      end)
      kumo.on('should_enqueue_log_record', note 'late')
    ]]
    assert.are.same({ 'late:own' }, asked)
    assert.are.same({ record 'a' }, sent)
  end)

  it('is asked about if another handler comes first', function()
    local asked, sent = run [[
      kumo.on('should_enqueue_log_record', note 'early')
      helper_hook 'a'
    ]]
    assert.are.same({ 'early:a' }, asked)
    assert.are.same({ record 'a' }, sent)
  end)

  it('is what the first handler says', function()
    local asked, sent = run [[
      kumo.on('should_enqueue_log_record', function(msg, hook)
        asked[#asked + 1] = 'early:' .. hook
        return false
      end)
      helper_hook 'a'
    ]]
    assert.are.same({ 'early:a' }, asked)
    assert.are.same({}, sent)
  end)

  it('is not one with a filter', function()
    local asked, sent = run [[
      helper_hook('a', function(msg, hook) asked[#asked + 1] = 'filter:' .. hook return true end)
      helper_hook('b', function(msg, hook) asked[#asked + 1] = 'filter:' .. hook return false end)
    ]]
    assert.are.same({ 'filter:a', 'filter:b' }, asked)
    assert.are.same({ record 'b' }, sent)
  end)

  it('may be one of low-level handlers', function()
    local asked, sent = run [[
      kumo.on('pre_init', function()
        kumo.configure_log_hook { name = 'own', per_record = { Any = { enable = false }, Reception = {} } }
      end)
      local function handler(msg, hook)
        asked[#asked + 1] = 'own:' .. hook
        msg:set_meta('queue', 'own.log_hook')
        return true
      end
      assert(not kumo.declare_hook_queue('own', 'own.log_hook', handler), 'before kumo.on')
      kumo.on('should_enqueue_log_record', handler)
      assert(not kumo.declare_hook_queue('own', 'own.log_hook', print), 'another handler')
      assert(kumo.declare_hook_queue('own', 'own.log_hook', handler))
    ]]
    assert.are.same({}, asked)
    assert.are.same({ record 'own' }, sent)
  end)

  local kumo = require 'kumo'
  for _, case in ipairs {
    { {}, 'string expected' },
    { { 'a', 'b' }, 'function expected' },
    { { 'a', '', print }, 'the name of a queue expected' },
    { { 'a', '\255', print }, 'the name of a queue expected' },
  } do
    it('refuses: ' .. case[2], function()
      local ok, err = pcall(kumo.declare_hook_queue, unpack(case[1]))
      assert.is_false(ok)
      assert.truthy(tostring(err):find(case[2], 1, true), err)
    end)
  end
end)
