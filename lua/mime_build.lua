--- Builds the body of a mail from its parts: text, HTML, AMP, inline and attached files. Pure.
--- Source: RFC 2045, 2046, 2183, 2387 (related); AMP for Email: the AMP part stands between text and HTML.
local base64 = require('tr.http').base64
local random_hex = require('tr.http').random_hex

---@class tr.mime_build
local mime_build = {}

local QP_LINE = 76
local LONGEST_LINE = 998 -- RFC 5322 section 2.1.1

--- Line ends become CRLF.
---@param text string
function mime_build.crlf(text)
  return (text:gsub('\r\n', '\n'):gsub('\r', '\n'):gsub('\n', '\r\n'))
end

local function wrap(text)
  return (text:gsub(('.'):rep(76), '%0\r\n'))
end

local function qp_line(line)
  line = line:gsub('[^\t -<>-~]', function(c)
    return ('=%02X'):format(c:byte())
  end):gsub('[ \t]$', function(c)
    return ('=%02X'):format(c:byte())
  end)
  if #line <= QP_LINE then
    return line
  end
  local out, at = {}, 1
  while #line - at + 1 > QP_LINE do
    local last = at + QP_LINE - 2 -- one column is for the "="
    if line:sub(last, last) == '=' then
      last = last - 1
    elseif line:sub(last - 1, last - 1) == '=' then
      last = last - 2
    end
    out[#out + 1] = line:sub(at, last) .. '='
    at = last + 1
  end
  out[#out + 1] = line:sub(at)
  return table.concat(out, '\r\n')
end

local function longest_line(text)
  local longest = 0
  for line in text:gmatch '[^\r\n]+' do
    longest = math.max(longest, #line)
  end
  return longest
end

--- A text with CRLF ends -> encoded text, name of the encoding.
---@return string encoded
---@return string encoding "7bit", "quoted-printable" or "base64"
function mime_build.encode_text(text)
  local _, high = text:gsub('[\128-\255%z]', '')
  if high == 0 and longest_line(text) <= LONGEST_LINE then
    return text, '7bit'
  end
  if high > #text / 4 then
    return wrap(base64(text)), 'base64'
  end
  local lines = {}
  for line in (text .. '\r\n'):gmatch '(.-)\r\n' do
    lines[#lines + 1] = qp_line(line)
  end
  return table.concat(lines, '\r\n'), 'quoted-printable'
end

-- A part: { headers = { {name, value} ... }, body = text }.
local function text_part(content_type, text)
  local body, encoding = mime_build.encode_text(mime_build.crlf(text))
  return {
    headers = { { 'Content-Type', content_type .. '; charset="utf-8"' }, { 'Content-Transfer-Encoding', encoding } },
    body = body,
  }
end

local function quoted(text)
  return '"' .. text:gsub('[%c]', ' '):gsub('(["\\])', '\\%1') .. '"'
end

local function file_part(file)
  local name = file.file_name
  local headers = {
    { 'Content-Type', file.content_type .. (name and '; name=' .. quoted(name) or '') },
    { 'Content-Transfer-Encoding', 'base64' },
    {
      'Content-Disposition',
      (file.content_id and 'inline' or 'attachment') .. (name and '; filename=' .. quoted(name) or ''),
    },
  }
  if file.content_id then
    headers[4] = { 'Content-ID', '<' .. file.content_id:gsub('[<>%s]', '') .. '>' }
  end
  return { headers = headers, body = wrap(base64(file.data)) }
end

local function multi_part(kind, parts)
  local boundary = 'tr-' .. random_hex()
  local out = {}
  for _, part in ipairs(parts) do
    out[#out + 1] = '--' .. boundary
    for _, header in ipairs(part.headers) do
      out[#out + 1] = header[1] .. ': ' .. header[2]
    end
    out[#out + 1] = ''
    out[#out + 1] = part.body
  end
  out[#out + 1] = '--' .. boundary .. '--'
  return {
    headers = { { 'Content-Type', ('multipart/%s; boundary="%s"'):format(kind, boundary) } },
    body = table.concat(out, '\r\n') .. '\r\n',
  }
end

---@class tr.mime_build.File
---@field data string
---@field content_type string
---@field file_name? string
---@field content_id? string makes it inline

--- The smallest structure that holds what is given. At least one of text, html, amp.
---@param content {text: string?, html: string?, amp: string?, files: tr.mime_build.File[]?}
---@return {headers: string[][], body: string} part without Mime-Version
function mime_build.build(content)
  local choices, inline, attached = {}, {}, {}
  if content.text then
    choices[#choices + 1] = text_part('text/plain', content.text)
  end
  if content.amp then
    choices[#choices + 1] = text_part('text/x-amp-html', content.amp)
  end
  if content.html then
    choices[#choices + 1] = text_part('text/html', content.html)
  end
  local part = choices[2] and multi_part('alternative', choices) or choices[1]
  for _, file in ipairs(content.files or {}) do
    local list = file.content_id and inline or attached
    list[#list + 1] = file_part(file)
  end
  if inline[1] then
    table.insert(inline, 1, part)
    part = multi_part('related', inline)
  end
  if attached[1] then
    table.insert(attached, 1, part)
    part = multi_part('mixed', attached)
  end
  return part
end

return mime_build
