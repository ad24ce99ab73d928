--- `tailrace check`: everything that can be known to be wrong with a policy before it runs. runtime/cli/check.c starts the
--- entries in turn: begin, load, pre_init, init, hooks, validate_config, finish. What goes wrong becomes a finding; nothing here
--- ends the others.
local host = require 'tr.host'
local reference = host.internal 'reference'
local tool = require 'tr.tool'
local connection = host.internal 'check.connection'
local directories = host.internal 'check.directories'
local events = host.internal 'check.events'
local finding = host.internal 'check.finding'
local handlers = host.internal 'check.handlers'
local place = host.internal 'check.place'
local report = host.internal 'check.report'
local restore = host.internal 'check.restore'
local scan = host.internal 'check.scan'
local sources = host.internal 'check.sources'
local watch = host.internal 'check.watch'
-- a policy may replace them
local xpcall, loadfile, open, stderr = xpcall, loadfile, io.open, io.stderr
local traceback, searchpath = debug.traceback, package.searchpath

local policy -- path, as given
local loaded -- the top level has run to its end
local globals_before = {}

--- begin(POLICY)
function host.entry.check_begin(path)
  policy = path
  report.policy(path)
  local kumo = require 'kumo'
  for name in pairs(_G) do
    globals_before[name] = true
  end
  for name in ([[_KUMO_CURRENT_EVENT _VALIDATING_CONFIG arg]]):gmatch '%S+' do
    globals_before[name] = true
  end
  watch.start(kumo)
  restore.keep()
end

--- Evaluates the policy.
function host.entry.check_load()
  local kind, err = tool.kind(policy)
  if not kind then
    finding.blame 'load'
    return report.add('error', 'policy', policy, 0, (err:gsub('^.*: ', 'cannot be read: ')))
  elseif kind == 'directory' then
    finding.blame 'load'
    return report.add('error', 'policy', policy, 0, 'is a directory', 'name the policy file in it')
  end
  local file, why = open(policy, 'rb')
  local start = file and file:read(4) or ''
  if not file then
    finding.blame 'load'
    return report.add('error', 'policy', policy, 0, (tostring(why):gsub('^.*: ', 'cannot be read: ')))
  end
  file:close()
  if start:sub(1, 1) == '\27' then
    finding.blame 'load'
    return report.add('error', 'syntax', policy, 0, 'is compiled Lua, or no Lua at all', 'check the source of it')
  end
  local chunk = loadfile(policy)
  if not chunk then
    finding.blame 'load' -- the reader of all files says why
    return
  end
  loaded = finding.guarded('load', chunk)
end

--- Fires pre_init, init or validate_config. The result says whether it is worth to go on.
function host.entry.check_fire(event)
  if not loaded then
    return
  end
  local errors = report.count 'error'
  if event == 'validate_config' then
    io.stderr = report.listener(stderr, function(level, text) -- luacheck: ignore
      finding.add_text(level, 'file', text)
    end)
  end
  tool.configuring(event ~= 'validate_config')
  local ok = finding.guarded(event, host.dispatch, event)
  tool.configuring(false)
  io.stderr = stderr -- luacheck: ignore
  if event == 'validate_config' and ok and host.validation_has_failed and report.count 'error' == errors then
    report.add('error', 'validate', nil, 0, 'a handler of validate_config has called kumo.validation_failed()')
  end
end

--- Log hooks, as `tailrace run` checks them before it starts, but all of them.
function host.entry.check_log_hooks()
  if not loaded then
    return
  end
  finding.guarded('hooks', function()
    for _, one in ipairs(host.hook_findings and host.hook_findings() or {}) do
      local file, line = tostring(one.place):match '^(.*):(%d+)$'
      file = file and place.full(file)
      if not place.is_policys(file) then
        file, line = tostring(one.text):match '([^%s]+%.lua):(%d+)'
        file = file and place.full(file)
      end
      if not place.is_policys(file) then
        file, line = nil, nil
      end
      report.add(one.level, 'hook', file, tonumber(line), one.text, one.remedy)
    end
  end)
end

--- A step that was cut off: see check.finding.
function host.entry.check_cut(step, seconds, text)
  restore.all()
  io.stderr = stderr -- luacheck: ignore
  finding.cut(step, seconds, text)
end

local function check_files()
  sources.read(policy, globals_before)
  for name in pairs(package.loaded) do -- what was required by a name that cannot be read
    local found = type(name) == 'string' and not name:find '^tr%.' and searchpath(name, package.path)
    if found and not place.is_ours(found) and not globals_before[name] then
      sources.read(found, globals_before)
    end
  end
  local registrations = {}
  for i, source in ipairs(sources.list) do
    registrations[i] = source.tree and handlers.registrations(source) or {}
  end
  local assigned = sources.assigned_globals()
  local known = { events = reference.events(), names = {}, loaded = loaded }
  for name in pairs(known.events) do
    known.names[#known.names + 1] = name
  end
  known.texts, known.prefixes = sources.texts()
  for i, source in ipairs(sources.list) do
    if source.tree then
      scan.check(source, registrations[i], globals_before, assigned, host.MULTIPLE)
      for _, one in ipairs(registrations[i]) do
        events.check(source, one, known)
      end
    end
  end
  connection.check(sources.list, registrations)
end

--- finish(MISSING_SPOOL, JSON, COLOURS, STRICT, COLUMNS) -> text, exit status
function host.entry.check_finish(missing_spool, as_json, colours, strict, columns)
  restore.all()
  local ok, err = xpcall(check_files, traceback)
  if not ok then
    report.add('warning', 'check', nil, 0, 'the text of the policy could not be looked at: ' .. tostring(err))
  end
  if loaded then
    events.check_order()
    events.check_filters()
    if not finding.failed_step and missing_spool ~= '' then
      report.add('error', 'spool', nil, 0, missing_spool)
    end
  end
  directories.check()
  report.merge()
  local paths = {}
  for i, source in ipairs(sources.list) do
    paths[i] = source.path
  end
  return report.write {
    files = paths,
    loaded = loaded == true,
    handlers = #host.handler_names(),
    json = as_json,
    colours = colours,
    strict = strict,
    columns = columns,
  }
end
