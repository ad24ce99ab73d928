-- kumo.fs, and the key sources of kumo.secrets that are read from somewhere.
local helper = require 'helper'
local kumo = require 'kumo'

local fs = kumo.fs

describe('kumo.fs', function()
  local dir
  before_each(function()
    dir = helper.dir()
  end)
  after_each(helper.cleanup)

  it('writes, seeks and reads', function()
    local file = fs.open(dir .. '/a', 'w+')
    file:write 'hello\0world'
    assert.are.equal(11, file:seek('cur'))
    assert.are.equal(6, file:seek('set', 6))
    assert.are.equal('wor', file:read(3))
    assert.are.equal('ld', file:read())
    assert.are.equal('', file:read())
    assert.are.equal('', file:read(5))
    assert.are.equal(8, file:seek('end', -3))
    assert.are.equal('rld', file:read(100))
    file:flush()
    file:close()
    file:close()
    assert.error_matches(function()
      file:read()
    end, 'closed')
    assert.are.equal('hello\0world', helper.read(dir .. '/a'))
  end)

  it("cuts off with 'w+' only, as the reference", function()
    helper.write(dir .. '/a', 'abcdef')
    local file = fs.open(dir .. '/a', 'wb')
    file:write 'XY'
    file:close()
    assert.are.equal('XYcdef', helper.read(dir .. '/a'))
    file = fs.open(dir .. '/a', 'a')
    file:write 'Z'
    file:close()
    assert.are.equal('XYcdefZ', helper.read(dir .. '/a'))
    fs.open(dir .. '/a', 'w+'):close()
    assert.are.equal('', helper.read(dir .. '/a'))
  end)

  it('says what is wrong, with function and path', function()
    for text, fn in pairs {
      ['kumo.fs.open: /not/there: No such file'] = function()
        fs.open '/not/there'
      end,
      ["mode: 'r', 'w'"] = function()
        fs.open('/tmp/x', 'rw')
      end,
      ['kumo.fs.open: path: string expected, got nil'] = function()
        fs.open()
      end,
      ['a path without NUL'] = function()
        fs.open '/tmp/a\0b'
      end,
      ['kumo.fs.read_dir: /not/there: No such file'] = function()
        fs.read_dir '/not/there'
      end,
      ['kumo.fs.metadata_for_path: /not/there: No such file'] = function()
        fs.metadata_for_path '/not/there'
      end,
      ['Is a directory'] = function()
        fs.open(dir):read()
      end,
      ['count: integer >= 0 expected, got %-1'] = function()
        fs.open('/dev/null'):read(-1)
      end,
      ['count: integer >= 0 expected, got nan'] = function()
        fs.open('/dev/null'):read(0 / 0)
      end,
      ['bytes: string expected, got table'] = function()
        fs.open(dir .. '/x', 'w'):write {}
      end,
      ['Bad file descriptor'] = function()
        fs.open('/dev/null'):write 'x'
      end,
      ['Invalid argument'] = function()
        fs.open(dir .. '/x', 'w'):seek('set', -1)
      end,
      ['more than 256 MiB'] = function()
        fs.open('/dev/zero'):read()
      end,
      ['use the colon'] = function()
        fs.open('/dev/null').read()
      end,
    } do
      local ok, err = pcall(fn)
      assert.is_false(ok, text)
      assert.is_truthy(tostring(err):find(text), tostring(err))
      assert.is_truthy(tostring(err):find('fs_spec.lua', 1, true) or text:find 'NUL', tostring(err))
    end
  end)

  it('does not wait for the other end of a pipe', function()
    helper.sh('mkfifo ' .. dir .. '/pipe')
    assert.error_matches(function()
      fs.open(dir .. '/pipe')
    end, 'a pipe or socket is not a file')
  end)

  it('lets other tasks run while it waits', function()
    local order = {}
    kumo.on('spec.fs.other', function()
      order[#order + 1] = 'other'
    end)
    kumo.spawn_task { event_name = 'spec.fs.other' }
    fs.open('/dev/urandom'):read(8 * 1024 * 1024)
    order[#order + 1] = 'read'
    assert.same({ 'other', 'read' }, order)
  end)

  it('refuses two operations on one file at a time', function()
    local file, length = fs.open '/dev/zero', nil
    kumo.on('spec.fs.reader', function()
      length = #file:read(16 * 1024 * 1024)
    end)
    kumo.spawn_task { event_name = 'spec.fs.reader' }
    assert.error_matches(function()
      file:read(1)
    end, 'another task is using the file')
    helper.wait_for('the end of the read', function()
      return length
    end)
    assert.are.equal(16 * 1024 * 1024, length)
    assert.are.equal('\0', file:read(1))
    file:close()
  end)

  it('lists directories', function()
    assert.same({}, fs.read_dir(dir))
    assert.are.equal('[]', kumo.serde.json_encode(fs.read_dir(dir)))
    helper.write(dir .. '/b', '')
    helper.write(dir .. '/.a', '')
    assert.same({ dir .. '/.a', dir .. '/b' }, fs.read_dir(dir))
    assert.are.equal(kumo.fs.read_dir, kumo.read_dir)
  end)

  it('finds what matches a pattern', function()
    helper.sh(('cd %s && mkdir -p p/q/r .h && touch a.lua b.toml c.txt p/d.lua p/q/r/e.json .h/f.lua && ln -s . p/loop'):format(dir))
    local function found(pattern)
      local list = fs.uncached_glob(pattern, dir)
      for i, path in ipairs(list) do
        list[i] = path:sub(#dir + 2)
      end
      return list
    end
    assert.same({ 'a.lua' }, found '*.lua')
    assert.same({ 'a.lua', 'b.toml', 'p/d.lua', 'p/q/r/e.json' }, found '**/*.{lua,json,toml}')
    assert.same({ '.h/f.lua' }, found '.h/*')
    assert.same({ 'p/d.lua' }, found 'p/?.l[a-z]a')
    assert.same({ 'p/q/r/e.json' }, found 'p/**/e.json')
    assert.same({}, found 'nothing*')
    assert.same({}, found 'a{')
    assert.same({ dir .. '/a.lua' }, fs.uncached_glob(dir .. '/a*'))
  end)

  it('remembers what a pattern found', function()
    helper.write(dir .. '/a', '')
    assert.same({ dir .. '/a' }, fs.glob('*', dir, 0))
    assert.same({ dir .. '/a' }, fs.glob('?', dir))
    helper.write(dir .. '/b', '')
    assert.same({ dir .. '/a' }, fs.glob('?', dir))
    assert.same({ dir .. '/a', dir .. '/b' }, fs.glob('*', dir, '1 minute'))
    assert.has_error(function()
      fs.glob('*', dir, 'soon')
    end)
    assert.error_matches(function()
      fs.glob(('{a,b}'):rep(20), dir)
    end, 'stands for more than 1024')
  end)

  it('tells metadata', function()
    helper.write(dir .. '/a', 'abc')
    helper.sh(('chmod 440 %s/a; touch -d "2026-11-25T18:00:00.5Z" %s/a; ln -s a %s/link'):format(dir, dir, dir))
    local meta = fs.metadata_for_path(dir .. '/link')
    assert.is_true(meta.is_file and not meta.is_dir and not meta.is_symlink and meta.readonly)
    assert.same({ 3, 3, 1, 288 }, { meta.len, meta.size, meta.nlink, meta.mode % 512 })
    assert.are.equal('2026-11-25T18:00:00.500Z', meta.mtime.rfc3339)
    local link = fs.symlink_metadata_for_path(dir .. '/link')
    assert.is_true(link.is_symlink and not link.is_file)
    assert.is_true(fs.metadata_for_path(dir).is_dir)
  end)
end)

describe('kumo.secrets.load', function()
  after_each(helper.cleanup)

  it('reads files, the environment and events', function()
    local path = helper.write(helper.dir() .. '/key', 'secret\n')
    assert.are.equal('secret\n', kumo.secrets.load(path))
    assert.are.equal('bytes', kumo.secrets.load { key_data = 'bytes' })
    assert.are.equal(os.getenv 'PATH', kumo.secrets.load { env_name = 'PATH' })
    kumo.on('spec.secret', function(a, b)
      return a .. b
    end)
    assert.are.equal('xy', kumo.secrets.load { event_name = 'spec.secret', event_args = { 'x', 'y' } })
  end)

  -- A server that answers one request, in a task of its own; asked.text is what it was asked.
  local function vault(status, body)
    local listener = assert(require('socket').bind('127.0.0.1', 0))
    local asked = { text = '' }
    listener:settimeout(0)
    local event = 'spec.vault.' .. tostring(listener)
    kumo.on(event, function()
      local client = helper.wait_for('the client', function()
        return (listener:accept())
      end)
      client:settimeout(0)
      helper.wait_for('the request', function()
        local text, _, part = client:receive(4096)
        asked.text = asked.text .. (text or part or '')
        return asked.text:find('\r\n\r\n', 1, true)
      end)
      local answer = ('HTTP/1.1 %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s'):format(status, #body, body)
      assert(client:send(answer) == #answer)
      client:close()
      listener:close()
    end)
    kumo.spawn_task { event_name = event }
    local source = {
      vault_address = ('http://127.0.0.1:%d/'):format((select(2, listener:getsockname()))),
      vault_token = 's.t0ken',
      vault_mount = 'secret',
      vault_path = 'mail/a b',
    }
    return source, asked
  end

  it('reads the KV store of Vault', function()
    local source, asked = vault('200 OK', '{"data":{"data":{"key":"s3cret","n":5},"metadata":{}}}')
    assert.are.equal('s3cret', kumo.secrets.load(source))
    assert.is_truthy(asked.text:find('GET /v1/secret/data/mail/a%20b HTTP/1.1', 1, true), asked.text)
    assert.is_truthy(asked.text:lower():find('x-vault-token: s.t0ken', 1, true), asked.text)
  end)

  for message, case in pairs {
    ['secret/mail/a b: the server answered 403'] = { '403 Forbidden', '{"errors":["permission denied"]}' },
    ['is not one of a KV store'] = { '200 OK', '{"data":{"key":"s3cret"}}' },
    ["there is no text under the key 'key'"] = { '200 OK', '{"data":{"data":{"other":"s3cret"}}}' },
  } do
    it('says of Vault: ' .. message, function()
      local ok, err = pcall(kumo.secrets.load, (vault(case[1], case[2])))
      assert.is_false(ok)
      assert.is_truthy(tostring(err):find(message, 1, true), err)
      assert.is_nil(tostring(err):find 's3cret')
      assert.is_nil(tostring(err):find 't0ken')
    end)
  end

  it('says what is wrong without showing the secret', function()
    for text, source in pairs {
      ['No such file'] = '/not/there',
      ["did you mean 'key_data'"] = { key_dat = 's3cret' },
      ["field 'key_data': string expected, got number"] = { key_data = 7 },
      ["one of 'key_data'"] = {},
      ["variable 'TR_NOT_SET' is not set"] = { env_name = 'TR_NOT_SET' },
      ["event 'none' is not registered"] = { event_name = 'none' },
      ["missing field 'vault_mount'"] = { vault_path = 'x', vault_address = 'http://127.0.0.1:1', vault_token = 's3cret' },
    } do
      local ok, err = pcall(kumo.secrets.load, source)
      assert.is_false(ok)
      assert.is_truthy(tostring(err):find(text), tostring(err))
      assert.is_nil(tostring(err):find 's3cret')
    end
    assert.is_false(pcall(kumo.secrets.load))
  end)
end)
