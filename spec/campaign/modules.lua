--- One process of tailrace-campaign --libraries: what policies call, with each allocation failing of the libraries that
--- stand behind it. A call gives what it gives without a fault, or says why not; after it the next one works.
local from, to, sample = tonumber(arg[2]), tonumber(arg[3]), tonumber(arg[4])

io.stdout:setvbuf 'line'
local campaign = require 'tr.campaign'
local kumo = require 'kumo'
local sqlite = require 'sqlite'

local CASE_S = 60 -- real seconds
local EVER = 1e9
local WINDOWS = { 1, 50 }
local KEY = [[
-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC
-----END PRIVATE KEY-----
]]

local function list(values)
  return kumo.serde.json_encode(values)
end

local CALLS = {
  {
    'a regex',
    function()
      local regex = kumo.regex.compile '(?<user>\\w+)@(\\w+)\\.test|^nothing$'
      local captures = regex:captures 'to ann@mail.test, bob@other.test'
      local all = regex:find_all 'a@b.test c@d.test'
      return list { captures.user, captures[2], #all, regex:replace_all('x@y.test', '-'), tostring(regex:is_match 'no') }
    end,
  },
  {
    'a set of regexes',
    function()
      local map = kumo.regex_set_map.new { ['^a'] = 'first', ['z$'] = 'last' }
      return list { map['abc'], map['xyz'], tostring(map['none']) }
    end,
  },
  {
    'YAML',
    function()
      local value = kumo.serde.yaml_parse 'a: [1, two, {b: "x\\ny"}]\nc: &k {d: 1}\ne: *k\n'
      return list { value.a[2], value.a[3].b, value.e.d, kumo.serde.yaml_encode { list = { 1, 'two: 2' } } }
    end,
  },
  {
    'TOML',
    function()
      local value = kumo.serde.toml_parse 'a = [1, "two"]\n[b.c]\nd = 1979-05-27\ne = "x\\ny"\n'
      return list { value.a[2], value.b.c.e, kumo.serde.toml_encode { x = { y = 1 } } }
    end,
  },
  {
    'SQLite',
    function()
      local db = sqlite.open ':memory:'
      local ok, result = pcall(function()
        db:execute 'CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT)'
        for i = 1, 3 do
          db:execute('INSERT INTO t (name) VALUES (?)', 'row ' .. i)
        end
        return list(db:execute 'SELECT id, name FROM t ORDER BY name DESC')
      end)
      db:close()
      return ok and result or error(result, 0)
    end,
  },
  {
    'digests and ciphers',
    function()
      local key = { key_data = ('k'):rep(32) }
      local hidden = kumo.crypto.aes_encrypt_block('Cbc', 'secret', { key = key })
      return list {
        kumo.digest.sha256('text').hex, kumo.digest.hmac_sha256({ key_data = 'k' }, 'text').hex,
        kumo.crypto.aes_decrypt_block('Cbc', hidden, { key = key }).bytes, kumo.digest.sha1('a', 'b').hex,
      } -- stylua: ignore
    end,
  },
  {
    'a signature',
    function()
      local msg = kumo.make_message('a@b.test', 'c@d.test', 'From: a@b.test\r\nSubject: x\r\n\r\ntext\r\n')
      msg:dkim_sign(kumo.dkim.ed25519_signer { domain = 'b.test', selector = 's', headers = { 'From', 'Subject' }, key = { key_data = KEY } })
      return (msg:get_first_named_header_value('DKIM-Signature'):gsub('%s', ''):gsub('[tx]=%d+;', ''):gsub(';b=.*', ''))
    end,
  },
  {
    'domains',
    function()
      return list { kumo.string.psl_domain 'a.b.co.uk', kumo.string.psl_suffix 'x.github.io', tostring(kumo.string.psl_domain 'com') }
    end,
  },
  {
    'a compressed log',
    function()
      local dir = os.tmpname()
      os.remove(dir)
      assert(os.execute('mkdir ' .. dir) == 0)
      local ok, result = pcall(function()
        local writer = kumo.jsonl.new_writer { log_dir = dir }
        for i = 1, 3 do
          writer:write_record { n = i }
        end
        writer:close()
        local tailer, numbers = kumo.jsonl.new_tailer { directory = dir, max_batch_size = 10, max_batch_latency = '1ms' }, {}
        for batch in tailer:batches() do
          for _, record in ipairs(batch:records()) do
            numbers[#numbers + 1] = record.n
          end
          if #numbers == 3 then
            break
          end
        end
        tailer:close()
        return list(numbers)
      end)
      os.execute('rm -rf ' .. dir)
      return ok and result or error(result, 0)
    end,
  },
}

--- What the call gives; nil and a text.
local function call(one)
  local ok, result = pcall(one[2])
  if ok then
    return result
  end
  return nil, tostring(result)
end

local cases, expected, parts = {}, {}, {}
for _, one in ipairs(CALLS) do
  local err
  for _ = 1, 2 do -- what is made once is not of the count
    campaign.arm(nil, EVER, 0)
    expected[one], err = call(one)
    if not expected[one] then
      error(('%s, without faults: %s'):format(one[1], err), 0)
    end
  end
  for name, count in pairs(campaign.disarm_libraries()) do
    parts[#parts + 1] = ('%s %s %d'):format(one[1], name, count)
    for n = 0, count - 1 do
      for _, times in ipairs(WINDOWS) do
        cases[#cases + 1] = { call = one, library = name, after = n, times = times }
      end
    end
  end
end
table.sort(cases, function(a, b)
  local x, y = a.call[1] .. a.library, b.call[1] .. b.library
  if x ~= y then
    return x < y
  elseif a.after ~= b.after then
    return a.after < b.after
  end
  return a.times < b.times
end)
table.sort(parts)

local step = sample > 0 and math.max(1, #cases / sample) or 1
local total = sample > 0 and math.floor(#cases / step) or #cases
campaign.total(total)
if from == 0 then
  print(('allocations: %s: %d cases of %d'):format(table.concat(parts, ', '), total, #cases))
end
for index = from, math.min(to, total) - 1 do
  local number = math.floor(index * step + step / 2)
  local case = cases[1 + number]
  local what = ('%s: %s %d, %d times no memory'):format(case.call[1], case.library, case.after, case.times)
  campaign.begin(index, ('case %d of --libraries (%s)'):format(number, what), CASE_S)
  campaign.arm(case.library, case.after, case.times)
  local result, err = call(case.call)
  campaign.disarm_libraries()
  if result and result ~= expected[case.call] then
    campaign.wrong(('it gives %s in place of %s'):format(result, expected[case.call]))
  elseif not result and #err < 8 then
    campaign.wrong(('it failed without saying why: %q'):format(err))
  end
  result, err = call(case.call)
  if result ~= expected[case.call] then
    campaign.wrong(('after it: %s'):format(tostring(result or err)))
  end
end
campaign.done()
