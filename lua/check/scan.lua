--- The rules of `tailrace check` that need only the text of one file.
local host = require 'tr.host'
local options = host.internal 'check.options'
local names = host.internal 'check.names'
local handlers = host.internal 'check.handlers'

local scan = {}

---@class check.Source   a file that the policy reaches
---@field path string
---@field tree check.Tree
---@field add fun(level: 'error'|'warning', code: string, line: integer, message: string, remedy?: string)

local function is_call_of(node, name)
  return node.k == 'call' and node.fn.k == 'name' and node.fn.name == name and not node.fn.symbol
end

--- Names that a file requires and files that it runs, as written: { name =, path =, line = }.
---@param source check.Source
function scan.reaches(source)
  local out = {}
  for _, node in ipairs(source.tree.calls) do
    local arg = node.k == 'call' and node.args[1]
    if arg and arg.k == 'string' then
      if is_call_of(node, 'require') then
        out[#out + 1] = { name = arg.value, line = node.line, is_tested = node.is_tested }
      elseif is_call_of(node, 'dofile') or is_call_of(node, 'loadfile') then
        out[#out + 1] = { path = arg.value, line = node.line }
      end
    end
  end
  return out
end

--- Everything that the text of one file tells.
---@param source check.Source
---@param registrations check.Registration[]
---@param known table<string, true>       globals of the runtime
---@param assigned table<string, true>    globals that a file of the policy sets
---@param multiple table<string, true>    events with several handlers
function scan.check(source, registrations, known, assigned, multiple)
  for _, node in ipairs(source.tree.calls) do
    options.check_call(source, node)
  end
  names.check_globals(source, known, assigned)
  names.check_paths(source)
  handlers.check(source, registrations, multiple)
end

return scan
