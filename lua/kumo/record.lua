-- Templates of log records: the Lua side of runtime/record/record_lua.c, which takes the returned function.
local host = require 'tr.host'
local template = host.internal 'kumo.template'

local compiled = {} -- text -> template; as many as the configuration has

local function get(text, name)
  local made = compiled[text]
  if not made then
    made = template.compile(text, { name = name })
    compiled[text] = made
  end
  return made
end

-- All fields are variables; `log_record` is the whole, and `log_record | tojson` gives the very bytes.
function host.entry.render_log_record(text, record, json)
  template.keep_json(record, json)
  local context = { log_record = record }
  for key, value in pairs(record) do
    context[key] = value
  end
  return get(text, 'template'):render(context)
end

return get
