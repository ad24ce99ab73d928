--- What an expression of a policy is, as far as its text and the reference tell: a path from a module, a class, a function.
local host = require 'tr.host'
local reference = host.internal 'reference'

local types = {}

local STANDARD = {}
for name in ([[string table math os io coroutine debug package bit jit utf8]]):gmatch '%S+' do
  STANDARD[name] = true
end

--- A module or global and the keys behind it: { root = 'kumo', 'http', 'build_client' }; nil for anything else.
function types.path_of(node)
  if node.k == 'paren' then
    return types.path_of(node.inner)
  elseif node.k == 'name' then
    local symbol = node.symbol
    if not symbol then
      return STANDARD[node.name] and { root = node.name } or nil
    end
    if symbol.writes > 0 or not symbol.init then
      return nil
    end
    if symbol.path == nil then
      symbol.path = false -- no loop through a local that names itself
      symbol.path = types.path_of(symbol.init) or false
    end
    return symbol.path or nil
  elseif node.k == 'index' and node.key.k == 'string' then
    local path = types.path_of(node.object)
    if not path then
      return nil
    end
    local out = { root = path.root }
    for i, key in ipairs(path) do
      out[i] = key
    end
    out[#out + 1] = node.key.value
    return out
  elseif node.k == 'call' and node.fn.k == 'name' and node.fn.name == 'require' and not node.fn.symbol then
    local name = node.args[1]
    if name and name.k == 'string' and #node.args == 1 then
      return { root = name.value, is_module = true }
    end
  end
end

-- Modules whose members are known: ours. Those of the policy may fill themselves as they like.
function types.value_of_root(path)
  if STANDARD[path.root] and not path.is_module then
    return rawget(_G, path.root)
  elseif path.root == 'kumo' or path.root:find '^policy%-extras%.' or path.root == 'sqlite' or path.root == 'redis' then
    local value = package.loaded[path.root]
    return type(value) == 'table' and value or nil
  end
end

function types.full_name(path, sep)
  local name = path.root
  for i, key in ipairs(path) do
    name = name .. (i == #path and sep or '.') .. key
  end
  return name
end

local function entry_of_path(path)
  local by_name = reference.all().by_name
  return by_name[types.full_name(path, '.')] or by_name[types.full_name(path, ':')]
end

function types.class_named(kind)
  local entry = kind and reference.all().by_name[(kind:gsub('%?$', ''))]
  return entry and entry.kind == 'class' and entry or nil
end

--- The reference entry of what is called; nil: unknown.
function types.entry_of_call(node)
  if node.k == 'call' then
    local path = types.path_of(node.fn)
    return path and #path > 0 and entry_of_path(path) or nil
  end
  local path = types.path_of(node.object)
  if path then
    path[#path + 1] = node.name
    local entry = entry_of_path(path)
    path[#path] = nil
    return entry
  end
  local class = types.type_of(node.object)
  return class and reference.all().by_name[class.name .. ':' .. node.name] or nil
end

--- The class of an expression; nil: unknown.
function types.type_of(node)
  if node.k == 'paren' then
    return types.type_of(node.inner)
  elseif node.k == 'name' and node.symbol then
    local symbol = node.symbol
    if symbol.type == nil then
      symbol.type = false
      symbol.type = symbol.writes == 0 and symbol.init and types.type_of(symbol.init) or false
    end
    return symbol.type or nil
  elseif node.k == 'call' or node.k == 'method' then
    local entry = types.entry_of_call(node)
    return entry and entry.returns and entry.returns[1] and types.class_named(entry.returns[1].type) or nil
  end
end

--- The function that an argument is; nil: not to be seen.
function types.function_of(node)
  if node and node.k == 'function' then
    return node
  elseif node and node.k == 'name' and node.symbol and node.symbol.writes == 0 and node.symbol.init then
    return types.function_of(node.symbol.init)
  end
end

--- Gives the parameters of a function the types of `fun(msg: kumo.Message, ...)`.
function types.type_parameters(fn, kind)
  local list = kind and kind:match '^fun(%b())'
  local i = 0
  for part in (list or '()'):sub(2, -2):gmatch '[^,]+' do
    i = i + 1
    local symbol = fn.params[i]
    local class = types.class_named(part:match ':%s*([%w_%.]+)')
    if symbol and class and symbol.writes == 0 then
      symbol.type = class
    end
  end
end

return types
