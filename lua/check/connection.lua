--- What `tailrace check` knows of connection objects: the table that a constructor of custom_lua returns has the method that the
--- queue will call, and it says what became of a message.
local host = require 'tr.host'
local handlers = host.internal 'check.handlers'

local connection = {}

--- A constructor that a queue's configuration or a log hook names.
---@class check.Constructor
---@field source check.Source
---@field fn table            the function
---@field batch? integer      batch_size of the configurations that name it; nil: not to be seen, or they differ
---@field line integer        of the configuration

local function item_of(node, name)
  for _, item in ipairs(node and node.k == 'table' and node.items or {}) do
    if item.key and item.key.k == 'string' and item.key.value == name then
      return item.value
    end
  end
end

--- batch_size of an option table; 1 if there is none, nil if it cannot be read.
local function batch_of(node)
  for _, item in ipairs(node.items) do
    if not item.key or item.key.k ~= 'string' then
      return nil
    end
  end
  local value = item_of(node, 'batch_size')
  if not value then
    return 1
  end
  return value.k == 'number' and value.value or nil
end

--- What is defined inside of a constructor under a name: the functions, and whether something else may be.
local function members(source, fn, name)
  local functions, any = {}, false
  local function is_inside(inner)
    while inner do
      if inner == fn then
        return true
      end
      inner = inner.outer
    end
    return false
  end
  for _, list in pairs(source.tree.functions) do
    for _, one in ipairs(list) do
      if one.member == name and is_inside(one.outer) then
        functions[#functions + 1] = one
      end
    end
  end
  for _, write in ipairs(source.tree.index_writes) do
    any = any or write.key.k == 'string' and write.key.value == name and is_inside(write.in_fn)
  end
  return functions, any or #functions > 0
end

local function check_method(source, fn, name)
  for _, one in ipairs((members(source, fn, name))) do
    local says = false
    for _, node in ipairs(source.tree.returns) do
      says = says or node.fn_of == one and #node.values > 0
    end
    if not says and not handlers.always_answers(source, one) and not handlers.always_raises(one) then
      source.add('error', 'hook', one.line, ('%s returns nothing, which is a failure: the record is sent again'):format(name),
        'return a text, e.g. what the receiver answered') -- stylua: ignore
    end
  end
end

---@param one check.Constructor
local function check(one)
  local source, fn = one.source, one.fn
  local _, has_send = members(source, fn, 'send')
  local _, has_batch = members(source, fn, 'send_batch')
  check_method(source, fn, 'send')
  check_method(source, fn, 'send_batch')
  if one.batch and one.batch > 1 and has_send and not has_batch then
    local text = ('the connection has no send_batch, and its queue takes batches of %d'):format(one.batch)
    source.add('error', 'hook', fn.line, text,
      'with a batch_size of more than 1 send_batch(self, messages) is called, and send is not') -- stylua: ignore
  elseif one.batch == 1 and has_batch and not has_send then
    source.add('error', 'hook', fn.line, 'the connection has no send, and its queue takes one message at a time',
      'set batch_size to more than 1 for send_batch to be called') -- stylua: ignore
  end
end

--- Constructors by name that a literal configuration gives, and those given to log_hooks:new.
---@param sources check.Source[]
---@param registrations check.Registration[][]
function connection.check(sources, registrations)
  local by_event, batches = {}, {}
  for i, source in ipairs(sources) do
    for _, one in ipairs(registrations[i]) do
      if one.handler then
        by_event[one.name] = { source = source, fn = one.handler }
      end
    end
  end
  for _, source in ipairs(sources) do
    for _, call in ipairs(source.tree and source.tree.calls or {}) do
      local options = call.args[1]
      local given = item_of(options, 'constructor')
      if call.k == 'method' and call.name == 'new' and given and given.k == 'function' then
        check { source = source, fn = given, batch = batch_of(options), line = call.line }
      end
      local lua = item_of(item_of(options, 'protocol'), 'custom_lua')
      local name = item_of(lua, 'constructor')
      if name and name.k == 'string' then
        local size = batch_of(lua) or false
        local before = batches[name.value]
        batches[name.value] = (before == nil or before == size) and size or false
      end
    end
  end
  for name, size in pairs(batches) do
    local handler = by_event[name]
    if handler then
      check { source = handler.source, fn = handler.fn, batch = size or nil, line = handler.fn.line }
    end
  end
end

return connection
