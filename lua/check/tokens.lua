--- The tokens of Lua (5.1 as LuaJIT takes it). A lexer is a table: { text =, at = 1, line = 1 }.
local tokens = {}

local KEYWORDS = {}
for word in
  ([[
  and break do else elseif end false for function goto if in local nil not or repeat return then true until while
  ]]):gmatch '%S+'
do
  KEYWORDS[word] = true
end
local ESCAPES = { n = '\n', t = '\t', r = '\r', a = '\a', b = '\b', f = '\f', v = '\v' }

function tokens.fail(lexer, text)
  error(('%d: %s'):format(lexer.line, text), 0)
end

local function count_lines(lexer, from, to)
  for _ in lexer.text:sub(from, to):gmatch '\n' do
    lexer.line = lexer.line + 1
  end
end

local function long_bracket(lexer, at)
  local equals = lexer.text:match('^%[(=*)%[', at)
  if not equals then
    return nil
  end
  local stop, last = lexer.text:find(']' .. equals .. ']', at, true)
  if not stop then
    tokens.fail(lexer, 'a long bracket does not end')
  end
  count_lines(lexer, at, last)
  return lexer.text:sub(at + #equals + 2, stop - 1), last + 1
end

local function quoted(lexer, at)
  local text, quote = lexer.text, lexer.text:sub(at, at)
  local out, i = {}, at + 1
  while true do
    local ch = text:sub(i, i)
    if ch == quote then
      return table.concat(out), i + 1
    elseif ch == '' then
      tokens.fail(lexer, 'a string does not end')
    elseif ch == '\\' then
      local next_ch = text:sub(i + 1, i + 1)
      local digits = text:match('^%d%d?%d?', i + 1)
      local hex = text:match('^x(%x%x)', i + 1)
      local unicode = text:match('^u%b{}', i + 1)
      if digits then
        out[#out + 1], i = string.char(tonumber(digits) % 256), i + 1 + #digits
      elseif hex then
        out[#out + 1], i = string.char(tonumber(hex, 16)), i + 4
      elseif unicode then
        out[#out + 1], i = unicode, i + 1 + #unicode
      elseif next_ch == 'z' then
        local stop = text:find('%S', i + 2) or #text + 1
        count_lines(lexer, i, stop - 1)
        i = stop
      else
        if next_ch == '\n' then
          lexer.line = lexer.line + 1
        end
        out[#out + 1], i = ESCAPES[next_ch] or next_ch, i + 2
      end
    else
      local stop = text:find('[\\' .. quote .. ']', i) or #text + 1
      out[#out + 1] = text:sub(i, stop - 1)
      count_lines(lexer, i, stop - 1)
      i = stop
    end
  end
end

--- Reads the next token into lexer.kind and lexer.value; kind is 'name', 'string', 'number', 'end', or the symbol or keyword.
function tokens.advance(lexer)
  local text = lexer.text
  lexer.last_line = lexer.line
  while true do
    local at = text:find('%S', lexer.at)
    if not at then
      lexer.kind, lexer.value = 'end', nil
      return
    end
    count_lines(lexer, lexer.at, at - 1)
    lexer.at = at
    if text:sub(at, at + 1) ~= '--' then
      break
    end
    local _, after = long_bracket(lexer, at + 2)
    lexer.at = after or text:find('\n', at, true) or #text + 1
  end
  local at = lexer.at
  lexer.token_line = lexer.line
  local name = text:match('^[%a_\128-\255][%w_\128-\255]*', at)
  if name then
    lexer.at = at + #name
    lexer.kind, lexer.value = KEYWORDS[name] and name or 'name', name
    return
  end
  local number = text:match('^0[xX][%x%.]+[pP]?[+-]?%x*', at) or text:match('^%d[%d%.]*[eE][+-]?%d+', at)
    or text:match('^%d+%.?%d*', at) or text:match('^%.%d+[eE][+-]?%d+', at) or text:match('^%.%d+', at) -- stylua: ignore
  if number then
    if number:find '^0[xX]' and not number:find '[pP]' then
      number = number:match '^0[xX][%x%.]+'
    end
    local suffix = text:match('^[uU]?[lL][lL]', at + #number) or text:match('^[iI]', at + #number) or ''
    lexer.at = at + #number + #suffix
    lexer.kind, lexer.value = 'number', tonumber(number)
    return
  end
  local ch = text:sub(at, at)
  if ch == '"' or ch == "'" then
    lexer.value, lexer.at = quoted(lexer, at)
    lexer.kind = 'string'
    return
  end
  local long, after = long_bracket(lexer, at)
  if long then
    lexer.kind, lexer.value, lexer.at = 'string', long:gsub('^\r?\n', ''), after
    return
  end
  local symbol = text:match('^%.%.%.', at) or text:match('^%.%.', at) or text:match('^[=~<>]=', at) or text:match('^::', at) or ch
  if not symbol:find '^[%+%-%*/%%%^#=~<>%(%){}%[%];:,%.]+$' then
    tokens.fail(lexer, 'unexpected character')
  end
  lexer.at = at + #symbol
  lexer.kind, lexer.value = symbol, symbol
end


return tokens
