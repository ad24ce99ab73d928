--- Values as text for a prompt: cut, in a stable order, and with nothing in it that a terminal would obey.
local host = require 'tr.host'
local c = host.c

---@class tr.repl.show
local show = {}

local MAX_DEPTH = 6
local MAX_ENTRIES = 100 -- of one table
local MAX_KEYS = 10000 -- looked at to find the first ones
local MAX_NODES = 2000 -- of one value
local MAX_STRING = 2000 -- bytes of a string alone ...
local MAX_INNER = 200 -- ... and of one inside a table
local MAX_PROXY = 1000 -- entries that a __pairs may give

local find, sub, byte = string.find, string.sub, string.byte

-- --- control characters -------------------------------------------------------------------------------------------

local NAMED = { ['\n'] = '\\n', ['\t'] = '\\t', ['\r'] = '\\r', ['\\'] = '\\\\', ['"'] = '\\"' }
local escapes = setmetatable({}, {
  __index = function(_, char)
    return NAMED[char] or ('\\x%02x'):format(byte(char))
  end,
})
local bare_escapes = setmetatable({ ['\n'] = '\n', ['\t'] = '\t' }, {
  __index = function(_, char)
    return ('\\x%02x'):format(byte(char))
  end,
})

-- Characters that change the direction of what follows, hide or move it: C1 controls, bidi, separators, the BOM.
local function is_hidden(char)
  return find(char, '^\194[\128-\159\173]') or find(char, '^\226\128[\139-\143\168-\174]') or find(char, '^\226\129[\160-\175]')
    or char == '\216\156' or char == '\239\187\191' or find(char, '^\239\191[\185-\187]') or find(char, '^\243\160')
end

local function code_of(char)
  local a, b, d, e = byte(char, 1, 4)
  if e then
    return ((a % 8 * 64 + b % 64) * 64 + d % 64) * 64 + e % 64
  elseif d then
    return (a % 16 * 64 + b % 64) * 64 + d % 64
  end
  return a % 32 * 64 + b % 64
end

