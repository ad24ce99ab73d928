--- The directories that a policy wants to write in.
local host = require 'tr.host'
local tool = require 'tr.tool'
local report = host.internal 'check.report'
local watch = host.internal 'check.watch'

local directories = {}

-- Why files could not be made in a directory, which the service makes if it is not there; nil: they could.
local function not_writable(path)
  local at = path
  while true do
    local kind, err, code = tool.kind(at)
    if kind == 'directory' then
      local ok, why = tool.writable(at)
      if ok then
        return nil
      end
      return at == path and why or ('%s cannot be made in %s: %s'):format(path, at, why)
    elseif kind then
      return ('%s is no directory'):format(at)
    elseif code ~= 'ENOENT' and code ~= 'TR_ENOENT' and not tostring(err):find 'No such file' then
      return err
    end
    local up = at:match '^(.*[^/])/+[^/]+/*$' or (at:sub(1, 1) == '/' and '/' or '.')
    if up == at then
      return err
    end
    at = up
  end
end

--- Of spools and local logs.
function directories.check()
  for name, spool in pairs(watch.spools) do
    local why = not_writable(spool.path)
    if why then
      local text = ("the spool '%s' in %s cannot be written: %s"):format(name, spool.path, why)
      report.add('error', 'spool', spool.place.file, spool.place.line, text, 'give the directory to the user of the service')
    end
  end
  for _, log in ipairs(watch.logs) do
    local why = not_writable(log.path)
    if why then
      report.add('error', 'log', log.place.file, log.place.line, ('logs in %s cannot be written: %s'):format(log.path, why),
        'give the directory to the user of the service') -- stylua: ignore
    end
  end
end

return directories
