--- What specs of whole processes share: starting, waiting for conditions, reading what was written, ending.
local ffi = require 'ffi'
local kumo = require 'kumo'

ffi.cdef [[
struct spec_moment { long s, ns; };
int clock_gettime(int clock, struct spec_moment *moment);
int poll(void *fds, unsigned long count, int timeout_ms);
]]

local helper = {}

helper.TAILRACE = os.getenv 'TAILRACE'
if not helper.TAILRACE then -- the program under test is the one that runs the specs
  local pipe = assert(io.popen 'readlink /proc/$PPID/exe')
  helper.TAILRACE = pipe:read '*l'
  pipe:close()
end

--- Sanitizers keep freed memory for a while, and reserve terabytes: there a bound of memory says nothing.
helper.sanitized = os.execute(("grep -q '__[at]san_init' '%s'"):format(helper.TAILRACE)) == 0

--- Fails if a process has grown above a bound, both in KB.
function helper.assert_memory(kb, limit_kb)
  assert(helper.sanitized or kb < limit_kb, ('%d KB of memory, at most %d are allowed'):format(kb, limit_kb))
end

--- The error that fn(...) must raise, as a text.
function helper.raised(fn, ...)
  local ok, err = pcall(fn, ...)
  assert(not ok, 'no error was raised')
  return tostring(err)
end

--- Single quotes for the shell.
function helper.quote(text)
  return "'" .. tostring(text):gsub("'", [['\'']]) .. "'"
end

--- Runs a shell command to its end: output with standard error, and exit status.
function helper.sh(command)
  local pipe = assert(io.popen(('{ %s\n} 2>&1; echo "status=$?"'):format(command)))
  local output = pipe:read '*a'
  pipe:close()
  local text, status = output:match '^(.*)status=(%d+)%s*$'
  return text, tonumber(status)
end

--- Text of a file; nil if there is none.
function helper.read(path)
  local file = io.open(path, 'rb')
  if not file then
    return nil
  end
  local text = file:read '*a'
  file:close()
  return text
end

function helper.write(path, text)
  local file = assert(io.open(path, 'wb'))
  file:write(text)
  file:close()
  return path
end

--- The whole lines of a file, without their ends: what another process is still writing is left out. By line: the file may
--- be larger than a pattern takes.
function helper.lines(path)
  local file = io.open(path, 'rb')
  return function()
    local line = file and file:read '*L'
    if line and line:byte(-1) == 10 then
      return line:sub(1, -2)
    elseif file then
      file:close()
      file = nil
    end
  end
end

--- Milliseconds of real, monotonic time, also under the virtual clock.
function helper.now_ms()
  local moment = ffi.new 'struct spec_moment'
  assert(ffi.C.clock_gettime(1, moment) == 0)
  return tonumber(moment.s) * 1000 + tonumber(moment.ns) / 1e6
end

local LIMIT_S = 120 -- costs nothing where all is well, and a machine may be busy with other things

--- Waits until fn() gives something true; returns it. Fails naming `what` after limit_s (LIMIT_S) of real time. Where more
--- than a second passes between two looks, this process did not run: one second is counted.
function helper.wait_for(what, fn, limit_s)
  local waited_ms, last_ms = 0, helper.now_ms()
  while true do
    local value = fn()
    if value then
      return value
    end
    local now_ms = helper.now_ms()
    waited_ms, last_ms = waited_ms + math.min(1000, now_ms - last_ms), now_ms
    if waited_ms > 1000 * (limit_s or LIMIT_S) then
      error('waited in vain for ' .. what, 2)
    end
    kumo.sleep(0.01)
    if helper.now_ms() - now_ms < 5 then -- it was virtual time
      ffi.C.poll(nil, 0, 10)
    end
  end
end

-- --- ports ---------------------------------------------------------------------------------------

local held = {} -- by port: a UDP socket, which keeps other specs from the same number until this process ends

--- A port of 127.0.0.1 for a server that must be told one, or that is to have the same again after a restart. It is none of
--- those that the system gives to connections and to listeners of port 0: nobody else takes it while the server is away.
function helper.free_port()
  local socket = require 'socket'
  local lowest = tonumber((helper.read '/proc/sys/net/ipv4/ip_local_port_range' or ''):match '%d+') or 32768
  local first, count = 10000, lowest - 10000
  if count < 1000 then -- a system that gives out nearly all
    count = 20000
  end
  local start = tonumber(helper.read('/proc/self/stat'):match '%d+') * 37 -- not the same for all specs
  for i = 0, count - 1 do
    local port = first + (start + i) % count
    local holder = not held[port] and socket.udp()
    if holder then
      local listener = holder:setsockname('127.0.0.1', port) and socket.bind('127.0.0.1', port)
      if listener then
        listener:close()
        held[port] = holder
        return port
      end
      holder:close()
    end
  end
  error 'no free port'
end

--- The same as "127.0.0.1:PORT".
function helper.address()
  return '127.0.0.1:' .. helper.free_port()
end

-- --- directories and processes of a test ---------------------------------------------------------

local dirs, processes = {}, {}

