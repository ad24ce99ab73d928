--- For inject_fuzz.c: what the body of an injection says becomes messages or one http_error, and no header field of a built
--- message can be broken out of. Nothing is stored.
local core = require 'tr.http_server'
local host = require 'tr.host'
local http_error = host.internal 'http_error'

function core.closed()
  return nil
end

local checked -- the request builds its messages: their heads are ours

function core.receive(messages)
  local out = {}
  for i, message in ipairs(messages) do
    local data = message:get_data()
    local head = data:match '^(.-\r\n)\r\n' or data
    if checked then
      assert(not head:gsub('\r\n', ''):find '[\r\n]', head)
    end
    out[i] = {}
  end
  return out
end

local inject = host.internal 'inject'
local SOURCE = {
  peer = '192.0.2.1',
  local_ip = '192.0.2.2',
  hostname = 'here.test',
  auth = 'fuzz',
  auth_info = {},
}

function host.entry.fuzz(text)
  local ok, request = host.c.json_parse(text, false)
  if not ok or type(request) ~= 'table' then
    return
  end
  checked = type(request.content) == 'table'
  local good, result = pcall(inject.run, request, SOURCE)
  if not good then
    assert(http_error.is(result), result)
  else
    assert(result.success_count + result.fail_count == #request.recipients)
    assert(#result.errors == result.fail_count)
  end
end
