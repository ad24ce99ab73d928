--- The text of a template in pieces, and the tokens of the expressions in them. `state` is the template's: name, text.
local scanner = {}

local function line_at(text, at)
  local line = 1
  for _ in text:sub(1, at - 1):gmatch '\n' do
    line = line + 1
  end
  return line
end

--- Raises "NAME:LINE: TEXT".
function scanner.fail(state, at, fmt, ...)
  error(('%s:%d: %s'):format(state.name, line_at(state.text, at), fmt:format(...)), 0)
end

-- Where an expression that starts at `at` ends: the closing mark outside of quotes.
local function find_close(state, at, mark, start)
  local text = state.text
  local i = at
  while true do
    local s = text:find('[\'"%%}]', i)
    if not s then
      scanner.fail(state, start, "'%s' is missing", mark)
    end
    local ch = text:sub(s, s)
    if ch == "'" or ch == '"' then
      i = s + 1
      while true do
        local q = text:find('[\\' .. ch .. ']', i)
        if not q then
          scanner.fail(state, s, 'a text without its closing quote')
        end
        if text:sub(q, q) == ch then
          i = q + 1
          break
        end
        i = q + 2
      end
    elseif text:sub(s, s + 1) == mark then
      return s
    else
      i = s + 1
    end
  end
end

--- Pieces: { kind = 'text' | 'expr' | 'tag', value, at }. A `-` inside a mark takes the blanks on its side away.
function scanner.pieces(state)
  local text, pieces, at, strip = state.text, {}, 1, false
  local function add_text(value, strip_right)
    if strip then
      value = value:gsub('^%s+', '')
    end
    if strip_right then
      value = value:gsub('%s+$', '')
    end
    if value ~= '' then
      pieces[#pieces + 1] = { kind = 'text', value = value }
    end
  end
  while true do
    local start, _, kind = text:find('{([{%%#])', at)
    if not start then
      add_text(text:sub(at), false)
      return pieces
    end
    local inner = start + 2
    local left = text:sub(inner, inner) == '-'
    add_text(text:sub(at, start - 1), left)
    if left then
      inner = inner + 1
    end
    local close
    if kind == '#' then
      close = text:find('#}', inner, true)
      if not close then
        scanner.fail(state, start, "'#}' is missing")
      end
    else
      close = find_close(state, inner, kind == '{' and '}}' or '%}', start)
    end
    strip = close > inner and text:sub(close - 1, close - 1) == '-'
    if kind ~= '#' then
      pieces[#pieces + 1] =
        { kind = kind == '{' and 'expr' or 'tag', value = text:sub(inner, strip and close - 2 or close - 1), at = inner }
    end
    at = close + 2
  end
end

local OPERATORS = { ['=='] = true, ['!='] = true, ['<='] = true, ['>='] = true }

--- Tokens of an expression: { type, value, at }.
function scanner.tokens(state, source, base)
  local list, i = {}, 1
  while true do
    i = source:find('%S', i)
    if not i then
      list[#list + 1] = { 'end', 'the end', base + #source }
      return list
    end
    local at, ch = base + i - 1, source:sub(i, i)
    local word = source:match('^[%a_][%w_]*', i)
    local number = source:match('^%d+%.?%d*', i)
    if word then
      list[#list + 1] = { 'name', word, at }
      i = i + #word
    elseif number then
      list[#list + 1] = { 'number', tonumber(number), at }
      i = i + #number
    elseif ch == '"' or ch == "'" then
      local out, k = {}, i + 1
      while source:sub(k, k) ~= ch do
        local got = source:sub(k, k)
        if got == '\\' then
          local after = source:sub(k + 1, k + 1)
          got = ({ n = '\n', t = '\t', r = '\r' })[after] or after
          k = k + 1
        end
        out[#out + 1] = got
        k = k + 1
      end
      list[#list + 1] = { 'text', table.concat(out), at }
      i = k + 1
    else
      local two = source:sub(i, i + 1)
      local op = OPERATORS[two] and two or ch:match '[%.%[%]%(%)|,<>+%-*/~:]' or nil
      if not op then
        scanner.fail(state, at, "'%s' is not expected here", ch)
      end
      list[#list + 1] = { 'op', op, at }
      i = i + #op
    end
  end
end


return scanner
