-- The module `kumo` that policies require. What needs no other room of the runtime stands here and in lua/kumo/*.lua. The
-- rest is added at start:
--  * BINDINGS: C modules (runtime/*/X_lua.c) by the name they have in the program's list of modules. Each returns a table
--    that is merged into `kumo` (a sub-namespace that both have is merged member by member); if it has a field `kumo`,
--    only that table is merged and the rest is for other Lua modules of the runtime.
--  * MODULES: files of lua/, loaded if the binding they need is there. With `field` the module becomes kumo.FIELD, with
--    `merge` what it holds becomes part of kumo; with neither it adds its entries to require('tr.host').entry.
-- A program without a room (tests, tools) lacks what it brings. None of these modules may require 'kumo' while it loads.
local host = require 'tr.host'
local c = host.c

---@class kumo
local kumo = {}

local BINDINGS = {
  'tr.message', 'tr.queue', 'tr.shaping', 'tr.record', 'tr.spool', 'tr.run', 'tr.redis',
  'tr.http_server', 'tr.smtp_server', 'tr.repl',
} -- stylua: ignore
local MODULES = {
  { module = 'kumo.encode', needs = 'tr.bytes', field = 'encode' },
  { module = 'kumo.digest', needs = 'tr.bytes', field = 'digest' },
  { module = 'kumo.fs', needs = 'tr.fs', field = 'fs' },
  { module = 'kumo.counter_series', needs = 'tr.series', field = 'counter_series' },
  { module = 'kumo.mpsc', needs = 'tr.channel', field = 'mpsc' },
  { module = 'kumo.uuid', needs = 'tr.bytes', field = 'uuid' },
  { module = 'kumo.regex', needs = 'tr.regex', field = 'regex' },
  { module = 'kumo.regex_set_map', needs = 'tr.regex', field = 'regex_set_map' },
  { module = 'kumo.crypto', needs = 'tr.bytes', field = 'crypto' },
  { module = 'message', needs = 'tr.message' },
  { module = 'kumo.dkim', needs = 'tr.dkim', field = 'dkim' },
  { module = 'kumo.jsonl', needs = 'tr.jsonl', field = 'jsonl' },
  { module = 'kumo.invoke', needs = 'tr.queue', merge = true },
  { module = 'kumo.constraints', needs = 'tr.queue', merge = true },
  { module = 'kumo.throttle', needs = 'tr.shaping', merge = true },
  { module = 'kumo.hook_check', needs = 'tr.record', merge = true },
  { module = 'session', needs = 'tr.session' },
  { module = 'kumo.outcome', needs = 'tr.session', merge = true },
  { module = 'custom_lua', needs = 'tr.session' },
  { module = 'smtp_client', needs = 'tr.smtp_client' },
  { module = 'kumo.http', needs = 'tr.http', field = 'http' },
  { module = 'kumo.dns', needs = 'tr.dns', field = 'dns' },
  { module = 'kumo.metrics', needs = 'tr.http_server', merge = true },
  { module = 'http_server', needs = 'tr.http_server' },
  { module = 'api', needs = 'tr.http_server', field = 'api' },
  { module = 'kumo.amqp', needs = 'tr.amqp', field = 'amqp' },
  { module = 'kumo.kafka', needs = 'tr.kafka', field = 'kafka' },
  { module = 'kumo.nats', needs = 'tr.nats', field = 'nats' },
  { module = 'kumo.shaping', needs = 'tr.toml', field = 'shaping' },
  { module = 'kumo.explain', needs = 'tr.toml', merge = true },
}
local OWN = { 'serde', 'string', 'time', 'domain_map', 'cidr', 'memoize', 'secrets', 'tuning', 'tasks' }

local function merge(into, from)
  for name, value in pairs(from) do
    if type(value) == 'table' and type(rawget(into, name)) == 'table' then
      merge(into[name], value)
    else
      into[name] = value
    end
  end
end

kumo.version = '2026.11.25-tailrace'
kumo.on = host.on
kumo.get_event_registrars = host.get_event_registrars

