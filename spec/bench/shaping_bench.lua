-- Shaping files: `tailrace lua spec/bench/shaping_bench.lua [SECTIONS]`. Goals: 10,000 sections load in less than a second,
-- a path that has been asked for before costs less than a microsecond.
local kumo = require 'kumo'
local c = require('tr.host').c

local SECTIONS = tonumber(arg[1]) or 10000
local path = os.tmpname() .. '.toml'

local file = assert(io.open(path, 'w'))
file:write '[default]\nconnection_limit = 10\nmax_message_rate = "100/s"\nidle_timeout = "60s"\n'
for i = 1, 20 do
  file:write(('[provider.p%d]\nmatch = [{DomainSuffix = ".p%d.test"}]\nprovider_connection_limit = 5\n'):format(i, i))
end
for i = 1, SECTIONS do
  file:write(
    ('["d%d.test"]\nmx_rollup = false\nconnection_limit = %d\nmax_message_rate = "%d/s"\nmax_ready = 500\nidle_timeout = "30s"\n'):format(
      i, i % 50 + 1, i % 100 + 1
    )
  )
end
file:close()

--- CPU seconds of this process, in steps of 10 ms: on a busy machine the figure that counts.
local function cpu_s()
  local stat = assert(io.open '/proc/self/stat')
  local fields = stat:read('*a'):match '%) (.*)$'
  stat:close()
  local user, system = fields:match(('%S+ '):rep(11) .. '(%d+) (%d+)')
  return (tonumber(user) + tonumber(system)) / 100
end

local FACTOR = { s = 1, ms = 1e3, us = 1e6 }
local function timed(name, count, unit, fn)
  local start, cpu = c.mono(), cpu_s()
  fn()
  local spent, cpu_spent = (c.mono() - start) / count, (cpu_s() - cpu) / count
  print(('%-54s %9.3f %s, CPU %9.3f %s'):format(name, spent * FACTOR[unit], unit, cpu_spent * FACTOR[unit], unit))
end

local data
timed(('load %d sections'):format(SECTIONS), 1, 's', function()
  data = kumo.shaping.load { path }
end)
timed('resolve a path, from the merged data', 2000, 'us', function()
  for i = 1, 2000 do
    data:get_egress_path_config('d' .. i % SECTIONS + 1 .. '.test', 'unspecified', 'x')
  end
end)

local live = kumo.shaping.open({ path }, {}, '1 hour')
live:load()
local names = {}
for i = 1, 1000 do
  names[i] = 'd' .. i .. '.test'
  live:path(names[i], 'unspecified', names[i])
end
local ROUNDS = 1000
timed('resolve a path that has been asked for (1,000 of them)', ROUNDS * #names, 'us', function()
  for _ = 1, ROUNDS do
    for i = 1, #names do
      live:path(names[i], 'unspecified', names[i])
    end
  end
end)
timed('look whether the file has changed', 20, 'ms', function()
  for _ = 1, 20 do
    live:refresh()
  end
end)
os.remove(path)
