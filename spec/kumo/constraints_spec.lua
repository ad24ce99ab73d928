-- kumo.compute_*_constraints and kumo.format_*: what limits amount to.
local kumo = require 'kumo'

describe('kumo.compute_egress_path_config_constraints', function()
  local compute = kumo.compute_egress_path_config_constraints

  it('finds the defaults without rates', function()
    assert.are.same({
      max_concurrent_dispatchers = { value = 32, source = { kind = 'primary' }, display = '32' },
    }, compute(kumo.make_egress_path {}))
  end)

  for name, case in pairs {
    ['the lowest additional limit'] = {
      { connection_limit = 'local:1,000', additional_connection_limits = { b = 20, a = '1_0' } },
      'max_concurrent_dispatchers',
      { value = 10, source = { kind = 'additional', name = 'a' }, display = '1_0' },
    },
    ['a rate in any unit'] = {
      { max_message_rate = 'local:1,200/2min' },
      'max_message_rate',
      { value = 10, source = { kind = 'primary' }, display = 'local:1,200/2min' },
    },
    ['connections that are renewed too slowly'] = {
      { max_message_rate = '100/s', max_connection_rate = '60/min', max_deliveries_per_connection = 20 },
      'max_message_rate',
      { value = 20, source = { kind = 'reconnect_cycling' }, display = '20/s (20 deliveries a connection, 60/min connections)' },
    },
    ['a shared rate'] = {
      { max_message_rate = '100/s', additional_message_rate_throttles = { all = '1/hour' } },
      'max_message_rate',
      { value = 1 / 3600, source = { kind = 'additional', name = 'all' }, display = '1/hour' },
    },
    ['the rates of source selection'] = {
      { source_selection_rate = '86400/day', additional_source_selection_rates = { x = '2/s' } },
      'max_source_selection_rate',
      { value = 1, source = { kind = 'primary' }, display = '86400/day' },
    },
  } do
    it('finds ' .. name, function()
      assert.are.same(case[3], compute(case[1])[case[2]])
      assert.are.same(case[3], compute(kumo.make_egress_path(case[1]))[case[2]])
    end)
  end

  it('takes the lower of two, and says what was declared', function()
    local extra = kumo.compute_queue_config_constraints { max_message_rate = '5/s' }
    local result = compute({ max_message_rate = '100/s' }, extra)
    assert.are.equal(5, result.max_message_rate.value)
    assert.are.equal('other', result.max_message_rate.source.kind)
    assert.are.equal('100/s', result.max_message_rate_declared)
    assert.is_nil(compute({ max_message_rate = '1/s' }, extra).max_message_rate_declared)
    assert.are.same({}, kumo.compute_queue_config_constraints {})
  end)

  it('is told as text', function()
    assert.are.equal(
      [[
concurrent connections: 32
message rate:           20/s (20 deliveries a connection, 1/s connections) [reconnect_cycling]
  declared:             100/s, which is never reached
connection rate:        1/s
source selection rate:  no limit
]],
      kumo.format_egress_path_config_constraints(
        compute { max_message_rate = '100/s', max_connection_rate = '1/s', max_deliveries_per_connection = 20 }
      )
    )
  end)

  it('refuses what is no configuration', function()
    assert.has_error(function()
      compute(7)
    end, 'kumo.compute_egress_path_config_constraints: a configuration is expected, got number')
    assert.has_error(function()
      compute { max_message_rat = 1 }
    end)
  end)
end)

describe('kumo.format_*_toml', function()
  it('can be read again', function()
    local text = kumo.format_egress_path_config_toml { max_ready = 77, additional_connection_limits = { ['a b'] = 3 } }
    local path = kumo.serde.toml_parse(text)
    assert.are.equal(77, path.max_ready)
    assert.are.same({ ['a b'] = 3 }, path.additional_connection_limits)
    assert.are.equal(32, kumo.make_egress_path(path).connection_limit)
    local queue = kumo.serde.toml_parse(kumo.format_queue_config_toml { retry_interval = '20 minutes' })
    assert.are.equal('20m', queue.retry_interval)
  end)
end)
