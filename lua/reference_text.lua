--- The reference as text: for `tailrace help` and for docs/reference.
local host = require 'tr.host'
local reference = host.internal 'reference'
local c = host.c

local text = {}

-- --- what both have in common -------------------------------------------------------------------------------------

--- Titles of the pages, with a line about each.
local TITLES = {
  admin = { 'Administration', 'kumo.api: injection, bounces, suspensions and dead letters from Lua' },
  events = { 'Events', 'what kumo.on takes: the name, and the arguments and results of its handler' },
  kumo = { 'kumo', 'events, rejections, tasks, the log, caches, questions to the configuration' },
  ['kumo.test'] = { 'kumo.test', 'a runtime in a test: see testing.md' },
  listeners = { 'Listeners and spools', 'what init sets up, and the objects of an SMTP session' },
  messages = { 'Messages', 'what handlers get as msg' },
  queues = { 'Queues, paths and sources', 'what the configuration events return' },
  records = { 'Log hooks and records', 'hooks, local logs, and what send and send_batch may return' },
  settings = { 'Settings without effect', 'accepted for policies that call them' },
}

function text.title(page)
  return (TITLES[page] or { page })[1]
end

local function about(page)
  return (TITLES[page] or {})[2] or ''
end

--- Pages in the order of the index: the general ones, kumo.*, policy-extras.*.
---@return { name: string, entries: tr.reference.Entry[] }[]
function text.pages()
  local by_name, list = {}, {}
  for _, entry in ipairs(reference.all().list) do
    local page = by_name[entry.page]
    if not page then
      page = { name = entry.page, entries = {} }
      by_name[entry.page] = page
      list[#list + 1] = page
    end
    if not entry.name:find(':', 1, true) or entry.page:find '^policy%-extras' then
      page.entries[#page.entries + 1] = entry -- methods stand with their class
    end
  end
  local function rank(name)
    return name == 'kumo' and '0' or name:find '^policy' and '3' .. name or name:find '%.' and '2' .. name or '1' .. name
  end
  table.sort(list, function(a, b)
    return rank(a.name) < rank(b.name)
  end)
  return list
end

local function is_method_of_class(entry)
  local owner = entry.name:match '^(.-):'
  local class = owner and reference.all().by_name[owner]
  return class ~= nil and class.kind == 'class'
end

local function signature(entry, short)
  local names = {}
  for _, param in ipairs(entry.params) do
    names[#names + 1] = param.optional and '[' .. param.name .. ']' or param.name
  end
  local list = table.concat(names, ', ')
  if #names == 0 and entry.signature then
    list = entry.signature:sub(2, -2)
  end
  local results = {}
  for i, value in ipairs(entry.returns) do
    results[i] = value.type
  end
  return ('%s(%s)'):format(short or entry.name, list), table.concat(results, ', ')
end

local function first_sentence(entry)
  local whole = table.concat(entry.text, ' ')
  return whole:match '^(.-[^%.]%.)%s' or whole
end

--- The class of options that a function takes; nil: none.
local function options_of(entry)
  for _, param in ipairs(entry.params) do
    local class = reference.all().by_name[(param.type:gsub('[%?%[%]]', ''))]
    if class and class.kind == 'class' and #class.methods == 0 then
      return class
    end
  end
end

local function sorted_fields(class)
  local out, seen = {}, {}
  local up = class
  while up do
    for _, field in ipairs(up.fields) do
      if not seen[field.name] then
        seen[field.name] = true
        out[#out + 1] = field
      end
    end
    up = up.parent and reference.all().by_name[up.parent]
  end
  return out
end

-- --- Markdown --------------------------------------------------------------------------------------------------------

local function cell(value)
  return (value:gsub('|', '\\|'))
end

local function code(value)
  return value:find '`' and value or '`' .. value .. '`'
end

local function values_table(out, values, head)
  out[#out + 1] = ('\n| %s | Type | |\n|---|---|---|\n'):format(head)
  for _, value in ipairs(values) do
    local name = value.name .. (value.optional and value.name ~= '...' and '?' or '')
    out[#out + 1] = ('| %s | %s | %s |\n'):format(code(name), cell(code((value.type:gsub('%?$', '')))), cell(value.text))
  end
end

local function markdown_function(out, entry, level, short)
  local call, results = signature(entry, short)
  out[#out + 1] = ('\n%s `%s`\n'):format(level, call)
  if #entry.text > 0 then
    out[#out + 1] = '\n' .. table.concat(entry.text, '\n') .. '\n'
  end
  if entry.is_async then
    out[#out + 1] = '\nWaits: other tasks run meanwhile.\n'
  end
  if #entry.params > 0 then
    values_table(out, entry.params, 'Parameter')
  end
  if results ~= '' then
    local parts, plain = {}, true
    for i, value in ipairs(entry.returns) do
      parts[i] = code(value.type) .. (value.name ~= '' and ' ' .. value.name or '')
      plain = plain and value.text == ''
    end
    if plain then
      out[#out + 1] = '\nReturns ' .. table.concat(parts, ', ') .. '\n'
    else
      out[#out + 1] = '\nReturns\n\n'
      for i, value in ipairs(entry.returns) do
        out[#out + 1] = ('- %s%s\n'):format(parts[i], value.text ~= '' and ': ' .. value.text or '')
      end
    end
  end
end

local function markdown(out, entry)
  if entry.kind == 'function' then
    markdown_function(out, entry, '##')
    return
  end
  out[#out + 1] = ('\n## `%s`\n'):format(entry.name)
  if entry.kind == 'event' then
    out[#out + 1] = ('\n`%s`\n'):format(entry.type)
  elseif entry.kind == 'alias' then
    out[#out + 1] = ('\n`%s`\n'):format(entry.type)
  end
  if #entry.text > 0 then
    out[#out + 1] = '\n' .. table.concat(entry.text, '\n') .. '\n'
  end
  if entry.parent then
    out[#out + 1] = ('\nHas what `%s` has, and:\n'):format(entry.parent)
  end
  if #entry.fields > 0 then
    values_table(out, entry.fields, 'Field')
  end
  for _, method in ipairs(entry.methods or {}) do
    markdown_function(out, method, '###', ':' .. method.short)
  end
end

local GENERATED = '<!-- Written by spec/reference_pages.lua from the type comments. Change those. -->\n'

--- The pages of docs/reference: file name -> text.
---@return table<string, string>
function text.markdown_pages()
  local out, index = {}, { GENERATED, '# Reference\n' }
  index[#index + 1] = '\nThe same in the terminal: `tailrace help NAME`. Types for editors: [editors.md](../editors.md).\n'
    .. '\n| Page | |\n|---|---|\n'
  for _, page in ipairs(text.pages()) do
    local lines = { GENERATED, ('# %s\n'):format(text.title(page.name)) }
    if about(page.name) ~= '' then
      lines[#lines + 1] = '\n' .. about(page.name):gsub('^%l', string.upper) .. '.\n'
    end
    local names = {}
    for _, entry in ipairs(page.entries) do
      if not is_method_of_class(entry) then
        markdown(lines, entry)
        names[#names + 1] = entry.name
      end
    end
    out[page.name .. '.md'] = table.concat(lines)
    local line = about(page.name)
    if line == '' then
      line = ('%d %s'):format(#names, #names == 1 and 'entry' or 'entries')
    end
    index[#index + 1] = ('| [%s](%s.md) | %s |\n'):format(text.title(page.name), page.name, line)
  end
  out['README.md'] = table.concat(index)
  return out
end

-- --- the terminal -----------------------------------------------------------------------------------------------------

local WIDTH = 100

local function wrap(out, margin, value)
  local line = margin
  for word in value:gmatch '%S+' do
    if #line + #word + 1 > WIDTH and line:find '%S' then
      out[#out + 1] = line .. '\n'
      line = margin
    end
    line = line .. (line:find '%S' and ' ' or '') .. word
  end
  if line:find '%S' then
    out[#out + 1] = line .. '\n'
  end
end

-- Prose is wrapped, what is indented stays.
local function prose(out, lines)
  local paragraph = {}
  local function flush()
    if #paragraph > 0 then
      wrap(out, '  ', table.concat(paragraph, ' '))
      paragraph = {}
    end
  end
  for _, line in ipairs(lines) do
    if line:find '^%s*$' then
      flush()
      out[#out + 1] = '\n'
    elseif line:find '^    ' then
      flush()
      out[#out + 1] = '  ' .. line .. '\n'
    else
      paragraph[#paragraph + 1] = line
    end
  end
  flush()
end

local function columns(out, values)
  local name_width = 0
  for _, value in ipairs(values) do
    name_width = math.max(name_width, #value.name + (value.optional and 1 or 0))
  end
  name_width = math.min(name_width, 28)
  for _, value in ipairs(values) do
    local name = value.name .. (value.optional and value.name ~= '...' and '?' or '')
    local head = ('  %-' .. name_width .. 's  %s'):format(name, (value.type:gsub('%?$', '')))
    if value.text == '' then
      out[#out + 1] = head .. '\n'
    elseif #head + #value.text + 2 <= WIDTH then
      out[#out + 1] = ('%-' .. (name_width + 22) .. 's  %s\n'):format(head, value.text)
    else
      out[#out + 1] = head .. '\n'
      wrap(out, (' '):rep(name_width + 6), value.text)
    end
  end
end

local function terminal(entry, bold)
  local out = {}
  if entry.kind == 'function' then
    local call, results = signature(entry)
    out[1] = bold(call) .. (results ~= '' and ' -> ' .. results or '') .. '\n'
  else
    local kinds = { event = 'event', class = 'object', alias = 'type' }
    out[1] = ('%s  (%s)\n'):format(bold(entry.name), kinds[entry.kind])
  end
  if #entry.text > 0 then
    out[#out + 1] = '\n'
    prose(out, entry.text)
  end
  if entry.kind == 'event' or entry.kind == 'alias' then
    out[#out + 1] = '\n  ' .. entry.type .. '\n'
  end
  if entry.is_async then
    out[#out + 1] = '  Waits: other tasks run meanwhile.\n'
  end
  if #entry.params > 0 then
    out[#out + 1] = '\n'
    columns(out, entry.params)
  end
  local returns = false
  for _, value in ipairs(entry.returns or {}) do
    if value.text ~= '' or value.name ~= '' then
      out[#out + 1] = not returns and '\n' or nil
      returns = true
      local name = value.name ~= '' and value.name .. (value.text ~= '' and ': ' or '') or ''
      wrap(out, '  ', ('Returns %s  %s%s'):format(value.type, name, value.text))
    end
  end
  local options = entry.kind == 'function' and options_of(entry)
  if options then
    out[#out + 1] = ('\n%s\n'):format(options.name)
    columns(out, sorted_fields(options))
  elseif entry.kind == 'class' then
    local fields = sorted_fields(entry)
    if #fields > 0 then
      out[#out + 1] = '\n'
      columns(out, fields)
    end
    for _, method in ipairs(entry.methods) do
      local call, results = signature(method, ':' .. method.short)
      out[#out + 1] = ('\n  %s%s\n'):format(bold(call), results ~= '' and ' -> ' .. results or '')
      wrap(out, '      ', table.concat(method.text, ' '))
    end
  end
  out[#out + 1] = ('\nMore: docs/reference/%s.md\n'):format(entry.page)
  return table.concat(out)
end

local function page_list(page, bold)
  local out = { bold(text.title(page.name)) .. '\n' }
  if about(page.name) ~= '' then
    wrap(out, '', about(page.name))
  end
  out[#out + 1] = '\n'
  local width = 0
  for _, entry in ipairs(page.entries) do
    width = math.max(width, #entry.name)
  end
  width = math.min(width, 44)
  for _, entry in ipairs(page.entries) do
    if page.is_list or not is_method_of_class(entry) then
      local line = ('  %-' .. width .. 's  %s'):format(entry.name, first_sentence(entry))
      if #line > WIDTH then
        line = line:sub(1, WIDTH - 3):gsub('%s+%S*$', '') .. ' ...'
      end
      out[#out + 1] = line:gsub('%s+$', '') .. '\n'
    end
  end
  return table.concat(out)
end

-- c.nearest takes 512 names at most.
local function nearest(name, names)
  local best = {}
  for from = 1, #names, 500 do
    local part = {}
    for i = from, math.min(from + 499, #names) do
      part[#part + 1] = names[i]
    end
    best[#best + 1] = c.nearest(name, part)
  end
  return c.nearest(name, best)
end

local function unknown(name, commands)
  local names, seen = { unpack(commands or {}) }, {}
  local function take(one)
    if not seen[one] then
      seen[one] = true
      names[#names + 1] = one
    end
  end
  for _, entry in ipairs(reference.all().list) do
    take(entry.name)
    take(entry.name:match '[%w_]+$')
  end
  for _, page in ipairs(text.pages()) do
    take(page.name)
  end
  local near = nearest(name, names)
  near = near and (", did you mean '%s'?"):format(near) or ''
  return ("tailrace help: there is no '%s'%s\nTry 'tailrace help'.\n"):format(name, near)
end

--- The topics that `tailrace help` names.
---@return string
function text.topics()
  local out = {}
  for _, page in ipairs(text.pages()) do
    out[#out + 1] = page.name
  end
  local lines = { 'Topics of policies:\n' }
  wrap(lines, '  ', table.concat(out, '  '))
  return table.concat(lines)
end

--- What `tailrace help NAME` prints: an entry by its full name or the end of it, or a page.
---@param name string
---@param colours boolean
---@param commands? string[]  further names, for "did you mean"
---@return string text
---@return boolean found
function text.help(name, colours, commands)
  local function bold(value)
    return colours and '\27[1m' .. value .. '\27[0m' or value
  end
  local entry = reference.all().by_name[name] or reference.all().by_name['kumo.' .. name]
  for _, page in ipairs(text.pages()) do
    if page.name == name or (not entry and text.title(page.name):lower() == name:lower()) then
      return page_list(page, bold), true
    end
  end
  if entry then
    return terminal(entry, bold), true
  end
  local found = {} -- by the last part of the name
  local plain = name:match '([%w_]+)%(?%)?$'
  for _, one in ipairs(reference.all().list) do
    local tail = one.name:sub(-#name)
    local before = one.name:sub(-#name - 1, -#name - 1)
    if plain and (tail == name and before:find '[%.:]' or one.name:match '[%w_]+$' == plain and not name:find '[%.:]') then
      found[#found + 1] = one
    end
  end
  if #found == 1 then
    return terminal(found[1], bold), true
  elseif #found > 1 then
    return page_list({ name = name, entries = found, is_list = true }, bold), true
  end
  for _, page in ipairs(text.pages()) do -- log_hooks, without policy-extras before it
    if page.name:match '[%w_]+$' == name then
      return page_list(page, bold), true
    end
  end
  return unknown(name, commands), false
end

--- `tailrace help NAME`: the text, and the exit status. Without a name: the topics; --luarc and --luacheckrc: files for
--- policy projects.
function host.entry.help(name, colours, commands)
  if name == '' then
    return text.topics(), 0
  elseif name == '--luarc' then
    return host.internal('editor_files').luarc(), 0
  elseif name == '--luacheckrc' then
    return host.internal('editor_files').luacheckrc(), 0
  end
  local out, found = text.help(name, colours, commands)
  return out, found and 0 or 64
end

return text
