-- Damage to the spool of a stopped server (of every kind: spool_campaign_test): hundreds of messages in three segments, then flipped
-- bytes, files that are gone, of another version, empty or strange. A start succeeds; what was hit is lost, the rest arrives; ledger and log say so.
local durable = require 'run.durable'
local helper = require 'helper'
local kumo = require 'kumo'

local MAILS = { 300, 150, 150 } -- into each segment; each with a Reception, those of the first with a Delivery in the second

local function tool(command, spool, options)
  return helper.sh(
    ('%s spool %s --meta %s/meta --data %s/data %s 2>>%s/../said'):format(
      helper.quote(helper.TAILRACE),
      command,
      spool,
      spool,
      options or '',
      spool
    )
  )
end

local function json_lines(text)
  local list = {}
  for line in text:gmatch '{[^\n]*}' do
    list[#list + 1] = kumo.serde.json_parse(line)
  end
  return list
end

--- Waiting messages by seq, and how many in each account.
local function dump(spool)
  local text = tool('dump', spool)
  local by_seq, counts = {}, { mail = 0, webhook = 0 }
  for _, message in ipairs(json_lines(text)) do
    by_seq[message.seq] = message
    counts[message.account] = counts[message.account] + 1
  end
  return by_seq, counts
end

local function ledger_of(spool)
  for _, line in ipairs(json_lines((tool('stat', spool, '--json')))) do
    if line.ledger then
      return line.ledger
    end
  end
end

--- Changes `count` bytes of a file, `step` apart from `from` on.
local function flip(path, from, step, count)
  local file = assert(io.open(path, 'r+b'))
  for i = 0, count - 1 do
    file:seek('set', from + i * step)
    local byte = file:read(1):byte()
    file:seek('set', from + i * step)
    file:write(string.char((byte + 85) % 256))
  end
  file:close()
end

local function segment(spool, number)
  return ('%s/meta/log-%016x.seg'):format(spool, number)
end

--- CRC32C of a string, bit by bit.
local function crc32c(text)
  local crc = 0xffffffff
  for i = 1, #text do
    crc = bit.bxor(crc, text:byte(i))
    for _ = 1, 8 do
      crc = bit.bxor(bit.rshift(crc, 1), bit.band(crc, 1) == 1 and 0x82f63b78 or 0)
    end
  end
  return bit.bnot(crc)
end

--- Gives a segment another version number, in a header that is sound.
local function set_version(path, version)
  local file = assert(io.open(path, 'r+b'))
  local header = file:read(128)
  header = header:sub(1, 8) .. string.char(version) .. ('\0'):rep(7) .. header:sub(17)
  local crc = crc32c(header)
  local function byte(n)
    return string.char(bit.band(bit.rshift(crc, 8 * n), 255))
  end
  file:seek('set', 0)
  file:write(header:sub(1, 12), byte(0), byte(1), byte(2), byte(3), header:sub(17))
  file:close()
end

describe('a damaged spool', function()
  local base, env, dir, before, waiting

  setup(function()
    dir, env = durable.setup()
    local hop, hook = env.TAILRACE_NEXT_HOP, env.TAILRACE_WEBHOOK
    env.TAILRACE_WEBHOOK = 'http://127.0.0.1:1/' -- nobody is there
    for i, count in ipairs(MAILS) do
      env.TAILRACE_NEXT_HOP = i == 2 and hop or '127.0.0.1:1'
      local run = durable.run(env)
      assert.are.equal(count, helper.inject(('--smtp %s --count %d'):format(run.smtp, count)).accepted)
      if i == 2 then
        helper.wait_for('the first mails', function()
          return durable.ledger(run).mail.delivered == MAILS[1] + MAILS[2]
        end)
      end
      assert.are.equal(0, run:stop())
    end
    helper.sh(('rm %s/spool/meta/spare-*'):format(dir)) -- only what matters is copied
    base = dir .. '/spool'
    env.TAILRACE_NEXT_HOP, env.TAILRACE_WEBHOOK = hop, hook
    before, waiting = dump(base)
    assert.are.same({ mail = MAILS[3], webhook = 2 * MAILS[1] + 2 * MAILS[2] + MAILS[3] }, waiting)
  end)
  teardown(helper.cleanup)

  --- A copy of the spool, damaged, and started with peers that are there. most: how many messages may be lost. says: what
  --- the log says; nil: there is no damage.
  local function try(damage, most, says)
    local spool = ('%s/copy-%d'):format(dir, math.random(1e9))
    helper.sh(('cp -r --sparse=always %s %s'):format(base, spool))
    local seen_before = #(helper.read(dir .. '/got') or '')
    damage(spool)
    local text, status = tool('check', spool)
    assert.are.equal(says and 1 or 0, status, text)
    local left, counts = dump(spool)
    local _, repaired = tool('repair', spool, '--target ' .. spool .. '/clean')
    assert.are.equal(0, repaired)
    local clean, clean_status = tool('check', spool .. '/clean')
    assert.are.equal(0, clean_status, clean)
    assert.are.same(left, (dump(spool .. '/clean')))

    local lost, revived = 0, 0
    for seq in pairs(before) do
      lost = lost + (left[seq] and 0 or 1)
    end
    for seq in pairs(left) do
      revived = revived + (before[seq] and 0 or 1)
    end
    assert.is_true(lost <= most, lost .. ' messages lost')
    env.TAILRACE_SPOOL = spool
    local run = durable.run(env)
    durable.wait_empty(run)
    assert.are.equal(0, run:stop(), run:log())
    if says then
      assert.is_truthy(run:log():find(says), run:log())
    end
    local ledger = ledger_of(spool)
    for account, count in pairs(waiting) do
      assert.are.equal(count - counts[account], ledger[account].dropped_by.damaged or 0, account)
      assert.are.equal(0, ledger[account].waiting)
    end
    local seen = {}
    for line in (helper.read(dir .. '/got') or ''):sub(seen_before + 1):gmatch '[^\n]+\n' do
      local entry = kumo.serde.json_parse(line)
      local record = entry.body and kumo.serde.json_parse(entry.body)
      if record then
        seen[record.id .. record.type] = true
      end
    end
    for _, message in pairs(left) do -- what is intact arrives
      local id = message.account == 'mail' and message.id .. 'Delivery'
      assert.is_truthy(not id or seen[id], id)
    end
    tool('check', spool)
    local kept = helper.sh(('ls %s/meta/damaged'):format(spool))
    helper.sh('rm -r ' .. spool)
    return lost, revived, run, kept
  end

  it('that is not damaged starts', function()
    assert.are.equal(0, (try(function() end, 0)))
  end)

  it('with 20 flipped bytes in a segment loses no more than 20 messages', function()
    try(function(spool)
      flip(segment(spool, 2), 4096 + 5000, 20011, 20)
    end, 20, 'damaged bytes at offset')
  end)

  it('without a segment in the middle loses that, and sends again what ended there', function()
    local lost, revived = try(function(spool)
      os.remove(segment(spool, 2))
    end, MAILS[1] + 2 * MAILS[2], '1 segments of the log are missing')
    assert.are.equal(MAILS[1] + 2 * MAILS[2], lost)
    assert.are.equal(MAILS[1], revived)
  end)

  it('whose segment has lost header and ledger loses nothing else', function()
    local lost, revived = try(function(spool)
      flip(segment(spool, 2), 0, 1, 4096 + 64)
    end, 0, 'has lost its header')
    assert.are.equal(0, lost + revived)
  end)

  it('whose segment is nothing but junk keeps the file', function()
    local _, _, _, kept = try(function(spool)
      helper.write(segment(spool, 2), ('junk'):rep(100000))
    end, MAILS[1] + 2 * MAILS[2], 'neither header nor ledger')
    assert.is_truthy(kept:find 'log%-0000000000000002.seg')
  end)

  it('with empty and strange files starts', function()
    local lost, revived = try(function(spool)
      for _, name in ipairs { 'log-00000000000000ff.seg', 'log-zzz.seg', 'spare-x.seg', 'notes.txt', 'body-1.bin' } do
        helper.write(('%s/meta/%s'):format(spool, name), '')
      end
      helper.write(spool .. '/meta/log-100.seg', ('x'):rep(100000))
      helper.write(spool .. '/meta/log-0000000000000002', 'x')
      helper.write(spool .. '/data/body-00000000000000aa.bin', 'x')
      helper.write(spool .. '/data/notes.txt', 'x')
      helper.sh(('mkdir %s/meta/log-0000000000000101.seg %s/data/body-00000000000000bb.bin'):format(spool, spool))
    end, 0)
    assert.are.equal(0, lost + revived)
  end)

  it('of another version is refused with status 78 and not touched', function()
    local spool = dir .. '/version'
    helper.sh(('cp -r --sparse=always %s %s'):format(base, spool))
    set_version(segment(spool, 2), 99)
    local sums = ('cd %s && find . -type f -exec md5sum {} + | sort'):format(spool)
    local was = helper.sh(sums)
    env.TAILRACE_SPOOL = spool
    local run = helper.start(('%s run --policy %s'):format(helper.quote(helper.TAILRACE), durable.POLICY), env)
    assert.are.equal(78, run:wait())
    assert.is_truthy(run:log():find 'another version', run:log())
    assert.are.equal(was, (helper.sh(sums)))
    local text, status = tool('check', spool)
    assert.are.equal(65, status, text)
    helper.sh('rm -r ' .. spool)
  end)
end)
