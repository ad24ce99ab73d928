--- Injection: the request of `POST /api/inject/v1` and `kumo.api.inject.inject_v1` becomes messages, one a recipient, and
--- is answered when they are committed. Contract http-admin.md section 2.
local core = require 'tr.http_server'
local bytes = require 'tr.http'
local host = require 'tr.host'
local http_error = host.internal 'http_error'
local mime_build = host.internal 'mime_build'

---@class tr.inject
local inject = {}

-- One commit takes at most this much: it goes into the spool's log as one group.
local MAX_MESSAGES = 1000
local MAX_BYTES = 8 * 1024 * 1024
local MAX_RECIPIENTS = 100000
local BREATHE_EVERY = 50 -- recipients, then other tasks may run

local REQUEST = {
  envelope_sender = 'S',
  recipients = 'T',
  content = '*',
  substitutions = 't',
  deferred_spool = 'b', -- accepted; everything is stored before the answer
  deferred_generation = 'b',
  trace_headers = 't',
  template_dialect = 's',
}
local RECIPIENT = { email = 'S', name = 's', substitutions = 't', metadata = 't' }
local CONTENT = {
  text_body = 's',
  html_body = 's',
  amp_html_body = 's',
  attachments = 't',
  headers = 't',
  from = 't',
  subject = 's',
  reply_to = 't',
}
local MAILBOX = { email = 'S', name = 's' }
local ATTACHMENT = { data = 'S', content_type = 'S', base64 = 'b', file_name = 's', content_id = 's' }
local TRACE = { received_header = 'b', supplemental_header = 'b', header_name = 's', include_meta_names = 't' }

-- --- what one request says ---------------------------------------------------------------------------------------

local function compiler(dialect)
  if dialect == 'Static' then
    return function(text)
      return function()
        return text
      end
    end
  elseif dialect ~= 'Jinja' then
    http_error.raise(422, 'template_dialect `%s` is not supported, expected one of `Jinja`, `Static`', dialect)
  end
  local template = host.internal 'kumo.template'
  return function(text, name, autoescape)
    if not text:find '{[{%%#]' then
      return function()
        return text
      end
    end
    local ok, compiled = pcall(template.compile, text, { name = name, autoescape = autoescape })
    if not ok then
      http_error.raise(422, 'failed parsing template: %s', tostring(compiled))
    end
    return function(vars)
      return compiled:render(vars)
    end
  end
end

local function mailbox(email, name)
  if not name or name == '' then
    return email
  end
  return ('"%s" <%s>'):format(name:gsub('["\\]', '\\%0'), email)
end

local function mailbox_of(object, where)
  http_error.check_object(object, where, MAILBOX)
  return mailbox(object.email, object.name)
end

local B64 = {}
for i = 0, 63 do
  B64[('ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/'):byte(i + 1)] = i
end

