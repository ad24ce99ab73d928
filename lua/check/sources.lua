--- The files that a policy reaches, read.
local host = require 'tr.host'
local tool = require 'tr.tool'
local parse = host.internal 'check.parse'
local scan = host.internal 'check.scan'
local place = host.internal 'check.place'
local report = host.internal 'check.report'
local finding = host.internal 'check.finding'
local c = host.c
-- a policy may replace them
local open, loadstring, searchpath, log = io.open, loadstring, package.searchpath, c.log

local sources = {
  list = {}, ---@type check.Source[]
  by_path = {}, ---@type table<string, check.Source>
}

local MAX_FILES = 1000

--- Reads a file and those that it requires or runs.
---@param path string
---@param known table<string, true>   globals of the runtime
function sources.read(path, known)
  if sources.by_path[path] or #sources.list >= MAX_FILES then
    return
  end
  local source = { path = path }
  sources.by_path[path] = source
  sources.list[#sources.list + 1] = source
  place.know(path)
  function source.add(level, code, line, message, remedy)
    report.add(level, code, path, line, message, remedy)
  end
  local file = tool.kind(path) ~= 'directory' and open(path, 'rb')
  local text = file and file:read '*a' or nil
  if file then
    file:close()
  end
  if not text or text:sub(1, 1) == '\27' then
    return
  end
  local chunk, err = loadstring(text:gsub('^#[^\n]*', ''), '@' .. path)
  if not chunk then
    local line, message = tostring(err):match ':(%d+): (.*)$'
    source.broken = true
    source.add('error', 'syntax', tonumber(line) or 0, message or tostring(err))
    return
  end
  local ok, tree = pcall(parse.read, text)
  if not ok then -- what LuaJIT takes and this reader does not: nothing is said about the file
    log('debug', ('check: %s is not looked at: %s'):format(path, tostring(tree)))
    return
  end
  source.tree = tree
  for _, one in ipairs(scan.reaches(source)) do
    if one.path then
      if not tool.kind(one.path) then
        source.add('error', 'require', one.line, ("the file '%s' is not there"):format(one.path))
      elseif not place.is_ours(one.path) then
        sources.read(one.path, known)
      end
    elseif not package.preload[one.name] and (package.loaded[one.name] == nil or not known[one.name]) then
      local found = searchpath(one.name, package.path)
      if found and not place.is_ours(found) then
        sources.read(found, known)
      elseif not found and package.loaded[one.name] == nil and not searchpath(one.name, package.cpath) then
        source.add('error', 'require', one.line, ("the module '%s' is not there"):format(one.name), finding.NOT_THERE)
      end
    end
  end
end

--- Globals that the policy sets.
---@return table<string, true>
function sources.assigned_globals()
  local out = {}
  for _, source in ipairs(sources.list) do
    for _, node in ipairs(source.tree and source.tree.globals or {}) do
      if node.is_write then
        out[node.name] = true
      end
    end
  end
  return out
end

--- Texts of the policy that may name an event.
---@return table<string, true> texts
---@return string[] prefixes   of such texts
function sources.texts()
  local out, prefixes = {}, {}
  for _, source in ipairs(sources.list) do
    for _, node in ipairs(source.tree and source.tree.strings or {}) do
      if not node.is_event then
        out[node.value] = true
        if #node.value >= 3 and node.value:find '[%._:%-]$' then
          prefixes[#prefixes + 1] = node.value
        end
      end
    end
  end
  return out, prefixes
end

return sources
