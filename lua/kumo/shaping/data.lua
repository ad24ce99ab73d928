--- The merged shaping data: sections of all files by scope, and what is in force for one path. Contract shaping.md sections
--- 2 to 5.
local host = require 'tr.host'
local files = host.internal 'kumo.shaping.files'
local mx = host.internal 'kumo.shaping.mx'
local section = host.internal 'kumo.shaping.section'
local values = host.internal 'kumo.shaping.values'
local c = host.c

local data = {}

local PAUSE_EACH = 200 -- sections between two turns of the loop: some 5 ms
local HOOK_SUFFIX = '.log_hook'

--- True for the queue of a log hook, which has no MX and for which mail's `default` is not meant.
function data.is_hook(domain)
  return domain:sub(-#HOOK_SUFFIX) == HOOK_SUFFIX
end

-- --- merging ------------------------------------------------------------------------------------------

-- An entry on top of what was there: the chain tells what it overrode.
local function over(entry, old)
  if not old then
    return entry
  end
  return { entry[1], entry[2], entry[3], old }
end

---@param into kumo.shaping.Params
---@param from kumo.shaping.Params
local function merge_params(into, from)
  for key, entry in pairs(from.params) do
    into.params[key] = over(entry, into.params[key])
  end
  for key, map in pairs(from.maps or {}) do
    into.maps = into.maps or {}
    local target = into.maps[key] or {}
    into.maps[key] = target
    for name, entry in pairs(map) do
      target[name] = over(entry, target[name])
    end
  end
  for key, entry in pairs(from.limits or {}) do
    into.limits = into.limits or {}
    into.limits[key] = over(entry, into.limits[key])
  end
end

local function append(into, list)
  for _, item in ipairs(list or {}) do
    into[#into + 1] = item
  end
end

local function new_scope(first)
  return {
    name = first.name,
    kind = first.kind,
    origin = first.origin,
    replace_base = first.replace_base, -- of the first one: at resolution it replaces what came before its step
    params = {},
    sources = {},
    automation = {},
    match = first.match and {},
    sections = {}, -- those that it is made of
  }
end

local function merge_section(scope, one)
  if one.replace_base and #scope.sections > 0 then
    scope.params, scope.maps, scope.limits, scope.sources, scope.automation = {}, nil, nil, {}, {}
    scope.match = scope.match and {}
  end
  merge_params(scope, one)
  for name, params in pairs(one.sources) do
    scope.sources[name] = scope.sources[name] or { params = {}, place = params.place }
    merge_params(scope.sources[name], params)
  end
  append(scope.automation, one.automation)
  if scope.match then
    append(scope.match, one.match)
  end
  scope.sections[#scope.sections + 1] = one
end

-- Most scopes are one section: it stands for itself until a second one comes.
local function merge_into(map, name, one)
  local scope = map[name]
  if not scope then
    map[name] = one
    return
  elseif not scope.sections then
    local first = scope
    scope = new_scope(first)
    map[name] = scope
    merge_section(scope, first)
  end
  merge_section(scope, one)
end

-- --- providers ------------------------------------------------------------------------------------------

local function ends_with(text, suffix)
  return #text >= #suffix and text:sub(-#suffix) == suffix
end

-- True, false, or nil: it depends on the MX.
local function matches_name(provider, name)
  local asks_mx = false
  for _, rule in ipairs(provider.match) do
    if rule.kind == 'DomainSuffix' then
      if ends_with(name, rule.text) then
        return true
      end
    else
      asks_mx = true
    end
  end
  if asks_mx then
    return nil
  end
  return false
end

-- Every host must satisfy one of the rules.
local function matches_hosts(provider, answer)
  if not answer.site or answer.null then
    return false
  end
  for _, name in ipairs(answer.hosts) do
    local hit = false
    for _, rule in ipairs(provider.match) do
      if rule.kind == 'MXSuffix' then
        hit = hit or ends_with(name, rule.text)
      elseif rule.kind == 'HostName' then
        hit = hit or name == rule.text
      end
    end
    if not hit then
      return false
    end
  end
  return true
end

--- The providers of a domain, in the order of the files.
---@async
---@param self kumo.shaping.Data
---@param domain string
---@param answer? kumo.shaping.Mx   if it has been looked up already
function data.providers_of(self, domain, answer)
  local out = {}
  if #self.providers == 0 or not mx.is_name(domain) then
    return out
  end
  local name = domain:gsub('%.$', '')
  for _, provider in ipairs(self.providers) do
    local hit = matches_name(provider, name)
    if hit == nil and data.is_hook(domain) then
      hit = false
    elseif hit == nil then
      answer = answer or mx.lookup(domain)
      hit = matches_hosts(provider, answer)
    end
    if hit then
      out[#out + 1] = provider
    end
  end
  return out
end

-- What a provider sets beside its options: its name, and limits that all its sites share, each source by itself.
local function implied(provider, source)
  local origin, limits = provider.origin, provider.limits or {}
  local out = { params = { provider_name = { provider.name, origin.line, origin } }, maps = {} }
  local function shared(map, suffix, entry)
    if entry then
      local name = ('shaping-provider-%s-%s-%s'):format(provider.name, source, suffix)
      out.maps[map] = { [name] = entry }
    end
  end
  local of_source = provider.sources[source]
  shared('additional_connection_limits', 'limit', limits.provider_connection_limit)
  shared('additional_message_rate_throttles', 'rate', limits.provider_max_message_rate)
  shared(
    'additional_source_selection_rates',
    'selection-rate',
    of_source and of_source.limits and of_source.limits.provider_source_selection_rate
  )
  return out
end

-- --- building --------------------------------------------------------------------------------------------

local function place_of(one)
  return { file = one.origin.file, line = one.origin.line, section = one.origin.title }
end

-- Domains of one site: said once a domain; different values of one option are said one by one.
local function check_alias(found, options, scope, one)
  local other
  for _, earlier in ipairs(scope.sections or { scope }) do
    if earlier.name ~= one.name then
      other = other or earlier
      for key, entry in pairs(one.params) do
        local before = earlier.params[key]
        if before and before[1] ~= entry[1] and not one.replace_base then
          found:warn(
            { file = entry[3].file, line = entry[2], section = entry[3].title, key = key },
            ('%s is one site with %s, which sets %s at %s:%d: this line is in force for both'):format(
              one.name, earlier.name, values.show(before[1]), before[3].file, before[2]
            ),
            'set it once, or write mx_rollup = false in both sections'
          )
        end
      end
    end
  end
  if other then
    found:at_level(
      options.aliased_site,
      place_of(one),
      ('the MX of %s and of %s (%s:%d) are one site: their sections are merged'):format(
        one.name, other.name, other.origin.file, other.origin.line
      ),
      'keep one of the sections'
    )
  end
end

local function place_domain(self, found, options, one, answer)
  local domain = one.name
  if not one.mx_rollup or data.is_hook(domain) or options.skip_dns then
    merge_into(self.by_domain, domain, one)
  elseif not answer.site then
    self.failed[#self.failed + 1] = domain
    merge_into(self.by_domain, domain, one)
    found:at_level(
      options.dns_fail,
      place_of(one),
      ('the MX cannot be looked up (%s): the section holds for this domain only'):format(answer.error),
      'if it is no mail domain, write mx_rollup = false'
    )
  elseif answer.null then
    found:at_level(
      options.null_mx,
      place_of(one),
      'the domain takes no mail (null MX): the section is not used',
      'take it out, or write mx_rollup = false'
    )
  else
    local scope = self.by_site[answer.site]
    if scope then
      check_alias(found, options, scope, one)
    end
    self.site_of[domain] = answer.site
    merge_into(self.by_site, answer.site, one)
  end
end

local function check_overlap(self, found, options, one, answer)
  if options.provider_overlap == 'Ignore' or not one.mx_rollup then
    return
  end
  for _, provider in ipairs(data.providers_of(self, one.name, answer or { hosts = {}, null = false })) do
    found:at_level(
      options.provider_overlap,
      place_of(one),
      ('%s is also a domain of the provider %s (%s:%d): both are merged, this section is the stronger'):format(
        one.name, provider.name, provider.origin.file, provider.origin.line
      ),
      'if the provider is enough, take the section out'
    )
  end
end

---@class kumo.shaping.Data
---@field options kumo.shaping.Options
---@field default? table
---@field providers table[]
---@field by_site table<string, table>
---@field by_domain table<string, table>
---@field site_of table<string, string>   domain -> site of its section
---@field failed string[]                 domains whose MX look-up failed
---@field texts table<string, string>     file -> as read

--- Reads and merges files. What is wrong is in the findings; with a fatal one the data is not to be used.
---@async
---@param paths string[]
---@param options kumo.shaping.Options   complete
---@param found kumo.shaping.Findings
---@param texts? table<string, string>   files that have been read already
---@param sites? table<string, string>   of the data before: a domain that cannot be looked up now keeps its site
---@return kumo.shaping.Data
function data.build(paths, options, found, texts, sites)
  local self = {
    options = options, providers = {}, by_site = {}, by_domain = {}, site_of = {}, failed = {}, texts = {},
  }
  local can_wait, count, sections = c.isyieldable(), 0, {}
  local function pause()
    count = count + 1
    if can_wait and count % PAUSE_EACH == 0 then
      c.sleep(0) -- other tasks of this worker go on
    end
  end
  for _, path in ipairs(paths) do
    local file = files.read(path, options, found, texts and texts[path])
    self.texts[path] = file.text
    append(sections, section.read(file, found, pause))
  end

  local ask, asked, answers = {}, {}, {}
  for _, one in ipairs(sections) do
    if one.kind == 'domain' and one.mx_rollup and not data.is_hook(one.name) and not asked[one.name] then
      asked[one.name] = true
      ask[#ask + 1] = one.name
    end
  end
  if not options.skip_dns then
    answers = mx.lookup_all(ask)
    for domain, site in pairs(sites or {}) do
      if answers[domain] and not answers[domain].site then
        answers[domain] = { site = site, hosts = {}, null = false }
      end
    end
  end
  local providers, names, default = {}, {}, {}
  for _, one in ipairs(sections) do
    if one.kind == 'provider' then
      if not providers[one.name] then
        names[#names + 1] = one.name
      end
      merge_into(providers, one.name, one)
    elseif one.kind == 'default' then
      merge_into(default, 'default', one)
    else
      place_domain(self, found, options, one, answers[one.name])
    end
    pause()
  end
  self.default = default.default
  for i, name in ipairs(names) do
    self.providers[i] = providers[name]
  end
  for _, one in ipairs(sections) do
    if one.kind == 'domain' and not options.skip_dns then
      check_overlap(self, found, options, one, answers[one.name])
    end
    for _, rule in ipairs(one.automation) do
      rule.rollup = one.kind == 'default' or one.kind == 'domain' and self.site_of[one.name] ~= nil
    end
    pause()
  end
  found:sort(paths)
  return self
end

--- Which sources are named, and where: `site:...`, `domain:...`.
---@return table<string, string[]>
function data.referenced_sources(self)
  local out = {}
  local function note(scope, label)
    for source in pairs(scope and scope.sources or {}) do
      out[source] = out[source] or c.array {}
      table.insert(out[source], label)
    end
  end
  note(self.default, 'domain:default')
  for site, scope in pairs(self.by_site) do
    note(scope, 'site:' .. site)
  end
  for domain, scope in pairs(self.by_domain) do
    note(scope, 'domain:' .. domain)
  end
  for _, list in pairs(out) do
    table.sort(list)
  end
  return out
end

--- The sources that are named, in any section, each with its first place there.
---@return { name: string, file: string, line: integer, title: string }[]
function data.source_places(self)
  local out, scopes = {}, { self.default }
  for _, map in ipairs { self.by_site, self.by_domain, self.providers } do
    for _, scope in pairs(map) do
      scopes[#scopes + 1] = scope
    end
  end
  for _, scope in ipairs(scopes) do
    for name, of_source in pairs(scope.sources) do
      local place = of_source.place
      out[#out + 1] = { name = name, file = place.file, line = place.line, title = place.title }
    end
  end
  return out
end

-- --- resolving -----------------------------------------------------------------------------------------------

--- What is laid over what for one path, weakest first. `replace`: everything before is gone.
---@async
---@param self kumo.shaping.Data
---@param domain string
---@param source string
---@param site string
---@param overlay? { site: kumo.shaping.Params?, domain: kumo.shaping.Params? }  of automation
---@return { params: kumo.shaping.Params, replace: boolean }[]
function data.steps(self, domain, source, site, overlay)
  local out = {}
  local function step(params, replace)
    if params then
      out[#out + 1] = { params = params, replace = replace or false }
    end
  end
  local default = self.default
  if default and (self.options.mail_defaults_for_log_hooks or not data.is_hook(domain)) then
    step(default)
    step(default.sources[source])
  end
  local providers = data.providers_of(self, domain)
  for _, provider in ipairs(providers) do
    step(provider)
    step(implied(provider, source))
  end
  for _, provider in ipairs(providers) do
    if provider.sources[source] then
      step(provider.sources[source])
      step(implied(provider, source))
    end
  end
  local by_site, by_domain = self.by_site[site], self.by_domain[domain]
  step(by_site, by_site and by_site.replace_base)
  step(by_domain, by_domain and by_domain.replace_base)
  step(by_site and by_site.sources[source])
  step(overlay and overlay.site)
  step(by_domain and by_domain.sources[source])
  step(overlay and overlay.domain)
  return out
end

--- The effective values as a plain table for kumo.make_egress_path.
---@return table<string, any>
function data.resolve(steps)
  local out = {}
  for _, one in ipairs(steps) do
    if one.replace then
      out = {}
    end
    for key, entry in pairs(one.params.params) do
      out[key] = entry[1]
    end
    for key, map in pairs(one.params.maps or {}) do
      local target = out[key] or {}
      out[key] = target
      for name, entry in pairs(map) do
        target[name] = entry[1]
      end
    end
  end
  return out
end

---@class kumo.shaping.Value
---@field value any
---@field file string
---@field line integer
---@field section string
---@field overrode { value: any, file: string, line: integer, section: string }[]  the last one overridden first

local function tell(entry)
  return { value = entry[1], file = entry[3].file, line = entry[2], section = entry[3].title }
end

--- The same, each value with where it was set and what it overrode. Elements of a map are named OPTION.NAME.
---@return table<string, kumo.shaping.Value>
function data.explain(steps)
  local history = {} -- name -> all that was said, weakest first
  local live = {} -- name -> true: not replaced
  local function note(name, entry)
    local list = history[name] or {}
    history[name] = list
    local chain = {}
    while entry do
      table.insert(chain, 1, tell(entry))
      entry = entry[4]
    end
    local last = list[#list]
    for _, one in ipairs(chain) do
      local again = last and last.file == one.file and last.line == one.line and last.section == one.section
      if not again then -- a provider's implied settings come twice
        list[#list + 1] = one
      end
    end
    live[name] = true
  end
  for _, one in ipairs(steps) do
    if one.replace then
      live = {}
    end
    for key, entry in pairs(one.params.params) do
      note(key, entry)
    end
    for key, map in pairs(one.params.maps or {}) do
      for name, entry in pairs(map) do
        note(key .. '.' .. name, entry)
      end
    end
  end
  local out = {}
  for name in pairs(live) do
    local list = history[name]
    local value = list[#list]
    value.overrode = {}
    for i = #list - 1, 1, -1 do
      value.overrode[#value.overrode + 1] = list[i]
    end
    out[name] = value
  end
  return out
end

return data
