--- Names of `tailrace check`: globals, members of modules and methods of classes that there are not.
local host = require 'tr.host'
local types = host.internal 'check.types'
local near = host.internal 'check.near'

local names = {}

local function visible_locals(node, out)
  local scope = node.scope
  while scope do
    for name, symbol in pairs(scope.names) do
      if symbol.line <= node.line then
        out[#out + 1] = name
      end
    end
    scope = scope.outer
  end
end

--- Globals that are read and that nobody has set.
---@param source check.Source
---@param known table<string, true>       of the runtime
---@param assigned table<string, true>    that a file of the policy sets
function names.check_globals(source, known, assigned)
  local reported, writes = {}, {}
  for _, node in ipairs(source.tree.globals) do
    local name = node.name
    if node.is_write then
      if not node.fn.is_main and not writes[name] then
        writes[name] = true
        source.add('warning', 'global', node.line, ("the global '%s' is written by a function"):format(name),
          'make it local: all events of a worker share a global, and other workers do not see it; what belongs to a message '
            .. 'goes into its metadata') -- stylua: ignore
      end
    elseif not known[name] and not assigned[name] and rawget(_G, name) == nil and not node.is_tested then
      local first = reported[name]
      if first then
        first.more = first.more + 1
      else
        local others = {}
        visible_locals(node, others)
        for other in pairs(known) do
          others[#others + 1] = other
        end
        for other in pairs(assigned) do
          others[#others + 1] = other
        end
        reported[name] = { node = node, remedy = near.remedy(name, others), more = 0 }
      end
    end
  end
  for name, one in pairs(reported) do
    local more = one.more > 0 and (' (and in %d more places)'):format(one.more) or ''
    source.add('error', 'global', one.node.line, ("unknown global '%s'%s"):format(name, more),
      one.remedy or 'it is nil: declare it, or require what it comes from') -- stylua: ignore
  end
end

-- The value of a path and, when it ends early, the key that is missing and the table that lacks it.
local function follow(path)
  local value = types.value_of_root(path)
  for i, key in ipairs(path) do
    if type(value) ~= 'table' then
      return nil
    end
    local found = rawget(value, key)
    if found == nil then
      local ok, other = pcall(function()
        return value[key]
      end)
      if ok and other ~= nil then
        found = other
      else
        return nil, { at = i, key = key, from = value, why = not ok and other or nil }
      end
    end
    value = found
  end
  return value
end

local function name_until(path, last)
  local parts = { path.root }
  for i = 1, last do
    parts[#parts + 1] = path[i]
  end
  return table.concat(parts, '.')
end

local function missing(source, path, line, gap)
  local name = name_until(path, gap.at)
  local why = gap.why and tostring(gap.why) or ''
  if why:find 'is not supported by Tailrace' then
    source.add('error', 'function', line, ('%s is not supported by Tailrace'):format(name), 'see docs/compatibility.md')
    return
  end
  local where = path.is_module and path.root ~= 'kumo' and ("the module '%s' has no '%s'"):format(path.root, gap.key)
    or ('there is no %s'):format(name)
  source.add('error', 'function', line, where, near.remedy(gap.key, near.keys(gap.from)))
end

--- Members and methods that there are not.
---@param source check.Source
function names.check_paths(source)
  for _, node in ipairs(source.tree.indexes) do
    if not node.is_write and not node.is_tested then
      local path = types.path_of(node)
      if path and types.value_of_root(path) then
        local _, gap = follow(path)
        if gap and gap.at == #path then
          missing(source, path, node.key.line, gap)
        end
      end
    end
  end
  for _, node in ipairs(source.tree.calls) do
    if node.k == 'method' then
      local path = types.path_of(node.object)
      local value = path and path.is_module and follow(path)
      local class = not path and types.type_of(node.object)
      if type(value) == 'table' and path.root ~= 'kumo' then
        local full = { root = path.root, is_module = true, node.name }
        local _, gap = follow(full)
        if gap then
          missing(source, full, node.line, gap)
        end
      elseif class and class.complete then
        local others, found = {}, false
        local up = class
        while up do
          for _, method in ipairs(up.methods) do
            others[#others + 1] = method.short
            found = found or method.short == node.name
          end
          for _, field in ipairs(up.fields) do
            found = found or field.name == node.name or field.name:find '^%[' ~= nil
          end
          up = up.parent and types.class_named(up.parent)
        end
        if not found then
          local remedy = near.remedy(node.name, others) or ('see `tailrace help %s`'):format(class.name)
          source.add('error', 'function', node.line, ('a %s has no method %s'):format(class.name, node.name), remedy)
        end
      end
    end
  end
end

return names
