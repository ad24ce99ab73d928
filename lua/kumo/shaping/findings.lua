--- What is wrong in shaping files: a list of findings, each with its place and what to do about it.
local host = require 'tr.host'
local c = host.c

---@class kumo.shaping.Finding
---@field level 'Error'|'Warn'
---@field fatal boolean     no configuration can be made of it
---@field file string
---@field line integer      0: the file as a whole
---@field section string?   header as in TOML: `["example.com"]`
---@field key string?
---@field message string
---@field remedy string?

---@class kumo.shaping.Findings
local findings = {}
findings.__index = findings

---@return kumo.shaping.Findings
function findings.new()
  return setmetatable({}, findings)
end

---@class kumo.shaping.Place
---@field file string
---@field line integer
---@field section? string
---@field key? string

local function add(self, level, fatal, place, message, remedy)
  self[#self + 1] = {
    level = level,
    fatal = fatal,
    file = place.file,
    line = place.line or 0,
    section = place.section,
    key = place.key,
    message = message,
    remedy = remedy,
  }
end

--- The file cannot be used like that.
---@param place kumo.shaping.Place
---@param message string
---@param remedy? string
function findings:fatal(place, message, remedy)
  add(self, 'Error', true, place, message, remedy)
end

--- It can, but it is most likely not what was meant.
---@param place kumo.shaping.Place
---@param message string
---@param remedy? string
function findings:warn(place, message, remedy)
  add(self, 'Warn', false, place, message, remedy)
end

--- Something of which the caller of load() says how bad it is.
---@param level 'Ignore'|'Warn'|'Error'
---@param place kumo.shaping.Place
---@param message string
---@param remedy? string
function findings:at_level(level, place, message, remedy)
  if level ~= 'Ignore' then
    add(self, level, false, place, message, remedy)
  end
end

---@return boolean
function findings:has_fatal()
  for _, finding in ipairs(self) do
    if finding.fatal then
      return true
    end
  end
  return false
end

--- In the order of the files and their lines.
---@param paths string[]
function findings:sort(paths)
  local rank = {}
  for i, path in ipairs(paths) do
    rank[path] = rank[path] or i
  end
  table.sort(self, function(a, b)
    if a.file ~= b.file then
      return (rank[a.file] or 0) < (rank[b.file] or 0)
    elseif a.line ~= b.line then
      return a.line < b.line
    end
    return (a.key or '') < (b.key or '')
  end)
end

--- One line for people: FILE:LINE: [section] key: message (remedy).
---@param finding kumo.shaping.Finding
---@return string
function findings.text(finding)
  local parts = { finding.file }
  if finding.line > 0 then
    parts[#parts + 1] = ':' .. finding.line
  end
  parts[#parts + 1] = ': '
  if finding.section then
    parts[#parts + 1] = finding.section .. ' '
  end
  if finding.key then
    parts[#parts + 1] = finding.key .. ': '
  end
  parts[#parts + 1] = finding.message
  if finding.remedy then
    parts[#parts + 1] = ' (' .. finding.remedy .. ')'
  end
  return table.concat(parts)
end

--- The texts of those of one level, in the order of the files.
---@param level? 'Error'|'Warn'   nil: all
---@return string[]
function findings:texts(level)
  local out = {}
  for _, finding in ipairs(self) do
    if not level or finding.level == level then
      out[#out + 1] = findings.text(finding)
    end
  end
  return c.array(out)
end

return findings
