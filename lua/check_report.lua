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

function report.add(level, code, file, line, message, remedy)
  local one = { level = level, code = code, file = short(file), line = line, message = short(message) }
  one.remedy = remedy and short(remedy)
  local key = ('%s\0%d\0%s'):format(one.file, line, one.message)
  if not seen[key] then
    seen[key] = true
    findings[#findings + 1] = one
  end
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
    local margin = '\n' .. (' '):rep(width + 4)
    out[#out + 1] = ('  %s  %s %s\n'):format(line, paint(one.level == 'error' and '31;1' or '33;1', one.level .. ':'),
      (one.message:gsub('\n', margin))) -- stylua: ignore
    if one.remedy then
      out[#out + 1] = ('  %s  %s\n'):format((' '):rep(width), paint('2', '-> ' .. one.remedy:gsub('\n', margin)))
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
