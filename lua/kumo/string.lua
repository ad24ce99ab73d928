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

for _, name in ipairs { 'psl_domain', 'psl_suffix', 'eval_template', 'normalize_smtp_response' } do
  str[name] = function()
    error(('kumo.string.%s is not supported by Tailrace'):format(name), 2)
  end
end

return { string = str }
