--- Credentials of NATS' operator mode, made with openssl: an operator, an account, a user. Sources: the nkeys encoding
--- (prefix, key, CRC-16, base32) and NATS' JWTs of version 2.
local helper = require 'helper'
local kumo = require 'kumo'
local bit = require 'bit'

local PREFIX = { operator = 14 * 8, account = 0, user = 20 * 8, seed = 18 * 8 }

local function crc16(text)
  local crc = 0
  for i = 1, #text do
    crc = bit.bxor(crc, bit.lshift(text:byte(i), 8))
    for _ = 1, 8 do
      crc = bit.band(crc, 0x8000) ~= 0 and bit.bxor(bit.lshift(crc, 1), 0x1021) or bit.lshift(crc, 1)
    end
    crc = bit.band(crc, 0xffff)
  end
  return string.char(bit.band(crc, 0xff), bit.rshift(crc, 8))
end

local function encode(bytes)
  return kumo.encode.base32_nopad_encode(bytes .. crc16(bytes))
end

local function openssl(args)
  local text, status = helper.sh('openssl ' .. args .. ' 2>&1')
  assert(status == 0, text)
end

--- A new key of this kind: `public` and `seed` as NATS writes them.
local function key(dir, kind)
  local path = ('%s/%s'):format(dir, kind)
  openssl(('genpkey -algorithm ed25519 -out %s.pem'):format(path))
  openssl(('pkey -in %s.pem -outform DER -out %s.der'):format(path, path))
  openssl(('pkey -in %s.pem -pubout -outform DER -out %s.pub'):format(path, path))
  local prefix = PREFIX[kind]
  return {
    path = path,
    public = encode(string.char(prefix) .. helper.read(path .. '.pub'):sub(-32)),
    seed = encode(string.char(bit.bor(PREFIX.seed, bit.rshift(prefix, 5)), bit.lshift(bit.band(prefix, 31), 3))
      .. helper.read(path .. '.der'):sub(-32)),
  }
end

local function sign(issuer, subject, kind, claims)
  claims.type, claims.version = kind, 2
  local text = {}
  for i, part in ipairs {
    { typ = 'JWT', alg = 'ed25519-nkey' },
    { jti = 'spec', iat = 1700000000, iss = issuer.public, sub = subject.public, name = kind, nats = claims },
  } do
    text[i] = kumo.encode.base64url_nopad_encode(kumo.serde.json_encode(part))
  end
  local body = table.concat(text, '.')
  helper.write(issuer.path .. '.body', body)
  openssl(('pkeyutl -sign -rawin -inkey %s.pem -in %s.body -out %s.signed'):format(issuer.path, issuer.path, issuer.path))
  return body .. '.' .. kumo.encode.base64url_nopad_encode(helper.read(issuer.path .. '.signed'))
end

--- The server's configuration that trusts the operator, and the path of a user's credentials file.
---@return string config
---@return string path
return function()
  local dir = helper.dir()
  local operator, account, user = key(dir, 'operator'), key(dir, 'account'), key(dir, 'user')
  local limits = { subs = -1, data = -1, payload = -1, imports = -1, exports = -1, wildcards = true, conn = -1, leaf = -1 }
  helper.write(dir .. '/operator.jwt', sign(operator, operator, 'operator', {}))
  local config = ('operator: "%s/operator.jwt"\nresolver: MEMORY\nresolver_preload: { %s: "%s" }'):format(dir,
    account.public, sign(operator, account, 'account', { limits = limits }))
  local path = helper.write(dir .. '/user.creds', ([[
-----BEGIN NATS USER JWT-----
%s
------END NATS USER JWT------

-----BEGIN USER NKEY SEED-----
%s
------END USER NKEY SEED------
]]):format(sign(account, user, 'user', { subs = -1, data = -1, payload = -1 }), user.seed))
  return config, path
end
