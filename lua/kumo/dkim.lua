--- kumo.dkim: signers for msg:dkim_sign. RFC 6376, RFC 8463. Contract lua-modules.md section 6.
local host = require 'tr.host'
local core = require 'tr.dkim'
local bytes = require 'tr.bytes'
local options = host.internal 'kumo.options'
local secrets = host.internal('kumo.secrets').secrets
local c = host.c

---@class kumo.dkim
local dkim = {}

---@class (exact) kumo.DkimSignerOptions
---@field domain string
---@field selector string
---@field headers string[]         names that are signed, each as often as it is there; `From` must be among them
---@field key kumo.KeySource       private key in PEM; for Ed25519 also the 32 bytes, or their base64
---@field header_canonicalization? 'Relaxed'|'Simple'  default 'Relaxed'
---@field body_canonicalization? 'Relaxed'|'Simple'    default 'Relaxed'
---@field over_sign? boolean       signs that there are no more of these headers; default false
---@field expiration? integer      seconds from the signature on
---@field agent_user_identifier? string
---@field atps? string             domain, RFC 6541
---@field atpsh? 'Sha1'|'Sha256'
---@field body_length? boolean     signs the length: others may add to the body; default false
---@field reporting? boolean       asks for reports, RFC 6651; default false
---@field ttl? integer             seconds that the key is remembered, default 300

--- What rsa_sha256_signer and ed25519_signer give; can be memoized.
---@class kumo.DkimSigner
---@field domain string
---@field selector string
local meta = { __name = 'kumo.DkimSigner' }

local KNOWN = {
  domain = { 'string', required = true },
  selector = { 'string', required = true },
  headers = { 'table', required = true },
  key = { 'key_source', required = true },
  header_canonicalization = { 'string', default = 'Relaxed' },
  body_canonicalization = { 'string', default = 'Relaxed' },
  over_sign = { 'boolean', default = false },
  expiration = 'integer',
  agent_user_identifier = 'string',
  atps = 'string',
  atpsh = 'string',
  body_length = { 'boolean', default = false },
  reporting = { 'boolean', default = false },
  ttl = { 'integer', default = 300 },
}
local KEYS_MAX = 1024
local LINE_MAX = 72

-- --- keys ------------------------------------------------------------------------------------------------------

local keys, key_count = {}, 0 -- kind and source as JSON -> { key, until_s }

local function key_of(params)
  local id = params.kind .. c.json_encode(params.key, true)
  local known, now = keys[id], c.mono()
  if known and known.until_s > now then
    return known.key
  end
  local data = secrets.load(params.key)
  local text = data:gsub('%s', '')
  if params.kind == 'ed25519' and #text == 44 then
    data = bytes.decode('base64', text) or data
  end
  local key, err = core.key(params.kind, data)
  if not key then
    error('key: ' .. err, 0)
  end
  if not known and key_count >= KEYS_MAX then
    keys, key_count = {}, 0
  end
  key_count = key_count + (keys[id] and 0 or 1)
  keys[id] = { key = key, until_s = now + params.ttl }
  return key
end

-- --- what is signed ----------------------------------------------------------------------------------------------

