-- kumo.regex: Perl-like patterns (PCRE2) on UTF-8 text.
local host = require 'tr.host'
local core = require 'tr.regex'

local regex = {}

---@class kumo.Regex
local methods = {}
local meta = { __index = methods, __name = 'kumo.Regex' }

function meta:__tostring()
  return self._pattern
end
function meta.__freeze(self)
  return 'regex', self._pattern
end

local function check(self, name, text)
  if getmetatable(self) ~= meta then
    error(('regex:%s: called without a regex: use the colon'):format(name), 3)
  elseif type(text) ~= 'string' then
    error(('regex:%s: string expected, got %s'):format(name, type(text)), 3)
  end
end

local function exec(self, name, text, from, nonempty)
  local bounds, err = core.exec(self._code, text, from, nonempty)
  if err then
    error(('regex:%s: %s'):format(name, err), 3)
  end
  return bounds
end

---@param pattern string
---@return kumo.Regex
function regex.compile(pattern)
  if type(pattern) ~= 'string' then
    error('regex.compile: string expected, got ' .. type(pattern), 2)
  end
  local code, err = core.compile(pattern)
  if not code then
    error('regex.compile: ' .. err, 2)
  end
  return setmetatable({ _code = code, _pattern = pattern, _names = core.names(code) }, meta)
end
host.thaw.regex = regex.compile

--- The text as a pattern that matches just it.
---@param text string
---@return string
function regex.escape(text)
  return (text:gsub('[%.%^%$%*%+%?%(%)%[%]{}|\\#&%-~]', '\\%0'))
end

local function group(bounds, i, text)
  local first = bounds[2 * i + 1]
  return first and text:sub(first, bounds[2 * i + 2]) or nil
end

--- Groups by number (0: the whole match) and by name; nil if there is no match.
---@param text string
---@return table<integer|string, string>? groups
function methods:captures(text)
  check(self, 'captures', text)
  local bounds = exec(self, 'captures', text, 1)
  if not bounds then
    return nil
  end
  local out = {}
  for i = 0, #bounds / 2 - 1 do
    out[i] = group(bounds, i, text)
  end
  for name, i in pairs(self._names) do
    out[name] = group(bounds, i, text)
  end
  return out
end

---@param text string
---@return boolean
function methods:is_match(text)
  check(self, 'is_match', text)
  return exec(self, 'is_match', text, 1) ~= nil
end

--- The first match; nil if there is none.
---@param text string
---@return string? match
function methods:find(text)
  check(self, 'find', text)
  local bounds = exec(self, 'find', text, 1)
  return bounds and group(bounds, 0, text)
end

-- Iterates over the matches' bounds, none overlapping, no empty one at the end of the one before.
local function each(self, name, text)
  local at, last_end = 1, 0
  return function()
    local bounds = exec(self, name, text, at)
    while bounds and bounds[2] < bounds[1] and bounds[1] == last_end + 1 and last_end > 0 do
      local byte = text:byte(bounds[1])
      if not byte then
        return nil
      end
      at = bounds[1] + (byte < 0xC0 and 1 or byte < 0xE0 and 2 or byte < 0xF0 and 3 or 4)
      last_end = 0
      bounds = exec(self, name, text, at)
    end
    if not bounds then
      return nil
    end
    last_end = bounds[2]
    if bounds[2] >= bounds[1] then
      at = bounds[2] + 1
    else -- empty: the next one starts a character later
      local byte = text:byte(bounds[1]) or 0
      at = bounds[1] + (byte < 0xC0 and 1 or byte < 0xE0 and 2 or byte < 0xF0 and 3 or 4)
      last_end = 0
    end
    return bounds
  end
end

--- All matches that do not overlap.
---@param text string
---@return string[] matches
function methods:find_all(text)
  check(self, 'find_all', text)
  local out = {}
  for bounds in each(self, 'find_all', text) do
    out[#out + 1] = group(bounds, 0, text)
  end
  return out
end

-- $1, $name, ${name}, $$ in a replacement.
local function expand(self, replacement, bounds, text)
  local function value(name)
    local i = tonumber(name) or self._names[name]
    return i and i < #bounds / 2 and group(bounds, i, text) or ''
  end
  local out, at = {}, 1
  while true do
    local dollar = replacement:find('$', at, true)
    if not dollar then
      break
    end
    out[#out + 1] = replacement:sub(at, dollar - 1)
    local braced = replacement:match('^{([^}]*)}', dollar + 1)
    local plain = replacement:match('^[%w_]+', dollar + 1)
    if replacement:sub(dollar + 1, dollar + 1) == '$' then
      out[#out + 1], at = '$', dollar + 2
    elseif braced then
      out[#out + 1], at = value(braced), dollar + #braced + 3
    elseif plain then
      out[#out + 1], at = value(plain), dollar + #plain + 1
    else
      out[#out + 1], at = '$', dollar + 1
    end
  end
  out[#out + 1] = replacement:sub(at)
  return table.concat(out)
end

local function replace(self, name, text, limit, replacement)
  if type(replacement) ~= 'string' then
    error(('regex:%s: replacement: string expected, got %s'):format(name, type(replacement)), 3)
  end
  local out, at, count = {}, 1, 0
  for bounds in each(self, name, text) do
    out[#out + 1] = text:sub(at, bounds[1] - 1)
    out[#out + 1] = expand(self, replacement, bounds, text)
    at, count = bounds[2] + 1, count + 1
    if count == limit then
      break
    end
  end
  out[#out + 1] = text:sub(at)
  return table.concat(out)
end

--- Replaces the first match. `$1`, `$name` and `${name}` stand for groups, `$$` for a dollar.
---@param text string
---@param replacement string
---@return string
function methods:replace(text, replacement)
  check(self, 'replace', text)
  return replace(self, 'replace', text, 1, replacement)
end

--- The same with all matches.
---@param text string
---@param replacement string
---@return string
function methods:replace_all(text, replacement)
  check(self, 'replace_all', text)
  return replace(self, 'replace_all', text, 0, replacement)
end

--- The same with the first matches.
---@param text string
---@param limit integer  0: all
---@param replacement string
---@return string
function methods:replacen(text, limit, replacement)
  check(self, 'replacen', text)
  if type(limit) ~= 'number' or not (limit >= 0 and limit == math.floor(limit)) then
    error('regex:replacen: limit: integer >= 0 expected, got ' .. tostring(limit), 2)
  end
  return replace(self, 'replacen', text, limit, replacement)
end

--- The parts between the matches.
---@param text string
---@return string[]
function methods:split(text)
  check(self, 'split', text)
  local out, at = {}, 1
  for bounds in each(self, 'split', text) do
    out[#out + 1] = text:sub(at, bounds[1] - 1)
    at = bounds[2] + 1
  end
  out[#out + 1] = text:sub(at)
  return out
end

return regex
