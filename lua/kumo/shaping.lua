--- kumo.shaping: traffic shaping from files. Contract shaping.md; docs/shaping-files.md.
local host = require 'tr.host'
local automation = host.internal 'kumo.shaping.automation'
local data = host.internal 'kumo.shaping.data'
local findings = host.internal 'kumo.shaping.findings'
local live = host.internal 'kumo.shaping.live'
local overlay = host.internal 'kumo.shaping.overlay'
local c = host.c

local shaping = {}

-- --- options ---------------------------------------------------------------------------------------------

---@alias kumo.shaping.Level 'Ignore'|'Warn'|'Error'

---@class (exact) kumo.shaping.Options
---@field provider_overlap? kumo.shaping.Level  a domain with a section is also a provider's
---@field dns_fail? kumo.shaping.Level          the MX of a section cannot be looked up
---@field null_mx? kumo.shaping.Level           the domain of a section takes no mail
---@field aliased_site? kumo.shaping.Level      sections of several domains are one site
---@field remote_load? kumo.shaping.Level       a file cannot be fetched
---@field local_load? kumo.shaping.Level        a file cannot be read; default "Error"
---@field skip_remote? boolean
---@field skip_dns? boolean                     ours: no MX look-ups, sections hold for their domains only
---@field http_timeout? number|string           default 5 s
---@field mail_defaults_for_log_hooks? boolean  ours: `default` is for NAME.log_hook, too

local LEVELS = { Ignore = true, Warn = true, Error = true }
local LEVEL_KEYS = { 'provider_overlap', 'dns_fail', 'null_mx', 'aliased_site', 'remote_load', 'local_load' }
local FLAGS = { skip_remote = true, skip_dns = true, mail_defaults_for_log_hooks = true }

