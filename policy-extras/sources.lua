--- Egress sources and pools from files.
---
---     local sources = require 'policy-extras.sources'
---     sources:setup { '/etc/tailrace/sources.toml' }
---
---     [source."ip-1"]
---     source_address = "192.0.2.1"
---     [pool."default"."ip-1"]
---     weight = 2
---
--- Answers get_egress_source and get_egress_pool. See docs/shaping.md.
local kumo = require 'kumo'
local data_files = require 'policy-extras.data_files'

---@class sources
local sources = {}

local set_up = false -- in this Lua state

-- --- findings -------------------------------------------------------------------------------------------

---@class sources.Findings
---@field errors string[]
---@field warnings string[]

local function add(list, file, line, what, text)
  list[#list + 1] = ('%s: %s%s'):format(line and ('%s:%d'):format(file, line) or file, what ~= '' and what .. ': ' or '', text)
end

--- The line of a value, of the table around it otherwise.
local function line_of(places, ...)
  local line
  for i = 1, select('#', ...) do
    if type(places) ~= 'table' then
      return line
    end
    line = places[0] or line
    places = places[(select(i, ...))]
  end
  return type(places) == 'table' and places[0] or places or line
end

-- --- reading --------------------------------------------------------------------------------------------

local function read_source(data, name, options, file, line, found)
  local what = ('[source.%q]'):format(name)
  if type(options) ~= 'table' then
    return add(found.errors, file, line, what, 'a table of options is expected, got ' .. type(options))
  elseif options.name ~= nil and options.name ~= name then
    return add(found.errors, file, line, what, 'name is given by the section')
  end
  local source = data.source[name] or {}
  for key, value in pairs(options) do
    source[key] = value
  end
  source.name = name
  data.source[name] = source
  data.where[name] = { file = file, line = line } -- of the last file that said something
end

local function read_pool(data, name, entries, file, places, found)
  local what = ('[pool.%q]'):format(name)
  if type(entries) ~= 'table' then
    return add(found.errors, file, line_of(places), what, 'a table of sources is expected, got ' .. type(entries))
  end
  local names = {}
  for source in pairs(entries) do
    names[#names + 1] = tostring(source)
  end
  table.sort(names, function(a, b) -- as they stand in the file
    local at, bt = line_of(places, a) or 0, line_of(places, b) or 0
    if at ~= bt then
      return at < bt
    end
    return a < b
  end)
  local pool = data.pool[name] or {}
  data.pool[name] = pool
  for _, source in ipairs(names) do
    local entry, line = entries[source], line_of(places, source)
    local part = ('[pool.%q.%q]'):format(name, source)
    if type(entry) ~= 'table' then
      add(found.errors, file, line, part, '{ weight = NUMBER } is expected, got ' .. type(entry))
    else
      local weight = entry.weight == nil and 1 or entry.weight
      for key in pairs(entry) do
        if key ~= 'weight' then
          local text = ("there is no option '%s': weight is the only one"):format(tostring(key))
          add(found.errors, file, line_of(places, source, key), part, text)
        end
      end
      if type(weight) ~= 'number' or weight < 0 or weight % 1 ~= 0 or weight > 4294967295 then
        add(found.errors, file, line_of(places, source, 'weight'), part, 'weight: a whole number is expected, 0: not used')
      end
      pool[#pool + 1] = { name = source, weight = weight, file = file, line = line }
    end
  end
end

local function read_file(data, file, number, found)
  local content, name, places = data_files.read(file, number)
  if not content then
    found.errors[#found.errors + 1] = name
    return
  end
  for section, members in pairs(content) do
    local section_places = type(places) == 'table' and places[section] or nil
    if section ~= 'source' and section ~= 'pool' then
      local text = 'there is no such section: [source.NAME] and [pool.NAME] are expected'
      add(found.errors, name, line_of(places, section), ('[%s]'):format(tostring(section)), text)
    elseif type(members) ~= 'table' then
      add(found.errors, name, line_of(places, section), ('[%s]'):format(section), 'a table is expected')
    else
      for key, value in pairs(members) do
        local at = type(section_places) == 'table' and section_places[key] or nil
        if section == 'source' then
          read_source(data, key, value, name, line_of(section_places, key), found)
        else
          read_pool(data, key, value, name, at, found)
        end
      end
    end
  end
end

--- All files together. Nothing of them is used if there is an error.
---@return table data, sources.Findings found
local function load(files)
  local data, found = { source = {}, pool = {}, where = {} }, { errors = {}, warnings = {} }
  for i, file in ipairs(files) do
    read_file(data, file, i, found)
  end
  for name, options in pairs(data.source) do
    local ok, err = pcall(kumo.make_egress_source, options)
    if not ok then
      local where, text = data.where[name], data_files.reason(err, 'make_egress_source')
      add(found.errors, where.file, where.line, ('[source.%q]'):format(name), text)
    end
  end
  for name, entries in pairs(data.pool) do
    for _, entry in ipairs(entries) do
      if not data.source[entry.name] and entry.name ~= 'unspecified' then
        add(found.warnings, entry.file, entry.line, ('[pool.%q.%q]'):format(name, entry.name), 'there is no source of that name')
      end
      entry.file, entry.line = nil, nil
    end
  end
  data.where = nil
  table.sort(found.errors)
  table.sort(found.warnings)
  return data, found
end

--- Whether files can be used: all findings, without using them.
---@param files (string|table)[]
---@return string[] errors, string[] warnings
function sources.check(files)
  local _, found = load(files)
  return found.errors, found.warnings
end

-- --- setup -------------------------------------------------------------------------------------------------

local current -- the data of the moment

--- Answers get_egress_source and get_egress_pool from files. Raises with all that is wrong in them.
---@param files (string|table)[]  paths of TOML or JSON, or tables of the same shape; later ones add
function sources:setup(files)
  if self ~= sources then
    error('sources:setup: call it with a colon: sources:setup { ... }', 2)
  elseif set_up then
    error('sources:setup: it has been called already', 2)
  elseif type(files) ~= 'table' then
    local text = "sources:setup: a list of files is expected, got %s: write sources:setup { '%s' }"
    error(text:format(type(files), tostring(files)), 2)
  end
  for key in pairs(files) do
    if type(key) ~= 'number' then
      local text = "sources:setup: a list is expected, not the key '%s': write sources:setup { { source = ..., pool = ... } }"
      error(text:format(tostring(key)), 2)
    end
  end
  local data, found = load(files)
  for _, text in ipairs(found.warnings) do
    kumo.log_warn('sources: ' .. text)
  end
  if #found.errors > 0 then
    error('sources:setup: ' .. table.concat(found.errors, '\n'), 2)
  end
  set_up = true
  current = data_files.live('sources', files, data, function(list)
    local fresh, seen = load(list)
    return fresh, seen.errors
  end)

  kumo.on('get_egress_source', function(name)
    local options = current().source[name]
    if not options then
      error(("there is no [source.%q] in the files of sources:setup"):format(name), 0)
    end
    return kumo.make_egress_source(data_files.plain(options))
  end)

  kumo.on('get_egress_pool', function(name)
    local entries = current().pool[name]
    if not entries then
      error(("there is no [pool.%q] in the files of sources:setup"):format(name), 0)
    end
    local list = {}
    for i = 1, #entries do
      list[i] = { name = entries[i].name, weight = entries[i].weight }
    end
    return kumo.make_egress_pool { name = name, entries = list }
  end)

  kumo.on('validate_config', function()
    local errors, warnings = sources.check(files)
    for _, text in ipairs(warnings) do
      kumo.log_warn('sources: ' .. text)
    end
    for _, text in ipairs(errors) do
      kumo.log_error('sources: ' .. text)
    end
    if #errors > 0 then
      kumo.validation_failed()
    end
  end)
end

--- Whether a source is defined by the files; nil before setup.
---@param name string
---@return boolean?
function sources.has(name)
  if not set_up then
    return nil
  end
  return name == 'unspecified' or current().source[name] ~= nil
end

return sources
