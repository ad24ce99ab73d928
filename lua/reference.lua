--- What there is for policies, as the type comments say: lua/meta (functions in C, and what is made in loops) and the comments
--- beside the functions in lua/ and policy-extras/. `tailrace help NAME`, `tailrace check` and docs/reference read it here.
local host = require 'tr.host'
local c = host.c

local find = string.find
local reference = {}

---@class tr.reference.Value   a parameter, a result or a field
---@field name string
---@field type string
---@field optional boolean
---@field text string

---@class tr.reference.Entry
---@field name string          "kumo.sleep", "kumo.Message:get_meta", "kumo.SpoolOptions", "init"
---@field kind 'function'|'class'|'alias'|'event'
---@field text string[]        lines
---@field params tr.reference.Value[]
---@field returns tr.reference.Value[]
---@field fields tr.reference.Value[]   of a class
---@field methods tr.reference.Entry[]  of a class
---@field type? string         of an alias or event
---@field parent? string       of a class
---@field is_async? boolean
---@field complete? boolean    of a class: all its methods are known
---@field file string          below the share directory
---@field line integer

-- --- comments -------------------------------------------------------------------------------------------------

local CLOSE = { ['('] = ')', ['{'] = '}', ['['] = ']', ['<'] = '>' }

--- The type at the start of a text, and what follows it.
local function split_type(text)
  local plain, rest = text:match '^([%w_%.%?%[%]]+)%s*(.*)$' -- most are
  if plain and (rest == '' or not rest:find '^[|%(<{\'",:`]' and text:find('^%s', #plain + 1)) then
    return plain, rest
  end
  local depth, quote, at = 0, nil, 1
  while at <= #text do
    local ch = text:sub(at, at)
    if quote then
      quote = ch ~= quote and quote or nil
    elseif ch == "'" or ch == '"' or ch == '`' then
      quote = ch
    elseif CLOSE[ch] then
      depth = depth + 1
    elseif ch:find '[%)}%]>]' then
      depth = depth - 1
    elseif ch:find '%s' and depth == 0 then
      local before, next_at = text:sub(at - 1, at - 1), text:find('%S', at)
      if not next_at or not (before:find '[:|,]' or text:sub(next_at, next_at) == '|') then
        break
      end
    end
    at = at + 1
  end
  return text:sub(1, at - 1), (text:sub(at):gsub('^%s+', ''))
end

local function value_of(text, named)
  local name, rest = '', text
  if named then
    name, rest = text:match '^([%w_%.]+%??)%s+(.*)$'
    if not name then -- a keyword: ["end"]?
      local quoted, mark, more = text:match '^%[["\']([%w_]+)["\']%](%??)%s+(.*)$'
      name, rest = quoted and quoted .. mark, more
    end
    if not name then
      local key -- a field by type: [string] any
      key, rest = text:match '^(%b[])%s+(.*)$'
      name, rest = key or text, rest or ''
    end
  end
  local kind, about = split_type(rest)
  local optional = name:sub(-1) == '?'
  if not named then
    local given, more = about:match '^([%a_][%w_]*)%s%s+(.*)$'
    name, about = given or about:match '^[%a_][%w_]*$' or '', more or not about:find '^[%a_][%w_]*$' and about or ''
  end
  return { name = name:gsub('%?$', ''), type = kind, optional = optional or kind:sub(-1) == '?', text = about }
end

--- A block of comment lines (without the dashes) as an entry.
local function read_block(lines)
  local entry = { text = {}, params = {}, returns = {}, fields = {} }
  local last -- the value that a further line goes on with
  local function take(list, value)
    last = value
    list[#list + 1] = value
  end
  for _, line in ipairs(lines) do
    local tag, rest
    if find(line, '@', 1, true) == 1 then
      tag, rest = line:match '^@(%a+)%s*(.*)$'
    end
    if not tag then
      if line:find '^%s*Metatable: %S' then
        entry.complete = true
      elseif last and line:find '^%s%s%s%s%s' then
        last.text = (last.text .. ' ' .. line:match '^%s*(.-)%s*$'):gsub('^ ', '')
      elseif line:sub(1, 2) == '| ' and entry.kind == 'alias' then
        entry.type = entry.type .. '|' .. split_type(line:sub(3))
      else
        entry.text[#entry.text + 1] = line:gsub('^ ', '')
      end
    elseif tag == 'param' then
      take(entry.params, value_of(rest, true))
    elseif tag == 'return' then
      take(entry.returns, value_of(rest))
    elseif tag == 'field' then
      local scope, member = rest:match '^(%a+)%s+(.*)$'
      if scope == 'package' or scope == 'private' or scope == 'protected' or rest:find '^_' then
        rest = nil
      elseif scope == 'public' then
        rest = member
      end
      if rest then
        take(entry.fields, value_of(rest, true))
      end
    elseif tag == 'class' then
      local name, more = rest:gsub('^%(exact%)%s*', ''):match '^([%w_%.%-]+)%s*(.*)$'
      entry.kind, entry.name, entry.exact = 'class', name, rest:find '^%(exact%)' ~= nil
      local parent, about = (more or ''):match '^:%s*([%w_%.]+)%s*(.*)$'
      entry.parent = parent
      about = parent and about or more
      if about and about ~= '' then
        entry.text[#entry.text + 1] = about
      end
    elseif tag == 'alias' then
      local name, more = rest:match '^([%w_%.]+)%s*(.*)$'
      local kind, about = split_type(more or '')
      entry.kind, entry.name, entry.type = 'alias', name, kind
      if about ~= '' then
        entry.text[#entry.text + 1] = about
      end
    elseif tag == 'async' then
      entry.is_async = true
    elseif tag == 'package' or tag == 'private' or tag == 'protected' then
      entry.hidden = true
    end
  end
  return entry
end

---@class tr.reference.File
---@field functions tr.reference.Entry[]   with `owner`, `sep` and `short`
---@field by_line table<integer, tr.reference.Entry>
---@field classes tr.reference.Entry[]     with `variable`
---@field aliases tr.reference.Entry[]
---@field returned? string                 the variable that the file returns

local function read_text(path)
  local file, err = io.open(path, 'rb')
  if not file then
    error(err, 0)
  end
  local text = file:read '*a'
  file:close()
  return text
end

local files = {} -- path -> tr.reference.File

--- The comments of a file below the share directory.
---@param path string
---@return tr.reference.File
function reference.read(path)
  if files[path] then
    return files[path]
  end
  local out = { functions = {}, by_line = {}, classes = {}, aliases = {} }
  local block, number = {}, 0
  local function add(entry, list, line)
    entry.file, entry.line = path, line
    list[#list + 1] = entry
    return entry
  end
  local text, at = read_text(c.share_dir .. '/' .. path) .. '\n', 1
  while at <= #text do
    local stop = find(text, '\n', at, true)
    local line = text:sub(at, stop - 1)
    number, at = number + 1, stop + 1
    local comment = find(line, '---', 1, true) and line:match '^%s*%-%-%-([^%-].*)$' or line == '---' and ''
    if comment then
      block[#block + 1] = comment
    elseif block[1] or find(line, 'function', 1, true) then
      local entry = read_block(block)
      local owner, sep, short = line:match '^%s*function ([%w_%.]-)([.:])([%w_]+)%s*%('
      if entry.kind == 'class' then
        entry.variable = line:match '^%s*local ([%w_]+) = '
        entry.methods = {}
        add(entry, out.classes, number - #block)
      elseif entry.kind == 'alias' then
        add(entry, out.aliases, number - #block)
      elseif owner then
        entry.kind, entry.owner, entry.sep, entry.short = 'function', owner, sep, short
        entry.signature = line:match '(%b())'
        out.by_line[number] = add(entry, out.functions, number)
      elseif line:find 'function%s*%(' or line:find '^%s*local function' then
        entry.kind = 'function'
        entry.signature = line:match 'function%s*[%w_]*%s*(%b())'
        entry.file, entry.line = path, number
        out.by_line[number] = entry
      end
      block = {}
    end
    if find(line, 'return', 1, true) == 1 then
      out.returned = line:match '^return ([%w_]+)%s*$' or out.returned
    end
  end
  for _, class in ipairs(out.classes) do
    for _, fn in ipairs(out.functions) do
      if class.variable and fn.owner == class.variable and not fn.hidden and not fn.short:find '^_' then
        class.methods[#class.methods + 1] = fn
      end
    end
  end
  files[path] = out
  return out
end

-- --- what there is ----------------------------------------------------------------------------------------------

local tool = require 'tr.tool'

local function meta_files()
  local out = {}
  for _, name in ipairs(tool.list(c.share_dir .. '/lua/meta') or {}) do
    if name:find '%.lua$' then
      out[#out + 1] = 'lua/meta/' .. name
    end
  end
  table.sort(out)
  return out
end

local function extra_files()
  local out = {}
  for _, name in ipairs(tool.list(c.share_dir .. '/policy-extras') or {}) do
    local is_part = name:find '^log_hook_' or name == 'data_files.lua' -- of log_hooks, of listener_domains and sources
    if name:find '%.lua$' and not is_part then
      out[#out + 1] = 'policy-extras/' .. name
    end
  end
  table.sort(out)
  return out
end

--- Modules of the runtime that policies require.
reference.MODULES = { 'kumo', 'kumo.test', 'redis', 'sqlite' }

--- Functions of these modules by their full names, as they are now.
---@return table<string, function>
function reference.exported()
  local out, seen = {}, {}
  local function walk(prefix, from)
    if seen[from] then
      return
    end
    seen[from] = true
    for key, value in next, from do
      if type(key) == 'string' and not key:find '^_' then
        if type(value) == 'function' then
          out[prefix .. key] = value
        elseif type(value) == 'table' then
          walk(prefix .. key .. '.', value)
        end
      end
    end
  end
  for _, name in ipairs(reference.MODULES) do
    local ok, module = pcall(require, name) -- a program without a room lacks what it brings
    if ok and type(module) == 'table' then
      walk(name .. '.', module)
    end
  end
  return out
end

--- The modules of policy-extras that policies require.
---@return string[]
function reference.extras()
  local out = {}
  for i, path in ipairs(extra_files()) do
    out[i] = path:gsub('%.lua$', ''):gsub('/', '.')
  end
  return out
end

local function source_of(fn)
  local info = debug.getinfo(fn, 'S')
  local path = info.source:sub(1, 1) == '@' and info.source:sub(2) or ''
  local prefix = c.share_dir .. '/'
  return path:sub(1, #prefix) == prefix and path:sub(#prefix + 1) or nil, info.linedefined
end

local all -- { by_name, list, undocumented }

-- The page of docs/reference that what a file declares stands on; without a line here the file's own name.
local PAGES = {
  admin = 'admin', inject = 'admin', constraints = 'kumo', dns = 'kumo.dns', explain = 'kumo', events = 'events',
  host = 'kumo', http_server = 'listeners', invoke = 'kumo', memoize = 'kumo', message = 'messages', outcome = 'records',
  queue = 'queues', record = 'records', repl = 'listeners', redis = 'kumo.throttle', run = 'listeners', secrets = 'kumo',
  session = 'records', source = 'queues', text = 'kumo.serde', tasks = 'kumo', testing = 'kumo.test', tuning = 'settings',
  websocket = 'kumo.http', kumo = 'kumo',
} -- stylua: ignore

local function page_of(path, name)
  local group = name:match '^kumo%.(%l[%w_]*)%.'
  if path:find '^policy%-extras/' then
    return 'policy-extras.' .. path:match '^policy%-extras/([%w_]+)'
  elseif not name:find '^kumo%.' then
    return name:match '^[%w_]+'
  elseif group and group ~= 'api' and group ~= 'admin' then
    return PAGES[group] == 'kumo' and 'kumo' or 'kumo.' .. group
  end
  local file = path:gsub('^lua/meta/', ''):gsub('^lua/', ''):gsub('^kumo/', ''):gsub('^tr_', ''):match '^[%w_]+'
  return PAGES[file] or 'kumo.' .. file
end

local function add(entry, name)
  entry.name = name
  entry.page = entry.kind == 'event' and 'events' or page_of(entry.file, name)
  if not all.by_name[name] then
    all.by_name[name] = entry
    all.list[#all.list + 1] = entry
  end
end

-- Types of the runtime's own modules begin with `tr.`.
local function is_public(name)
  local root = name:match '^(%l[%w_]*)%.'
  for _, module in ipairs(reference.MODULES) do
    if module == root then
      return true
    end
  end
  return false
end

local function add_types(path, of_extras)
  local file = reference.read(path)
  for _, class in ipairs(file.classes) do
    local name = class.name
    local is_module = all.namespaces[name] or of_extras and class.variable ~= nil and class.variable == file.returned
    if not is_module and (of_extras or is_public(name)) and #class.fields + #class.methods > 0 then
      add(class, name)
      for _, method in ipairs(class.methods) do
        add(method, name .. ':' .. method.short)
      end
    end
  end
  for _, alias in ipairs(file.aliases) do
    local event = alias.name:match '^kumo%.event%.([%w_]+)$'
    if event then
      alias.kind = 'event'
      add(alias, event)
    elseif of_extras or is_public(alias.name) then
      add(alias, alias.name)
    end
  end
end

-- Leaves out types that no function, event or object of the runtime speaks of: they are the runtime's own.
local function keep_reachable()
  local reached, queue = {}, {}
  local function reach(entry)
    if entry and not reached[entry] then
      reached[entry] = true
      queue[#queue + 1] = entry
    end
  end
  for _, entry in ipairs(all.list) do
    local owner = entry.kind == 'function' and all.by_name[entry.name:match '^(.-):' or false]
    if entry.kind == 'event' or entry.complete or entry.kind == 'function' and not owner or entry.file:find '^policy' then
      reach(entry)
    end
  end
  while #queue > 0 do
    local entry = table.remove(queue)
    for _, list in ipairs { entry.params, entry.returns, entry.fields } do
      for _, value in ipairs(list) do
        for name in value.type:gmatch '[%w_%.]+' do
          reach(all.by_name[name])
        end
      end
    end
    for name in ((entry.type or '') .. ' ' .. (entry.parent or '')):gmatch '[%w_%.]+' do
      reach(all.by_name[name])
    end
    for _, method in ipairs(entry.methods or {}) do
      reach(method)
    end
  end
  local list = all.list
  all.list = {}
  for _, entry in ipairs(list) do
    if reached[entry] then
      all.list[#all.list + 1] = entry
    else
      all.by_name[entry.name] = nil
    end
  end
end

--- Everything: `list` sorted by page and name; `undocumented`: names of functions that have no comment.
---@return { list: tr.reference.Entry[], by_name: table<string, tr.reference.Entry>, undocumented: string[] }
function reference.all()
  if all then
    return all
  end
  all = { list = {}, by_name = {}, undocumented = {}, namespaces = {} }
  local meta, sources = {}, {}
  for _, path in ipairs(meta_files()) do
    for _, fn in ipairs(reference.read(path).functions) do
      meta[fn.owner .. '.' .. fn.short] = fn
    end
  end
  for name, fn in pairs(reference.exported()) do
    local path, line = source_of(fn)
    all.namespaces[name:match '^(.*)%.'] = true
    local entry = meta[name] or path and reference.read(path).by_line[line]
    if path then
      sources[path] = true
    end
    if entry and (#entry.text > 0 or #entry.returns > 0 or #entry.params > 0) then
      if entry.name and entry.name ~= name then -- one function under two names
        local copy = {}
        for key, value in pairs(entry) do
          copy[key] = value
        end
        entry = copy
      end
      add(entry, name)
    else
      all.undocumented[#all.undocumented + 1] = name
    end
  end
  for _, path in ipairs(meta_files()) do
    add_types(path)
  end
  local function add_files(dir)
    for _, name in ipairs(tool.list(c.share_dir .. '/' .. dir) or {}) do
      if name:find '%.lua$' then
        sources[dir .. '/' .. name] = true
      elseif not name:find('.', 1, true) then
        add_files(dir .. '/' .. name)
      end
    end
  end
  add_files 'lua/kumo'
  for path in pairs(sources) do
    add_types(path)
  end
  for _, path in ipairs(extra_files()) do
    local file = reference.read(path)
    local module = path:gsub('%.lua$', ''):gsub('/', '.')
    for _, fn in ipairs(file.functions) do
      if fn.owner == file.returned and not fn.short:find '^_' then
        local name = module .. fn.sep .. fn.short
        if #fn.text > 0 or #fn.returns > 0 or #fn.params > 0 then
          add(fn, name)
        else
          all.undocumented[#all.undocumented + 1] = name
        end
      end
    end
    add_types(path, true)
  end
  keep_reachable()
  table.sort(all.undocumented)
  table.sort(all.list, function(a, b)
    if a.page ~= b.page then
      return a.page < b.page
    end
    return a.name < b.name
  end)
  return all
end

--- Names of the events of Tailrace.
---@return table<string, tr.reference.Entry>
function reference.events()
  local out = {}
  for _, alias in ipairs(reference.read('lua/meta/events.lua').aliases) do
    local name = alias.name:match '^kumo%.event%.([%w_]+)$' or alias.kind == 'event' and alias.name
    if name then
      out[name] = alias
    end
  end
  return out
end

--- Fields of a class with those of its parents.
---@param name string
---@return table<string, tr.reference.Value>? fields
function reference.fields(name)
  local found, entry = {}, reference.all().by_name[name]
  if not entry or entry.kind ~= 'class' then
    return nil
  end
  while entry do
    for _, field in ipairs(entry.fields) do
      found[field.name] = found[field.name] or field
    end
    entry = entry.parent and reference.all().by_name[entry.parent]
  end
  return found
end

return reference
