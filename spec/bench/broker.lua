-- A broker for the benches: `tailrace lua spec/bench/broker.lua rabbitmq QUEUE` or `... nats`. Says "port N" and runs until
-- its standard input ends.
package.path = 'spec/?.lua;' .. package.path
local helper = require 'helper'

local kind, queue = arg[1], arg[2]
local broker = require(kind).start(kind == 'rabbitmq' and 'disk_free_limit.absolute = 50MB' or nil)
if kind == 'nats' then
  broker:declare('TAILRACE_BENCH', 'tailrace.bench', { max_msgs = 100000 })
elseif queue then
  broker:declare(queue)
end
print('port ' .. broker.port)
io.stdout:flush()
io.read '*a'
broker:stop()
helper.cleanup()
