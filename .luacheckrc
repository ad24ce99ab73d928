std = 'luajit'
max_line_length = 130
self = false -- a method need not use its object
files['spec'] = { std = 'luajit+busted', max_line_length = 150 } -- bytes of protocols are read best in one line
files['examples/**/*_spec.lua'] = { std = 'luajit+busted' }
files['spec/policy/compat_spec.lua'] = { read_globals = { 'table', 'string', 'math', 'utf8', 'rawlen', 'warn' } }
files['lua/host.lua'] = { globals = { 'coroutine', 'package' } }
files['lua/standard.lua'] = { globals = { 'string', 'table', 'os' } }
files['lua/kumo/compat.lua'] = { globals = { 'table', 'string', 'math', 'utf8', 'rawlen' } }
files['lua/kumo/pack.lua'] = { globals = { 'string' } }
files['lua/kumo/syntax.lua'] = { globals = { 'package' } }
files['lua/meta'] = { only = {} }