local function base64_decode(text, where)
  text = text:gsub('[%s=]', '')
  if text:find '[^%w+/]' or #text % 4 == 1 then
    http_error.raise(422, '%s: `data` is not base64', where)
  end
  local out = {}
  for at = 1, #text, 4 do
    local a, b, c, d = text:byte(at, at + 3)
    local bits = B64[a] * 262144 + B64[b] * 4096 + (c and B64[c] or 0) * 64 + (d and B64[d] or 0)
    local three = string.char(math.floor(bits / 65536), math.floor(bits / 256) % 256, bits % 256)
    out[#out + 1] = d and three or three:sub(1, c and 2 or 1)
  end
  return table.concat(out)
end

local function attachments_of(list)
  local files = {}
  for i, file in ipairs(list or {}) do
    local where = ('content.attachments[%d]'):format(i)
    http_error.check_object(file, where, ATTACHMENT)
    if file.content_type:find '[%c]' then
      http_error.raise(422, '%s: `content_type` must be one line', where)
    end
    files[i] = {
      data = file.base64 and base64_decode(file.data, where) or file.data,
      content_type = file.content_type,
      file_name = file.file_name,
      content_id = file.content_id,
    }
  end
  return files
end

-- Returns a function (vars, recipient) -> message bytes.
local function builder(content, compile)
  http_error.check_object(content, 'content', CONTENT)
  if not (content.text_body or content.html_body or content.amp_html_body) then
    http_error.raise(422, 'content: at least one of `text_body` and `html_body` is required')
  end
  local headers = {}
  for name, value in pairs(content.headers or {}) do
    if type(name) ~= 'string' or type(value) ~= 'string' then
      http_error.raise(422, 'content.headers: an object of strings is expected')
    end
    if not bytes.header_ok(name, '') then
      http_error.raise(422, 'content.headers: `%s` is not a header name', name)
    end
    headers[name:lower()] = { name, value }
  end
  if content.from then
    headers.from = { 'From', mailbox_of(content.from, 'content.from') }
  end
  if content.subject then
    headers.subject = { 'Subject', content.subject }
  end
  if content.reply_to then
    headers['reply-to'] = { 'Reply-To', mailbox_of(content.reply_to, 'content.reply_to') }
  end
  local has_to = headers.to ~= nil
  local names, render = {}, {}
  for key in pairs(headers) do
    names[#names + 1] = key
  end
  table.sort(names) -- the same request gives the same message
  for i, key in ipairs(names) do
    render[i] = compile(headers[key][2], 'headers.' .. headers[key][1])
  end
  local text = content.text_body and compile(content.text_body, 'text_body')
  local html = content.html_body and compile(content.html_body, 'html_body', true)
  local amp = content.amp_html_body and compile(content.amp_html_body, 'amp_html_body', true)
  local files = attachments_of(content.attachments)
  return function(vars)
    local part = mime_build.build {
      text = text and text(vars),
      html = html and html(vars),
      amp = amp and amp(vars),
      files = files,
    }
    local out = {}
    for i, key in ipairs(names) do
      out[#out + 1] = { headers[key][1], (render[i](vars):gsub('[\r\n]+%s*', ' ')), true }
    end
    if not has_to then
      out[#out + 1] = { 'To', vars.to_header, true }
    end
    out[#out + 1] = { 'Mime-Version', '1.0' }
    for _, header in ipairs(part.headers) do
      out[#out + 1] = { header[1], header[2] }
    end
    return '\r\n' .. part.body, out
  end
end

local function generator(request)
  local compile = compiler(request.template_dialect or 'Jinja')
  local content = request.content
  if type(content) == 'string' then
    local render = compile(content, 'content')
    return function(vars)
      local text = mime_build.crlf(render(vars))
      local head = text:match '^(.-\r\n)\r\n' or text
      if ('\n' .. head):lower():find '\nmime%-version:' then
        return text
      end
      return 'Mime-Version: 1.0\r\n' .. text
    end
  elseif type(content) ~= 'table' then
    http_error.raise(422, content == nil and 'missing field `content`' or '`content` must be a string or an object')
  end
  return builder(content, compile)
end

local function is_list(value)
  return value[1] ~= nil or next(value) == nil
end

local function check_request(request)
  http_error.check_object(request, '', REQUEST)
  if request.deferred_generation then
    http_error.raise(422, '`deferred_generation` is not supported by Tailrace yet')
  end
  if not is_list(request.recipients) then
    http_error.raise(422, '`recipients` must be a list')
  elseif #request.recipients > MAX_RECIPIENTS then
    http_error.raise(422, '`recipients`: at most %d are allowed in one request', MAX_RECIPIENTS)
  end
  for i, rcpt in ipairs(request.recipients) do
    http_error.check_object(rcpt, ('recipients[%d]'):format(i), RECIPIENT)
  end
  local trace = request.trace_headers
  if not trace then
    return { received_header = false, supplemental_header = true, header_name = 'X-KumoRef', include_meta_names = {} }
  end
  http_error.check_object(trace, 'trace_headers', TRACE)
  return {
    received_header = trace.received_header ~= false,
    supplemental_header = trace.supplemental_header ~= false,
    header_name = trace.header_name or 'X-KumoRef',
    include_meta_names = trace.include_meta_names or {},
  }
end

-- --- one recipient -----------------------------------------------------------------------------------------------

local function variables(request, rcpt)
  local vars = {}
  for name, value in pairs(request.substitutions or {}) do
    vars[name] = value
  end
  for name, value in pairs(rcpt.substitutions or {}) do
    vars[name] = value
  end
  vars.email = rcpt.email
  vars.name = rcpt.name or vars.name
  vars.to_header = mailbox(rcpt.email, rcpt.name)
  return vars
end

local function received_header(message, request, rcpt, source)
  return table.concat({
    ('Received: from %s (%s)'):format(request.envelope_sender:match '@(.+)$' or 'unspecified', source.peer),
    ('  by %s (KumoMTA)'):format(source.hostname),
    ('  with HTTP id %s for <%s>;'):format(message:id(), rcpt.email),
    '  ' .. os.date '!%a, %d %b %Y %H:%M:%S +0000',
    '',
  }, '\r\n')
end

-- `recipient`: an address, or a list of them.
local function supplemental_header(message, recipient, trace)
  local parts = { ('"_@_":"\\\\_/","recipient":%s'):format(host.c.json_encode(recipient, false)) }
  for _, name in ipairs(trace.include_meta_names) do
    local value = message:get_meta(name)
    parts[#parts + 1] = ('%s:%s'):format(
      host.c.json_encode(name, false), value == nil and 'null' or host.c.json_encode(value, false) or 'null')
  end
  local text = bytes.base64('{' .. table.concat(parts, ',') .. '}')
  local first = 75 - #trace.header_name - 2
  local lines = { trace.header_name .. ': ' .. text:sub(1, first) }
  for at = first + 1, #text, 74 do
    lines[#lines + 1] = ' ' .. text:sub(at, at + 73)
  end
  return table.concat(lines, '\r\n') .. '\r\n'
end

local function make_message(request, rcpt, generate, trace, source)
  local text, headers = generate(variables(request, rcpt))
  local message = require('kumo').make_message(request.envelope_sender, rcpt.email, text)
  for i = #(headers or {}), 1, -1 do
    message:prepend_header(headers[i][1], headers[i][2], headers[i][3] or false)
  end
  message:set_meta('http_auth', source.auth)
  message:set_meta('reception_protocol', 'HTTP')
  message:set_meta('received_from', source.peer)
  message:set_meta('received_via', source.local_ip)
  message:set_meta('hostname', source.hostname)
  if rcpt.metadata then
    message:set_meta('extra', rcpt.metadata)
  end
  if trace.received_header then
    message:set_data(received_header(message, request, rcpt, source) .. message:get_data())
  end
  if host.has_handler 'http_message_generated' then
    rawset(_G, '_KUMO_CURRENT_EVENT', 'http_message_generated')
    host.dispatch('http_message_generated', message, source.auth_info)
  end
  if trace.supplemental_header then
    message:set_data(supplemental_header(message, rcpt.email, trace) .. message:get_data())
  end
  return message
end

-- --- the whole ---------------------------------------------------------------------------------------------------

local function error_text(err)
  return (tostring(err):match '^[^\n]*')
end

local function fail(result, email, text)
  result.fail_count = result.fail_count + 1
  table.insert(result.failed_recipients, email)
  table.insert(result.errors, email .. ': ' .. text)
end

-- Commits what was made so far. A refusal is the whole request's, unless a part of it is committed already.
local function commit(batch, result, source)
  if #batch.messages == 0 then
    return
  end
  local outcomes, why, code = core.receive(batch.messages, source.peer)
  if not outcomes and result.success_count == 0 then
    http_error.raise(503, 'the messages could not be stored: %s', why)
  end
  for i, email in ipairs(batch.emails) do
    local err = outcomes and outcomes[i].error or not outcomes and (why .. ' (' .. code .. ')')
    if err then
      fail(result, email, error_text(err))
    else
      result.success_count = result.success_count + 1
    end
  end
  batch.messages, batch.emails, batch.bytes = {}, {}, 0
end

---@class tr.inject.Source
---@field peer string       IP address of the client
---@field local_ip string
---@field hostname string
---@field auth string       who it is, for meta http_auth
---@field auth_info table

--- Raises an http_error for what concerns the whole request; recipients that fail are told in the result.
---@async
---@param request table
---@param source tr.inject.Source
---@return {success_count: integer, fail_count: integer, failed_recipients: string[], errors: string[]}
function inject.run(request, source)
  local closed = core.closed()
  if closed then
    http_error.raise(503, closed)
  end
  local trace = check_request(request)
  local generate = generator(request)
  if host.take_recipients then
    local free, why = pcall(host.take_recipients, #request.recipients)
    if not free then
      http_error.raise(503, '%s', error_text(why))
    end
  end
  local ok, err = pcall(require('kumo').make_message, request.envelope_sender, 'probe@invalid', '\r\n')
  if not ok then
    http_error.raise(422, 'envelope_sender: %s', error_text(err))
  end
  local result =
    { success_count = 0, fail_count = 0, failed_recipients = host.c.array {}, errors = host.c.array {} }
  local batch = { messages = {}, emails = {}, bytes = 0 }
  for i, rcpt in ipairs(request.recipients) do
    local good, message = pcall(make_message, request, rcpt, generate, trace, source)
    if good then
      table.insert(batch.messages, message)
      table.insert(batch.emails, rcpt.email)
      batch.bytes = batch.bytes + #message:get_data()
      if #batch.messages >= MAX_MESSAGES or batch.bytes >= MAX_BYTES then
        commit(batch, result, source)
      end
    else
      fail(result, rcpt.email, error_text(message))
    end
    if i % BREATHE_EVERY == 0 then
      host.c.sleep(0)
    end
  end
  commit(batch, result, source)
  return result
end

local PARAMS = {
  header_name = { 'string', default = 'X-KumoRef' },
  include_meta_names = { 'table', default = {} },
  received_header = 'boolean', -- of trace_headers; nothing here asks for it
  supplemental_header = { 'boolean', default = true },
}

--- kumo.apply_supplemental_trace_header: adds the trace header that listeners add to what they receive, for messages that a
--- policy makes. Nothing with `supplemental_header = false`.
---@async
---@param msg kumo.Message
---@param params? kumo.TraceHeaderOptions
function inject.apply_supplemental_trace_header(msg, params)
  local NAME = 'kumo.apply_supplemental_trace_header'
  local values = host.internal('kumo.options').check(params or {}, NAME, PARAMS)
  if not values.header_name:find '^[!-9;-~]+$' or #values.header_name > 60 then
    error(NAME .. ': header_name: the name of a header, at most 60 bytes, is expected', 2)
  end
  for i, name in ipairs(values.include_meta_names) do
    if type(name) ~= 'string' then
      error(('%s: include_meta_names: entry %d: string expected, got %s'):format(NAME, i, type(name)), 2)
    end
  end
  if values.supplemental_header then
    local list = msg:recipient_list()
    for i, address in ipairs(list) do
      list[i] = address.email
    end
    msg:set_data(supplemental_header(msg, #list == 1 and list[1] or host.c.array(list), values) .. msg:get_data())
  end
end

-- As a client of this machine, with the answer of `fn`. Raises a text for a bad request.
local function as_local(name, fn, request)
  local ok, result = pcall(fn, request, {
    peer = '127.0.0.1',
    local_ip = '127.0.0.1',
    hostname = 'localhost',
    auth = '127.0.0.1',
    auth_info = {
      identities = host.c.array { { identity = 'kumo.api', context = 'LocalSystem' } },
      groups = host.c.array {},
      peer_address = '127.0.0.1',
    },
  })
  if not ok then
    error(http_error.is(result) and 'kumo.api.inject.' .. name .. ': ' .. result.text or result, 0)
  end
  return result
end

--- kumo.api.inject.build_v1: the messages that inject_v1 would inject; they are the caller's. Raises a text for a bad
--- request, and for the first recipient that cannot be made one for.
---@async
---@param request table  as of inject_v1
---@return kumo.Message[] messages
function inject.build_v1(request)
  return (as_local('build_v1', function(_, source)
    local trace = check_request(request)
    local generate = generator(request)
    local messages = {}
    for i, rcpt in ipairs(request.recipients) do
      messages[i] = make_message(request, rcpt, generate, trace, source)
      if i % BREATHE_EVERY == 0 then
        host.c.sleep(0)
      end
    end
    return messages
  end, request))
end

--- kumo.api.inject.inject_v1: as a local, authenticated client. Raises a text for a bad request.
---@async
---@param request table  as the JSON of POST /api/inject/v1: docs/http-listener.md
---@return table answer   the same: success_count, fail_count, failed_recipients, errors
function inject.inject_v1(request)
  return (as_local('inject_v1', inject.run, request))
end

return inject
