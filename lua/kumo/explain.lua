--- kumo.explain: what is in force for a domain's path, who set it, and what that overrode. Also `tailrace explain`.
local host = require 'tr.host'
local data = host.internal 'kumo.shaping.data'
local findings = host.internal 'kumo.shaping.findings'
local values = host.internal 'kumo.shaping.values'
local make_egress_path = require('tr.queue').kumo.make_egress_path
local c = host.c

local explain = {}

-- What a log hook's path takes where nothing is set: tr_path_config_new(true) of runtime/queue/config.c.
local HOOK_CLASS = {
  connection_limit = 'local:10',
  max_connection_rate = 'local:1000/s',
  max_deliveries_per_connection = 8192,
  max_ready = 10000,
  idle_timeout = '1m',
  system_shutdown_timeout = '30s',
  gate_failures = 5,
}

---@class kumo.Explained.Value
---@field key string          elements of a map: OPTION.NAME
---@field value any
---@field from 'file'|'helper'|'policy'|'log_hook'|'default'
---@field file? string
---@field line? integer
---@field section? string
---@field overrode { value: any, file: string, line: integer, section: string }[]

---@class kumo.Explained
---@field domain string
---@field queue string
---@field routing_domain string
---@field protocol string     "smtp", "lua" ...
---@field constructor? string
---@field source string
---@field site string
---@field site_error? string  why the MX could not be looked up: the site is the domain itself
---@field null_mx boolean     the domain takes no mail
---@field ready_queue string
---@field values kumo.Explained.Value[]   those set by somebody first, then by name
---@field text string         for people

---@class (exact) kumo.ExplainOptions
---@field source? string      default "unspecified"
---@field tenant? string
---@field campaign? string
---@field routing_domain? string

local OPTIONS = { source = true, tenant = true, campaign = true, routing_domain = true }

local function queue_name(domain, options)
  local name = domain
  if options.tenant then
    name = options.tenant .. '@' .. name
    if options.campaign then
      name = options.campaign .. ':' .. name
    end
  end
  if options.routing_domain then
    name = name .. '!' .. options.routing_domain
  end
  return name
end

-- Where the messages of the queue go: protocol, site, and the part of the ready queue's name behind the site.
local function route(config, routing_domain)
  local protocol = config.protocol or {}
  if protocol.custom_lua then
    local constructor = protocol.custom_lua.constructor
    return 'lua', routing_domain, 'lua:' .. tostring(constructor), constructor
  end
  local kind = protocol.smtp == nil and next(protocol) or 'smtp'
  if kind ~= 'smtp' then
    return kind, routing_domain, kind
  end
  local list = type(protocol.smtp) == 'table' and protocol.smtp.mx_list
  if list and list[1] ~= nil then
    local labels = {}
    for i, entry in ipairs(list) do
      labels[i] = type(entry) == 'table' and (entry.name or entry.host or tostring(entry[1])) or tostring(entry)
    end
    return 'smtp', 'mx_list:' .. table.concat(labels, ','), 'smtp_client'
  end
  local answer = host.internal('kumo.shaping.mx').lookup(routing_domain)
  return 'smtp', answer.site or routing_domain, 'smtp_client', nil, answer.error, answer.null
end

local function equal(a, b)
  if type(a) ~= 'table' or type(b) ~= 'table' then
    return a == b
  end
  for key, value in pairs(a) do
    if not equal(value, b[key]) then
      return false
    end
  end
  for key in pairs(b) do
    if a[key] == nil then
      return false
    end
  end
  return true
end

-- What the files say for the path, if the policy uses them: the values, and the same as the path would show them.
local function from_files(routing_domain, source, site)
  local live = host.shaping_live
  if not live then
    return {}, {}
  end
  local steps = live:steps(routing_domain, source, site)
  return data.explain(steps), make_egress_path(data.resolve(steps))
end

