--- Traffic shaping from files: limits and rates by domain, provider and source, and automation rules.
---
---     local shaping = require 'policy-extras.shaping'
---     kumo.on('get_egress_path_config', shaping:setup { '/etc/tailrace/shaping.toml' })
---
--- See docs/shaping-files.md.
local kumo = require 'kumo'

---@class shaping
local shaping = {}

local WATCH_INTERVAL_S = 30
local START_S = 1 -- the first load is behind `init`, which may configure the resolver
local RULES_HOOK = 'tailrace.shaping.automation'

local set_up = false -- in this Lua state

-- The directory of this file: the shipped one stands beside it.
local HERE = debug.getinfo(1, 'S').source:match '^@(.*)/[^/]*$' or '.'
local DEFAULT_FILE = HERE .. '/shaping.toml'

---@class shaping.Options
---@field extra_files? string[]                read after the shipped file, in order; TOML or JSON, paths or URLs
---@field no_default_files? boolean            skip the shipped file
---@field publish? string[]                    accepted: rules act inside of this process
---@field subscribe? string[]                  accepted, likewise
---@field load_validation_options? kumo.shaping.Options
---@field validation_options? kumo.shaping.Options
---@field cache_ttl? number|string             how long a computed path is kept, default 1 minute
---@field mail_defaults_for_log_hooks? boolean ours: `default` of the files is for log hooks, too
---@field automation? boolean                  ours: false takes no action by rules

---@class shaping.Helper
---@field get_egress_path_config fun(domain: string, source: string, site: string, skip_make: boolean?): any
---@field setup_publish fun()
---@field load_shaping_data fun(): kumo.shaping.Data.Loaded

local OPTIONS = {
  extra_files = 'table',
  no_default_files = 'boolean',
  publish = 'table',
  subscribe = 'table',
  load_validation_options = 'table',
  validation_options = 'table',
  cache_ttl = 'any',
  mail_defaults_for_log_hooks = 'boolean',
  automation = 'boolean',
}

-- Of a publishing helper and of its cache: there is nothing here that they could tune.
local NO_EFFECT = {
  tsa_queue_config = true,
  back_pressure = true,
  pre_filter = true,
  skip_log_record_types = true,
  additional_skip_log_record_types = true,
  publish_timeout = true,
  publish_pool_idle_timeout = true,
  publish_connection_verbose = true,
  retry_shaping_data_fetch_on_populate_timeout = true,
  shaping_data_populate_timeout = true,
  allow_stale_shaping_data = true,
}

