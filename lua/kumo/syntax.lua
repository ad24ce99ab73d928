--- Syntax of Lua 5.3 and 5.4 that LuaJIT cannot read: its message says "unexpected symbol near '/'", this adds what to write
--- instead. Used by load, loadfile, dofile and require.
local syntax = {}

local REMEDIES = {
  ['//'] = 'write math.floor(a / b) for a // b',
  ['&'] = 'write bit.band(a, b) for a & b',
  ['|'] = 'write bit.bor(a, b) for a | b',
  ['~'] = 'write bit.bxor(a, b) for a ~ b, bit.bnot(a) for ~a',
  ['<<'] = 'write bit.lshift(a, n) for a << n (of 32 bits; a * 2 ^ n beyond)',
  ['>>'] = 'write bit.rshift(a, n) for a >> n (of 32 bits; math.floor(a / 2 ^ n) beyond)',
  ['<const>'] = 'leave <const> out',
  ['<close>'] = 'leave <close> out and close the value at the end of its block, behind pcall if it must happen',
}

-- Where what begins at `at` ends if it is a text or a comment: the place behind it.
local function skip(source, at)
  local first = source:sub(at, at)
  local comment = source:sub(at, at + 1) == '--'
  local equals = source:match('^%[(=*)%[', comment and at + 2 or at)
  if equals and (comment or first == '[') then
    local _, last = source:find(']' .. equals .. ']', at, true)
    return (last or #source) + 1
  elseif comment then
    return (source:find('\n', at, true) or #source + 1)
  elseif first == '"' or first == "'" then
    local i = at + 1
    while true do
      local found = source:find('[\\\n' .. first .. ']', i)
      if not found then
        return #source + 1
      end
      local char = source:sub(found, found)
      if char ~= '\\' then
        return found + 1
      end
      i = found + 2
    end
  end
end

--- The first operator or attribute in a line that LuaJIT does not know.
---@param source string
---@param line integer  1-based
---@return string? operator
function syntax.find(source, line)
  local at, current = 1, 1
  while at <= #source and current <= line do
    local start = source:find('[-%["\'\n/&|~<>]', at)
    if not start then
      return nil
    end
    local behind = skip(source, start)
    if behind then
      current = current + select(2, source:sub(start, behind - 1):gsub('\n', ''))
      at = behind
    else
      local one, two = source:sub(start, start), source:sub(start, start + 1)
      local attribute = source:match('^<%s*(%a+)%s*>', start)
      local found = (attribute == 'const' or attribute == 'close') and '<' .. attribute .. '>'
        or REMEDIES[two] and two
        or two ~= '~=' and REMEDIES[one] and one
      if found and current == line then
        return found
      elseif one == '\n' then
        current = current + 1
      end
      at = start + (found and #found or two == '~=' and 2 or 1)
    end
  end
  return nil
end

--- The message of a compiler, with the remedy if there is one.
---@param message any     of load or loadfile
---@param source string?  what it read
---@return any message
function syntax.explain(message, source)
  local line = type(message) == 'string' and source and tonumber(message:match ':(%d+): ')
  if not line or not message:find("near '[/&|~<>=]") and not message:find 'malformed number' then
    return message
  end
  local operator = syntax.find(source, line) or line > 1 and syntax.find(source, line - 1)
  if not operator then
    return message
  end
  return ('%s (%s is of a later Lua than the LuaJIT of Tailrace: %s)'):format(message, operator, REMEDIES[operator])
end

-- --- what loads ------------------------------------------------------------------------------------------------

local raw_load, raw_loadfile = load, loadfile

local function explained(source, chunk, message)
  if chunk then
    return chunk
  end
  return nil, syntax.explain(message, type(source) == 'function' and source() or source)
end

local function text_of(path)
  return function()
    local file = type(path) == 'string' and io.open(path, 'rb')
    local text = file and file:read '*a'
    if file then
      file:close()
    end
    return text
  end
end

function load(chunk, ...) -- luacheck: ignore
  if type(chunk) ~= 'function' then
    return explained(chunk, raw_load(chunk, ...))
  end
  local parts = {} -- the reader cannot be asked twice
  return explained(
    function()
      return table.concat(parts)
    end,
    raw_load(function()
      local part = chunk()
      parts[#parts + 1] = part
      return part
    end, ...)
  )
end

function loadstring(text, name) -- luacheck: ignore
  if type(text) ~= 'string' then
    error("bad argument #1 to 'loadstring' (string expected, got " .. type(text) .. ')', 2)
  end
  return load(text, name)
end

function loadfile(path, ...) -- luacheck: ignore
  return explained(text_of(path), raw_loadfile(path, ...))
end

-- As the one of LuaJIT, but for the loader.
package.loaders[2] = function(name)
  local path, tried = package.searchpath(name, package.path)
  if not path then
    return tried
  end
  local chunk, message = loadfile(path)
  if not chunk then
    error(("error loading module '%s' from file '%s':\n\t%s"):format(name, path, message), 0)
  end
  return chunk, path
end

return syntax
