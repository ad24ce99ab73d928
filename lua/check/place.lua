--- Places in the files of a policy: where something was called, what a text with FILE:LINE means.
local host = require 'tr.host'
local tool = require 'tr.tool'
local c = host.c
local getinfo = debug.getinfo -- a policy may replace it

local place = {}

local known = {} -- paths of files that the policy reaches

function place.know(path)
  known[#known + 1] = path
end

function place.is_ours(path)
  local inner = path:sub(1, #c.share_dir + 1) == c.share_dir .. '/' and path:sub(#c.share_dir + 2) or ''
  return inner:find '^lua/' ~= nil or inner:find '^policy%-extras/' ~= nil or path:find '^=' ~= nil
end

--- The innermost place of the policy: file, line.
function place.caller(level)
  while true do
    local info = getinfo(level, 'Sl')
    if not info then
      return nil
    end
    if info.currentline > 0 and info.source:sub(1, 1) == '@' and not place.is_ours(info.source:sub(2)) then
      return info.source:sub(2), info.currentline
    end
    level = level + 1
  end
end

--- The file that a shortened name ("...sub/policy.lua") means.
function place.full(short)
  local tail = short:match '^%.%.%.(.+)$'
  for _, path in ipairs(tail and known or {}) do
    if path:sub(-#tail) == tail then
      return path
    end
  end
  return short
end

--- Parts "FILE:LINE: TEXT"; without a place: nil.
function place.split(text)
  local file, line, rest = text:match '^%s*([^%s:][^:\n]-):(%d+): (.*)$'
  if file and (file:find '[/%.]') then
    return place.full(file), tonumber(line), rest
  end
end

function place.is_policys(file)
  local helper = file and (file:find 'policy%-extras/[%w_]+%.lua$' or file:find '^%.%.%..*lua/[%w_/]+%.lua$')
  return file and not helper and not place.is_ours(file)
end

--- The same as split() with a helper's name before it: "sources: FILE:LINE: TEXT".
function place.inner(text)
  local at, line, rest = place.split(text)
  if not at then
    at, line, rest = place.split(text:match '^[%w_:]+: (.*)$' or '')
    if at and not tool.kind(at) then
      return nil
    end
  end
  return at, line, rest
end


return place
