--- Reads the sections of a shaping file: checks every key, and keeps with each value where it was set. Contract shaping.md
--- sections 2 and 7.
local host = require 'tr.host'
local rules = host.internal 'kumo.shaping.rules'
local values = host.internal 'kumo.shaping.values'

local section = {}

--- One value of a path option: { value, line, origin, what it overrode in its own scope or nil }.
---@class kumo.shaping.Entry
---@field [1] any
---@field [2] integer
---@field [3] kumo.shaping.Origin
---@field [4]? kumo.shaping.Entry

---@class kumo.shaping.Origin
---@field file string
---@field title string  header as in TOML
---@field line integer

--- What one header says, or several of one scope together.
---@class kumo.shaping.Params
---@field params table<string, kumo.shaping.Entry>
---@field maps? table<string, table<string, kumo.shaping.Entry>>  the options that are merged key by key

---@class kumo.shaping.Section: kumo.shaping.Params
---@field name string
---@field origin kumo.shaping.Origin
---@field replace_base boolean
---@field mx_rollup boolean
---@field sources table<string, kumo.shaping.Params>
---@field automation kumo.shaping.Rule[]
---@field match? table[]                 providers
---@field limits? table<string, kumo.shaping.Entry>

local ADDITIVE = values.ADDITIVE

local OWN = {
  domain = { mx_rollup = true, replace_base = true, automation = true, sources = true },
  default = { mx_rollup = true, replace_base = true, automation = true, sources = true },
  provider = {
    match = true,
    provider_connection_limit = true,
    provider_max_message_rate = true,
    replace_base = true,
    automation = true,
    sources = true,
  },
  source = {},
  provider_source = { provider_source_selection_rate = true },
}

-- What a key of a provider is checked as.
local CHECKED_AS = {
  provider_connection_limit = 'connection_limit',
  provider_max_message_rate = 'max_message_rate',
  provider_source_selection_rate = 'source_selection_rate',
}

local function line_of(place)
  return type(place) == 'table' and place[0] or place or 0
end

local function place_of(origin, line, key)
  return { file = origin.file, line = line, section = origin.title, key = key }
end

local function quoted(name)
  return '"' .. name .. '"'
end

-- --- path options -------------------------------------------------------------------------------------

local function unknown_key(found, origin, kind, key, value, line)
  local place = place_of(origin, line, key)
  if kind == 'domain' and type(value) == 'table' and not origin.name:find('.', 1, true) then
    local joined = origin.name .. '.' .. key
    local remedy = ('an unquoted name with dots? Write ["%s"]'):format(joined)
    found:fatal(place, 'a table where an option of the path is expected', remedy)
    return
  end
  local near = values.nearest(key, OWN[kind])
  found:fatal(
    place,
    'there is no such option',
    near and ("did you mean '%s'?"):format(near) or 'the options are those of kumo.make_egress_path, see docs/shaping-files.md'
  )
end

local function add_map(found, origin, key, value, places, maps)
  local map = {}
  local element = values.ELEMENT[key]
  if type(value) ~= 'table' or value[1] ~= nil then
    found:fatal(place_of(origin, line_of(places), key), 'a table of names is expected', values.remedy(key))
    return
  end
  for _, name in ipairs(places[-1] or {}) do
    local line = line_of(places[name])
    if value[name] ~= nil then
      local why = values.why_not(element, value[name]) or values.why_not(key, { [name] = value[name] })
      if why then
        found:fatal(place_of(origin, line, key .. '.' .. name), why, values.remedy(element))
      else
        map[name] = { value[name], line, origin }
      end
    end
  end
  maps[key] = map
end