function helper.dir()
  local path = helper.sh 'mktemp -d "${TMPDIR:-/tmp}/tailrace-spec.XXXXXX"':match '%S+'
  dirs[#dirs + 1] = path
  return path
end

---@class spec.process
---@field pid integer
---@field out string path of standard output
---@field err string path of standard error
local process = {}
process.__index = process

--- Starts a program in the background. env: table of variables.
---@return spec.process
function helper.start(command, env)
  local dir = helper.dir()
  local self = setmetatable({ out = dir .. '/out', err = dir .. '/err', status_path = dir .. '/status' }, process)
  local assignments = {}
  for name, value in pairs(env or {}) do
    assignments[#assignments + 1] = ('%s=%s'):format(name, helper.quote(value))
  end
  -- a subshell of its own notes the exit status, so that it can be read although this process is not the parent
  local script = ('(env %s %s >%s 2>%s & echo $! >%s/pid; wait $!; echo $? >%s) >/dev/null 2>&1 &'):format(
    table.concat(assignments, ' '),
    command,
    self.out,
    self.err,
    dir,
    self.status_path
  )
  os.execute(script)
  self.pid = helper.wait_for('a process id', function()
    return tonumber(helper.read(dir .. '/pid') or '')
  end)
  processes[#processes + 1] = self
  return self
end

--- A line of standard output or error that matches; waits for it. Returns the captures. Of a process that runs only whole
--- lines are looked at: a part of one may have been written.
function process:line(pattern, limit_s)
  local found
  local ok = pcall(helper.wait_for, pattern, function()
    local ended = self:status() ~= nil -- before it is read: what is written between the two is not missed
    local out, err = helper.read(self.out) or '', helper.read(self.err) or ''
    local text = ended and out .. err or (out:match '^.*\n' or '') .. (err:match '^.*\n' or '')
    found = { text:match(pattern) }
    return found[1] ~= nil or ended
  end, limit_s)
  if not ok or found[1] == nil then
    error(('no line like %q; it said:\n%s%s'):format(pattern, helper.read(self.out) or '', helper.read(self.err) or ''), 2)
  end
  return unpack(found)
end

--- Exit status once it has ended, else nil.
function process:status()
  local text = helper.read(self.status_path)
  return text and tonumber(text:match '%d+')
end

function process:signal(name)
  os.execute(('kill -%s %d 2>/dev/null'):format(name, self.pid))
end

--- Waits for the end; returns the exit status (128 + signal if it was killed).
function process:wait(limit_s)
  return helper.wait_for('the end of process ' .. self.pid, function()
    return self:status()
  end, limit_s)
end

--- Signals (TERM) and waits.
function process:stop(name, limit_s)
  self:signal(name or 'TERM')
  return self:wait(limit_s)
end

function process:output()
  return helper.read(self.out) or ''
end

function process:log()
  return helper.read(self.err) or ''
end

--- Stops a process with all of its threads, and waits until they are: kill returns earlier.
function helper.stop_process(pid)
  os.execute(('kill -STOP %s'):format(pid))
  helper.wait_for('the threads to stop', function()
    local text = helper.sh(('cat /proc/%s/task/*/status | grep ^State:'):format(pid))
    return text:find '%S' and not text:gsub('State:%s*T[^\n]*\n?', ''):find '%S'
  end)
end

--- To be called in after_each: ends what a failed test left running and removes its directories.
function helper.cleanup()
  for _, one in ipairs(processes) do
    if not one:status() then
      one:stop 'KILL'
    end
  end
  for _, path in ipairs(dirs) do
    os.execute('rm -rf ' .. helper.quote(path))
  end
  dirs, processes = {}, {}
end

-- --- the programs ----------------------------------------------------------------------------------

--- `tailrace sink`; .http and .smtp are "ADDR:PORT".
function helper.sink(args)
  local sink = helper.start(helper.quote(helper.TAILRACE) .. ' sink --json ' .. args)
  if args:find '--http' then
    sink.http = sink:line 'listening http (%S+)'
  end
  if args:find '--smtp ' then
    sink.smtp = sink:line 'listening smtp (%S+)'
  end
  return sink
end

--- Summary of a sink, after ending it.
function helper.summary(sink)
  if not sink:status() then
    sink:stop 'INT'
  end
  return kumo.serde.json_parse(sink:output():match '({.*})')
end

--- `tailrace run` with a policy file; waits until it is ready. .smtp and .http are the listeners' "ADDR:PORT".
function helper.run(policy, args, env)
  local command = ('%s run --policy %s --ledger %s'):format(helper.quote(helper.TAILRACE), helper.quote(policy), args or '')
  local run = helper.start(command, env)
  run:line '(initialization complete)'
  run.smtp = run:log():match 'esmtp listener ([%d.:]+)'
  run.http = run:log():match 'http listener ([%d.:]+)'
  return run
end

--- `tailrace inject`: its JSON summary and exit status.
function helper.inject(args)
  local text, status = helper.sh(helper.quote(helper.TAILRACE) .. ' inject --json --quiet ' .. args)
  local json = text:match '({.*})'
  return json and kumo.serde.json_parse(json) or text, status
end

return helper