-- --- rejections -------------------------------------------------------------------------------

local MODES = { If421 = 0, FollowWith421 = 1, ForceDisconnect = 2 } -- enum tr_disconnect

local function check_rejection(name, code, text)
  if type(code) ~= 'number' or code < 0 or code > 65535 or code ~= math.floor(code) then
    error(('%s: code: integer 0 to 65535 expected, got %s'):format(name, tostring(code)), 3)
  elseif type(text) ~= 'string' then
    error(('%s: text: string expected, got %s'):format(name, type(text)), 3)
  end
end

--- Raises a rejection. What it means depends on the event: an SMTP reply, the outcome of a delivery ...
---@param code integer 0 to 65535
---@param text string
function kumo.reject(code, text)
  check_rejection('kumo.reject', code, text)
  c.reject(code, text, MODES.If421)
end

--- As kumo.reject, and says what becomes of an SMTP client's connection.
---@param code integer 0 to 65535
---@param text string
---@param mode? 'ForceDisconnect'|'FollowWith421'|'If421' default: ForceDisconnect
function kumo.disconnect(code, text, mode)
  check_rejection('kumo.disconnect', code, text)
  local number = MODES[mode == nil and 'ForceDisconnect' or mode]
  if not number then
    error(
      ("kumo.disconnect: mode: 'ForceDisconnect', 'FollowWith421' or 'If421' expected, got %s"):format(tostring(mode)),
      2
    )
  end
  c.reject(code, text, number)
end

-- --- time and diagnostics -----------------------------------------------------------------------

--- Suspends the calling task.
---@async
---@param seconds number >= 0
function kumo.sleep(seconds)
  if type(seconds) ~= 'number' or not (seconds >= 0) then -- luacheck: ignore (NaN)
    error('kumo.sleep: seconds >= 0 expected, got ' .. tostring(seconds), 2)
  end
  return c.sleep(seconds)
end

