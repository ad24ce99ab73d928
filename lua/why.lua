--- `tailrace why NAME`: asks a running node what holds a queue or a message, and prints it. Run by runtime/cli/why.c with the
--- base URL of its HTTP listener, the name, and 'json' or 'text'.
local kumo = require 'kumo'
local text_of = require('tr.host').internal 'why_text'

local TIMEOUT = '10s'

local base, name, form = ...

local function fail(text)
  io.stderr:write('tailrace why: ', text, '\n')
  error() -- exit status 1
end

local function encode(text)
  return (text:gsub('[^%w%-._~]', function(c)
    return ('%%%02X'):format(c:byte())
  end))
end

local url = base:gsub('/+$', '') .. '/api/admin/tailrace/why?name=' .. encode(name)
local client = kumo.http.build_client { timeout = TIMEOUT }
local ok, response = pcall(function()
  return (client:get(url):send())
end)
if not ok then
  fail(('%s cannot be asked: %s'):format(base, tostring(response)))
end
local body = response:text()
if response:status_code() ~= 200 then
  fail((body:gsub('^Error: ', ''):gsub('%s+$', '')))
end
print(form == 'json' and body or text_of(kumo.serde.json_parse(body)))
