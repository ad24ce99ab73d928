-- Parts of contract lua-modules.md that need no running queue.
local kumo = require 'kumo'

describe('configuration objects', function()
  it('read back with defaults, durations as text', function()
    local queue = kumo.make_queue_config { retry_interval = 90, max_age = '2 days', egress_pool = 'p' }
    assert.are.equal('1m 30s', queue.retry_interval)
    assert.are.equal('2days', (queue.max_age:gsub(' ', '')))
    assert.are.equal('p', queue.egress_pool)
    assert.are.equal('Ttl', queue.refresh_strategy)
    assert.are.equal('table', type(queue.protocol.smtp))
    local path = kumo.make_egress_path { connection_limit = 3 }
    assert.are.equal(3, path.connection_limit)
    assert.are.equal(1024, path.max_ready)
    assert.are.equal('5s', path.idle_timeout)
    assert.are.equal(25, path.smtp_port)
    local seen = {}
    for key, value in pairs(path) do
      seen[key] = value
    end
    assert.are.equal(3, seen.connection_limit)
    assert.are.equal('Opportunistic', seen.enable_tls)
    assert.is_false(pcall(function()
      path.connection_limit = 4
    end))
  end)
end)

describe('kumo.invoke_get_queue_config', function()
  it('gives defaults without a handler, and what is built in', function()
    local config = kumo.invoke_get_queue_config 'campaign:tenant@example.org'
    assert.are.equal('table', type(config))
    assert.are.equal('20m', config.retry_interval)
    assert.are.equal('10s', kumo.invoke_get_queue_config('null').retry_interval)
    assert.is_false(pcall(kumo.invoke_get_queue_config, 1))
  end)
end)

describe('kumo.invoke_get_egress_path_config', function()
  it('gives defaults without a handler', function()
    assert.are.equal(32, kumo.invoke_get_egress_path_config('a.test', 'unspecified', 'a.test').connection_limit)
    assert.are.equal('unspecified', kumo.invoke_get_egress_pool().entries[1].name)
    assert.are.equal('unspecified', kumo.invoke_get_egress_source('unspecified').name)
  end)
end)

describe('settings without effect', function()
  it('are accepted, and checked', function()
    kumo.set_lruttl_cache_capacity('dns_resolver_mx', 10)
    kumo.configure_accounting_db_path '/nowhere'
    kumo.suspend_delivery_when_spool_unhealthy(false)
    kumo.configure_bounce_classifier { files = {} }
    kumo.set_config_monitor_globs {}
    assert.is_nil(kumo.get_memory_soft_limit())
    assert.is_false(pcall(kumo.set_lruttl_cache_capacity, 'none', 10))
    assert.is_false(pcall(kumo.configure_bounce_classifier, { file = {} }))
    assert.is_false(pcall(kumo.configure_bounce_classifier, { files = {}, cache = 1 }))
    assert.is_false(pcall(kumo.set_config_monitor_globs, 'x'))
  end)
end)

describe('kumo.eval_config_monitor_globs', function()
  it('finds what the patterns match', function()
    local helper = require 'helper'
    local dir = helper.dir()
    helper.write(dir .. '/a.lua', '')
    helper.write(dir .. '/b.toml', '')
    kumo.set_config_monitor_globs { dir .. '/*.lua', dir .. '/*.{lua,toml}' }
    assert.are.same({ dir .. '/a.lua', dir .. '/b.toml' }, kumo.eval_config_monitor_globs())
    kumo.set_config_monitor_globs {}
    assert.are.same({}, kumo.eval_config_monitor_globs())
    assert.is_false(pcall(kumo.set_config_monitor_globs, { 5 }))
    helper.cleanup()
  end)
end)

describe('kumo.prometheus_metrics', function()
  it('has the shape of /metrics.json', function()
    kumo.memoize(function()
      return 1
    end, { name = 'spec.metrics', ttl = 1, capacity = 1 })()
    local metric = kumo.prometheus_metrics().memoize_cache_lookup_count
    assert.are.equal('counter', metric.type)
    assert.is_true(metric.value.cache_name['spec.metrics'] >= 1)
  end)
end)
