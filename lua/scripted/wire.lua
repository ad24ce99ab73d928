--- A scripted connection as lines and counted bytes.
local wire = {}
wire.__index = wire

local MAX_LINE_BYTES = 64 * 1024

function wire.new(conn, address)
  return setmetatable({ conn = conn, address = address, buffer = '' }, wire)
end

--- Waits for more bytes; false at the end, or when the time is over.
---@async
function wire:fill(limit_s)
  local bytes = self.conn:read(limit_s)
  if bytes then
    self.buffer = self.buffer .. bytes
  end
  return bytes ~= nil
end

--- Whether the client says anything within limit_s.
---@async
function wire:peek(limit_s)
  return self.buffer ~= '' or self:fill(limit_s)
end

--- A line without its end; nil at the end of the connection.
---@async
function wire:line()
  local from = 1
  while true do
    local at = self.buffer:find('\n', from, true)
    if at then
      local line = self.buffer:sub(1, at - 1):gsub('\r$', '')
      self.buffer = self.buffer:sub(at + 1)
      return line
    end
    from = #self.buffer + 1
    if #self.buffer > MAX_LINE_BYTES then
      error('a line of more than ' .. MAX_LINE_BYTES .. ' bytes', 0)
    end
    if not self:fill() then
      return nil
    end
  end
end

--- Everything up to a text, which is taken, too; nil at the end of the connection.
---@async
function wire:upto(mark)
  local parts, tail = {}, self.buffer
  while true do
    local at, last = tail:find(mark, 1, true)
    if at then
      parts[#parts + 1] = tail:sub(1, at - 1)
      self.buffer = tail:sub(last + 1)
      return table.concat(parts)
    end
    local keep = math.min(#tail, #mark - 1) -- the mark may come in two pieces
    parts[#parts + 1] = tail:sub(1, #tail - keep)
    self.buffer = tail:sub(#tail - keep + 1)
    if not self:fill() then
      return nil
    end
    tail = self.buffer
  end
end

--- Exactly n bytes; nil at the end of the connection.
---@async
function wire:bytes(n)
  local parts, have = { self.buffer }, #self.buffer
  while have < n do
    local more = self.conn:read()
    if not more then
      return nil
    end
    parts[#parts + 1] = more
    have = have + #more
  end
  local all = table.concat(parts)
  self.buffer = all:sub(n + 1)
  return all:sub(1, n)
end

---@return boolean open
function wire:write(text)
  return self.conn:write(text)
end

return wire
