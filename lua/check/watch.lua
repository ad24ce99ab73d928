--- What a policy does while `tailrace check` runs it: what it sets up is kept, what is logged for it becomes a finding, and
--- nothing that it does reaches the output or ends the process.
local host = require 'tr.host'
local place = host.internal 'check.place'
local report = host.internal 'check.report'
local finding = host.internal 'check.finding'
local c = host.c
local stderr, log = io.stderr, c.log

local watch = {
  spools = {}, -- name -> { path =, place = { file =, line = } }
  logs = {}, -- list of { path =, place = }
  dispositions = {}, filters = {}, -- event -> place
} -- stylua: ignore

local function record(kumo, name, fn)
  local original = rawget(kumo, name)
  if original then
    rawset(kumo, name, function(options)
      if type(options) == 'table' then
        local file, line = place.caller(3)
        fn(options, { file = file, line = line })
      end
      return original(options) -- a tail call: errors name the place of the policy's own
    end)
  end
end

local function watch_calls(kumo)
  record(kumo, 'define_spool', function(options, at)
    if type(options.name) == 'string' and type(options.path) == 'string' then
      watch.spools[options.name] = { path = options.path, place = at }
    end
  end)
  record(kumo, 'configure_local_logs', function(options, at)
    local function dir(path)
      if type(path) == 'string' then
        table.insert(watch.logs, { path = path, place = at })
      end
    end
    dir(options.log_dir)
    for _, one in pairs(type(options.per_record) == 'table' and options.per_record or {}) do
      dir(type(one) == 'table' and one.log_dir)
    end
    if type(options.filter_event) == 'string' then
      watch.filters[options.filter_event] = at
    end
  end)
  record(kumo, 'configure_log_disposition_hook', function(options, at)
    if type(options.name) == 'string' then
      watch.dispositions['log_disposition_' .. options.name] = at
    end
  end)
end

-- What the runtime and its helpers log is a finding; what the policy logs itself goes where it always goes.
local function capture_log()
  local show = { warn = 'warning', error = 'error' }
  function c.log(level, text)
    local at, _, rest = place.split(text)
    if show[level] and not place.is_policys(at) then
      text = rest or text
      local file, line, message = place.inner(text)
      if not file then
        file, line = text:match '([^%s]+%.lua):(%d+)'
        file, line = file and place.full(file), tonumber(line)
      end
      if not file then
        file, line = place.caller(3)
      end
      if not text:find('is never asked', 1, true) then -- check_order() says it
        report.add(show[level], 'log', file, line, message or text)
      end
    else
      log(level, text)
    end
  end
  local enabled = c.log_enabled
  function c.log_enabled(level)
    return show[level] ~= nil or enabled(level)
  end
end

local function capture_output()
  function print(...) -- luacheck: ignore
    local parts = {}
    for i = 1, select('#', ...) do
      parts[i] = tostring((select(i, ...)))
    end
    stderr:write(report.printable(table.concat(parts, '\t')), '\n')
  end
  io.stdout = report.listener(stderr) -- luacheck: ignore
  function io.write(...) -- luacheck: ignore
    return io.stdout:write(...)
  end
  function os.exit(code) -- luacheck: ignore
    local file, line = place.caller(3)
    report.add('error', 'policy', file, line, ('os.exit(%s) would end the process'):format(code == nil and '' or tostring(code)),
      'raise an error to refuse to start') -- stylua: ignore
    error(finding.EXIT, 0)
  end
end

--- Before the policy is loaded.
---@param kumo table
function watch.start(kumo)
  watch_calls(kumo)
  capture_log()
  capture_output()
end

return watch
