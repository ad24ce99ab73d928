--- An error with an HTTP status, raised by a route and turned into the answer.
---@class tr.http_error
---@field status integer
---@field text string
local http_error = {}
http_error.__index = http_error
http_error.__tostring = function(self)
  return self.text
end

--- Raises.
---@param status integer
---@param text string
function http_error.raise(status, text, ...)
  error(setmetatable({ status = status, text = select('#', ...) > 0 and text:format(...) or text }, http_error), 0)
end

function http_error.is(value)
  return type(value) == 'table' and getmetatable(value) == http_error
end

-- What JSON a field of a request may hold.
local TYPES = {
  s = { 'string', 'a string' },
  b = { 'boolean', 'true or false' },
  n = { 'number', 'a number' },
  t = { 'table', 'an object or list' },
}

--- Checks an object of a request: unknown fields, missing fields, wrong types give 422.
---@param object any
---@param where string          "recipients[1]", "" for the request
---@param fields table<string, string>  name -> type s, b, n, t, or * for any; upper case: required
function http_error.check_object(object, where, fields)
  local at = where == '' and '' or where .. ': '
  if type(object) ~= 'table' then
    http_error.raise(422, '%san object is expected, got %s', at, type(object))
  end
  for name in pairs(object) do
    if not fields[name] then
      local known = {}
      for other in pairs(fields) do
        known[#known + 1] = '`' .. other .. '`'
      end
      table.sort(known)
      http_error.raise(422, '%sunknown field `%s`, expected one of %s', at, tostring(name), table.concat(known, ', '))
    end
  end
  for name, kind in pairs(fields) do
    local value = object[name]
    local wanted = TYPES[kind:lower()]
    if value == nil then
      if kind:lower() ~= kind then
        http_error.raise(422, '%smissing field `%s`', at, name)
      end
    elseif wanted and type(value) ~= wanted[1] then
      http_error.raise(422, '%s`%s` must be %s, got %s', at, name, wanted[2], type(value))
    end
  end
  return object
end

return http_error
