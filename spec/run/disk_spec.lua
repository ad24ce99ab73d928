-- The spool's disk full, failing, read-only or gone while the runtime works: intake is refused, what can be done goes on, the
-- runtime recovers alone, and nothing that was answered with 250 is lost.
local durable = require 'run.durable'
local helper = require 'helper'

local SHIM

--- The disk that fails on command (disk_shim.c), built once.
local function shim()
  if not SHIM then
    local dir = helper.sh 'mktemp -d "${TMPDIR:-/tmp}/tailrace-shim.XXXXXX"':match '%S+'
    local text, status = helper.sh(('cc -shared -fPIC -O1 -o %s/shim.so spec/run/disk_shim.c -ldl'):format(dir))
    assert.are.equal(0, status, text)
    SHIM = dir .. '/shim.so'
  end
  return SHIM
end

local function inject(env, dir, options)
  return helper.inject(('--smtp %s --ids %s/ids %s'):format(env.TAILRACE_SMTP, dir, options))
end

--- One message until it is accepted again.
local function wait_open(env, dir)
  helper.wait_for('intake', function()
    return inject(env, dir, '--count 1').accepted == 1
  end)
end

local function finish(run, dir, limit_s)
  durable.wait_empty(run, limit_s)
  assert.are.equal(0, run:stop(), run:log())
  assert.is_nil(run:log():find 'balance')
  assert.is_nil(run:log():find 'dropped{damaged}')
  local got = durable.read_sink(dir)
  local lost, accepted = durable.lost(dir, got)
  assert.are.same({}, lost)
  return accepted, got
end

--- Status of an HTTP injection.
local function http_status(env)
  local body = '{"envelope_sender":"a@example.org","content":"Subject: x\\r\\n\\r\\nx","recipients":[{"email":"b@example.org"}]}'
  local text = helper.sh(
    ("curl -s -m 60 -o /dev/null -w '%%{http_code}' -H 'Content-Type: application/json' -d %s http://%s/api/inject/v1"):format(
      helper.quote(body),
      env.TAILRACE_HTTP
    )
  )
  return tonumber(text:match '%d+')
end

