-- A log hook that no constructor is bound to is refused before anything is started.
local helper = require 'helper'

local POLICY = [[
local kumo = require 'kumo'
kumo.on('init', function()
  kumo.define_spool { name = 'meta', path = '%s/meta' }
  kumo.define_spool { name = 'data', path = '%s/data' }
  kumo.configure_log_hook { name = 'webhook' }
end)
kumo.on('should_enqueue_log_record', function(msg, hook)
  msg:set_meta('queue', 'webhook')
  return true
end)
local function lua(name)
  return kumo.make_queue_config { protocol = { custom_lua = { constructor = name } } }
end
local function make() end
%s]]

--- Writes the policy; its path.
local function write(text)
  local dir = helper.dir()
  return helper.write(dir .. '/policy.lua', POLICY:format(dir, dir, text))
end

local function start(policy, args)
  return helper.start(('%s run --workers 1 %s --policy %s'):format(helper.quote(helper.TAILRACE), args or '', policy))
end

local function assert_refused(text, ...)
  local policy = write(text)
  local run = start(policy)
  local status = helper.wait_for('a refusal', function()
    return run:status() or run:log():find('initialization complete', 1, true) and -1
  end)
  assert.are.equal(78, status, run:log())
  for _, part in ipairs { ... } do
    assert.truthy(run:log():find(part, 1, true), ('%s\nlacks %s'):format(run:log(), part))
  end
  assert.falsy(helper.read(policy:gsub('policy.lua', 'meta/nodeid'))) -- nothing was started
end

local function assert_starts(text)
  local run = start(write(text))
  run:line '(initialization complete)'
  assert.are.equal(0, run:stop())
  return run:log()
end

describe('a log hook at load', function()
  after_each(helper.cleanup)

  it('is refused when its constructor has no handler', function()
    assert_refused(
      [[
kumo.on('get_queue_config', function(domain)
  if domain == 'webhook' then
    return lua 'make.webhok'
  end
end)
kumo.on('make.webhook', make)]],
      "the log hook 'webhook' (configured at ",
      'policy.lua:5)',
      'the get_queue_config handler at ',
      'policy.lua:15 ',
      "answers for 'webhook' with the constructor 'make.webhok', which has no handler",
      "did you mean 'make.webhook'",
      "kumo.on('make.webhok', function(domain, tenant, campaign)"
    )
  end)

  it('is refused by the name that policy-extras.log_hooks gives queues, too', function()
    assert_refused(
      [[
kumo.on('get_queue_config', function() end) -- the next one is asked
kumo.on('get_queue_config', function(domain)
  if domain == 'webhook.log_hook' then
    kumo.sleep(0.01)
    return lua 'make.nothing'
  end
end)]],
      "answers for 'webhook.log_hook' with the constructor 'make.nothing'",
      'policy.lua:16 '
    )
  end)

  for what, text in pairs {
    ['a constructor with a handler'] = "kumo.on('get_queue_config', function() return lua 'make.it' end) kumo.on('make.it', make)",
    ['a constructor of one of the usual names'] = [[
      kumo.on('get_queue_config', function(domain) return lua('make.' .. domain) end)
      kumo.on('make.webhook', make)]],
    ['an answer for other domains alone'] = [[
      kumo.on('get_queue_config', function(domain)
        if domain == 'events.internal' then return lua 'make.unbound' end
      end)]],
    ['another protocol'] = "kumo.on('get_queue_config', function() return kumo.make_queue_config {} end)",
    ['a handler that raises'] = "kumo.on('get_queue_config', function() error 'not yet' end)",
    ['a handler that rejects'] = "kumo.on('get_queue_config', function() kumo.reject(400, 'x') end)",
    ['an answer that is no configuration'] = "kumo.on('get_queue_config', function() return nil end)",
    ['no handler of get_queue_config'] = '',
  } do
    it('is not refused for ' .. what, function()
      assert_starts(text)
    end)
  end

  it('is warned of when nothing can ever be enqueued', function()
    local dir = helper.dir()
    local policy = helper.write(dir .. '/policy.lua', ([[
      local kumo = require 'kumo'
      kumo.on('init', function()
        kumo.define_spool { name = 'meta', path = '%s/meta' }
        kumo.define_spool { name = 'data', path = '%s/data' }
        kumo.configure_log_hook { name = 'idle' }
      end)]]):format(dir, dir))
    local run = start(policy)
    run:line '(initialization complete)'
    run:stop()
    assert.truthy(run:log():find("the log hook 'idle' (configured at ", 1, true))
    assert.truthy(run:log():find('discards every record: there is no handler of should_enqueue_log_record', 1, true))
  end)
end)
