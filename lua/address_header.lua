--- Address lists of header fields: From, To, Reply-To ... RFC 5322 section 3.4, with what is obsolete but common in it
--- (routes, empty members, bare words before an address). Contract message.md section 5.
local decode = require('tr.message').decode_header
local c = require('tr.host').c

local address_header = {}

-- --- words ---------------------------------------------------------------------------------------------

local function fail(value)
  error(('not a list of addresses: %q'):format(value), 0)
end

--- Position behind a comment that starts at `at`; comments nest.
local function skip_comment(value, at)
  local depth = 0
  repeat
    local ch = value:sub(at, at)
    if ch == '' then
      fail(value)
    elseif ch == '(' then
      depth = depth + 1
    elseif ch == ')' then
      depth = depth - 1
    elseif ch == '\\' then
      at = at + 1
    end
    at = at + 1
  until depth == 0
  return at
end

--- { kind = 'word'|'quoted'|'literal'|special character, text = , space = blanks before it }
local function words_of(value)
  local words, at, space = {}, 1, false
  while at <= #value do
    local ch = value:sub(at, at)
    if ch:find '%s' then
      at, space = at + 1, true
    elseif ch == '(' then
      at, space = skip_comment(value, at), true
    else
      local word = { space = space }
      if ch == '"' then
        local parts = {}
        at = at + 1
        while value:sub(at, at) ~= '"' do
          if at > #value then
            fail(value)
          end
          at = value:sub(at, at) == '\\' and at + 1 or at
          parts[#parts + 1] = value:sub(at, at)
          at = at + 1
        end
        at = at + 1
        word.kind, word.text = 'quoted', table.concat(parts):gsub('\r?\n', '')
      elseif ch == '[' then
        local stop = value:find(']', at, true) or fail(value)
        word.kind, word.text = 'literal', value:sub(at, stop)
        at = stop + 1
      elseif ch:find '[<>,:;@]' then
        word.kind, word.text = ch, ch
        at = at + 1
      else
        word.kind, word.text = 'word', value:match('^[^%s()<>,:;@"%[%]]+', at) or fail(value)
        at = at + #word.text
      end
      words[#words + 1], space = word, false
    end
  end
  return words
end

-- --- objects ---------------------------------------------------------------------------------------------

local function json_of(entry)
  return ('{"name":%s,"address":%s}'):format(
    entry.name and c.json_encode(entry.name, false) or 'null',
    entry.email and c.json_encode(entry.email, false) or 'null'
  )
end

local Entry = { __tostring = json_of }

local function new_entry(name, user, domain)
  return setmetatable({ name = name, user = user, domain = domain, email = domain and user .. '@' .. domain or user }, Entry)
end

local Header = {}

function Header.__index(self, key)
  if key == 'user' or key == 'domain' or key == 'email' or key == 'name' then
    local only = rawget(self, 'items')
    if #only ~= 1 or only[1].group then
      error(('.%s needs a header of exactly one address; .list has all of them'):format(key), 2)
    end
    return only[1].entry[key]
  end
  return nil
end

function Header.__tostring(self)
  local parts = {}
  for i, item in ipairs(rawget(self, 'items')) do
    if item.group then
      local inner = {}
      for j, entry in ipairs(item.entries) do
        inner[j] = json_of(entry)
      end
      parts[i] = ('{"Group":{"name":%s,"addresses":[%s]}}'):format(
        c.json_encode(item.group, false),
        table.concat(inner, ',')
      )
    else
      parts[i] = '{"Address":' .. json_of(item.entry) .. '}'
    end
  end
  return '[' .. table.concat(parts, ',') .. ']'
end

-- --- grammar ----------------------------------------------------------------------------------------------

--- Words from `first` to `last` as a display name; nil if there are none.
local function phrase(words, first, last)
  local parts = {}
  for i = first, last do
    if i > first and words[i].space then
      parts[#parts + 1] = ' '
    end
    parts[#parts + 1] = words[i].text
  end
  local text = decode(table.concat(parts))
  return text ~= '' and text or nil
end

--- Words from `first` to `last` as local part and domain.
local function addr_spec(value, words, first, last)
  local sign
  for i = first, last do
    if words[i].kind == '@' then
      sign = i -- the last one: a quoted local part is one word
    elseif words[i].kind == '<' or words[i].kind == '>' or words[i].kind == ':' then
      fail(value)
    end
  end
  if first > last or sign == first or sign == last then
    fail(value)
  end
  local user, domain = {}, {}
  for i = first, (sign or last + 1) - 1 do
    user[#user + 1] = words[i].text
  end
  for i = sign and sign + 1 or last + 1, last do
    domain[#domain + 1] = words[i].text
  end
  return table.concat(user), sign and table.concat(domain) or nil
end

--- One mailbox out of the words from `first` to `last`.
local function mailbox(value, words, first, last)
  for i = first, last do
    if words[i].kind == '<' then
      if words[last].kind ~= '>' then
        fail(value)
      end
      local from = i + 1
      for j = from, last - 1 do
        if words[j].kind == ':' then -- the end of a source route
          from = j + 1
        end
      end
      local name = phrase(words, first, i - 1)
      if from == last then
        return new_entry(name, '', nil)
      end
      return new_entry(name, addr_spec(value, words, from, last - 1))
    end
  end
  return new_entry(nil, addr_spec(value, words, first, last))
end

--- Parses a raw header value. Raises for what is no list of addresses.
---@param value string
---@return kumo.AddressHeader
function address_header.parse(value)
  local words = words_of(value)
  local items, list, group = {}, c.array {}, nil
  local first, angle = 1, false
  local function member(last)
    if last >= first then
      local entry = mailbox(value, words, first, last)
      list[#list + 1] = entry
      local into = group and group.entries or items
      into[#into + 1] = group and entry or { entry = entry }
    end
    first = last + 2
  end
  for i, word in ipairs(words) do
    if word.kind == '<' then
      angle = true
    elseif word.kind == '>' then
      angle = false
    elseif angle then -- commas and colons of a route
      angle = true
    elseif word.kind == ',' then
      member(i - 1)
    elseif word.kind == ':' then
      if group or i == first then
        fail(value)
      end
      group = { group = phrase(words, first, i - 1) or '', entries = {} }
      items[#items + 1], first = group, i + 1
    elseif word.kind == ';' then
      if not group then
        fail(value)
      end
      member(i - 1)
      group = nil
    end
  end
  member(#words)
  return setmetatable({ items = items, list = list }, Header)
end

return address_header
