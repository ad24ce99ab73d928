std = 'luajit'
max_line_length = 130
files['spec'] = { std = 'luajit+busted' }
files['lua/host.lua'] = { globals = { 'coroutine', 'string', 'table', 'os', 'package' } }
files['lua/kumo/compat.lua'] = { globals = { 'table', 'string', 'math', 'utf8' } }
files['lua/meta'] = { only = {} }
