--- What editors and linters of a policy project read: `tailrace help --luarc` and `--luacheckrc` print it.
local host = require 'tr.host'
local serde = host.internal('kumo.serde').serde
local c = host.c

local editor_files = {}

--- .luarc.json of the Lua language server, with the places of this installation.
---@return string
function editor_files.luarc()
  local share = c.share_dir
  return serde.json_encode_pretty {
    ['$schema'] = 'https://raw.githubusercontent.com/LuaLS/vscode-lua/master/setting/schema.json',
    ['runtime.version'] = 'LuaJIT',
    ['runtime.path'] = c.array { '?.lua', '?/init.lua', 'lua/?.lua' },
    ['workspace.library'] = c.array { share .. '/lua', share },
    ['workspace.ignoreDir'] = c.array { 'docs', 'spec', 'build', 'runtime', 'examples' },
    ['workspace.checkThirdParty'] = false,
    ['diagnostics.globals'] = c.array { '_VALIDATING_CONFIG', '_KUMO_CURRENT_EVENT' },
  } .. '\n'
end

local function names_of(from)
  local out = {}
  for name in next, from do
    if type(name) == 'string' and name:find '^[%a_][%w_]*$' then
      out[#out + 1] = name
    end
  end
  table.sort(out)
  return out
end

--- .luacheckrc with the standard library as the runtime has it.
---@return string
function editor_files.luacheckrc()
  local out = { '-- Printed by `tailrace help --luacheckrc`: the globals of a policy.\nstds.tailrace = {\n  read_globals = {\n' }
  for _, name in ipairs(names_of(_G)) do
    local value = rawget(_G, name)
    if name ~= '_G' and type(value) == 'table' then
      out[#out + 1] = ('    %s = { fields = { %s } },\n'):format(name, table.concat(names_of(value), ' = {}, ') .. ' = {}')
    elseif name ~= '_G' and not name:find '^_KUMO' then
      out[#out + 1] = ("    '%s',\n"):format(name)
    end
  end
  out[#out + 1] = "    '_VALIDATING_CONFIG',\n    '_KUMO_CURRENT_EVENT',\n  },\n}\nstd = 'luajit+tailrace'\n"
  out[#out + 1] = 'self = false -- methods need not use their object\n'
  out[#out + 1] = "files['**/*_spec.lua'] = { std = 'luajit+tailrace+busted' }\n"
  return table.concat(out)
end

return editor_files
