-- A configuration that cannot be had is told once, with the reason.
local helper = require 'helper'

local SCRIPT = [[
local testing = require 'tr.testing'
local rt = testing.start { policy = %q }
rt:receive { to = 'a@example.org' }
rt:advance(1)
rt:stop(1)
]]

local POLICY = [[
DIR = %q
local kumo = require 'kumo'
kumo.on('init', function()
  kumo.define_spool { name = 'data', path = DIR .. '/data' }
  kumo.define_spool { name = 'meta', path = DIR .. '/meta' }
end)
kumo.on('make.it', function() return { send = function() return 'ok' end } end)
]]

local GOOD_QUEUE = [[
kumo.on('get_queue_config', function()
  return kumo.make_queue_config { protocol = { custom_lua = { constructor = 'make.it' } } }
end)
]]

describe('the log', function()
  after_each(helper.cleanup)

  for what, case in pairs {
    ['get_queue_config returns something else'] = {
      "kumo.on('get_queue_config', function() return 5 end)",
      'get_queue_config returned number',
    },
    ['get_queue_config raises'] = { "kumo.on('get_queue_config', function() error 'no idea' end)", 'no idea' },
    ['get_egress_path_config returns nothing'] = {
      GOOD_QUEUE .. "kumo.on('get_egress_path_config', function() end)",
      'get_egress_path_config must return the object of kumo.make_egress_path{...}, got no value',
    },
    ['get_egress_path_config returns something else'] = {
      GOOD_QUEUE .. "kumo.on('get_egress_path_config', function() return {} end)",
      'kumo.make_egress_path{...}, got table',
    },
    ['get_egress_path_config raises'] = {
      GOOD_QUEUE .. "kumo.on('get_egress_path_config', function() error 'no idea' end)",
      'no idea',
    },
  } do
    it('says once that ' .. what, function()
      local dir = helper.dir()
      local policy = helper.write(dir .. '/policy.lua', POLICY:format(dir) .. case[1])
      local script = helper.write(dir .. '/script.lua', SCRIPT:format(policy))
      local run = helper.start(('%s lua %s'):format(helper.quote(helper.TAILRACE), script), { TAILRACE_LOG = 'info' })
      run:wait()
      local count, at = 0, 1
      repeat
        local first, last = run:log():find(case[2], at, true)
        count, at = count + (first and 1 or 0), (last or 0) + 1
      until not first
      assert.are.equal(1, count, run:log())
    end)
  end
end)
