--- What goes wrong in a policy becomes a finding with the place in the policy's own files.
local host = require 'tr.host'
local place = host.internal 'check.place'
local report = host.internal 'check.report'
local c = host.c
local xpcall = xpcall -- a policy may replace it

local finding = {
  EXIT = {}, -- what os.exit raises
  failed_step = nil, -- the first step that did not end well
}

function finding.blame(step)
  finding.failed_step = finding.failed_step or step
end

--- A text that may have several lines with places of their own, e.g. all mistakes of a file.
function finding.add_text(level, code, text, file, line)
  local head, any, fallback = nil, false, {}
  for one in (text .. '\n'):gmatch '([^\n]*)\n' do
    local at, number, rest = place.inner(one)
    if at and place.is_policys(at) then
      any = true
      report.add(level, code, at, number, rest)
    elseif at then
      fallback[#fallback + 1] = rest
    elseif one:find '%S' then
      head = head or one
      fallback[#fallback + 1] = one
    end
  end
  if not any then
    report.add(level, code, file, line, table.concat(fallback, '\n'))
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

finding.NOT_THERE = "modules are looked for beside the policy, in the runtime's directory, and in package.path"

local REMEDIES = {
  { 'handler ran longer than', 'limit', 'an endless loop? What takes long has to wait now and then, with kumo.sleep(0)' },
  { 'MiB of memory are needed', 'limit', 'a text or table that grows without end?' },
  { 'not enough memory', 'limit', 'a text or table that grows without end?' },
  { 'stack overflow', 'limit', 'a function that calls itself without end?' },
}

--- What a step has raised.
function finding.failed(step, err, file, line)
  finding.blame(step)
  if rawequal(err, finding.EXIT) then
    return
  end
  local text, code, remedy = error_text(err):gsub(', while processing {.*$', ''), 'policy', nil
  local module = text:match "module '([^'\n]+)' not found:"
  if module then -- the same as the reader of the text says
    return report.add('error', 'require', file, line, ("the module '%s' is not there"):format(module), finding.NOT_THERE)
  end
  text = text:gsub('^[^\n:]+:%d+: (%l+:%l+: [^\n]-:%d+: )', '%1') -- a helper's text about a file, with the place of its call
  for _, one in ipairs(REMEDIES) do
    if text:find(one[1], 1, true) then
      code, remedy = one[2], one[3]
    end
  end
  local at, number, rest = place.split(text)
  if at and place.is_policys(at) and not rest:find '\n%s+[^%s:]+:%d+: ' then
    report.add('error', code, at, number, rest, remedy)
  elseif remedy then
    report.add('error', code, file, line, rest or text, remedy)
  else
    finding.add_text('error', code, text, file, line)
  end
end

--- Runs a function; what it raises becomes a finding.
function finding.guarded(step, fn, ...)
  local args, count = { ... }, select('#', ...)
  local where = {}
  local ok, err = xpcall(function()
    return fn(unpack(args, 1, count))
  end, function(err)
    where.file, where.line = place.caller(3)
    if rawequal(err, host.inner_error) and host.inner_trace then
      local file, line = host.inner_trace:match '\n%s+([^\n:]+):(%d+):'
      if file and place.is_policys(place.full(file)) then
        where.file, where.line = place.full(file), tonumber(line)
      end
    end
    return err
  end)
  if not ok then
    finding.failed(step, err, where.file, where.line)
  end
  return ok
end

--- A step that was cut off: `text` has a traceback or what it waits for. `seconds` 0: the runtime itself failed in it.
function finding.cut(step, seconds, text)
  finding.blame(step)
  local file, line
  for path, number in text:gmatch '\n%s+([^\n:]+):(%d+):' do
    if not file and place.is_policys(place.full(path)) then
      file, line = place.full(path), tonumber(number)
    end
  end
  local name = step == 'load' and 'the top level' or "the event '" .. step .. "'"
  local loop = 'an endless loop that catches errors?'
  if text:find('ran too long and caught the error', 1, true) == 1 then
    return report.add('error', 'limit', file, line, name .. ' did not end, and caught the error that should have ended it', loop)
  elseif seconds == 0 then
    for _, one in ipairs(REMEDIES) do
      if text:find(one[1], 1, true) then
        return finding.failed(step, text:match '^[^\n]*', file, line)
      end
    end
    return report.add('error', 'policy', file, line, ('%s cannot be checked: %s'):format(step, text:match '^[^\n]*'),
      'the policy has replaced or removed something that the runtime needs') -- stylua: ignore
  end
  local what = text:match '^waiting [^\n]- for ([^\n]+)\n'
  local remedy = what and 'what takes long belongs into a task: kumo.spawn_task' or loop
  what = what and ': it waits for ' .. what or ''
  report.add('error', 'limit', file, line, ('%s did not end within %g s%s'):format(name, seconds, what), remedy)
end

return finding
