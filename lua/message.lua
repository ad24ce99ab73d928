--- Methods of messages that are made of other methods. Contract message.md sections 2.1, 2.2 and 2.4.
local core = require 'tr.message'
local host = require 'tr.host'
local c = host.c
local address_header = host.internal 'address_header'

local methods = core.methods

-- --- addresses in headers --------------------------------------------------------------------------------

--- The addresses of the first header of that name; nil if there is none. Raises if it cannot be parsed.
function methods.get_address_header(msg, name)
  local value = core.raw_header(msg, name)
  if value == nil then
    return nil
  end
  local ok, header = pcall(address_header.parse, value)
  if not ok then
    error(('get_address_header: %s: %s'):format(name, header), 2)
  end
  return header
end

function methods.from_header(msg)
  return methods.get_address_header(msg, 'From')
end

function methods.to_header(msg)
  return methods.get_address_header(msg, 'To')
end

-- --- headers into metadata ---------------------------------------------------------------------------------

local function capital(word)
  return word:sub(1, 1):upper() .. word:sub(2)
end

local TRANSFORMS = {
  snake_case = function(name)
    return (name:lower():gsub('-', '_'))
  end,
  kebab_case = function(name)
    return (name:lower():gsub('_', '-'))
  end,
  camel_case = function(name)
    return (name:lower():gsub('[-_]+(%w)', string.upper))
  end,
  pascal_case = function(name)
    return capital((name:lower():gsub('[-_]+(%w)', string.upper)))
  end,
}
local MATCHES = { first = true, last = true, all = true }
local KEYS = { name = 'string', match = 'string', transform = 'string', target = 'string', remove = 'boolean' }

local function check_spec(i, spec)
  local at = ('import_headers: specs[%d]'):format(i)
  if type(spec) ~= 'table' then
    error(('%s: table expected, got %s'):format(at, type(spec)), 3)
  end
  for key, value in pairs(spec) do
    local kind = KEYS[key]
    if not kind then
      local known = { 'name', 'match', 'transform', 'target', 'remove' }
      local near = type(key) == 'string' and c.nearest(key, known)
      error(
        ("%s: unknown field '%s'%s, expected one of %s"):format(
          at,
          tostring(key),
          near and (" (did you mean '%s'?)"):format(near) or '',
          table.concat(known, ', ')
        ),
        3
      )
    elseif type(value) ~= kind then
      error(("%s: field '%s': %s expected, got %s"):format(at, key, kind, type(value)), 3)
    end
  end
  local name = spec.name
  if not name then
    error(at .. ": missing field 'name'", 3)
  elseif name:find('*', 1, true) and name:find('*', 1, true) < #name then
    error(("%s: name '%s': only one '*' at the end is possible"):format(at, name), 3)
  end
  local wild = name:sub(-1) == '*'
  local match, transform = spec.match or 'last', spec.transform or 'snake_case'
  if not MATCHES[match] then
    error(("%s: match = '%s': first, last or all is expected"):format(at, match), 3)
  elseif not TRANSFORMS[transform] then
    error(("%s: transform = '%s': snake_case, kebab_case, camel_case or pascal_case is expected"):format(at, transform), 3)
  elseif wild and spec.target then
    error(at .. ": 'target' cannot go with a wildcard name", 3)
  end
  return {
    prefix = wild and name:sub(1, -2):lower() or nil,
    name = name:lower(),
    match = match,
    key_of = TRANSFORMS[transform],
    target = spec.target,
    remove = spec.remove,
  }
end

--- Puts headers into the metadata as the specs say; the first one that matches takes a header.
function methods.import_headers(msg, specs)
  if type(specs) ~= 'table' then
    error('import_headers: a list of specs is expected, got ' .. type(specs), 2)
  end
  local checked = {}
  for i, spec in ipairs(specs) do
    checked[i] = check_spec(i, spec)
  end
  local values, removed = {}, {}
  for _, header in ipairs(msg:get_all_headers()) do
    local name, value = header[1], header[2]
    local lower = name:lower()
    for _, spec in ipairs(checked) do
      if lower == spec.name or spec.prefix and lower:sub(1, #spec.prefix) == spec.prefix then
        local key = spec.target or spec.key_of(name)
        if spec.match == 'all' then
          if type(values[key]) ~= 'table' then
            values[key] = c.array {}
          end
          table.insert(values[key], value)
        elseif spec.match == 'last' or values[key] == nil then
          values[key] = value
        end
        if spec.remove then
          removed[lower] = name
        end
        break
      end
    end
  end
  for key, value in pairs(values) do
    msg:set_meta(key, value)
  end
  for _, name in pairs(removed) do
    msg:remove_all_named_headers(name)
  end
end

-- --- memory and disk ------------------------------------------------------------------------------------------

--- A message is stored with each change of its state, and what was changed in it with the next one: nothing is left to
--- do here but to say what the spool would.
function methods.save(msg)
  if #msg:get_data() == 0 then
    error('message data must not be empty', 2)
  end
end

--- The runtime decides what stays in memory: nothing is dropped here.
function methods.shrink(msg)
  msg:save()
  return false
end

function methods.shrink_data(msg)
  msg:save()
  return false
end
