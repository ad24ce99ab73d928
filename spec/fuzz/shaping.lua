--- For shaping_fuzz.c: any file has findings or is a configuration, every path of which can be made and explained.
local host = require 'tr.host'
local kumo = require 'kumo'

local OPTIONS = { skip_dns = true, skip_remote = true }
local path = os.tmpname() .. '.toml'

function host.entry.fuzz(text)
  local file = assert(io.open(path, 'wb'))
  file:write(text)
  file:close()
  local fatal = false
  for _, finding in ipairs(kumo.shaping.check({ path }, OPTIONS)) do
    assert(finding.text:find(path, 1, true), finding.text)
    fatal = fatal or finding.fatal
  end
  local ok, data = pcall(kumo.shaping.load, { path }, OPTIONS)
  assert(ok ~= fatal, data)
  if ok then
    for _, domain in ipairs { 'example.com', 'd.test', 'webhook.log_hook' } do
      for _, source in ipairs { 'unspecified', 's' } do
        kumo.make_egress_path(data:get_egress_path_config(domain, source, domain))
        data:explain(domain, source, domain)
      end
    end
    data:hash()
    data:match_rules { type = 'TransientFailure', recipient = 'a@example.com', site = 'unspecified->example.com@smtp_client',
      response = { code = 451, content = text:sub(1, 200) } } -- stylua: ignore
  end
  os.remove(path)
end