-- Path options among the keys of a header.
local function read_params(found, origin, kind, value, places, into)
  local own, plain, params = OWN[kind], {}, into.params
  for _, key in ipairs(places[-1] or {}) do
    local member = value[key]
    if member ~= nil and not own[key] then
      local line = line_of(places[key])
      if not values.KNOWN[key] then
        unknown_key(found, origin, kind, key, member, line)
      elseif ADDITIVE[key] then
        into.maps = into.maps or {}
        add_map(found, origin, key, member, places[key], into.maps)
      else
        plain[key] = member
        params[key] = { member, line, origin }
      end
    end
  end
  if next(plain) == nil then
    return
  end
  local ok, err = values.check(plain)
  if not ok then
    local named = false
    for key, entry in pairs(params) do
      local why = values.why_not(key, entry[1])
      if why then
        named = true
        found:fatal(place_of(origin, entry[2], key), why, values.remedy(key))
        params[key] = nil
      end
    end
    if not named then -- the options do not go together
      found:fatal(place_of(origin, origin.line), err)
    end
  end
  for key, entry in pairs(params) do
    local doubt = values.doubt(key, entry[1])
    if doubt then
      found:warn(place_of(origin, entry[2], key), doubt, 'if it is meant, this warning can be ignored')
    end
  end
end

local function read_flag(found, origin, value, places, key, default)
  local flag = value[key]
  if flag == nil then
    return default
  elseif type(flag) ~= 'boolean' then
    local place = place_of(origin, line_of(places[key]), key)
    found:fatal(place, 'true or false is expected, got ' .. values.show(flag), 'write true or false')
    return default
  end
  return flag
end

-- A key of a provider that is a limit or a rate of its own.
local function read_limit(found, origin, value, places, key, into)
  local member = value[key]
  if member == nil then
    return
  end
  local line = line_of(places[key])
  local why = values.why_not(CHECKED_AS[key], member)
  if why then
    found:fatal(place_of(origin, line, key), why, values.remedy(CHECKED_AS[key]))
  else
    into.limits = into.limits or {}
    into.limits[key] = { member, line, origin }
  end
end

local function read_sources(found, origin, kind, value, places, sources)
  local members = value.sources
  if members == nil then
    return
  end
  if type(members) ~= 'table' or members[1] ~= nil then
    found:fatal(
      place_of(origin, line_of(places.sources), 'sources'),
      'a table of source names is expected',
      ('write %s.sources."NAME"] with the options of that source'):format(origin.title:sub(1, -2))
    )
    return
  end
  local source_kind = kind == 'provider' and 'provider_source' or 'source'
  for _, name in ipairs(places.sources[-1]) do
    local member, member_places = members[name], places.sources[name]
    local title = ('%s.sources.%s]'):format(origin.title:sub(1, -2), quoted(name))
    local place = { file = origin.file, line = line_of(member_places), title = title, name = name }
    if type(member) ~= 'table' then
      found:fatal(
        place_of(origin, place.line, 'sources.' .. name),
        'a table with the options of that source is expected, got ' .. type(member),
        ('write %s and the options below'):format(title)
      )
    else
      local params = { params = {}, place = place }
      read_params(found, place, source_kind, member, member_places, params)
      if kind == 'provider' then
        read_limit(found, place, member, member_places, 'provider_source_selection_rate', params)
      end
      sources[name] = params
    end
  end
end

-- --- providers' rules -----------------------------------------------------------------------------------

local MATCHES = { DomainSuffix = true, MXSuffix = true, HostName = true }
local MATCH_REMEDY = 'write e.g. match = [{DomainSuffix = ".example.com"}, {MXSuffix = ".mx.example.com"}, '
  .. '{HostName = "mx.example.com"}]'

