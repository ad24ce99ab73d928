--- What specs of whole processes share: starting, waiting for conditions, reading what was written, ending.
local kumo = require 'kumo'

local helper = {}

helper.TAILRACE = os.getenv 'TAILRACE'
if not helper.TAILRACE then -- the program under test is the one that runs the specs
  local pipe = assert(io.popen 'readlink /proc/$PPID/exe')
  helper.TAILRACE = pipe:read '*l'
  pipe:close()
end

--- AddressSanitizer keeps freed memory for a while: there a bound of resident memory says nothing.
local sanitized = os.execute(("grep -q __asan_init '%s'"):format(helper.TAILRACE)) == 0

--- Fails if a process has grown above a bound, both in KB.
function helper.assert_memory(kb, limit_kb)
  assert(sanitized or kb < limit_kb, ('%d KB of memory, at most %d are allowed'):format(kb, limit_kb))
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

--- Waits until fn() gives something true, at most limit_s (60) of real time; returns it. Fails naming `what`.
function helper.wait_for(what, fn, limit_s)
  local clock = kumo.time.now()
  while true do
    local value = fn()
    if value then
      return value
    end
    if kumo.time.now().unix_timestamp - clock.unix_timestamp > (limit_s or 60) then
      error('waited in vain for ' .. what, 2)
    end
    kumo.sleep(0.01)
  end
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

--- A line of standard output or error that matches; waits for it. Returns the captures.
function process:line(pattern, limit_s)
  local found
  local ok = pcall(helper.wait_for, pattern, function()
    local text = (helper.read(self.out) or '') .. (helper.read(self.err) or '')
    found = { text:match(pattern) }
    return found[1] ~= nil or self:status() ~= nil
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
