-- `tailrace queue` and `tailrace throttle`.
local helper = require 'helper'
local kumo = require 'kumo'

local function run(args)
  return helper.sh(helper.quote(helper.TAILRACE) .. ' ' .. args)
end

describe('tailrace queue', function()
  local policy
  setup(function()
    policy = helper.write(helper.dir() .. '/policy.lua', [[
      local kumo = require 'kumo'
      kumo.on('init', function()
        kumo.define_spool { name = 'meta', path = 'nowhere' }
        ages = { ['a.example'] = '3 days' }
      end)
      require('policy-extras.log_hooks'):new_json { name = 'hook', url = 'http://127.0.0.1:1/' }
      kumo.on('get_queue_config', function(domain, tenant, campaign, routing_domain)
        if domain == 'broken.example' then
          error 'nobody knows it'
        elseif domain ~= 'other.example' then
          kumo.sleep(0)
          return kumo.make_queue_config { max_age = ages[domain], egress_pool = ('%s-%s-%s'):format(tenant, campaign, routing_domain) }
        end
      end)
    ]])
  end)
  teardown(helper.cleanup)

  it('prints what the policy answers, and who does', function()
    local out, status = run('queue c:t@a.example!r.example --policy ' .. policy)
    assert.are.equal(0, status, out)
    assert.is_truthy(out:find('# c:t@a.example!r.example: get_queue_config of ', 1, true) == 1, out)
    assert.is_truthy(out:find 'policy.lua:7\n')
    assert.is_truthy(out:find('max_age = "3days"', 1, true))
    assert.is_truthy(out:find('egress_pool = "t-c-r.example"', 1, true))
    out = run('queue hook.log_hook --policy ' .. policy)
    assert.is_truthy(out:find('policy.lua:6\n', 1, true), out) -- where the policy has set the hook up
  end)

  it('prints JSON', function()
    local answer = kumo.serde.json_parse((run('queue a.example --json --policy ' .. policy)))
    assert.are.equal('3days', answer.max_age)
  end)

  it('says when nobody answers', function()
    for _, args in ipairs { 'queue other.example --policy ' .. policy, 'queue other.example' } do
      local out, status = run(args)
      assert.are.equal(0, status)
      assert.is_truthy(out:find('# other.example: no handler of get_queue_config answers, these are the defaults', 1, true), out)
    end
  end)

  it('fails with what the policy says', function()
    local out, status = run('queue broken.example --policy ' .. policy)
    assert.are.equal(78, status)
    assert.is_truthy(out:find('nobody knows it', 1, true), out)
    out, status = run 'queue x --policy /nowhere.lua'
    assert.are.equal(78, status)
    assert.is_truthy(out:find('cannot be read', 1, true), out)
    assert.are.equal(64, select(2, run 'queue'))
  end)
end)

describe('tailrace throttle', function()
  it('says what a rate means', function()
    local out, status = run "throttle 'local:5/s,max_burst=1'"
    assert.are.equal(0, status)
    assert.are.equal('local:5/s,max_burst=1 (this node alone)\nexplicit burst of 1 at once, then one every 200ms\n'
      .. 'overall rate 5/s, 300/m, 18,000/h, 432,000/d\n', out) -- stylua: ignore
  end)

  it('says why a text is none', function()
    local out, status = run 'throttle 100/q'
    assert.are.equal(65, status)
    assert.is_truthy(out:find("^'100/q' is not a throttle: "), out)
    assert.are.equal(64, select(2, run 'throttle'))
  end)
end)
