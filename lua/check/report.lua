--- What `tailrace check` has found: collected, put in order, written for people or as JSON.
local host = require 'tr.host'
local c = host.c

local report = {}

---@class check.Finding
---@field level 'error'|'warning'
---@field code string     what kind: syntax, global, function, option, event, order, hook, require, file, spool, log, policy,
---                        validate, limit
---@field file string
---@field line integer    0: the file as a whole
---@field message string
---@field remedy? string

local TEXT_MAX = 2000 -- bytes of a message

local findings, seen = {}, {}
local policy = ''

--- Control characters and bytes that are no UTF-8 do not reach a terminal.
---@param text string
---@return string
function report.printable(text)
  text = text:gsub('[%z\1-\8\11-\31\127]', function(ch)
    return ('\\x%02x'):format(ch:byte())
  end)
  if c.utf8_valid(text) then
    return text
  end
  return (text:gsub('[\128-\255]', function(ch)
    return ('\\x%02x'):format(ch:byte())
  end))
end

function report.policy(path)
  policy = path
end

local function short(text)
  if #text > TEXT_MAX then
    text = text:sub(1, TEXT_MAX) .. ' ...'
  end
  return report.printable(text)
end

--- Without a file: the policy's.
function report.add(level, code, file, line, message, remedy)
  line = line or 0
  local one = { level = level, code = code, file = short(file or policy), line = line, message = short(message) }
  one.remedy = remedy and short(remedy)
  local key = ('%s\0%d\0%s'):format(one.file, line, one.message)
  if not seen[key] then
    seen[key] = true
    findings[#findings + 1] = one
  end
end

-- What Lua and the runtime call the name that an error is about.
local ABOUT = {
  "global '([%w_]+)' %(a nil value%)", "field '([%w_]+)' %(a nil value%)", "method '([%w_]+)' %(a nil value%)",
  'has no field "([%w_]+)"', 'kumo%.([%w_%.]+) is not supported', "unknown field '([%w_]+)'", "missing field '([%w_]+)'",
} -- stylua: ignore
local TOLD_BY_TEXT = { global = true, ['function'] = true, option = true }

--- Leaves out errors of running code of which the text has told the same, with the place of the name itself.
function report.merge()
  local kept = {}
  for _, one in ipairs(findings) do
    local name
    for _, pattern in ipairs(one.code == 'policy' and ABOUT or {}) do
      name = name or one.message:match(pattern)
    end
    local told = false
    for _, other in ipairs(name and findings or {}) do
      local near = other.line == one.line or other.code == 'option' and math.abs(other.line - one.line) < 50
      told = told or other.file == one.file and near and TOLD_BY_TEXT[other.code] and other.message:find(name, 1, true) ~= nil
    end
    if not told then
      kept[#kept + 1] = one
    end
  end
  findings = kept
end

---@param level string
---@return integer
function report.count(level)
  local count = 0
  for _, one in ipairs(findings) do
    count = count + (one.level == level and 1 or 0)
  end
  return count
end

--- A stand-in for a file that writes lines to standard error. "ERROR: TEXT" and "WARNING: TEXT" go to `take`.
function report.listener(stderr, take)
  local pending = ''
  local function line_of(line)
    local kind, text = line:match '^(%u+): (.*)$'
    if take and (kind == 'ERROR' or kind == 'WARNING') then
      take(kind == 'ERROR' and 'error' or 'warning', text)
      return
    end
    stderr:write(report.printable(line), '\n')
  end
  local out = {}
  local block
  function out:write(...)
    for i = 1, select('#', ...) do
      pending = pending .. tostring((select(i, ...)))
    end
    for line in pending:gmatch '([^\n]*)\n' do
      if block and line:find '^%s' then -- goes on with the text before
        block = block .. '\n' .. line
      else
        if block then
          line_of(block)
        end
        block = line
      end
    end
    pending = pending:match '[^\n]*$'
    if block and pending == '' then
      line_of(block)
      block = nil
    end
    return self
  end
  function out:flush()
    return self
  end
  function out:close()
    return true
  end
  function out:setvbuf()
    return true
  end
  return out
end

local function sort()
  table.sort(findings, function(a, b)
    if a.file ~= b.file then
      if a.file == policy or b.file == policy then
        return a.file == policy
      end
      return a.file < b.file
    elseif a.line ~= b.line then
      return a.line < b.line
    elseif a.level ~= b.level then
      return a.level < b.level
    end
    return a.message < b.message
  end)
end

local function plural(count, name)
  return ('%d %s%s'):format(count, name, count == 1 and '' or 's')
end

--- Lines of at most `width` characters (0: any), further ones behind `margin` blanks.
local function wrapped(value, width, margin)
  local next_line = '\n' .. (' '):rep(margin)
  local room = width - margin
  if room < 30 then
    return (value:gsub('\n', next_line))
  end
  local out = {}
  for line in (value .. '\n'):gmatch '([^\n]*)\n' do
    while #line > room do
      local cut = line:sub(1, room + 1):match '^.*()%s' or line:find('%s', room)
      if not cut or not line:sub(1, cut):find '%S' then
        break
      end
      out[#out + 1] = line:sub(1, cut - 1)
      line = line:sub(cut + 1)
    end
    out[#out + 1] = line
  end
  return table.concat(out, next_line)
end

local function for_people(what, errors, warnings)
  local out, file = {}, nil
  local function paint(code, text)
    return what.colours and ('\27[%sm%s\27[0m'):format(code, text) or text
  end
  local width = 1
  for _, one in ipairs(findings) do
    width = math.max(width, #tostring(one.line))
  end
  for _, one in ipairs(findings) do
    if one.file ~= file then
      file = one.file
      out[#out + 1] = (#out > 0 and '\n' or '') .. paint('1', file) .. '\n'
    end
    local line = one.line > 0 and ('%' .. width .. 'd'):format(one.line) or (' '):rep(width)
    local level = one.level .. ': '
    local message = wrapped(level .. one.message, what.columns, width + 4):sub(#level + 1)
    out[#out + 1] = ('  %s  %s%s\n'):format(line, paint(one.level == 'error' and '31;1' or '33;1', level), message)
    if one.remedy then
      out[#out + 1] = ('  %s  %s\n'):format((' '):rep(width), paint('2', wrapped('-> ' .. one.remedy, what.columns, width + 4)))
    end
  end
  local looked = ('%s, %s'):format(plural(#what.files, 'file'), plural(what.handlers, 'event') .. ' handled')
  if #findings == 0 then
    return ('%s: %s, nothing to report\n'):format(report.printable(policy), looked)
  end
  out[#out + 1] = ('\n%s, %s (%s)%s\n'):format(plural(errors, 'error'), plural(warnings, 'warning'), looked,
    what.loaded and '' or '; the policy could not be loaded, so what needs that was not checked') -- stylua: ignore
  return table.concat(out)
end

---@class check.Written
---@field files string[]
---@field loaded boolean
---@field handlers integer
---@field json boolean
---@field colours boolean
---@field strict boolean
---@field columns integer   of the terminal; 0: lines are not wrapped

--- The text, and the exit status: 0, 1 (errors; with strict warnings, too), 78 (the policy cannot be loaded).
---@param what check.Written
---@return string text
---@return integer status
function report.write(what)
  sort()
  local errors, warnings = report.count 'error', report.count 'warning'
  local status = 0
  if not what.loaded then
    status = 78
  elseif errors > 0 or (what.strict and warnings > 0) then
    status = 1
  end
  if not what.json then
    return for_people(what, errors, warnings), status
  end
  local files = {}
  for i, path in ipairs(what.files) do
    files[i] = report.printable(path)
  end
  return host.internal('kumo.serde').serde.json_encode_pretty {
    policy = report.printable(policy),
    loaded = what.loaded,
    status = status,
    errors = errors,
    warnings = warnings,
    files = c.array(files),
    findings = c.array(findings),
  } .. '\n', status
end

return report