local function option_names()
  local names = { 'http_timeout' }
  for _, name in ipairs(LEVEL_KEYS) do
    names[#names + 1] = name
  end
  for name in pairs(FLAGS) do
    names[#names + 1] = name
  end
  table.sort(names)
  return names
end

-- Checked and complete. `level`: of what the caller says nothing about.
local function complete(fn, options, level)
  local out, names = {}, option_names()
  if options ~= nil and type(options) ~= 'table' then
    error(('%s: options: table expected, got %s'):format(fn, type(options)), 3)
  end
  local known = {}
  for _, name in ipairs(names) do
    known[name] = true
  end
  for key, value in pairs(options or {}) do
    if not known[key] then
      local near = type(key) == 'string' and c.nearest(key, names)
      error(
        ("%s: unknown field '%s', expected one of '%s'%s"):format(
          fn, tostring(key), table.concat(names, "', '"), near and (" (did you mean '%s'?)"):format(near) or ''
        ),
        3
      )
    elseif FLAGS[key] and type(value) ~= 'boolean' then
      error(("%s: field '%s': boolean expected, got %s"):format(fn, key, type(value)), 3)
    elseif key ~= 'http_timeout' and not FLAGS[key] and not LEVELS[value] then
      error(("%s: field '%s': 'Ignore', 'Warn' or 'Error' expected, got %s"):format(fn, key, tostring(value)), 3)
    end
    out[key] = value
  end
  for _, key in ipairs(LEVEL_KEYS) do
    out[key] = out[key] or (key == 'local_load' and 'Error' or level)
  end
  for key in pairs(FLAGS) do
    out[key] = out[key] or false
  end
  out.http_timeout = out.http_timeout or 5
  c.duration(out.http_timeout, fn, 'http_timeout')
  return out
end

local function check_paths(fn, paths)
  if type(paths) ~= 'table' then
    error(('%s: a list of files is expected, got %s'):format(fn, type(paths)), 3)
  end
  for i, path in ipairs(paths) do
    if type(path) ~= 'string' then
      error(('%s: file %d: string expected, got %s'):format(fn, i, type(path)), 3)
    end
  end
  return paths
end

-- --- the result of load() ----------------------------------------------------------------------------------

---@class kumo.shaping.Data.Loaded
---@field package _data kumo.shaping.Data
---@field package _findings kumo.shaping.Findings
local loaded = {}
loaded.__index = loaded
loaded.__name = 'kumo.Shaping'

function loaded.__tostring()
  return 'kumo.Shaping'
end

local function texts(fn, ...)
  for i, name in ipairs { 'domain', 'egress_source', 'site_name' } do
    local value = select(i, ...)
    if type(value) ~= 'string' then
      error(('shaping:%s: %s: string expected, got %s'):format(fn, name, type(value)), 3)
    end
  end
end

--- The parameters of a path: for kumo.make_egress_path.
---@async
---@param domain string   routing domain of the queue
---@param source string
---@param site string
---@return table<string, any>
function loaded:get_egress_path_config(domain, source, site)
  texts('get_egress_path_config', domain, source, site)
  return data.resolve(data.steps(self._data, domain, source, site))
end

--- Ours: each value with the line that set it, and what it overrode there.
---@async
---@param domain string   routing domain of the queue
---@param source string
---@param site string
---@return table<string, kumo.shaping.Value>
function loaded:explain(domain, source, site)
  texts('explain', domain, source, site)
  return data.explain(data.steps(self._data, domain, source, site))
end

---@return string[]
function loaded:get_errors()
  return self._findings:texts 'Error'
end

---@return string[]
function loaded:get_warnings()
  return self._findings:texts 'Warn'
end

--- Which sources are named, and where.
---@return table<string, string[]>
function loaded:get_referenced_sources()
  return data.referenced_sources(self._data)
end

--- The automation rules that a log record meets.
---@async
---@param record table
---@return kumo.shaping.Rule[]
function loaded:match_rules(record)
  if type(record) ~= 'table' then
    error('shaping:match_rules: a log record is expected, got ' .. type(record), 2)
  end
  local out = c.array {}
  for i, rule in ipairs(automation.match(self._data, record)) do
    out[i] = {
      regex = rule.regex,
      action = rule.action,
      trigger = rule.trigger,
      duration = rule.duration_s,
      match_internal = rule.match_internal,
      file = rule.file,
      line = rule.line,
      section = rule.section,
      rule_hash = rule.hash,
    }
  end
  return out
end

-- What was merged, without places: files that say the same have the same hash.
local function plain_scope(scope)
  local function params(from)
    local out = {}
    for key, entry in pairs(from.params) do
      out[key] = entry[1]
    end
    for _, group in ipairs { 'maps', 'limits' } do
      for key, entry in pairs(from[group] or {}) do
        out[key] = group == 'limits' and entry[1] or {}
        for name, element in pairs(group == 'maps' and entry or {}) do
          out[key][name] = element[1]
        end
      end
    end
    return out
  end
  local out = { name = scope.name, params = params(scope), replace_base = scope.replace_base, sources = {}, rules = {} }
  for name, of_source in pairs(scope.sources) do
    out.sources[name] = params(of_source)
  end
  for i, rule in ipairs(scope.automation) do
    out.rules[i] = rule.hash
  end
  out.match = scope.match
  return out
end

--- Hex SHA-256 of what was merged and of the messages.
---@return string
function loaded:hash()
  local all = { sites = {}, domains = {}, providers = {}, errors = self:get_errors(), warnings = self:get_warnings() }
  all.default = self._data.default and plain_scope(self._data.default)
  for site, scope in pairs(self._data.by_site) do
    all.sites[site] = plain_scope(scope)
  end
  for domain, scope in pairs(self._data.by_domain) do
    all.domains[domain] = plain_scope(scope)
  end
  for i, scope in ipairs(self._data.providers) do
    all.providers[i] = plain_scope(scope)
  end
  return host.internal('kumo.digest').sha256(host.internal('kumo.serde').serde.json_encode_pretty(all)).hex
end

-- --- functions -------------------------------------------------------------------------------------------------

--- Reads and merges shaping files. What makes a file unusable raises, all of it at once; the rest is in get_errors() and
--- get_warnings().
---@async
---@param paths string[]   TOML or JSON; http(s) URLs are fetched
---@param options? kumo.shaping.Options
---@return kumo.shaping.Data.Loaded
function shaping.load(paths, options)
  check_paths('kumo.shaping.load', paths)
  local found = findings.new()
  local made = data.build(paths, complete('kumo.shaping.load', options, 'Ignore'), found)
  if found:has_fatal() then
    local lines = {}
    for _, one in ipairs(found) do
      if one.fatal then
        lines[#lines + 1] = findings.text(one)
      end
    end
    error('kumo.shaping.load: ' .. table.concat(lines, '\n  '), 2)
  end
  return setmetatable({ _data = made, _findings = found }, loaded)
end

local function with_texts(found)
  local out = c.array {}
  for i, one in ipairs(found) do
    one.text = findings.text(one)
    out[i] = one
  end
  return out
end

--- Ours: everything that is wrong in shaping files, in the order of the files; an empty list if nothing is. Nothing raises.
---@async
---@param paths string[]
---@param options? kumo.shaping.Options   levels default to "Warn"
---@return kumo.shaping.Finding[] findings
---@return boolean has_rules   there are automation rules
function shaping.check(paths, options)
  check_paths('kumo.shaping.check', paths)
  local found = findings.new()
  local made = data.build(paths, complete('kumo.shaping.check', options, 'Warn'), found)
  return with_texts(found), automation.has_rules(made)
end

-- Sources that files name and the policy does not have: their sections never apply.
local function find_unknown_sources(made, found)
  local kumo = require 'kumo'
  local known = { unspecified = true }
  if not kumo.get_event_registrars 'get_egress_source' then
    return
  end
  for _, one in ipairs(data.source_places(made)) do
    if known[one.name] == nil then
      known[one.name] = pcall(kumo.invoke_get_egress_source, one.name)
    end
    if not known[one.name] then
      found:at_level(
        'Error',
        { file = one.file, line = one.line, section = one.title },
        ("the source '%s' is not defined: get_egress_source has no answer for it"):format(one.name),
        'its values never apply: define the source, or leave the section out'
      )
    end
  end
end

local VALIDATION = { remote_load = 'Ignore', skip_remote = true }

--- Ours: everything that is wrong with the shaping files of this process (those of policy-extras.shaping, or of
--- kumo.shaping.open) and with the sources that they name; an empty list without such files. Nothing raises, and nothing is
--- changed. For `tailrace check` and the event `validate_config`.
---@async
---@param options? kumo.shaping.Options   levels default to "Warn"; nil: remote files are not fetched
---@return kumo.shaping.Finding[] findings
function shaping.findings(options)
  local found = findings.new()
  if host.shaping_live then
    local paths = host.shaping_live:paths()
    local made = data.build(paths, complete('kumo.shaping.findings', options or VALIDATION, 'Warn'), found)
    if not found:has_fatal() then
      find_unknown_sources(made, found)
      found:sort(paths)
    end
  end
  return with_texts(found)
end

--- Ours: the data of a running process. It is read again when files change and never exchanged for something that is
--- wrong. policy-extras.shaping works with it.
---@param paths string[]
---@param options? kumo.shaping.Options
---@param ttl? number|string   how long a computed path is kept, default 1 minute
---@return kumo.shaping.Live
function shaping.open(paths, options, ttl)
  check_paths('kumo.shaping.open', paths)
  local seconds = c.duration(ttl == nil and 60 or ttl, 'kumo.shaping.open', 'ttl')
  local made = live.new(paths, complete('kumo.shaping.open', options, 'Ignore'), seconds)
  host.shaping_live = made -- for kumo.explain
  return made
end

--- Ours: the actions of automation rules that are in force now.
---@return kumo.shaping.Active[]
function shaping.active_actions()
  return c.array(overlay.active())
end

shaping._clear_actions = overlay.clear -- for specs

return shaping
