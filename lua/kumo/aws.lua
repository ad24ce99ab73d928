--- Signature version 4 of AWS: kumo.crypto.aws_sign_v4 and the method of requests. Pure but for the clock.
--- Source: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
local host = require 'tr.host'
local bytes = require 'tr.bytes'

local aws = {}

local ALGORITHM = 'AWS4-HMAC-SHA256'

local function hmac(key, text)
  return bytes.hmac('SHA256', key, text)
end

local function hex_digest(text)
  return bytes.encode('hex', bytes.digest('SHA256', text))
end

-- RFC 3986: all but unreserved characters; `keep`: those that stay, too.
local function escaped(text, keep)
  return (text:gsub('[^%w%-._~' .. (keep or '') .. ']', function(char)
    return ('%%%02X'):format(char:byte())
  end))
end

-- Segments `.` and `..` are resolved, double slashes go; not for S3, whose keys may hold them.
local function normalized(path)
  local out = {}
  for segment in path:gmatch '[^/]+' do
    if segment == '..' then
      out[#out] = nil
    elseif segment ~= '.' then
      out[#out + 1] = segment
    end
  end
  return '/' .. table.concat(out, '/') .. (#out > 0 and path:find '/%.?%.?$' and '/' or '')
end

local function canonical_query(pairs_list)
  local list = {}
  for i, pair in ipairs(pairs_list) do
    list[i] = { escaped(pair[1]), escaped(pair[2]) }
  end
  table.sort(list, function(a, b)
    if a[1] ~= b[1] then
      return a[1] < b[1]
    end
    return a[2] < b[2]
  end)
  for i, pair in ipairs(list) do
    list[i] = pair[1] .. '=' .. pair[2]
  end
  return table.concat(list, '&')
end

-- Lower-case names, sorted, blanks inside of values folded.
local function canonical_headers(headers)
  local by_name, names, lines = {}, {}, {}
  for name, value in pairs(headers) do
    local lower = name:lower()
    if by_name[lower] then
      error(("the header '%s' is there twice"):format(lower), 0)
    end
    by_name[lower] = value:match('^%s*(.-)%s*$'):gsub('%s+', ' ')
    names[#names + 1] = lower
  end
  table.sort(names)
  for i, name in ipairs(names) do
    lines[i] = name .. ':' .. by_name[name] .. '\n'
  end
  return table.concat(lines), table.concat(names, ';')
end

---@class tr.aws.Request
---@field access_key string
---@field secret_key string
---@field region string
---@field service string
---@field method string
---@field path string             as it goes over the wire
---@field query string[][]        pairs, decoded
---@field headers table<string, string>
---@field payload string
---@field session_token? string
---@field s? number               seconds since 1970; default now
---@field ns? number

--- Signs. Texts of errors are raised with level 0.
---@async
---@param request tr.aws.Request
---@return { authorization: string, timestamp: string, canonical_request: string, string_to_sign: string, signature: string }
function aws.sign(request)
  local s = request.s or host.c.now()
  local timestamp = os.date('!%Y%m%dT%H%M%SZ', s)
  local day = timestamp:sub(1, 8)
  local payload_hash = hex_digest(request.payload)
  local is_s3 = request.service == 's3'
  local headers = { ['x-amz-date'] = timestamp }
  for name, value in pairs(request.headers) do
    if name:lower() ~= 'x-amz-date' then
      headers[name] = value
    end
  end
  if request.session_token then
    headers['x-amz-security-token'] = request.session_token
  end
  if is_s3 then
    headers['x-amz-content-sha256'] = payload_hash
  end
  local path = request.path == '' and '/' or request.path
  path = is_s3 and path or escaped(normalized(path), '/') -- a path that is escaped already is escaped again: as AWS says
  local header_lines, names = canonical_headers(headers)
  local canonical = table.concat({
    request.method:upper(),
    path,
    canonical_query(request.query),
    header_lines,
    names,
    payload_hash,
  }, '\n')
  local scope = ('%s/%s/%s/aws4_request'):format(day, request.region, request.service)
  local to_sign = ('%s\n%s\n%s\n%s'):format(ALGORITHM, timestamp, scope, hex_digest(canonical))
  local key = hmac(hmac(hmac(hmac('AWS4' .. request.secret_key, day), request.region), request.service), 'aws4_request')
  local signature = bytes.encode('hex', hmac(key, to_sign))
  return {
    authorization = ('%s Credential=%s/%s, SignedHeaders=%s, Signature=%s'):format(
      ALGORITHM,
      request.access_key,
      scope,
      names,
      signature
    ),
    timestamp = timestamp,
    canonical_request = canonical,
    string_to_sign = to_sign,
    signature = signature,
  }
end

local function decoded(text)
  return (text:gsub('%+', ' '):gsub('%%(%x%x)', function(hex)
    return string.char(tonumber(hex, 16))
  end))
end

--- The parts of a URL or path: scheme and host (nil for a path), path, query as pairs.
---@param url string
---@return string? authority
---@return string path
---@return string[][] query
function aws.parts(url)
  local authority, rest = url:match '^%a[%w+.-]*://([^/?#]*)(.*)$'
  rest = (rest or url):gsub('#.*$', '')
  local path, query_text = rest:match '^([^?]*)%??(.*)$'
  local query = {}
  for part in query_text:gmatch '[^&]+' do
    local name, value = part:match '^([^=]*)=?(.*)$'
    query[#query + 1] = { decoded(name), decoded(value) }
  end
  return authority and authority:gsub('^.*@', ''), path, query
end

return aws