describe('a spool whose disk', function()
  local mounted

  after_each(function()
    helper.cleanup()
    if mounted then
      helper.sh(('umount -l %s; rmdir %s'):format(mounted, mounted))
      mounted = nil
    end
  end)
  teardown(function()
    if SHIM then
      helper.sh('rm -r ' .. helper.quote(SHIM:match '^(.*)/'))
    end
  end)

  for what, size in pairs { ['small mail'] = '200k', ['mail in body files'] = '400k' } do
    it('is really full refuses mail, delivers what it has, and takes mail again: ' .. what, function()
      local path = helper.sh 'mktemp -d "${TMPDIR:-/tmp}/tailrace-disk.XXXXXX"':match '%S+'
      local _, status = helper.sh(('mount -t tmpfs -o size=330m none %s'):format(path))
      if status ~= 0 then
        helper.sh('rmdir ' .. path)
        pending 'mount is not permitted here'
        return
      end
      mounted = path
      local dir, env, sink = durable.setup(nil, { TAILRACE_SPOOL = path, TAILRACE_MIN_FREE = '1' })
      local hop, hook = env.TAILRACE_NEXT_HOP, env.TAILRACE_WEBHOOK
      env.TAILRACE_NEXT_HOP, env.TAILRACE_WEBHOOK = '127.0.0.1:1', 'http://127.0.0.1:1/' -- nobody is there
      local run = durable.run(env)
      local sent = inject(env, dir, ('--count 3000 --size %s'):format(size))
      assert.is_true(sent.accepted > 100 and sent.refused > 0, run:log())
      assert.is_nil(sent.codes['550'])
      assert.are.equal(sent.messages, sent.accepted + sent.refused)
      if size == '200k' then -- with files full, small mail still finds room in the log
        assert.are.equal(503, http_status(env))
      end
      helper.sh(('dd if=/dev/zero of=%s/filler bs=64k'):format(path)) -- and not a byte is left
      assert.are.equal(0, inject(env, dir, '--count 5 --size ' .. size).accepted)
      -- a restart over a full disk, towards peers that are there
      assert.are.equal(0, run:stop(), run:log())
      env.TAILRACE_NEXT_HOP, env.TAILRACE_WEBHOOK = hop, hook
      run = durable.run(env)
      helper.wait_for('deliveries over a full disk', function()
        local mail = durable.ledger(run).mail
        return mail and mail.delivered == sent.accepted
      end, 120)
      helper.sh(('rm %s/filler'):format(path))
      wait_open(env, dir)
      local accepted = finish(run, dir, 120)
      assert.are.equal(sent.accepted + 1, accepted)
      assert.are.equal(sent.accepted + 1, helper.summary(sink).smtp.messages)
      assert.are.equal(0, durable.body_files(path .. '/data'))
    end)
  end

  for what, fault in pairs {
    ['fails every write with EIO'] = '5 write',
    ['fails every sync with EIO'] = '5 sync',
    ['fails every write with ENOSPC'] = '28 write',
    ['is read-only'] = '30 write names',
    ['takes no new names'] = '30 names',
  } do
    for _, killed in ipairs { false, true } do
      it(('%s refuses mail and recovers alone%s'):format(what, killed and ', killed in between' or ''), function()
        local dir, env = durable.setup()
        env.LD_PRELOAD, env.TAILRACE_FAULT, env.TAILRACE_FAULT_DIR = shim(), dir .. '/fault', dir .. '/spool'
        env.ASAN_OPTIONS = 'verify_asan_link_order=0'
        local run = durable.run(env)
        local load = helper.start(
          ('%s inject --smtp %s --ids %s/ids --duration 3600 --connections 5 --size 300k --rate 100/s --keep-going --json --quiet'):format(
            helper.quote(helper.TAILRACE),
            run.smtp,
            dir
          )
        )
        helper.wait_for('mail', function()
          local mail = durable.ledger(run).mail
          return mail and mail.delivered > 20
        end)
        helper.write(dir .. '/fault', fault)
        if fault ~= '30 names' then -- without new names the segment at hand is still good
          run:line '(nothing new is taken)'
          assert.are.equal(0, inject(env, dir, '--count 3').accepted, run:log())
          assert.are.equal(503, http_status(env))
          assert.is_truthy(run:log():find 'nothing new is taken', run:log())
        else -- of body files only those that are open already can be written
          helper.wait_for('a refusal', function()
            return inject(env, dir, '--count 3 --size 400k').accepted == 0
          end)
        end
        if killed then
          run:stop 'KILL'
        end
        os.remove(dir .. '/fault')
        if killed then
          run = durable.run(env)
        end
        wait_open(env, dir)
        load:stop 'INT'
        local accepted, got = finish(run, dir)
        assert.is_true(accepted > 20) -- those from before the fault; how many a slow machine takes after it is open
        if not killed then
          assert.are.equal(0, got.duplicates)
        end
        env.TAILRACE_FAULT = nil
        assert.are.equal(0, durable.run(env):stop()) -- a start sweeps the files that could not be unlinked
        assert.are.equal(0, durable.body_files(dir .. '/spool/data'))
      end)
    end
  end

  for limit, accepted in pairs { ['0'] = true, ['0%'] = true, ['1%'] = false } do
    it(('is almost full %s mail with min_free_space = %s'):format(accepted and 'takes' or 'refuses', limit), function()
      local dir, env = durable.setup(nil, { TAILRACE_MIN_FREE = limit })
      env.LD_PRELOAD, env.TAILRACE_FAULT, env.TAILRACE_FAULT_DIR = shim(), dir .. '/fault', dir .. '/spool'
      env.ASAN_OPTIONS = 'verify_asan_link_order=0'
      helper.write(dir .. '/fault', '1 space')
      local run = durable.run(env)
      assert.are.equal(accepted and 3 or 0, inject(env, dir, '--count 3').accepted, run:log())
      finish(run, dir)
    end)
  end

  it('cannot be written at the start is named, with status 78', function()
    local dir, env = durable.setup()
    helper.write(dir .. '/fault', '30 names')
    env.LD_PRELOAD, env.TAILRACE_FAULT, env.TAILRACE_FAULT_DIR = shim(), dir .. '/fault', dir .. '/spool'
    env.ASAN_OPTIONS = 'verify_asan_link_order=0'
    local run = helper.start(('%s run --policy %s'):format(helper.quote(helper.TAILRACE), durable.POLICY), env)
    assert.are.equal(78, run:wait())
    assert.is_truthy(run:log():find '/spool.*Read%-only file system', run:log())
  end)

  for what, back in pairs { ['comes back'] = true, ['stays away'] = false } do
    it('is taken away refuses mail and says why; it ' .. what, function()
      local dir, env = durable.setup()
      local run = durable.run(env)
      inject(env, dir, '--count 20')
      durable.wait_empty(run)
      os.execute(('mv %s/spool %s/gone'):format(dir, dir))
      run:line '(is gone)'
      assert.are.equal(0, inject(env, dir, '--count 3').accepted)
      assert.are.equal(503, http_status(env))
      if back then
        os.execute(('mv %s/gone %s/spool'):format(dir, dir))
        wait_open(env, dir)
        finish(run, dir)
      else
        os.execute(('rm -r %s/gone'):format(dir))
        assert.is_not_nil(run:stop())
        assert.is_nil(run:log():find 'Sanitizer')
        local status = run:status()
        assert.is_true(status == 0 or status == 1, 'status ' .. status)
      end
    end)
  end
end)
