--- What the limits of a path and a queue amount to in the steady state, and configurations as text. Contract egress-path.md
--- section 7.
local queue = require 'tr.queue'

local constraints = {}

local UNITS = {
  s = 1, sec = 1, second = 1, m = 60, min = 60, minute = 60, h = 3600, hr = 3600, hour = 3600, d = 86400, day = 86400,
} -- stylua: ignore
local ORDER = { 'max_concurrent_dispatchers', 'max_message_rate', 'max_connection_rate', 'max_source_selection_rate' }
local TITLES = {
  max_concurrent_dispatchers = 'concurrent connections',
  max_message_rate = 'message rate',
  max_connection_rate = 'connection rate',
  max_source_selection_rate = 'source selection rate',
}

---@class kumo.Constraint
---@field value number     connections; events a second
---@field source { kind: 'primary'|'additional'|'reconnect_cycling'|'other', name: string? }  what limits it
---@field display string

---@class kumo.Constraints
---@field max_concurrent_dispatchers? kumo.Constraint
---@field max_message_rate? kumo.Constraint
---@field max_message_rate_declared? string  the path's own rate, if another term is lower
---@field max_connection_rate? kumo.Constraint
---@field max_source_selection_rate? kumo.Constraint

--- Events a second of a rate that was checked.
local function per_second(spec)
  local quantity, times, unit = spec:gsub('^local:', ''):gsub('[_]', ''):match '^([%d,]-)/(%d*)(%a+)'
  quantity = quantity:gsub(',', '')
  return tonumber(quantity) / ((tonumber(times) or 1) * UNITS[unit])
end

local function limit_of(spec)
  if type(spec) == 'table' or type(spec) == 'userdata' then
    return limit_of(spec.limit)
  end
  return tonumber((tostring(spec):gsub('^local:', ''):gsub('[_,]', '')))
end

local function number_text(value)
  return ('%.10g'):format(value)
end

--- The lowest of the terms; of equal ones the first.
local function lowest(a, b)
  if not a or (b and b.value < a.value) then
    return b
  end
  return a
end

local function sorted(map)
  local names = {}
  for name in pairs(map or {}) do
    names[#names + 1] = name
  end
  table.sort(names)
  return names
end

--- Of a value and a map of further ones by name.
local function of_terms(primary, additional, value_of)
  local found
  if primary ~= nil then
    found = { value = value_of(primary), source = { kind = 'primary' }, display = tostring(primary) }
  end
  for _, name in ipairs(sorted(additional)) do
    local spec = additional[name]
    found = lowest(found, {
      value = value_of(spec),
      source = { kind = 'additional', name = name },
      display = tostring(type(spec) == 'string' and spec or limit_of(spec)),
    })
  end
  return found
end

local function checked(name, cfg, kind, make)
  if queue.config_kind(cfg) == kind then
    return cfg
  elseif type(cfg) ~= 'table' then
    error(('%s: a configuration is expected, got %s'):format(name, type(cfg)), 3)
  end
  return make(cfg)
end

--- The steady-state ceilings of a path: each with the term that limits it.
---@param cfg kumo.EgressPath|kumo.EgressPathOptions
---@param extra? kumo.Constraints  merged: the lower wins
---@return kumo.Constraints
function constraints.compute_egress_path_config_constraints(cfg, extra)
  cfg = checked('kumo.compute_egress_path_config_constraints', cfg, 'path', queue.kumo.make_egress_path)
  if extra ~= nil and type(extra) ~= 'table' then
    error('kumo.compute_egress_path_config_constraints: extra: a table is expected, got ' .. type(extra), 2)
  end
  local result = {
    max_concurrent_dispatchers = of_terms(limit_of(cfg.connection_limit), cfg.additional_connection_limits, limit_of),
    max_connection_rate = of_terms(cfg.max_connection_rate, nil, per_second),
    max_message_rate = of_terms(cfg.max_message_rate, cfg.additional_message_rate_throttles, per_second),
    max_source_selection_rate = of_terms(cfg.source_selection_rate, cfg.additional_source_selection_rates, per_second),
  }
  if result.max_connection_rate and cfg.max_deliveries_per_connection then
    local rate = result.max_connection_rate.value * cfg.max_deliveries_per_connection
    result.max_message_rate = lowest(result.max_message_rate, {
      value = rate,
      source = { kind = 'reconnect_cycling' },
      display = ('%s/s (%d deliveries a connection, %s connections)'):format(
        number_text(rate), cfg.max_deliveries_per_connection, cfg.max_connection_rate),
    })
  end
  for _, key in ipairs(ORDER) do
    result[key] = lowest(result[key], extra and extra[key])
  end
  if cfg.max_message_rate and result.max_message_rate.source.kind ~= 'primary' then
    result.max_message_rate_declared = cfg.max_message_rate
  end
  return result
end

--- The same of a queue: to be given as `extra`.
---@param cfg kumo.QueueConfig|kumo.QueueConfigOptions
---@return kumo.Constraints
function constraints.compute_queue_config_constraints(cfg)
  cfg = checked('kumo.compute_queue_config_constraints', cfg, 'queue', queue.kumo.make_queue_config)
  if not cfg.max_message_rate then
    return {}
  end
  return {
    max_message_rate = {
      value = per_second(cfg.max_message_rate),
      source = { kind = 'other', name = 'max_message_rate of the queue' },
      display = cfg.max_message_rate,
    },
  }
end

--- The ceilings as text, a line each.
---@param ceilings kumo.Constraints
---@return string
function constraints.format_egress_path_config_constraints(ceilings)
  if type(ceilings) ~= 'table' then
    error('kumo.format_egress_path_config_constraints: a table is expected, got ' .. type(ceilings), 2)
  end
  local lines = {}
  for _, key in ipairs(ORDER) do
    local one = ceilings[key]
    local text = 'no limit'
    if one then
      text = one.display
      if one.source.kind ~= 'primary' then
        text = ('%s [%s]'):format(text, one.source.name or one.source.kind)
      end
    end
    lines[#lines + 1] = ('%-24s%s'):format(TITLES[key] .. ':', text)
    if key == 'max_message_rate' and ceilings.max_message_rate_declared then
      lines[#lines + 1] = ('%-24s%s, which is never reached'):format('  declared:', ceilings.max_message_rate_declared)
    end
  end
  return table.concat(lines, '\n') .. '\n'
end

local function toml(name, cfg)
  local ok, text = pcall(require('kumo').serde.toml_encode_pretty_compact, cfg)
  if not ok then
    error(name .. ': ' .. tostring(text), 3)
  end
  return text
end

---@param cfg kumo.EgressPath|kumo.EgressPathOptions
---@return string
function constraints.format_egress_path_config_toml(cfg)
  local name = 'kumo.format_egress_path_config_toml'
  return (toml(name, checked(name, cfg, 'path', queue.kumo.make_egress_path)))
end

---@param cfg kumo.QueueConfig|kumo.QueueConfigOptions
---@return string
function constraints.format_queue_config_toml(cfg)
  local name = 'kumo.format_queue_config_toml'
  return (toml(name, checked(name, cfg, 'queue', queue.kumo.make_queue_config)))
end

return constraints
