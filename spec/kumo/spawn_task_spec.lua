local helper = require 'helper'
local kumo = require 'kumo'

local raised = helper.raised

describe('kumo.spawn_task', function()
  for _, case in ipairs {
    { 'x', 'table of options expected' },
    { { event_nam = 'x' }, "unknown field 'event_nam'" },
    { {}, "field 'event_name': string expected" },
    { { event_name = 'x', args = 5 }, "field 'args': list expected" },
    { { event_name = 'nobody' }, "no handler for the event 'nobody'" },
  } do
    it('refuses: ' .. case[2], function()
      local err = raised(kumo.spawn_task, case[1])
      assert.truthy(err:find(case[2], 1, true), err)
    end)
  end

  it('runs a handler in a task of its own', function()
    local got
    kumo.on('spec.spawn_task', function(args)
      kumo.sleep(0)
      got = args
    end)
    kumo.spawn_task { event_name = 'spec.spawn_task', args = { 1, 'x' } }
    assert.is_nil(got)
    helper.wait_for('the task', function() return got end)
    assert.are.same({ 1, 'x' }, got)
  end)
end)
