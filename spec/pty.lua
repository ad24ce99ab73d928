--- A program at a pseudo-terminal of its own: what it writes is read here, what a person would type is written.
local ffi = require 'ffi'
local helper = require 'helper'

ffi.cdef [[
int posix_openpt(int flags);
int grantpt(int fd);
int unlockpt(int fd);
char *ptsname(int fd);
int ioctl(int fd, unsigned long request, ...);
long read(int fd, void *buf, size_t n);
long write(int fd, const void *buf, size_t n);
int close(int fd);
struct spec_winsize { unsigned short rows, columns, x, y; };
]]

local O_RDWR, O_NOCTTY, O_NONBLOCK = 2, 256, 2048
local TIOCSWINSZ = 0x5414

local pty = {}

---@class spec.Pty
---@field raw string     everything that the program has written
---@field at integer     where the next expect() begins, in it without escapes
local Pty = {}
Pty.__index = Pty

local open = {}

--- Starts a command (for the shell) at a terminal of so many columns.
function pty.start(command, columns, env)
  local self = setmetatable({ raw = '', at = 1 }, Pty)
  self.fd = ffi.C.posix_openpt(O_RDWR + O_NOCTTY + O_NONBLOCK)
  assert(self.fd >= 0 and ffi.C.grantpt(self.fd) == 0 and ffi.C.unlockpt(self.fd) == 0)
  local name = ffi.string(ffi.C.ptsname(self.fd))
  self:size(columns or 100)
  local all = { TERM = 'xterm' }
  for key, value in pairs(env or {}) do
    all[key] = value
  end
  -- the first terminal that a session's leader opens becomes its own
  local script = ('exec <%s >%s 2>&1; exec env %s'):format(name, name, command)
  self.process = helper.start('setsid sh -c ' .. helper.quote(script), all)
  open[#open + 1] = self
  return self
end

function Pty:size(columns)
  local size = ffi.new('struct spec_winsize', 40, columns, 0, 0)
  assert(ffi.C.ioctl(self.fd, TIOCSWINSZ, size) == 0)
end

function Pty:read()
  local block = ffi.new 'char[65536]'
  while true do
    local n = tonumber(ffi.C.read(self.fd, block, 65536))
    if n <= 0 then
      return
    end
    self.raw = self.raw .. ffi.string(block, n)
  end
end

function Pty:type(text)
  assert(ffi.C.write(self.fd, text, #text) == #text)
end

--- Text without what moves the cursor or colours.
local function bare(text)
  return (text:gsub('\27%[[%d;?]*[%a@]', ''):gsub('\27[=>]', ''):gsub('\r', ''))
end

--- Waits until what has come since the last time has that text (plain); returns all up to it. Fails with the screen.
function Pty:expect(text, limit_s)
  local seen, last
  local ok = pcall(helper.wait_for, text, function()
    self:read()
    local all, _ = bare(self.raw)
    _, last = all:find(text, self.at, true)
    seen = all:sub(self.at, last)
    return last
  end, limit_s)
  if not ok then
    error(('waited in vain for %q; the screen since then:\n%s'):format(text, seen), 2)
  end
  self.at = last + 1
  return seen
end

--- Types a line and waits for a text, and then for the next prompt.
function Pty:line(text, expected)
  self:type(text .. '\r')
  return self:expect(expected)
end

--- Exit status, once it has ended.
function Pty:wait_end(limit_s)
  return helper.wait_for('the end of the program', function()
    self:read()
    return self.process:status()
  end, limit_s)
end

--- For after_each, before helper.cleanup, which ends what a test has left.
function pty.close_all()
  for _, each in ipairs(open) do
    ffi.C.close(each.fd)
  end
  open = {}
end

return pty
