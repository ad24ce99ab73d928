-- kumo.string: text functions whose patterns are literal.
local str = {}

local function check(name, ...)
  for i = 1, select('#', ...) do
    local value = select(i, ...)
    if type(value) ~= 'string' then
      error(('kumo.string.%s: argument %d: string expected, got %s'):format(name, i, type(value)), 3)
    end
  end
end

local function check_count(name, what, value, least)
  if type(value) ~= 'number' or not (value >= least and value == math.floor(value)) then -- luacheck: ignore (NaN)
    error(('kumo.string.%s: %s: integer >= %d expected, got %s'):format(name, what, least, tostring(value)), 3)
  end
end

-- Where `pattern` next stands at or after `at`; an empty one stands between all characters.
local function find(text, pattern, at)
  if at > #text + 1 then
    return nil
  end
  return text:find(pattern, at, true)
end

local function next_char(text, at)
  local byte = text:byte(at) or 0
  return at + (byte < 0xC0 and 1 or byte < 0xE0 and 2 or byte < 0xF0 and 3 or 4)
end

local function replace(text, from, to, limit)
  local out, at, search, count = {}, 1, 1, 0
  while count < limit do
    local first, last = find(text, from, search)
    if not first then
      break
    end
    out[#out + 1] = text:sub(at, first - 1)
    out[#out + 1] = to
    at, count = last + 1, count + 1
    search = from == '' and next_char(text, first) or at
  end
  out[#out + 1] = text:sub(at)
  return table.concat(out)
end

--- Replaces each occurrence of `from`; all of these functions take texts literally, not as patterns.
---@param text string
---@param from string
---@param to string
---@return string
function str.replace(text, from, to)
  check('replace', text, from, to)
  return replace(text, from, to, math.huge)
end

--- Replaces the first `limit` occurrences.
---@param text string
---@param from string
---@param to string
---@param limit integer
---@return string
function str.replacen(text, from, to, limit)
  check('replacen', text, from, to)
  check_count('replacen', 'limit', limit, 0)
  return replace(text, from, to, limit)
end

local function split(text, pattern, limit)
  local out, at, search = {}, 1, 1
  while #out + 1 < limit do
    local first, last = find(text, pattern, search)
    if not first then
      break
    end
    out[#out + 1] = text:sub(at, first - 1)
    at = last + 1
    search = pattern == '' and next_char(text, first) or at
  end
  if limit > 0 then
    out[#out + 1] = text:sub(at)
  end
  return out
end

--- The parts between the occurrences of `pattern`, empty ones included.
---@param text string
---@param pattern string
---@return string[]
function str.split(text, pattern)
  check('split', text, pattern)
  return split(text, pattern, math.huge)
end

--- At most `limit` parts: the last one is the rest.
---@param text string
---@param limit integer
---@param pattern string
---@return string[]
function str.splitn(text, limit, pattern)
  check('splitn', text, tostring(limit), pattern)
  check_count('splitn', 'limit', limit, 0)
  return split(text, pattern, limit)
end

-- Parts from the right, the last one first.
local function rsplit(text, pattern, limit)
  local all = split(text, pattern, math.huge)
  local out = {}
  for i = #all, 1, -1 do
    if #out + 1 == limit then
      out[#out + 1] = table.concat(all, pattern, 1, i)
      break
    elseif #out >= limit then
      break
    end
    out[#out + 1] = all[i]
  end
  return out
end

--- As split, from the right: the last part is the first.
---@param text string
---@param pattern string
---@return string[]
function str.rsplit(text, pattern)
  check('rsplit', text, pattern)
  return rsplit(text, pattern, math.huge)
end

--- As splitn, from the right: the last part is the first, and the last of the result is the rest.
---@param text string
---@param limit integer
---@param pattern string
---@return string[]
function str.rsplitn(text, limit, pattern)
  check('rsplitn', text, tostring(limit), pattern)
  check_count('rsplitn', 'limit', limit, 0)
  return rsplit(text, pattern, limit)
end

-- White space of Unicode beyond ASCII, as UTF-8.
local SPACES =
  { '\194\133', '\194\160', '\225\154\128', '\226\128\168', '\226\128\169', '\226\128\175', '\226\129\159', '\227\128\128' }
for i = 0x80, 0x8A do
  SPACES[#SPACES + 1] = '\226\128' .. string.char(i)
end

local function ascii_spaces(text)
  if not text:find '[\194\225-\227]' then
    return text
  end
  for _, space in ipairs(SPACES) do
    text = replace(text, space, ' ', math.huge)
  end
  return text
end

--- The words between blanks, tabs and line ends; none of them is empty.
---@param text string
---@return string[]
function str.split_ascii_whitespace(text)
  check('split_ascii_whitespace', text)
  local out = {}
  for word in text:gmatch '[^ \t\n\f\r]+' do
    out[#out + 1] = word
  end
  return out
end

--- The same with all white space of Unicode.
---@param text string
---@return string[]
function str.split_whitespace(text)
  check('split_whitespace', text)
  local out = {}
  for word in ascii_spaces(text):gmatch '%S+' do
    out[#out + 1] = word
  end
  return out
end

---@param text string
---@param prefix string
---@return boolean
function str.starts_with(text, prefix)
  check('starts_with', text, prefix)
  return text:sub(1, #prefix) == prefix
end

---@param text string
---@param suffix string
---@return boolean
function str.ends_with(text, suffix)
  check('ends_with', text, suffix)
  return suffix == '' or text:sub(-#suffix) == suffix
end

local function trim_start(text)
  while true do
    local rest = text:match '^%s*(.*)$'
    for _, space in ipairs(SPACES) do
      if rest:sub(1, #space) == space then
        rest = rest:sub(#space + 1)
        break
      end
    end
    if rest == text then
      return text
    end
    text = rest
  end
end

local function trim_end(text)
  while true do
    local last = #text
    while last > 0 and text:find('^%s', last) do
      last = last - 1
    end
    local rest = text:sub(1, last)
    for _, space in ipairs(SPACES) do
      if #rest >= #space and rest:sub(-#space) == space then
        rest = rest:sub(1, -#space - 1)
        break
      end
    end
    if rest == text then
      return text
    end
    text = rest
  end
end

--- Without the white space (of Unicode) at the start.
---@param text string
---@return string
function str.trim_start(text)
  check('trim_start', text)
  return trim_start(text)
end

--- Without the white space (of Unicode) at the end.
---@param text string
---@return string
function str.trim_end(text)
  check('trim_end', text)
  return trim_end(text)
end

--- Without the white space (of Unicode) at both ends.
---@param text string
---@return string
function str.trim(text)
  check('trim', text)
  return trim_start(trim_end(text))
end

--- Breaks a text for a header: at blanks near `soft` bytes, anywhere at `hard`, with CRLF TAB.
---@param text string
---@param soft? integer  bytes, default 75
---@param hard? integer  bytes, default 900
---@return string
function str.wrap(text, soft, hard)
  check('wrap', text)
  soft, hard = soft or 75, hard or 900
  check_count('wrap', 'soft', soft, 1)
  check_count('wrap', 'hard', hard, 1)
  local lines, line = {}, ''
  for _, word in ipairs(str.split_ascii_whitespace(text)) do
    if line ~= '' and #line + 1 + #word > soft then
      lines[#lines + 1] = line
      line = ''
    end
    line = line == '' and word or line .. ' ' .. word
    while #line > hard do
      lines[#lines + 1] = line:sub(1, hard)
      line = line:sub(hard + 1)
    end
  end
  lines[#lines + 1] = line
  return table.concat(lines, '\r\n\t')
end

-- --- the public suffix list -----------------------------------------------------------------------------------

local function psl(name, domain)
  check(name, domain)
  local bare = domain:gsub('%.$', '')
  local known = bare ~= '' and not bare:find('\0', 1, true)
  local found = known and require('tr.psl')[name == 'psl_domain' and 'registrable' or 'suffix'](bare:lower())
  return found and bare:sub(-#found) or nil -- as the caller wrote it
end

--- The part of a domain that somebody has registered, by the public suffix list: `www.example.co.uk` -> `example.co.uk`.
---@param domain string  A-labels or UTF-8; a dot at the end does not count
---@return string? domain  nil: it is a suffix itself
function str.psl_domain(domain)
  return (psl('psl_domain', domain))
end

--- The public suffix of a domain: `www.example.co.uk` -> `co.uk`.
---@param domain string
---@return string? suffix
function str.psl_suffix(domain)
  return (psl('psl_suffix', domain))
end

-- --- templates ---------------------------------------------------------------------------------------------------

--- Fills in a template. Dialects: `Jinja` (docs/log-records.md says what it knows), `Static` (the text as it is).
---@param name string       for errors; the ending `.html`, `.htm` or `.xml` escapes values for it, `.json` writes them as JSON
---@param source string
---@param context table     values by name
---@param dialect? 'Jinja'|'Static'  default 'Jinja'; 'Handlebars' is not supported
---@return string
function str.eval_template(name, source, context, dialect)
  check('eval_template', name, source)
  dialect = dialect == nil and 'Jinja' or dialect
  if dialect == 'Static' then
    return source
  elseif dialect ~= 'Jinja' then
    error(("kumo.string.eval_template: dialect: 'Jinja' or 'Static' expected, got %s"):format(tostring(dialect)), 2)
  elseif type(context) ~= 'table' and type(context) ~= 'userdata' then
    error('kumo.string.eval_template: context: table expected, got ' .. type(context), 2)
  end
  local host = require 'tr.host'
  local ending = name:match '%.(%w+)$'
  local escape = (ending == 'html' or ending == 'htm' or ending == 'xml') or ending == 'json' and 'json' or false
  local ok, text = pcall(function()
    local values = host.internal('kumo.serde').serde._plain(context, 1)
    return host.internal('kumo.template').compile(source, { name = name, autoescape = escape }):render(values)
  end)
  if not ok then
    error('kumo.string.eval_template: ' .. tostring(text), 2)
  end
  return text
end

-- --- responses ------------------------------------------------------------------------------------------------------

local HEX_4 = '%x%x%x%x'
local UUID = '%f[%w]' .. HEX_4 .. HEX_4 .. ('%-' .. HEX_4):rep(4) .. HEX_4 .. HEX_4 .. '%f[^%w]'

-- A word that looks like an identifier: hex of at least 16 digits, or letters of both cases and digits, base64 or the like.
local function id_tag(word)
  if #word >= 16 and word:find '^%x+$' and word:find '%d' then
    return '{hash}'
  end
  local mixed = word:find '%d' and word:find '%a'
  if #word >= 20 and mixed or #word >= 16 and mixed and word:find '%l' and word:find '%u' then
    return '{base64}'
  end
end

--- What two responses of one kind have in common: addresses, identifiers and times in it become `{email}`, `{ipaddr}`, `{uuid}`,
--- `{hash}`, `{base64}` and `{timestamp}`. For grouping, not for reading.
---@param text string
---@return string
function str.normalize_smtp_response(text)
  check('normalize_smtp_response', text)
  local c = require('tr.host').c
  text = text:gsub(UUID, '{uuid}')
  text = text:gsub('%d%d%d%d%-%d%d%-%d%d[T ]%d%d:%d%d:%d%d[%d.]*Z?[+-]?[%d:]*', '{timestamp}')
  text = text:gsub('%a%a%a, +%d%d? %a%a%a %d%d%d%d %d%d:%d%d:%d%d ?[+-]?[%w]*', '{timestamp}')
  text = text:gsub('[%w!#$%%&\'*+/=?^_`|~.-]+@[%w-]+%.[%w.-]*%w', '{email}')
  text = text:gsub('[%x:.]*[:.][%x:.]*%x', function(word)
    local bare, tail = word:match '^(.-)(:%d+)$'
    if c.ip_parse(word) then
      return '{ipaddr}'
    elseif bare and bare:find('.', 1, true) and c.ip_parse(bare) then
      return '{ipaddr}' .. tail
    end
  end)
  text = text:gsub('%f[%d]1[0-9]%d%d%d%d%d%d%d%d%f[%D]', '{timestamp}') -- seconds since 1970, from 2001 to 2033
  return (text:gsub('[%w+/_=-]+', id_tag))
end

return { string = str }
