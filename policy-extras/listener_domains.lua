--- Which domains are relayed, from files.
---
---     local listener_domains = require 'policy-extras.listener_domains'
---     kumo.on('get_listener_domain', listener_domains:setup { '/etc/tailrace/listener_domains.toml' })
---
---     ["example.com"]
---     relay_to = true
---     ["*.example.org"]
---     relay_from = ["10.0.0.0/24"]
---     [listener."192.0.2.1:25"."*"]
---     relay_from_authz = ["joe"]
---
--- The section for the session's listener and the domain counts, else the one without listener, else `["*"]`. An exact name
--- comes before `*.` and its domain, the longest of these before `*`. One section alone counts. See docs/smtp.md.
local kumo = require 'kumo'
local data_files = require 'policy-extras.data_files'

---@class listener_domains
local listener_domains = {}

local set_up = false -- in this Lua state

-- --- reading --------------------------------------------------------------------------------------------

local function where(file, places, key)
  local line = type(places) == 'table' and places[key]
  line = type(line) == 'table' and line[0] or line
  return line and ('%s:%d'):format(file, line) or file
end

-- Options of make_listener_domain, and the list of identities.
local function read_section(domains, at, name, options, errors)
  if type(options) ~= 'table' then
    errors[#errors + 1] = ('%s: [%q]: a table of options is expected, got %s'):format(at, name, type(options))
    return
  end
  local lower = name:lower()
  local section = domains[lower] or { options = {} }
  domains[lower] = section
  for key, value in pairs(options) do
    if key ~= 'relay_from_authz' then
      section.options[key] = value
    elseif type(value) ~= 'table' then
      errors[#errors + 1] = ('%s: [%q]: relay_from_authz: a list of names is expected'):format(at, name)
    else
      section.authz = {}
      for _, id in ipairs(value) do
        section.authz[tostring(id)] = true
      end
    end
  end
  local ok, err = pcall(kumo.make_listener_domain, section.options)
  if not ok then
    errors[#errors + 1] = ('%s: [%q]: %s'):format(at, name, data_files.reason(err, 'make_listener_domain'))
  end
end

local function read_file(data, file, number, errors)
  local content, name, places = data_files.read(file, number)
  if not content then
    errors[#errors + 1] = name
    return
  end
  for domain, options in pairs(content) do
    if domain ~= 'listener' then
      read_section(data.domains, where(name, places, domain), tostring(domain), options, errors)
    elseif type(options) ~= 'table' then
      errors[#errors + 1] = where(name, places, domain) .. ': [listener]: a table is expected'
    else
      for listener, domains in pairs(options) do
        local at = where(name, places.listener, listener)
        if type(domains) ~= 'table' then
          errors[#errors + 1] = ('%s: [listener.%q]: a table is expected'):format(at, tostring(listener))
        else
          data.listeners[listener] = data.listeners[listener] or {}
          for inner, inner_options in pairs(domains) do
            read_section(data.listeners[listener], at, tostring(inner), inner_options, errors)
          end
        end
      end
    end
  end
end

local function load(files)
  local data, errors = { domains = {}, listeners = {} }, {}
  for i, file in ipairs(files) do
    read_file(data, file, i, errors)
  end
  table.sort(errors)
  return data, errors
end

--- Whether files can be used: all that is wrong, without using them.
---@param files (string|table)[]
---@return string[] errors
function listener_domains.check(files)
  local _, errors = load(files)
  return errors
end

-- --- look-up ----------------------------------------------------------------------------------------------

-- The name itself, else the longest "*.SUFFIX".
local function find(domains, name)
  local section = domains[name]
  local rest = name
  while not section do
    rest = rest:match '^[^.]*%.(.+)$'
    if not rest then
      return nil
    end
    section = domains['*.' .. rest]
  end
  return section
end

local function find_all(data, name, listener)
  local own = data.listeners[listener]
  return own and (find(own, name) or own['*']) or find(data.domains, name) or data.domains['*']
end

local function answer(data, domain, listener, conn_meta)
  local section = find_all(data, domain:lower(), listener)
  if not section then
    return nil
  end
  local options = data_files.plain(section.options)
  local id = section.authz and conn_meta:get_meta 'authz_id'
  if id and section.authz[id] then
    local peer = conn_meta:get_meta 'received_from'
    options.relay_from = { peer:match '^%[(.*)%]:%d+$' or peer:match '^(.*):%d+$' or peer }
  end
  return kumo.make_listener_domain(options)
end

-- --- setup -------------------------------------------------------------------------------------------------

--- Reads the files and gives the handler for get_listener_domain. Raises with all that is wrong in them. They are read again
--- every 5 minutes and with a new epoch; ones that are wrong by then change nothing.
---@param files (string|table)[]  paths of TOML or JSON, or tables of the same shape; keys of one section add, later ones win
---@return fun(domain: string, listener: string, conn_meta: any): kumo.ListenerDomain?
function listener_domains:setup(files)
  if self ~= listener_domains then
    error('listener_domains:setup: call it with a colon: listener_domains:setup { ... }', 2)
  elseif set_up then
    error('listener_domains:setup: it has been called already', 2)
  elseif type(files) ~= 'table' then
    local text = "listener_domains:setup: a list of files is expected, got %s: write listener_domains:setup { '%s' }"
    error(text:format(type(files), tostring(files)), 2)
  end
  local data, errors = load(files)
  if #errors > 0 then
    error('listener_domains:setup: ' .. table.concat(errors, '\n'), 2)
  end
  set_up = true
  local current = data_files.live('listener_domains', files, data, load)

  kumo.on('validate_config', function()
    for _, text in ipairs(listener_domains.check(files)) do
      kumo.log_error('listener_domains: ' .. text)
      kumo.validation_failed()
    end
  end)

  return function(domain, listener, conn_meta)
    return answer(current(), domain, listener, conn_meta)
  end
end

return listener_domains