local function collect(view, told, shown, is_hook)
  local defaults, out = make_egress_path {}, {}
  local function add(key, value, default, of_files)
    local where = told[key]
    local row = { key = key, value = value, overrode = c.array {} }
    if where and equal(value, of_files) then
      row.from, row.file, row.line, row.section = 'file', where.file, where.line, where.section
      row.overrode = c.array(where.overrode)
    elseif not where and key == 'refresh_strategy' and value == 'Epoch' and host.shaping_live then
      row.from = 'helper'
    elseif equal(value, default) and not where then
      row.from = 'default'
      if is_hook and HOOK_CLASS[key] ~= nil then
        row.from, row.value = 'log_hook', HOOK_CLASS[key]
      end
    else
      row.from = 'policy'
      if where then -- what the file said is what the policy overrode
        row.overrode[1] = { value = where.value, file = where.file, line = where.line, section = where.section }
        for i, one in ipairs(where.overrode) do
          row.overrode[i + 1] = one
        end
      end
    end
    out[#out + 1] = row
  end
  local seen = {}
  for key, value in pairs(view) do
    seen[key] = true
    if values.ADDITIVE[key] and type(value) == 'table' then
      for name, element in pairs(value) do
        add(key .. '.' .. name, element, nil, (shown[key] or {})[name])
      end
    else
      add(key, value, defaults[key], shown[key])
    end
  end
  for key in pairs(is_hook and HOOK_CLASS or {}) do
    if not seen[key] then
      add(key, nil, nil)
    end
  end
  local function rank(row)
    return (row.from == 'default' or row.from == 'log_hook') and 1 or 0
  end
  table.sort(out, function(a, b)
    if rank(a) ~= rank(b) then
      return rank(a) < rank(b)
    end
    return a.key < b.key
  end)
  return out
end

-- --- for people ----------------------------------------------------------------------------------------

local FROM = {
  policy = 'set by the policy',
  helper = 'set by policy-extras.shaping',
  log_hook = 'default of log hooks',
  default = 'default',
}

local function written(value)
  if type(value) == 'table' then
    return (c.json_encode(value))
  end
  return values.show(value)
end

local function place(one)
  return ('%s:%d %s'):format(one.file, one.line, one.section)
end

local function write(result)
  local out = {}
  local function line(...)
    out[#out + 1] = (('%s'):format((...)):gsub('%s+$', ''))
  end
  local function head(name, value)
    line(('%-12s %s'):format(name, value))
  end
  head('domain', result.domain)
  if result.routing_domain ~= result.domain then
    head('routed to', result.routing_domain)
  end
  head('queue', result.queue)
  head('protocol', result.constructor and ('%s, constructor %s'):format(result.protocol, result.constructor) or result.protocol)
  head('source', result.source)
  if result.null_mx then
    head('site', 'none: a null MX, mail for it bounces')
  else
    head('site', result.site_error and ('%s (no MX: %s)'):format(result.site, result.site_error) or result.site)
  end
  head('ready queue', result.ready_queue)
  line ''
  local rows, widths = {}, { [true] = 0, [false] = 0 } -- of what nobody has set, and of the rest
  local function row_of(text, where, unset)
    rows[#rows + 1] = { text, where, unset }
    widths[unset] = math.min(math.max(widths[unset], #text), 60)
  end
  for _, row in ipairs(result.values) do
    local unset = row.from == 'default' or row.from == 'log_hook'
    row_of(('%s = %s'):format(row.key, written(row.value)), FROM[row.from] or place(row), unset)
    for _, old in ipairs(row.overrode) do
      row_of(('%s overrode %s'):format((' '):rep(#row.key), written(old.value)), place(old), unset)
    end
  end
  local before
  for _, row in ipairs(rows) do
    if before == false and row[3] then
      line ''
    end
    before = row[3]
    line(('%-' .. widths[row[3]] .. 's  %s'):format(row[1], row[2]))
  end
  return table.concat(out, '\n') .. '\n'
end

--- What is in force for the path of a domain from a source.
---@async
---@param domain string
---@param options? kumo.ExplainOptions
---@return kumo.Explained
function explain.explain(domain, options)
  if type(domain) ~= 'string' or domain == '' then
    error('kumo.explain: domain: string expected, got ' .. type(domain), 2)
  end
  options = options or {}
  for key, value in pairs(options) do
    if not OPTIONS[key] then
      local near = c.nearest(tostring(key), { 'campaign', 'routing_domain', 'source', 'tenant' })
      error(
        ("kumo.explain: unknown field '%s', expected one of 'campaign', 'routing_domain', 'source', 'tenant'%s"):format(
          tostring(key), near and (" (did you mean '%s'?)"):format(near) or ''
        ),
        2
      )
    elseif type(value) ~= 'string' then
      error(("kumo.explain: field '%s': string expected, got %s"):format(key, type(value)), 2)
    end
  end
  local kumo = require 'kumo'
  local source, routing_domain = options.source or 'unspecified', options.routing_domain or domain
  local queue = queue_name(domain, options)
  local protocol, site, name, constructor, site_error, null_mx = route(kumo.invoke_get_queue_config(queue), routing_domain)
  local view = kumo.invoke_get_egress_path_config(routing_domain, source, site)
  local told, shown = from_files(routing_domain, source, site)
  local result = {
    domain = domain,
    queue = queue,
    routing_domain = routing_domain,
    protocol = protocol,
    constructor = constructor,
    source = source,
    site = site,
    site_error = site_error,
    null_mx = null_mx == true,
    ready_queue = ('%s->%s@%s'):format(source, site, name),
  }
  result.values = collect(view, told, shown, protocol == 'lua' and data.is_hook(domain))
  result.text = write(result)
  return result
end

-- What was asked for and is not in the policy.
local function unknown(result)
  local kumo, out = require 'kumo', {}
  if result.source ~= 'unspecified' and kumo.get_event_registrars 'get_egress_source' then
    local ok, why = pcall(kumo.invoke_get_egress_source, result.source)
    if not ok then
      out[1] = ("WARNING: the policy has no source '%s': %s\n"):format(result.source, (tostring(why):gsub('\n.*$', '')))
    end
  end
  if data.is_hook(result.domain) and result.protocol == 'smtp' then
    out[#out + 1] = ('WARNING: %s is no queue of a log hook in this policy: what follows is for mail\n'):format(result.domain)
  end
  return out
end

-- `tailrace explain`: what is printed, and whether the files are without errors.
function host.entry.explain(domain, source, json)
  local result = explain.explain(domain, { source = source })
  local live, problems = host.shaping_live, unknown(result)
  if live then
    live:load() -- a hook's path does not wait for that
  end
  for _, one in ipairs(live and live:findings() or {}) do
    problems[#problems + 1] = ('%s: %s\n'):format(one.level == 'Error' and 'ERROR' or 'WARNING', findings.text(one))
  end
  if json then
    result.text = nil
    return host.internal('kumo.serde').serde.json_encode_pretty(result) .. '\n', table.concat(problems)
  end
  return result.text, table.concat(problems)
end

return explain
