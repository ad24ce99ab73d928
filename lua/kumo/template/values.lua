--- Values of templates: how they are shown, compared and looked into, and the filters. Part of kumo.template.
local host = require 'tr.host'
local c = host.c

local values = {}

-- --- values ---------------------------------------------------------------------------------------

local Safe = {} -- text that is not to be escaped again
local json_of = setmetatable({}, { __mode = 'k' })

--- Says which JSON text a table was read from: `tojson` then gives that very text.
---@param value table
---@param json string
function values.keep_json(value, json)
  json_of[value] = json
end

local function is_safe(value)
  return type(value) == 'table' and getmetatable(value) == Safe
end

local function plain(value)
  return is_safe(value) and value.text or value
end

local function to_json(value)
  value = plain(value)
  if type(value) == 'table' and json_of[value] then
    return json_of[value]
  end
  local text, what = c.json_encode(value, false)
  if not text then
    error('tojson: cannot encode ' .. tostring(what), 0)
  end
  return text
end

local function to_text(value)
  value = plain(value)
  local kind = type(value)
  if kind == 'string' then
    return value
  elseif value == nil or value == c.NULL then
    return ''
  elseif kind == 'number' then
    if value == math.floor(value) and math.abs(value) < 2 ^ 53 then
      return ('%d'):format(value)
    end
    return ('%.14g'):format(value)
  elseif kind == 'boolean' then
    return tostring(value)
  end
  return to_json(value)
end

local ESCAPES = { ['&'] = '&amp;', ['<'] = '&lt;', ['>'] = '&gt;', ['"'] = '&quot;', ["'"] = '&#x27;' }
local function escape(text)
  return (text:gsub('[&<>"\']', ESCAPES))
end

local function truthy(value)
  value = plain(value)
  if value == nil or value == false or value == c.NULL or value == '' or value == 0 then
    return false
  end
  return type(value) ~= 'table' or next(value) ~= nil
end

local function is_list(value)
  return type(value) == 'table' and (value[1] ~= nil or getmetatable(value) == host.array_meta)
end

local function get(object, key)
  object, key = plain(object), plain(key)
  if type(object) ~= 'table' then
    return nil
  end
  if type(key) == 'number' and is_list(object) then
    key = key < 0 and #object + key + 1 or key + 1
  end
  local value = object[key]
  if value == c.NULL then
    return nil
  end
  return value
end

local function length(value)
  value = plain(value)
  if type(value) == 'string' then
    local count = 0 -- characters, not bytes
    for i = 1, #value do
      local byte = value:byte(i)
      if byte < 0x80 or byte >= 0xc0 then
        count = count + 1
      end
    end
    return count
  elseif type(value) ~= 'table' then
    error('length: text, list or map expected', 0)
  elseif is_list(value) then
    return #value
  end
  local count = 0
  for _ in pairs(value) do
    count = count + 1
  end
  return count
end

local function contains(needle, hay)
  needle, hay = plain(needle), plain(hay)
  if type(hay) == 'string' then
    return hay:find(to_text(needle), 1, true) ~= nil
  elseif is_list(hay) then
    for _, value in ipairs(hay) do
      if value == needle then
        return true
      end
    end
    return false
  end
  return type(hay) == 'table' and needle ~= nil and hay[needle] ~= nil
end

-- --- filters: name -> { most arguments, function(value, ...) } ---------------------------------------

local function replace(value, from, to)
  value, from, to = to_text(value), to_text(from), to_text(to)
  if from == '' then
    return value
  end
  local out, at = {}, 1
  while true do
    local start, stop = value:find(from, at, true)
    if not start then
      out[#out + 1] = value:sub(at)
      return table.concat(out)
    end
    out[#out + 1] = value:sub(at, start - 1)
    out[#out + 1] = to
    at = stop + 1
  end
end

local function join(value, glue)
  value = plain(value)
  if value == nil then
    return ''
  elseif not is_list(value) and not (type(value) == 'table' and next(value) == nil) then
    error('join: list expected', 0)
  end
  local out = {}
  for i, item in ipairs(value) do
    out[i] = to_text(item)
  end
  return table.concat(out, to_text(glue))
end

local function make_safe(text)
  return setmetatable({ text = text }, Safe)
end

local function escaped(value)
  return is_safe(value) and value or make_safe(escape(to_text(value)))
end

local FILTERS = {
  tojson = { 0, function(value) return make_safe(to_json(value)) end },
  upper = { 0, function(value) return to_text(value):upper() end },
  lower = { 0, function(value) return to_text(value):lower() end },
  trim = { 0, function(value) return (to_text(value):match '^%s*(.-)%s*$') end },
  default = {
    2,
    function(value, other, also_false)
      if value == nil or also_false and not truthy(value) then
        return other == nil and '' or other
      end
      return value
    end,
  },
  escape = { 0, escaped },
  e = { 0, escaped },
  safe = { 0, function(value) return make_safe(to_text(value)) end },
  length = { 0, length },
  count = { 0, length },
  join = { 1, join },
  replace = { 2, replace },
  first = { 0, function(value) return get(value, 0) end },
  last = { 0, function(value) return get(value, -1) end },
}

local FILTER_NAMES = {}
for name in pairs(FILTERS) do
  FILTER_NAMES[#FILTER_NAMES + 1] = name
end

values.plain = plain
values.to_text = to_text
values.escaped = escaped
function values.jsoned(value)
  return is_safe(value) and value or make_safe(to_json(value))
end
values.truthy = truthy
values.is_list = is_list
values.get = get
values.contains = contains
values.FILTERS = FILTERS
values.FILTER_NAMES = FILTER_NAMES

return values
