--- `tailrace check`: everything that can be known to be wrong with a policy before it runs. runtime/cli/check.c starts the
--- entries in turn: begin, load, pre_init, init, hooks, validate_config, finish. What goes wrong becomes a finding; nothing here
--- ends the others.
local host = require 'tr.host'
local parse = host.internal 'check_parse'
local scan = host.internal 'check_scan'
local reference = host.internal 'reference'
local report = host.internal 'check_report'
local connection = host.internal 'check_connection'
local restore = host.internal 'check_restore'
local tool = require 'tr.tool'
local c = host.c

local real = {
  xpcall = xpcall, print = print, loadfile = loadfile, loadstring = loadstring, stderr = io.stderr, log = c.log,
  open = io.open, traceback = debug.traceback, getinfo = debug.getinfo, searchpath = package.searchpath,
} -- stylua: ignore

local policy -- path, as given
local loaded, failed_step -- the top level has run to its end; the first step that raised
local globals_before = {}
local sources = {} -- list and by path: check.Source
local configured = { logs = {}, dispositions = {}, filters = {} } -- what the policy has set up
local spools = {} -- name -> { path =, place = }

-- --- places ------------------------------------------------------------------------------------------------

local function is_ours(path)
  local inner = path:sub(1, #c.share_dir + 1) == c.share_dir .. '/' and path:sub(#c.share_dir + 2) or ''
  return inner:find '^lua/' ~= nil or inner:find '^policy%-extras/' ~= nil or path:find '^=' ~= nil
end

--- The innermost place of the policy: file, line.
local function policy_place(level)
  while true do
    local info = real.getinfo(level, 'Sl')
    if not info then
      return nil
    end
    if info.currentline > 0 and info.source:sub(1, 1) == '@' and not is_ours(info.source:sub(2)) then
      return info.source:sub(2), info.currentline
    end
    level = level + 1
  end
end

--- The file that a shortened name ("...sub/policy.lua") means.
local function full_path(short)
  local tail = short:match '^%.%.%.(.+)$'
  for _, source in ipairs(tail and sources or {}) do
    if source.path:sub(-#tail) == tail then
      return source.path
    end
  end
  return short
end

--- Parts "FILE:LINE: TEXT"; without a place: nil.
local function split_place(text)
  local file, line, rest = text:match '^%s*([^%s:][^:\n]-):(%d+): (.*)$'
  if file and (file:find '[/%.]') then
    return full_path(file), tonumber(line), rest
  end
end

local function of_policy(file)
  local helper = file and (file:find 'policy%-extras/[%w_]+%.lua$' or file:find '^%.%.%..*lua/[%w_/]+%.lua$')
  return file and not helper and not is_ours(file)
end

--- The same with a helper's name before it: "sources: FILE:LINE: TEXT".
local function inner_place(text)
  local at, line, rest = split_place(text)
  if not at then
    at, line, rest = split_place(text:match '^[%w_:]+: (.*)$' or '')
    if at and not tool.kind(at) then
      return nil
    end
  end
  return at, line, rest
end

-- --- findings ------------------------------------------------------------------------------------------------

local function add(level, code, file, line, message, remedy)
  report.add(level, code, file or policy, line or 0, message, remedy)
end

--- A text that may have several lines with places of their own, e.g. all mistakes of a file.
local function add_text(level, code, text, file, line)
  local head, any, fallback = nil, false, {}
  for one in (text .. '\n'):gmatch '([^\n]*)\n' do
    local at, number, rest = inner_place(one)
    if at and of_policy(at) then
      any = true
      add(level, code, at, number, rest)
    elseif at then
      fallback[#fallback + 1] = rest
    elseif one:find '%S' then
      head = head or one
      fallback[#fallback + 1] = one
    end
  end
  if not any then
    add(level, code, file, line, table.concat(fallback, '\n'))
  end
end

local function error_text(err)
  if type(err) == 'string' then
    return err
  elseif type(err) == 'table' then
    local ok, text = pcall(c.json_encode, err)
    local shown, own = pcall(tostring, err)
    if shown and not own:find '^table: ' then
      return own
    end
    return 'error object: ' .. (ok and text or 'a table that cannot be shown')
  elseif type(err) == 'userdata' then
    local ok, text = pcall(tostring, err)
    return 'a rejection outside of mail: ' .. (ok and text or '?')
  end
  return ('error value: %s'):format(tostring(err))
end

local EXIT = {} -- what os.exit raises
local NOT_THERE = "modules are looked for beside the policy, in the runtime's directory, and in package.path"

local REMEDIES = {
  { 'handler ran longer than', 'limit', 'an endless loop? What takes long has to wait now and then, with kumo.sleep(0)' },
  { 'MiB of memory are needed', 'limit', 'a text or table that grows without end?' },
  { 'not enough memory', 'limit', 'a text or table that grows without end?' },
  { 'stack overflow', 'limit', 'a function that calls itself without end?' },
}

local function failed(step, err, file, line)
  failed_step = failed_step or step
  if rawequal(err, EXIT) then
    return
  end
  local text, code, remedy = error_text(err):gsub(', while processing {.*$', ''), 'policy', nil
  local module = text:match "module '([^'\n]+)' not found:"
  if module then -- the same as the reader of the text says
    return add('error', 'require', file, line, ("the module '%s' is not there"):format(module), NOT_THERE)
  end
  text = text:gsub('^[^\n:]+:%d+: (%l+:%l+: [^\n]-:%d+: )', '%1') -- a helper's text about a file, with the place of its call
  for _, one in ipairs(REMEDIES) do
    if text:find(one[1], 1, true) then
      code, remedy = one[2], one[3]
    end
  end
  local at, number, rest = split_place(text)
  if at and of_policy(at) and not rest:find '\n%s+[^%s:]+:%d+: ' then
    add('error', code, at, number, rest, remedy)
  elseif remedy then
    add('error', code, file, line, rest or text, remedy)
  else
    add_text('error', code, text, file, line)
  end
end

--- Runs a function; what it raises becomes a finding.
local function guarded(step, fn, ...)
  local args, count = { ... }, select('#', ...)
  local where = {}
  local ok, err = real.xpcall(function()
    return fn(unpack(args, 1, count))
  end, function(err)
    where.file, where.line = policy_place(3)
    if rawequal(err, host.inner_error) and host.inner_trace then
      local file, line = host.inner_trace:match '\n%s+([^\n:]+):(%d+):'
      if file and of_policy(full_path(file)) then
        where.file, where.line = full_path(file), tonumber(line)
      end
    end
    return err
  end)
  if not ok then
    failed(step, err, where.file, where.line)
  end
  return ok
end

-- --- what the policy does while it is loaded ----------------------------------------------------------------------

local function record(kumo, name, fn)
  local original = rawget(kumo, name)
  if original then
    rawset(kumo, name, function(options)
      if type(options) == 'table' then
        local file, line = policy_place(3)
        fn(options, { file = file, line = line })
      end
      return original(options) -- a tail call: errors name the place of the policy's own
    end)
  end
end

local function watch(kumo)
  record(kumo, 'define_spool', function(options, place)
    if type(options.name) == 'string' and type(options.path) == 'string' then
      spools[options.name] = { path = options.path, place = place }
    end
  end)
  record(kumo, 'configure_local_logs', function(options, place)
    local function dir(path)
      if type(path) == 'string' then
        table.insert(configured.logs, { path = path, place = place })
      end
    end
    dir(options.log_dir)
    for _, one in pairs(type(options.per_record) == 'table' and options.per_record or {}) do
      dir(type(one) == 'table' and one.log_dir)
    end
    if type(options.filter_event) == 'string' then
      configured.filters[options.filter_event] = place
    end
  end)
  record(kumo, 'configure_log_disposition_hook', function(options, place)
    if type(options.name) == 'string' then
      configured.dispositions['log_disposition_' .. options.name] = place
    end
  end)
end

-- What the runtime and its helpers log is a finding; what the policy logs itself goes where it always goes.
local function capture_log()
  local show = { warn = 'warning', error = 'error' }
  function c.log(level, text)
    local at, _, rest = split_place(text)
    if show[level] and not of_policy(at) then
      text = rest or text
      local file, line, message = inner_place(text)
      if not file then
        file, line = text:match '([^%s]+%.lua):(%d+)'
        file, line = file and full_path(file), tonumber(line)
      end
      if not file then
        file, line = policy_place(3)
      end
      if not text:find('is never asked', 1, true) then -- check_order() says it
        add(show[level], 'log', file, line, message or text)
      end
    else
      real.log(level, text)
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
    real.stderr:write(report.printable(table.concat(parts, '\t')), '\n')
  end
  io.stdout = report.listener(real.stderr) -- luacheck: ignore
  function io.write(...) -- luacheck: ignore
    return io.stdout:write(...)
  end
  function os.exit(code) -- luacheck: ignore
    local file, line = policy_place(3)
    add('error', 'policy', file, line, ('os.exit(%s) would end the process'):format(code == nil and '' or tostring(code)),
      'raise an error to refuse to start') -- stylua: ignore
    error(EXIT, 0)
  end
end

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
  watch(kumo)
  capture_log()
  capture_output()
  restore.keep()
end

--- Evaluates the policy.
function host.entry.check_load()
  local kind, err = tool.kind(policy)
  if not kind then
    failed_step = 'load'
    return add('error', 'policy', policy, 0, (err:gsub('^.*: ', 'cannot be read: ')))
  elseif kind == 'directory' then
    failed_step = 'load'
    return add('error', 'policy', policy, 0, 'is a directory', 'name the policy file in it')
  end
  local file, why = real.open(policy, 'rb')
  local start = file and file:read(4) or ''
  if not file then
    failed_step = 'load'
    return add('error', 'policy', policy, 0, (tostring(why):gsub('^.*: ', 'cannot be read: ')))
  end
  file:close()
  if start:sub(1, 1) == '\27' then
    failed_step = 'load'
    return add('error', 'syntax', policy, 0, 'is compiled Lua, or no Lua at all', 'check the source of it')
  end
  local chunk = real.loadfile(policy)
  if not chunk then
    failed_step = 'load' -- the reader of all files says why
    return
  end
  loaded = guarded('load', chunk)
end

--- Fires pre_init, init or validate_config. The result says whether it is worth to go on.
function host.entry.check_fire(event)
  if not loaded then
    return
  end
  local errors = report.count 'error'
  if event == 'validate_config' then
    io.stderr = report.listener(real.stderr, function(level, text) -- luacheck: ignore
      add_text(level, 'file', text)
    end)
  end
  tool.configuring(event ~= 'validate_config')
  local ok = guarded(event, host.dispatch, event)
  tool.configuring(false)
  io.stderr = real.stderr -- luacheck: ignore
  if event == 'validate_config' and ok and host.validation_has_failed and report.count 'error' == errors then
    add('error', 'validate', nil, 0, 'a handler of validate_config has called kumo.validation_failed()')
  end
end

--- Log hooks, as `tailrace run` checks them before it starts, but all of them.
function host.entry.check_log_hooks()
  if not loaded then
    return
  end
  guarded('hooks', function()
    for _, one in ipairs(host.hook_findings and host.hook_findings() or {}) do
      local file, line = tostring(one.place):match '^(.*):(%d+)$'
      file = file and full_path(file)
      if not of_policy(file) then
        file, line = tostring(one.text):match '([^%s]+%.lua):(%d+)'
        file = file and full_path(file)
      end
      if not of_policy(file) then
        file, line = nil, nil
      end
      add(one.level, 'hook', file, tonumber(line), one.text, one.remedy)
    end
  end)
end

--- A step that was cut off: TEXT has a traceback or what it waits for. SECONDS 0: the runtime itself failed in it.
function host.entry.check_cut(step, seconds, text)
  restore.all()
  failed_step = failed_step or step
  io.stderr = real.stderr -- luacheck: ignore
  local file, line
  for path, number in text:gmatch '\n%s+([^\n:]+):(%d+):' do
    if not file and of_policy(full_path(path)) then
      file, line = full_path(path), tonumber(number)
    end
  end
  local name = step == 'load' and 'the top level' or "the event '" .. step .. "'"
  local loop = 'an endless loop that catches errors?'
  if text:find('ran too long and caught the error', 1, true) == 1 then
    return add('error', 'limit', file, line, name .. ' did not end, and caught the error that should have ended it', loop)
  elseif seconds == 0 then
    for _, one in ipairs(REMEDIES) do
      if text:find(one[1], 1, true) then
        return failed(step, text:match '^[^\n]*', file, line)
      end
    end
    return add('error', 'policy', file, line, ('%s cannot be checked: %s'):format(step, text:match '^[^\n]*'),
      'the policy has replaced or removed something that the runtime needs') -- stylua: ignore
  end
  local what = text:match '^waiting [^\n]- for ([^\n]+)\n'
  local remedy = what and 'what takes long belongs into a task: kumo.spawn_task' or loop
  what = what and ': it waits for ' .. what or ''
  add('error', 'limit', file, line, ('%s did not end within %g s%s'):format(name, seconds, what), remedy)
end

-- --- files -----------------------------------------------------------------------------------------------------------

local MAX_FILES = 1000

local function read_source(path)
  if sources[path] or #sources >= MAX_FILES then
    return
  end
  local source = { path = path }
  sources[path] = source
  sources[#sources + 1] = source
  function source.add(level, code, line, message, remedy)
    add(level, code, path, line, message, remedy)
  end
  local file = tool.kind(path) ~= 'directory' and real.open(path, 'rb')
  local text = file and file:read '*a' or nil
  if file then
    file:close()
  end
  if not text or text:sub(1, 1) == '\27' then
    return
  end
  local chunk, err = real.loadstring(text:gsub('^#[^\n]*', ''), '@' .. path)
  if not chunk then
    local line, message = tostring(err):match ':(%d+): (.*)$'
    source.broken = true
    source.add('error', 'syntax', tonumber(line) or 0, message or tostring(err))
    return
  end
  local ok, tree = pcall(parse.read, text)
  if not ok then -- what LuaJIT takes and this reader does not: nothing is said about the file
    real.log('debug', ('check: %s is not looked at: %s'):format(path, tostring(tree)))
    return
  end
  source.tree = tree
  for _, one in ipairs(scan.reaches(source)) do
    if one.path then
      if not tool.kind(one.path) then
        source.add('error', 'require', one.line, ("the file '%s' is not there"):format(one.path))
      elseif not is_ours(one.path) then
        read_source(one.path)
      end
    elseif not package.preload[one.name] and (package.loaded[one.name] == nil or not globals_before[one.name]) then
      local found = real.searchpath(one.name, package.path)
      if found and not is_ours(found) then
        read_source(found)
      elseif not found and package.loaded[one.name] == nil and not real.searchpath(one.name, package.cpath) then
        source.add('error', 'require', one.line, ("the module '%s' is not there"):format(one.name), NOT_THERE)
      end
    end
  end
end

-- --- handlers ---------------------------------------------------------------------------------------------------------

local function assigned_globals()
  local out = {}
  for _, source in ipairs(sources) do
    for _, node in ipairs(source.tree and source.tree.globals or {}) do
      if node.is_write then
        out[node.name] = true
      end
    end
  end
  return out
end

-- Texts of the policy that may name an event.
local function named_texts()
  local out, prefixes = {}, {}
  for _, source in ipairs(sources) do
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

local function check_event(source, one, events, names, texts, prefixes)
  local name = one.name
  local event = events[name]
  if event then
    if table.concat(event.text, ' '):find 'Never fired' then
      source.add('warning', 'event', one.line, ("Tailrace never fires the event '%s'"):format(name), 'see docs/compatibility.md')
    end
    return
  end
  if name == 'main' or texts[name] or configured.filters[name] or configured.dispositions[name] then
    return
  elseif name:find '^log_disposition_' and loaded then
    local hook = name:match '^log_disposition_(.*)$'
    source.add('error', 'hook', one.line, ("'%s' is never called: no disposition hook '%s' is configured"):format(name, hook),
      'kumo.configure_log_disposition_hook { name = ... } in pre_init or init') -- stylua: ignore
    return
  end
  for _, prefix in ipairs(prefixes) do
    if name:sub(1, #prefix) == prefix then
      return
    end
  end
  local near = c.nearest(name, names)
  if near then
    source.add('error', 'event', one.line, ("there is no event '%s'"):format(name), ("did you mean '%s'?"):format(near))
  else
    local text = "nothing fires the event '%s': it is none of Tailrace's, and no other text of the policy names it"
    source.add('warning', 'event', one.line, text:format(name), '`tailrace help events` lists the events')
  end
end

-- The queue helper answers for everything but log hooks, as its documentation says.
local function helper_answers(path)
  return path:find 'policy%-extras/queue%.lua$' ~= nil
end

local function registrar_place(name, i)
  local stack = (host.get_event_registrars(name) or {})[i]
  for _, place in ipairs(stack or {}) do
    local file, line = place:match '^(.*):(%d+)$'
    file = file and full_path(file)
    if of_policy(file) then
      return file, tonumber(line)
    end
  end
end

local function check_order()
  for event in pairs(host.MULTIPLE) do
    local before -- { what, is_helper } of the first that always answers
    for i, handler in ipairs(host.handlers_of(event)) do
      local info = real.getinfo(handler, 'S')
      local path = info.source:sub(2)
      local file, line = registrar_place(event, i)
      local is_log_hook = path:find 'policy%-extras/log_hooks%.lua$' ~= nil
      if before and not (before.is_helper and is_log_hook) then
        local who = is_log_hook and "the log hook's handler" or 'the handler'
        local remedy = 'register it before, or `return` without a value where the other has no answer'
        local text = ("%s of '%s' is never asked: %s answers for everything"):format(who, event, before.what)
        add('error', 'order', file, line, text, is_log_hook and 'set the log hook up before it' or remedy)
      end
      local source = sources[path]
      local fn = source and source.tree and scan.function_at(source, info.linedefined)
      if not before and fn and scan.always_answers(source, fn) then
        before = { what = ('the handler at %s:%d'):format(path, info.linedefined) }
      elseif not before and helper_answers(path) and event == 'get_queue_config' then
        before = { what = ('the queue helper set up at %s:%d'):format(file or '?', line or 0), is_helper = true }
      end
    end
  end
end

-- --- directories ---------------------------------------------------------------------------------------------------------

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

local function check_directories(missing_spool)
  for name, spool in pairs(spools) do
    local why = not_writable(spool.path)
    if why then
      local text = ("the spool '%s' in %s cannot be written: %s"):format(name, spool.path, why)
      add('error', 'spool', spool.place.file, spool.place.line, text, 'give the directory to the user of the service')
    end
  end
  for _, log in ipairs(configured.logs) do
    local why = not_writable(log.path)
    if why then
      add('error', 'log', log.place.file, log.place.line, ('logs in %s cannot be written: %s'):format(log.path, why),
        'give the directory to the user of the service') -- stylua: ignore
    end
  end
  if loaded and not failed_step and missing_spool ~= '' then
    add('error', 'spool', nil, 0, missing_spool)
  end
  for event, place in pairs(configured.filters) do
    if loaded and not host.has_handler(event) then
      local near = c.nearest(event, host.handler_names())
      local text = ("the filter_event '%s' has no handler, so nothing is written"):format(event)
      add('error', 'hook', place.file, place.line, text,
        near and ("did you mean '%s'?"):format(near) or ("kumo.on('%s', function(msg) ... end)"):format(event)) -- stylua: ignore
    end
  end
end

-- --- the end ----------------------------------------------------------------------------------------------------------------

local function check_files()
  local events, names = reference.events(), {}
  for name in pairs(events) do
    names[#names + 1] = name
  end
  table.sort(names)
  read_source(policy)
  for name in pairs(package.loaded) do -- what was required by a name that cannot be read
    local found = type(name) == 'string' and not name:find '^tr%.' and real.searchpath(name, package.path)
    if found and not is_ours(found) and not globals_before[name] then
      read_source(found)
    end
  end
  local registrations = {}
  for i, source in ipairs(sources) do
    registrations[i] = source.tree and scan.registrations(source) or {}
  end
  local assigned = assigned_globals()
  local texts, prefixes = named_texts()
  for i, source in ipairs(sources) do
    if source.tree then
      scan.check(source, registrations[i], globals_before, assigned, host.MULTIPLE)
      for _, one in ipairs(registrations[i]) do
        check_event(source, one, events, names, texts, prefixes)
      end
    end
  end
  connection.check(sources, registrations)
end

--- finish(MISSING_SPOOL, JSON, COLOURS, STRICT, COLUMNS) -> text, exit status
function host.entry.check_finish(missing_spool, as_json, colours, strict, columns)
  restore.all()
  local ok, err = real.xpcall(check_files, real.traceback)
  if not ok then
    add('warning', 'check', nil, 0, 'the text of the policy could not be looked at: ' .. tostring(err))
  end
  if loaded then
    check_order()
  end
  check_directories(missing_spool)
  report.merge()
  local paths = {}
  for i, source in ipairs(sources) do
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