local function escape_high(run)
  local out, at = {}, 1
  while at <= #run do
    local length = 4
    while length > 1 and (at + length - 1 > #run or not c.utf8_valid(sub(run, at, at + length - 1))) do
      length = length - 1
    end
    local char = sub(run, at, at + length - 1)
    if length == 1 then
      out[#out + 1] = ('\\x%02x'):format(byte(char))
    elseif #char > 1 and is_hidden(char) then
      out[#out + 1] = ('\\u{%x}'):format(code_of(char))
    else
      -- four bytes may hold two characters of two
      local first = 2
      while first < length and not c.utf8_valid(sub(char, 1, first)) do
        first = first + 1
      end
      char = sub(char, 1, first)
      out[#out + 1] = is_hidden(char) and ('\\u{%x}'):format(code_of(char)) or char
      length = first
    end
    at = at + length
  end
  return table.concat(out)
end
local high = setmetatable({}, {
  __index = function(_, run)
    return escape_high(run)
  end,
})

--- Text in which line ends and tabs stay, and whatever else a terminal would obey is written as \xHH or \u{...}.
---@param text string
---@return string
function show.plain(text)
  if not find(text, '[^\n\t\32-\126]') then
    return text
  end
  local out = {}
  for from = 1, #text, 1048576 do -- a pattern function runs in C, where nothing can interrupt it
    out[#out + 1] = sub(text, from, from + 1048575):gsub('[%c\127]', bare_escapes):gsub('[\128-\255]+', high)
  end
  return table.concat(out)
end

--- At most `max` bytes of a text, not cut inside a character.
local function cut(text, max)
  if #text <= max then
    return text
  end
  local stop = max
  while stop > max - 4 and stop > 0 and byte(text, stop + 1) >= 0x80 and byte(text, stop + 1) < 0xc0 do
    stop = stop - 1
  end
  return sub(text, 1, stop)
end

local function with_commas(n)
  local text = ('%d'):format(n)
  repeat
    local count
    text, count = text:gsub('^(%d+)(%d%d%d)', '%1,%2')
  until count == 0
  return text
end
show.with_commas = with_commas

--- A string in quotes, cut at `max` bytes.
function show.quoted(text, max)
  local head = cut(text, max or MAX_INNER)
  local out = '"' .. head:gsub('[%c\127\\"]', escapes):gsub('[\128-\255]+', high) .. '"'
  if #head < #text then
    out = ('%s... (%s bytes)'):format(out, with_commas(#text))
  end
  return out
end

--- Lines of at most `width` columns, parted at blanks where there are some; `pad` stands before all but the first. Text
--- without escapes.
function show.wrapped(text, width, pad)
  local out = {}
  for line in (text .. '\n'):gmatch '(.-)\n' do
    while #line > width do
      local stop = width
      local blank = sub(line, 1, width + 1):match '^.*() '
      if blank and blank > width / 2 then
        stop = blank - 1
      else -- not inside a character
        while stop > 1 and (byte(line, stop + 1) or 0) >= 0x80 and byte(line, stop + 1) < 0xc0 do
          stop = stop - 1
        end
      end
      out[#out + 1] = sub(line, 1, stop)
      line = sub(line, stop + 1):gsub('^ ', '')
    end
    out[#out + 1] = line
  end
  return table.concat(out, '\n' .. pad)
end

--- Where a function is written, "policy.lua:12"; files of the runtime without its directory.
function show.place(fn)
  local info = debug.getinfo(fn, 'S')
  if info.what == 'C' then
    return 'in C'
  end
  local path = info.source:sub(1, 1) == '@' and info.source:sub(2) or info.short_src
  local share = c.share_dir .. '/'
  if path:sub(1, #share) == share and (path:find('/lua/', #share, true) or path:find('/policy-extras/', #share, true)) then
    path = path:sub(#share + 1)
  end
  return show.plain(('%s:%d'):format(path, info.linedefined))
end

-- --- colours ------------------------------------------------------------------------------------------------------

local COLOURS = { string = '\27[32m', number = '\27[36m', word = '\27[35m', dim = '\27[2m' }

local function paint(state, kind, text)
  return state.colour and COLOURS[kind] .. text .. '\27[0m' or text
end

-- --- scalars ------------------------------------------------------------------------------------------------------

local function number(value)
  if value ~= value then
    return 'nan'
  elseif value == math.huge or value == -math.huge then
    return value > 0 and 'inf' or '-inf'
  elseif value == math.floor(value) and value > -2 ^ 53 and value < 2 ^ 53 then
    return ('%.0f'):format(value)
  end
  local text = ('%.14g'):format(value)
  return tonumber(text) == value and text or ('%.17g'):format(value)
end

--- "function(a, b) policy.lua:12"
function show.callable(fn)
  local info = debug.getinfo(fn, 'Su')
  local names = {}
  for i = 1, info.nparams or 0 do
    names[i] = debug.getlocal(fn, i) or '?'
  end
  if info.isvararg then
    names[#names + 1] = '...'
  end
  return ('function(%s) %s'):format(table.concat(names, ', '), show.place(fn))
end

-- --- userdata -----------------------------------------------------------------------------------------------------

local type_names -- metatable -> name in the registry

local function type_name(meta)
  if not type_names or type_names[meta] == nil then
    type_names = {}
    for name, value in next, debug.getregistry() do
      if type(name) == 'string' and type(value) == 'table' then
        type_names[value] = name
      end
    end
    type_names[meta] = type_names[meta] or false
  end
  return type_names[meta]
end

local function message(msg)
  local function get(name, ...)
    local ok, value = pcall(function(...)
      return msg[name](msg, ...)
    end, ...)
    return ok and value or nil
  end
  local id = get 'id'
  if not id then
    return 'message (its owner has let it go)'
  end
  local data, recipients = get 'get_data' or '', {}
  for i, recipient in ipairs(get 'recipient_list' or {}) do
    recipients[i] = tostring(recipient)
  end
  local record = get('get_meta', 'log_record')
  local what = type(record) == 'table' and (', a %s record'):format(tostring(record.type)) or ''
  return ('message %s from <%s> to <%s>, %s bytes, queue %s%s'):format(id, cut(tostring(get 'sender'), 100),
    cut(table.concat(recipients, '> <'), 200), with_commas(#data), cut(tostring(get 'queue_name'), 200), what)
end

--- Raw iteration, or what __pairs gives: at most MAX_KEYS entries.
local function entries_of(value, meta)
  local list, count = {}, 0
  local proxy = meta and rawget(meta, '__pairs')
  if not proxy then
    if type(value) ~= 'table' then
      return nil
    end
    for key, entry in next, value do
      count = count + 1
      if count <= MAX_KEYS then
        list[count] = { key, entry }
      end
    end
    return list, count
  end
  local ok = pcall(function()
    for key, entry in pairs(value) do
      count = count + 1
      list[count] = { key, entry }
      if count >= MAX_PROXY then
        break
      end
    end
  end)
  return ok and list or nil, count
end

-- --- tables -------------------------------------------------------------------------------------------------------

local RANK = { number = 1, string = 2, boolean = 3 }

local function before(a, b)
  a, b = a[1], b[1]
  local rank_a, rank_b = RANK[type(a)] or 4, RANK[type(b)] or 4
  if rank_a ~= rank_b then
    return rank_a < rank_b
  elseif rank_a <= 2 then
    return a < b
  elseif rank_a == 3 then
    return not a and b
  end
  return type(a) < type(b)
end

local KEYWORDS = {}
for word in ('and break do else elseif end false for function goto if in local nil not or repeat return then true until while')
  :gmatch '%a+' do
  KEYWORDS[word] = true
end

local function key_text(key)
  if type(key) == 'string' then
    if #key <= 60 and find(key, '^[%a_][%w_]*$') and not KEYWORDS[key] then
      return key
    end
    return '[' .. show.quoted(key, 60) .. ']'
  elseif type(key) == 'number' then
    return '[' .. number(key) .. ']'
  elseif type(key) == 'function' then
    return '[' .. show.callable(key) .. ']'
  end
  return '[' .. show.plain(cut(type(key) == 'boolean' and tostring(key) or type(key), 60)) .. ']'
end

local render -- text, width on one line; width math.huge: it needs several

local function container(value, state, indent, path, depth, prefix)
  if state.above[value] then
    local text = ('<the same as %s>'):format(state.above[value])
    return paint(state, 'dim', text), #text
  elseif depth >= MAX_DEPTH then
    return prefix .. paint(state, 'dim', '{...}'), #prefix + 5
  end
  local meta = debug.getmetatable(value)
  local list, count = entries_of(value, type(meta) == 'table' and meta or nil)
  if not list then
    return nil
  elseif #list == 0 then
    return prefix .. '{}', #prefix + 2
  end
  table.sort(list, before)
  state.above[value] = path
  local parts, width, last_index = {}, #prefix + 4, 0
  local shown = 0
  for _, entry in ipairs(list) do
    if shown >= MAX_ENTRIES or state.left <= 0 then
      break
    end
    shown = shown + 1
    local key = entry[1]
    local head = ''
    if key == last_index + 1 then
      last_index = key
    else
      head = key_text(key) .. ' = '
    end
    local inner_path = type(key) == 'string' and head ~= '' and head:sub(1, 1) ~= '[' and path .. '.' .. key
      or path .. key_text(key):gsub('^[^[].*', '[%0]')
    local text, size = render(entry[2], state, indent + 2, inner_path, depth + 1)
    parts[shown] = head .. text
    width = width + #head + size + 2
  end
  state.above[value] = nil
  if count > shown then
    local more = ('... %s more'):format(with_commas(count - shown))
    parts[#parts + 1] = paint(state, 'dim', more)
    width = width + #more
  end
  if width + indent <= state.width then
    return ('%s{ %s }'):format(prefix, table.concat(parts, ', ')), width
  end
  local pad = (' '):rep(indent + 2)
  return ('%s{\n%s%s\n%s}'):format(prefix, pad, table.concat(parts, ',\n' .. pad), (' '):rep(indent)), math.huge
end

function render(value, state, indent, path, depth)
  state.left = state.left - 1
  local kind = type(value)
  if state.unwrap then
    value = state.unwrap(value)
    kind = type(value)
  end
  if kind == 'string' then
    local text = show.quoted(value, depth == 0 and MAX_STRING or MAX_INNER)
    return paint(state, 'string', text), #text
  elseif kind == 'number' then
    local text = number(value)
    return paint(state, 'number', text), #text
  elseif kind == 'nil' or kind == 'boolean' then
    return paint(state, 'word', tostring(value)), 5
  elseif kind == 'function' then
    local text = show.callable(value)
    return paint(state, 'dim', text), #text
  elseif kind == 'table' then
    return container(value, state, indent, path, depth, '')
  end
  local text
  if kind == 'userdata' then
    local meta = debug.getmetatable(value)
    local name = type(meta) == 'table' and type_name(meta)
    if rawequal(value, c.NULL) then
      text = 'null'
    elseif name == 'tr.message' then
      text = show.plain(message(value))
    elseif name == 'tr.rejection' then
      text = show.plain(cut('rejection ' .. tostring(value), MAX_STRING))
    elseif type(meta) == 'table' and rawget(meta, '__pairs') then
      local inner, width = container(value, state, indent, path, depth, name and name .. ' ' or '')
      if inner then
        return inner, width
      end
    end
  end
  if not text then
    local ok, result = pcall(tostring, value)
    text = show.plain(cut(ok and type(result) == 'string' and result or kind .. ' whose __tostring fails', MAX_STRING))
  end
  return paint(state, 'dim', text), #text
end

---@class tr.repl.show.Options
---@field width? integer      columns, default 80
---@field colour? boolean
---@field unwrap? fun(value: any): any  what stands behind a proxy

--- The value as text of one or more lines.
---@param value any
---@param options? tr.repl.show.Options
---@return string text
function show.value(value, options)
  options = options or {}
  local state = {
    width = math.max(options.width or 80, 20),
    colour = options.colour,
    unwrap = options.unwrap,
    left = MAX_NODES,
    above = {},
  }
  return (render(value, state, 0, 'it', 0))
end

return show
