-- A websocket server for websocket_spec.lua, on lua-socket and nothing of ours but digests: `tailrace lua FILE`. It prints
-- its port, then a line for each frame that it gets. What it does with a connection is said by the path.
local kumo = require 'kumo'
local socket = require 'socket'

local listener = assert(socket.bind('127.0.0.1', 0))
local GUID = '258EAFA5-E914-47DA-95CA-C5AB0DC85B11'

local function say(...)
  print(string.format(...))
  io.stdout:flush()
end

local function sha1(text)
  return kumo.digest.sha1(text).bytes
end

local function frame(opcode, payload, fin)
  local first = string.char((fin == false and 0 or 0x80) + opcode)
  if #payload < 126 then
    return first .. string.char(#payload) .. payload
  end
  return first .. string.char(126, math.floor(#payload / 256), #payload % 256) .. payload
end

local function read_frame(conn)
  local head = conn:receive(2)
  if not head then
    return nil
  end
  local opcode, len = head:byte(1) % 16, head:byte(2)
  if len < 128 then
    say 'not masked'
    return nil
  end
  len = len - 128
  if len == 126 then
    local more = conn:receive(2)
    len = more:byte(1) * 256 + more:byte(2)
  end
  local mask = conn:receive(4)
  local payload = len > 0 and conn:receive(len) or ''
  local out = {}
  for i = 1, #payload do
    out[i] = string.char(bit.bxor(payload:byte(i), mask:byte((i - 1) % 4 + 1)))
  end
  return opcode, table.concat(out)
end

local function drain(conn)
  repeat
    local opcode, payload = read_frame(conn)
    if opcode then
      say('got %d %s', opcode, payload)
    end
  until not opcode
end

local scripts = {}

scripts['/echo'] = function(conn)
  repeat
    local opcode, payload = read_frame(conn)
    if opcode then
      say('got %d %s', opcode, payload)
      conn:send(frame(opcode, payload))
    end
  until not opcode or opcode == 8
end

scripts['/talk'] = function(conn)
  conn:send(frame(1, 'one') .. frame(9, 'are you there') .. frame(2, '\0\1') .. frame(10, 'unasked'))
  conn:send(frame(1, 'in ', false) .. frame(0, 'two ', false) .. frame(0, 'parts'))
  say('got %d %s', read_frame(conn))
  conn:send(frame(8, '\3\232done'))
  drain(conn)
end

scripts['/drop'] = function(conn)
  conn:send(frame(1, 'last words'))
end

scripts['/break'] = function(conn)
  conn:send(frame(3, ''))
  drain(conn)
end

scripts['/silent'] = drain

local function serve(conn)
  local path, key
  repeat
    local line = conn:receive '*l'
    path = path or line and line:match '^GET (%S+) HTTP/1.1$'
    key = key or line and line:match '^Sec%-WebSocket%-Key: (.+)$'
  until not line or line == ''
  if not scripts[path] then
    conn:send 'HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n'
    return
  end
  conn:send('HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nX-Path: ' .. path
    .. '\r\nSec-WebSocket-Accept: ' .. kumo.encode.base64_encode(sha1(key .. GUID)) .. '\r\n\r\n')
  scripts[path](conn)
end

say('listening %d', select(2, listener:getsockname()))
while true do
  local conn = listener:accept()
  serve(conn)
  conn:close()
  say 'end'
end