local function check_options(fn, options)
  if options ~= nil and type(options) ~= 'table' then
    error(('%s: table of options expected, got %s'):format(fn, type(options)), 3)
  end
  for key, value in pairs(options or {}) do
    local kind = OPTIONS[key]
    if not kind and not NO_EFFECT[key] then
      local names = {}
      for name in pairs(OPTIONS) do
        names[#names + 1] = name
      end
      table.sort(names)
      local known = table.concat(names, ', ')
      kumo.log_warn(("%s: there is no option '%s', it is ignored; there are: %s"):format(fn, tostring(key), known))
    elseif kind and kind ~= 'any' and type(value) ~= kind then
      local expected = kind == 'table' and 'a list or table' or kind
      error(("%s: field '%s': %s expected, got %s"):format(fn, key, expected, type(value)), 3)
    end
  end
  for _, key in ipairs { 'publish', 'subscribe' } do
    if options and options[key] and options[key][1] then
      kumo.log_warn(
        ("%s: '%s' is not used: automation rules act inside of this process, nothing is sent to or read from %s"):format(
          fn, key, tostring(options[key][1])
        )
      )
    end
  end
  return options or {}
end

local function file_list(options)
  local list = {}
  if not options.no_default_files then
    list[1] = DEFAULT_FILE
  end
  for _, path in ipairs(options.extra_files or {}) do
    list[#list + 1] = path
  end
  return list
end

local function load_options(options)
  local out = {}
  for key, value in pairs(options.load_validation_options or {}) do
    out[key] = value
  end
  out.mail_defaults_for_log_hooks = options.mail_defaults_for_log_hooks
  return out
end

-- A policy with files that cannot be used does not start. Look-ups and remote files come later.
local function check_at_start(live)
  local findings = live:prime()
  local fatal = {}
  for _, finding in ipairs(findings) do
    if finding.fatal then
      fatal[#fatal + 1] = findings.text(finding)
    end
  end
  if #fatal > 0 then
    error('the shaping files cannot be used:\n  ' .. table.concat(fatal, '\n  '), 0)
  end
end

-- Sources that a file names and the policy does not have: their sections never apply.
local function unknown_sources(referenced)
  local out = {}
  if not kumo.get_event_registrars 'get_egress_source' then
    return out
  end
  for name, places in pairs(referenced) do
    if name ~= 'unspecified' and not pcall(kumo.invoke_get_egress_source, name) then
      out[#out + 1] = ("the source '%s' of %s is not defined: get_egress_source has no answer for it"):format(
        name,
        table.concat(places, ', ')
      )
    end
  end
  table.sort(out)
  return out
end

local function validate(options)
  local failed = false
  for _, finding in ipairs(kumo.shaping.findings(options.validation_options)) do
    local is_error = finding.level == 'Error'
    io.stderr:write(is_error and 'ERROR: ' or 'WARNING: ', finding.text, '\n')
    failed = failed or is_error
  end
  if failed then
    kumo.validation_failed()
  end
end

local function register(live, options)
  kumo.on('pre_init', function()
    check_at_start(live)
    if options.automation ~= false then -- even without a rule: one may come into the files later
      kumo.configure_log_disposition_hook {
        name = RULES_HOOK,
        per_record = { Any = { enable = false }, TransientFailure = { enable = true }, Bounce = { enable = true } },
      }
    end
    kumo.spawn_task { event_name = 'kumo.tsa.config.monitor' }
  end)

  kumo.on('kumo.tsa.config.monitor', function()
    kumo.sleep(START_S)
    local ok, sources = pcall(live.get_referenced_sources, live) -- the first load; watch() tells what is wrong
    for _, text in ipairs(ok and unknown_sources(sources) or {}) do
      kumo.log_warn('shaping: ' .. text)
    end
    live:watch(WATCH_INTERVAL_S)
  end)

  kumo.on('validate_config', function()
    validate(options)
  end)

  if options.automation ~= false then
    kumo.on('log_disposition_' .. RULES_HOOK, function(_, record)
      live:act(record)
    end)
  end
end

--- Sets up shaping and what comes with it. Once.
---@param options? shaping.Options
---@return shaping.Helper
function shaping:setup_with_automation(options) -- luacheck: ignore self
  if set_up then
    error('shaping:setup: it has been called already', 2)
  end
  options = check_options('shaping:setup', options)
  local files, loading = file_list(options), load_options(options)
  local live = kumo.shaping.open(files, loading, options.cache_ttl)
  register(live, options)
  set_up = true
  return {
    get_egress_path_config = function(domain, source, site, skip_make)
      if skip_make then
        return live:params(domain, source, site)
      end
      return live:path(domain, source, site)
    end,
    -- There is nothing to publish: kept for policies that call it in `init`.
    setup_publish = function() end,
    load_shaping_data = function()
      return kumo.shaping.load(files, loading)
    end,
  }
end

--- Sets up shaping with the shipped file and others. Returns the handler for get_egress_path_config.
---@param extra_files? string[]
---@return fun(domain: string, source: string, site: string, skip_make: boolean?): any
function shaping:setup(extra_files)
  if extra_files ~= nil and type(extra_files) ~= 'table' then
    error(
      ("shaping:setup: a list of files is expected, got %s: write shaping:setup { '%s' }"):format(
        type(extra_files), tostring(extra_files)
      ),
      2
    )
  end
  return self:setup_with_automation({ extra_files = extra_files }).get_egress_path_config
end

return shaping
