--- Option tables of `tailrace check`: keys that there are not, values that do not fit, what is missing.
local host = require 'tr.host'
local reference = host.internal 'reference'
local types = host.internal 'check.types'
local near = host.internal 'check.near'
local c = host.c

local options = {}

local LITERAL = {
  string = 'string', number = 'number', ['true'] = 'boolean', ['false'] = 'boolean', table = 'table', ['function'] = 'function',
} -- stylua: ignore

--- The alternatives of a type, aliases followed.
local function alternatives(kind, out, depth)
  out = out or {}
  local level, from = 0, 1
  local function take(text)
    text = text:gsub('%?$', ''):gsub('^%s+', ''):gsub('%s+$', '')
    local inner = text:match '^%((.*)%)$'
    local alias = reference.all().by_name[inner or text]
    if (inner or alias and alias.kind == 'alias') and (depth or 0) < 8 then
      alternatives(inner or alias.type, out, (depth or 0) + 1)
    else
      out[#out + 1] = text
    end
  end
  if kind:find '^fun%(' then
    out[1] = kind
    return out
  end
  for at = 1, #kind + 1 do
    local ch = kind:sub(at, at)
    if ch:find '[%(<{%[]' then
      level = level + 1
    elseif ch:find '[%)>}%]]' then
      level = level - 1
    elseif (ch == '|' and level == 0) or ch == '' then
      take(kind:sub(from, at - 1))
      from = at + 1
    end
  end
  return out
end

local BASIC = {}
for name in ([[nil boolean true false string number integer table function userdata thread]]):gmatch '%S+' do
  BASIC[name] = true
end

local function fits(node, one)
  local kind = LITERAL[node.k]
  if one == 'any' or one == kind then
    return true
  elseif one:find '^[%a_][%w_%.]*$' and not BASIC[one] and not types.class_named(one) then
    return true -- nothing is known about it
  elseif kind == 'string' then
    local quoted = one:match "^'(.*)'$" or one:match '^"(.*)"$'
    return quoted == node.value
  elseif kind == 'number' then
    return one == 'integer' and node.value ~= nil and node.value % 1 == 0 or one == tostring(node.value)
  elseif kind == 'boolean' then
    return one == node.k
  elseif kind == 'function' then
    return one:find '^fun' ~= nil or one == 'function'
  end
  return one:find '%[%]$' ~= nil or one:find '^table' ~= nil or one:find '^{' ~= nil or types.class_named(one) ~= nil
end

local function check_value(source, what, field, item, fn_name)
  local value = item.value
  local kind = LITERAL[value.k]
  if value.k == 'function' then
    for _, one in ipairs(alternatives(field.type)) do
      types.type_parameters(value, one)
    end
  end
  if not kind or field.type == '' then
    return
  end
  local list, classes = alternatives(field.type), {}
  local ok = false
  for _, one in ipairs(list) do
    ok = ok or fits(value, one)
    if kind == 'table' and types.class_named(one) then
      classes[#classes + 1] = types.class_named(one)
    end
    local element = kind == 'table' and (one:match '^([%w_%.]+)%[%]$' or one:match '^table<[^,]+,%s*([%w_%.]+)>$')
    local class = element and types.class_named(element)
    for _, inner in ipairs(class and value.items or {}) do
      if inner.value.k == 'table' then
        options.check(source, fn_name, class, inner.value, true)
      end
    end
  end
  if not ok then
    local given = kind == 'string' and ("'%s'"):format(value.value) or kind == 'number' and tostring(value.value) or value.k
    local names = {}
    for i, one in ipairs(list) do
      names[i] = one:match "^'(.*)'$"
    end
    local remedy = kind == 'string' and #names == #list and near.remedy(value.value, names) or nil
    source.add('error', 'option', value.line, ('%s: %s is expected, not %s'):format(what, table.concat(list, ' or '), given),
      remedy) -- stylua: ignore
  elseif kind == 'string' and field.type == 'kumo.DurationValue' and not pcall(c.duration, value.value, '', '') then
    source.add('error', 'option', value.line, ("%s: a duration is expected, not '%s'"):format(what, value.value),
      "seconds, or a text such as '5 minutes', '1h 30m' or '500ms'") -- stylua: ignore
  elseif #classes == 1 and #list == 1 then
    options.check(source, fn_name, classes[1], value, true)
  end
end

--- Compares a literal table with the class of an option table.
function options.check(source, fn_name, class, node, is_direct)
  local fields = reference.fields(class.name)
  local seen, open = {}, not is_direct
  if not fields or not next(fields) then
    return
  end
  for name in pairs(fields) do
    if name:find '^%[' then
      return -- any key
    end
  end
  for _, item in ipairs(node.items) do
    local key = item.key
    if not key or key.k ~= 'string' then
      open = true
    else
      local field = fields[key.value]
      local what = ("%s: the option '%s'"):format(fn_name, key.value)
      seen[key.value] = true
      if not field then
        if class.exact then
          source.add('error', 'option', item.line, ("%s: there is no option '%s'"):format(fn_name, key.value),
            near.remedy(key.value, near.keys(fields))) -- stylua: ignore
        end
      elseif field.type == 'nil' and item.value.k ~= 'nil' then
        source.add('error', 'option', item.line, ("%s is not supported"):format(what), 'remove it')
      else
        check_value(source, what, field, item, fn_name)
        if field.text:find 'without effect' then
          source.add('warning', 'option', item.line, what .. ' is accepted and never read', 'remove it')
        end
      end
    end
  end
  if class.exact and not open then
    for name, field in pairs(fields) do
      if not field.optional and not seen[name] then
        source.add('error', 'option', node.line, ("%s: the option '%s' is missing"):format(fn_name, name))
      end
    end
  end
end

--- Looks at the tables that a call is given.
---@param source check.Source
function options.check_call(source, node)
  local entry = types.entry_of_call(node)
  if not entry or entry.kind ~= 'function' then
    return
  end
  for i, param in ipairs(entry.params) do
    local arg = node.args[i]
    local direct = arg and arg.k == 'table'
    if arg and arg.k == 'name' and arg.symbol and arg.symbol.writes == 0 then
      arg = arg.symbol.init
    end
    if arg and arg.k == 'table' then
      for _, one in ipairs(alternatives(param.type)) do
        local class = types.class_named(one)
        local element = types.class_named(one:match '^(.*)%[%]$')
        if class then
          options.check(source, entry.name, class, arg, direct)
        elseif element then
          for _, item in ipairs(arg.items) do
            if item.value.k == 'table' then
              options.check(source, entry.name, element, item.value, true)
            end
          end
        end
      end
    end
  end
end

return options