-- Header fields as they stand, { lower-case name, text with its folds }, and where the body begins.
local function fields_of(data)
  local fields, at = {}, 1
  while true do
    local line_end = data:find('\r\n', at, true)
    if not line_end then
      error('the message has no end of its header', 0)
    elseif line_end == at then
      return fields, at + 2
    end
    while data:find('^[ \t]', line_end + 2) do
      line_end = data:find('\r\n', line_end + 2, true) or error('the message has no end of its header', 0)
    end
    local text = data:sub(at, line_end - 1)
    local name = text:match '^([^:%s]+)%s*:' or error(('what stands in the header is no field: %q'):format(text:sub(1, 60)), 0)
    fields[#fields + 1] = { name:lower(), text }
    at = line_end + 2
  end
end

-- RFC 6376 sections 3.4.1 and 3.4.2, without the end of the line.
local function canonical_field(text, relaxed)
  if not relaxed then
    return text
  end
  local name, value = text:match '^([^:]*):(.*)$'
  value = value:gsub('\r\n', ''):gsub('[ \t]+', ' '):gsub('^ ', ''):gsub(' $', '')
  return name:gsub('%s+$', ''):lower() .. ':' .. value
end

--- The bytes that a signature is of: the named fields, each name taking the next one from below, and the signature's own
--- field with an empty b=. For specs, too.
function dkim._input(fields, names, relaxed, signature_field)
  local below, out = {}, {}
  for _, name in ipairs(names) do
    local at = (below[name] or #fields + 1) - 1
    while at > 0 and fields[at][1] ~= name do
      at = at - 1
    end
    below[name] = math.max(at, 1)
    if at > 0 then
      out[#out + 1] = canonical_field(fields[at][2], relaxed) .. '\r\n'
    end
  end
  out[#out + 1] = canonical_field(signature_field, relaxed)
  return table.concat(out)
end
dkim._fields = fields_of

-- --- signing -----------------------------------------------------------------------------------------------------

-- The names for h=: each as often as it is there, and once more to over-sign.
local function signed_names(params, fields)
  local counts, names = {}, {}
  for _, field in ipairs(fields) do
    counts[field[1]] = (counts[field[1]] or 0) + 1
  end
  for _, name in ipairs(params.headers) do
    for _ = 1, (counts[name] or 0) + (params.over_sign and 1 or 0) do
      names[#names + 1] = name
    end
    counts[name] = params.over_sign and -1 or 0 -- listed twice is signed once
  end
  return names
end

-- Tags in lines of at most LINE_MAX, where one can be broken.
local function folded(tags)
  local lines, line = {}, ''
  for _, tag in ipairs(tags) do
    for piece in tag:gmatch '[^\n]+' do -- a newline says where a tag may be broken
      local glue = line ~= '' and piece == tag:match '^[^\n]+' and ' ' or ''
      if line ~= '' and #line + #glue + #piece > LINE_MAX then
        lines[#lines + 1] = line
        line = piece
      else
        line = line .. glue .. piece
      end
    end
  end
  lines[#lines + 1] = line
  return table.concat(lines, '\r\n\t')
end

--- Adds the field DKIM-Signature at the top; what is changed afterwards breaks it. Raises for a message without header.
--- Signatures of RSA, and hashes of bodies above 1 MiB, are made in a thread while the task waits.
---@async
---@param msg kumo.Message
---@param signer kumo.DkimSigner
local function sign(msg, signer)
  local params = rawget(signer, '_params')
  local relaxed = params.header_canonicalization == 'Relaxed'
  local data = msg:get_data()
  local fields, start = fields_of(data)
  local hash, length = core.body_hash(data, start, params.body_canonicalization == 'Relaxed')
  if not hash then
    error(length, 0)
  end
  local names = signed_names(params, fields)
  local now = math.floor(c.wall())
  local tags = {
    'v=1;',
    ('a=%s-sha256;'):format(params.kind),
    ('c=%s/%s;'):format(params.header_canonicalization:lower(), params.body_canonicalization:lower()),
    ('d=%s;'):format(params.domain),
    ('s=%s;'):format(params.selector),
    ('t=%d;'):format(now),
  }
  local function add(value, format)
    if value then
      tags[#tags + 1] = format:format(value)
    end
  end
  add(params.expiration and now + params.expiration, 'x=%d;')
  add(params.agent_user_identifier, 'i=%s;')
  add(params.atps, 'atps=%s;')
  add(params.atps and params.atpsh and params.atpsh:lower(), 'atpsh=%s;')
  add(params.body_length and length, 'l=%d;')
  add(params.reporting and 'y', 'r=%s;')
  tags[#tags + 1] = 'h=' .. table.concat(names, ':\n') .. ';'
  tags[#tags + 1] = ('bh=%s;'):format(bytes.encode('base64', hash, true))
  tags[#tags + 1] = 'b='
  local value = folded(tags)
  local signature, err = key_of(params):sign(dkim._input(fields, names, relaxed, 'DKIM-Signature: ' .. value))
  if not signature then
    error(err, 0)
  end
  local encoded = bytes.encode('base64', signature, true):gsub(('.'):rep(LINE_MAX), '%0\r\n\t')
  msg:prepend_header('DKIM-Signature', value .. '\r\n\t' .. encoded:gsub('%s+$', ''))
end

local function check_words(name, params, key, pattern)
  local value = params[key]
  if value and not value:find(pattern) then
    error(('%s: %s: %q is not one'):format(name, key, value), 4)
  end
end

local function signer_of(params)
  return setmetatable({ _params = params, domain = params.domain, selector = params.selector }, meta)
end

local function make(kind, name, given)
  local params = options.check(given, name, KNOWN, 4)
  for _, key in ipairs { 'header_canonicalization', 'body_canonicalization' } do
    if params[key] ~= 'Relaxed' and params[key] ~= 'Simple' then
      error(("%s: %s: 'Relaxed' or 'Simple' expected, got %q"):format(name, key, params[key]), 3)
    end
  end
  if params.atpsh and params.atpsh ~= 'Sha1' and params.atpsh ~= 'Sha256' then
    error(("%s: atpsh: 'Sha1' or 'Sha256' expected, got %q"):format(name, params.atpsh), 3)
  end
  -- they stand in a header: nothing in them may end it
  check_words(name, params, 'domain', '^[%w.-]+$')
  check_words(name, params, 'selector', '^[%w._-]+$')
  check_words(name, params, 'atps', '^[%w.-]+$')
  check_words(name, params, 'agent_user_identifier', '^[^%s;]*@[%w.-]+$')
  local headers, has_from = {}, false
  for i, header in ipairs(params.headers) do
    if type(header) ~= 'string' or not header:find '^[!-9<-~]+$' then
      error(('%s: headers: entry %d is not the name of a header'):format(name, i), 3)
    end
    headers[i] = header:lower()
    has_from = has_from or headers[i] == 'from'
  end
  if not has_from then
    error(name .. ": headers: 'From' must be among them (RFC 6376 section 5.4)", 3)
  end
  params.headers, params.kind = headers, kind
  local ok, err = pcall(key_of, params)
  if not ok then
    error(('%s: %s'):format(name, tostring(err)), 3)
  end
  return signer_of(params)
end

function meta.__freeze(signer)
  return 'dkim_signer', rawget(signer, '_params')
end
host.thaw.dkim_signer = signer_of

--- A signer with RSA and SHA-256. The key is read at once, and again after `ttl`.
---@async
---@param params kumo.DkimSignerOptions
---@return kumo.DkimSigner
function dkim.rsa_sha256_signer(params)
  return (make('rsa', 'kumo.dkim.rsa_sha256_signer', params))
end

--- A signer with Ed25519, which few verify yet: sign with RSA as well.
---@async
---@param params kumo.DkimSignerOptions
---@return kumo.DkimSigner
function dkim.ed25519_signer(params)
  return (make('ed25519', 'kumo.dkim.ed25519_signer', params))
end

--- Accepted: signatures are made by the threads for all such work.
---@param threads integer
function dkim.set_signing_threads(threads)
  if type(threads) ~= 'number' or threads < 1 or threads ~= math.floor(threads) then
    error('kumo.dkim.set_signing_threads: integer >= 1 expected, got ' .. tostring(threads), 2)
  end
end

if package.preload['tr.message'] then
  require('tr.message').methods.dkim_sign = function(msg, signer)
    if getmetatable(signer) ~= meta then
      error('msg:dkim_sign: a signer of kumo.dkim is expected, got ' .. type(signer), 2)
    end
    local ok, err = pcall(sign, msg, signer)
    if not ok then
      error('msg:dkim_sign: ' .. tostring(err), 2)
    end
  end
end

return dkim