local function show(value)
  local text = tostring(value)
  if c.utf8_valid(text) then
    return text
  end
  local out, at = {}, 1
  while at <= #text do
    local stop = at
    for length = 1, 4 do
      if c.utf8_valid(text:sub(at, at + length - 1)) then
        stop = at + length - 1
        break
      end
      stop = -1
    end
    if stop < 0 then
      out[#out + 1] = ('\\x%02x'):format(text:byte(at))
      at = at + 1
    else
      out[#out + 1] = text:sub(at, stop)
      at = stop + 1
    end
  end
  return table.concat(out)
end

for _, level in ipairs { 'error', 'warn', 'info', 'debug' } do
  kumo['log_' .. level] = function(...)
    if not c.log_enabled(level) then
      return
    end
    local parts = {}
    for i = 1, select('#', ...) do
      parts[i] = show((select(i, ...)))
    end
    local info = debug.getinfo(2, 'Sl')
    local where = info and info.currentline > 0 and ('%s:%d: '):format(info.short_src, info.currentline) or ''
    c.log(level, where .. table.concat(parts, ' '))
  end
end

--- Sets which diagnostics are written: "info", "tailrace=debug,lua=trace".
---@param spec string
function kumo.set_diagnostic_log_filter(spec)
  if type(spec) ~= 'string' or not c.log_filter(spec) then
    error(("kumo.set_diagnostic_log_filter: '%s' is not a filter such as 'info' or 'lua=debug'"):format(tostring(spec)), 2)
  end
end

--- Number of CPUs; the environment variable KUMO_AVAILABLE_PARALLELISM overrides it.
function kumo.available_parallelism()
  return tonumber(os.getenv 'KUMO_AVAILABLE_PARALLELISM' or '') or c.cpus()
end

--- The frames of the caller.
---@param level? integer default 1: the function that calls
---@return table[] frames
function kumo.traceback(level)
  local frames = {}
  level = (level or 1) + 1
  while true do
    local info = debug.getinfo(level, 'nSl')
    if not info then
      return c.array(frames)
    end
    frames[#frames + 1] = {
      event = 'traceback',
      name = info.name,
      name_what = info.namewhat,
      source = info.source,
      short_src = info.short_src,
      line_defined = info.linedefined,
      last_line_defined = info.lastlinedefined,
      what = info.what,
      curr_line = info.currentline,
      is_tail_call = info.what == 'tail',
    }
    level = level + 1
  end
end

--- For validate_config handlers: the validation run is to fail.
function kumo.validation_failed()
  host.validation_has_failed = true
end

-- --- extensions, and the names that are not there ---------------------------------------------------

for _, name in ipairs(OWN) do
  merge(kumo, host.internal('kumo.' .. name))
end
for _, name in ipairs(BINDINGS) do
  if package.preload[name] then
    local binding = require(name)
    merge(kumo, type(binding.kumo) == 'table' and binding.kumo or binding)
  end
end
for _, extension in ipairs(MODULES) do
  if package.preload[extension.needs] then
    local module = host.internal(extension.module)
    if extension.field then
      kumo[extension.field] = module
    elseif extension.merge then
      merge(kumo, module)
    end
  end
end

-- Modules of their own: the name that `require` takes, and what it needs.
for name, needs in pairs { sqlite = 'tr.sqlite', redis = 'tr.redis' } do
  if package.preload[needs] and not package.preload[name] then
    package.preload[name] = function()
      return host.internal('kumo.' .. name)
    end
  end
end

for _, name in ipairs { 'read_dir', 'glob', 'uncached_glob' } do -- deprecated names
  kumo[name] = kumo.fs and kumo.fs[name]
end

-- One epoch for memoize caches and queues, whoever asks for the new one.
local bump_memoize, bump_queues = host.internal('kumo.tuning').bump_config_epoch, kumo.bump_config_epoch
--- Makes a new configuration epoch: queues read their configuration again, memoize caches with invalidate_with_epoch forget.
function kumo.bump_config_epoch()
  bump_memoize()
  if bump_queues ~= bump_memoize and c.has_engine() then
    bump_queues()
  end
end

-- What the reference has and Tailrace has not: asking for one of these is an error that says so.
local UNSUPPORTED = {}
for name in
  ([[
  aaa acme apply_supplemental_trace_header compute_egress_path_config_constraints compute_queue_config_constraints
  configure_accounting_db_path counter_series crypto dkim dmarc dns eval_config_monitor_globs
  file_type format_egress_path_config_constraints format_egress_path_config_toml format_queue_config_toml fs
  generate_rfc3464_message jsonl kafka amqp http mimepart mpsc nats prometheus_metrics regex_set_map secrets shaping smtp
  spawn_task spawn_thread_pool spf suspend_delivery_when_spool_unhealthy xfer api make_message inject_message
  make_queue_config make_egress_path make_egress_source make_egress_pool make_listener_domain configure_log_hook
  configure_local_logs configure_log_disposition_hook configure_bounce_classifier define_spool start_esmtp_listener
  start_http_listener start_proxy_listener set_config_monitor_globs bump_config_epoch
  invoke_get_egress_path_config invoke_get_egress_source invoke_get_egress_pool invoke_get_queue_config
  set_lruttl_cache_capacity set_httpinject_recipient_rate_limit get_memory_hard_limit get_memory_soft_limit
  get_memory_low_thresh read_dir glob uncached_glob encode digest regex uuid cidr domain_map
  ]]):gmatch '%S+'
do
  UNSUPPORTED[name] = true
end

setmetatable(kumo, {
  __index = function(_, name)
    if name == 'test' and package.preload['tr.testing'] then -- of no use to a policy, and large: when it is asked for
      return host.internal 'kumo.test'
    end
    if UNSUPPORTED[name] then
      error(('kumo.%s is not supported by Tailrace'):format(name), 2)
    end
    local known = {}
    for other in pairs(kumo) do
      known[#known + 1] = other
    end
    if type(name) ~= 'string' then
      return nil
    end
    local near = c.nearest(name, known)
    if near then
      error(('kumo has no field %q, did you mean kumo.%s?'):format(name, near), 2)
    end
    return nil
  end,
})

return kumo