local function read_match(found, origin, value, places)
  local list, out = value.match, {}
  if list == nil then
    found:warn(
      place_of(origin, origin.line),
      'the provider matches nothing: it has no match rules, and so no effect (unless another file adds them)',
      MATCH_REMEDY
    )
    return out
  end
  local line = line_of(places.match)
  if type(list) ~= 'table' or (next(list) ~= nil and list[1] == nil) then
    found:fatal(place_of(origin, line, 'match'), 'a list of rules is expected', MATCH_REMEDY)
    return out
  elseif list[1] == nil then
    found:warn(place_of(origin, line, 'match'), 'the provider matches nothing: the list is empty', MATCH_REMEDY)
  end
  for i, rule in ipairs(list) do
    local rule_line = line_of(places.match[i])
    local kind, text = type(rule) == 'table' and next(rule) or nil, nil
    if kind then
      text = rule[kind]
    end
    if not kind or next(rule, kind) ~= nil then
      found:fatal(place_of(origin, rule_line, 'match'), 'each rule is a table with one key', MATCH_REMEDY)
    elseif not MATCHES[kind] then
      local near = values.nearest(tostring(kind), MATCHES, true)
      found:fatal(
        place_of(origin, rule_line, 'match'),
        ("there is no rule '%s'"):format(tostring(kind)),
        near and ("did you mean '%s'?"):format(near) or MATCH_REMEDY
      )
    elseif type(text) ~= 'string' or text == '' then
      found:fatal(place_of(origin, rule_line, 'match'), kind .. ': a name is expected, got ' .. values.show(text), MATCH_REMEDY)
    else
      if text:find '%u' then
        local message = ('%s = "%s" is compared as lower case'):format(kind, text)
        found:warn(place_of(origin, rule_line, 'match'), message, 'write it so')
      end
      out[#out + 1] = { kind = kind, text = text:lower():gsub('%.$', '') }
    end
  end
  return out
end

-- --- sections ---------------------------------------------------------------------------------------------

---@param found kumo.shaping.Findings
---@param origin kumo.shaping.Origin   with `name`
---@param kind 'default'|'domain'|'provider'
---@return kumo.shaping.Section
local function read_section(found, origin, kind, value, places)
  local made = { name = origin.name, origin = origin, kind = kind, params = {}, sources = {}, automation = {} }
  read_params(found, origin, kind, value, places, made)
  made.replace_base = read_flag(found, origin, value, places, 'replace_base', false)
  read_sources(found, origin, kind, value, places, made.sources)
  if value.automation ~= nil then
    rules.read(found, origin, value.automation, places.automation, made.automation)
  end
  if kind == 'provider' then
    made.match = read_match(found, origin, value, places)
    read_limit(found, origin, value, places, 'provider_connection_limit', made)
    read_limit(found, origin, value, places, 'provider_max_message_rate', made)
  else
    made.mx_rollup = read_flag(found, origin, value, places, 'mx_rollup', true)
  end
  return made
end

local function table_expected(found, file, name, value, line, key_of_default)
  local remedy = 'write a header, e.g. ["example.com"], and the options below it'
  if key_of_default then
    remedy = 'it stands above the first header: put it below [default] if it is meant for all domains'
  end
  found:fatal({ file = file, line = line, key = name }, 'a section is expected, got ' .. values.show(value), remedy)
end

local function check_domain_name(found, origin)
  local name = origin.name
  if not name:find('.', 1, true) then
    found:warn(
      place_of(origin, origin.line),
      'the domain has a single label',
      ('an unquoted name with dots is cut at the dots: write ["%s.example"]'):format(name)
    )
  elseif name:find '%u' then
    local message = 'the name has capital letters: domains of queues have none'
    found:warn(place_of(origin, origin.line), message, 'write it in lower case')
  end
end

--- The sections of one file, in its order.
---@param file kumo.shaping.File
---@param found kumo.shaping.Findings
---@param pause fun()   called between sections: it may wait
---@return kumo.shaping.Section[]
function section.read(file, found, pause)
  local out = {}
  for _, key in ipairs(file.places[-1] or {}) do
    local value, places = file.data[key], file.places[key]
    local line = line_of(places)
    if type(value) ~= 'table' then
      if value ~= nil then
        table_expected(found, file.name, key, value, line, values.KNOWN[key])
      end
    elseif key == 'provider' then
      for _, name in ipairs(places[-1] or {}) do
        if type(value[name]) ~= 'table' then
          table_expected(found, file.name, 'provider.' .. name, value[name], line_of(places[name]))
        else
          local origin = { file = file.name, line = line_of(places[name]), name = name }
          origin.title = ('[provider.%s]'):format(quoted(name))
          out[#out + 1] = read_section(found, origin, 'provider', value[name], places[name])
        end
      end
    elseif value[1] ~= nil then
      table_expected(found, file.name, key, value, line)
    else
      local kind = key == 'default' and 'default' or 'domain'
      local title = kind == 'default' and '[default]' or '[' .. quoted(key) .. ']'
      local origin = { file = file.name, line = line, name = key, title = title }
      if kind == 'domain' then
        check_domain_name(found, origin)
      end
      out[#out + 1] = read_section(found, origin, kind, value, places)
    end
    pause()
  end
  return out
end

return section
