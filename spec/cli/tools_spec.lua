-- `tailrace sink` and `tailrace inject` against each other: what one says it sent, the other says it got.
local TAILRACE = os.getenv 'TAILRACE' or 'build/release/tailrace'

--- Single quotes for the shell.
local function quote(text)
  return "'" .. text:gsub("'", [['\'']]) .. "'"
end

--- Runs a command to its end: its output (standard error included) and its exit status.
local function run(args)
  local pipe = assert(io.popen(('%s %s 2>&1; echo "status=$?"'):format(quote(TAILRACE), args)))
  local output = pipe:read '*a'
  pipe:close()
  local text, status = output:match '^(.*)status=(%d+)%s*$'
  return text, tonumber(status)
end

local running = {} -- sinks that a test started and did not see end

--- Starts a sink and waits until it listens. `sink.http` and `sink.smtp` are ADDR:PORT.
local function start(args)
  local sink = {}
  local wanted = select(2, args:gsub('%-%-http', '')) + select(2, args:gsub('%-%-smtp ', ''))
  -- --idle-exit is the backstop of a test that fails half-way
  local command = ('%s sink %s --json --idle-exit 300 2>&1 & echo "pid $!"; wait $!; echo "status=$?"'):format(
    quote(TAILRACE),
    args
  )
  sink.pipe = assert(io.popen(command))
  local lines = {}
  while wanted > 0 or not sink.pid do
    local line = sink.pipe:read '*l'
    assert(line and not line:find '^status', 'the sink did not start: ' .. table.concat(lines, '\n'))
    lines[#lines + 1] = line
    local kind, address = line:match '^listening (%a+) (%S+)$'
    if kind then
      sink[kind], wanted = address, wanted - 1
    end
    sink.pid = sink.pid or line:match '^pid (%d+)$'
  end
  running[sink] = true
  return sink
end

--- Waits for the end of a sink (told to end by `signal`, if given): its summary and exit status.
local function finish(sink, signal)
  if signal then
    os.execute(('kill -%s %s'):format(signal, sink.pid))
  end
  local output = sink.pipe:read '*a'
  sink.pipe:close()
  running[sink] = nil
  local summary, status = output:match '^(.*)status=(%d+)%s*$'
  return summary, tonumber(status)
end

--- The number behind a key of a JSON summary, after the (optional) key of the object that it stands in.
local function number(json, key, within)
  local from = within and assert(json:find(('"%s":{'):format(within), 1, true), 'no ' .. within .. ' in ' .. json) or 1
  return tonumber(json:match(('"%s":([%%d.]+)'):format(key), from))
end

local function temp_file(content)
  local path = os.tmpname()
  local file = assert(io.open(path, 'wb'))
  file:write(content or '')
  file:close()
  finally(function()
    os.remove(path)
  end)
  return path
end

local function read_lines(path)
  local lines = {}
  for line in io.lines(path) do
    lines[#lines + 1] = line
  end
  return lines
end

describe('tailrace', function()
  after_each(function()
    for sink in pairs(running) do
      finish(sink, 'TERM')
    end
  end)

  describe('the command line', function()
    for args, expected in pairs {
      ['sink --htp 127.0.0.1:0'] = "did you mean '--http'?",
      ['inject --conections=3 --smtp 127.0.0.1:1'] = "did you mean '--connections'?",
      ['snik'] = "did you mean 'sink'?",
      ['sink'] = '--http or --smtp',
      ['sink --http 127.0.0.1:0 --status-share 503=60 --status-share 500=50'] = 'sum up to 110',
      ['sink --http 127.0.0.1:0 --status-share 99=5'] = 'CODE=PERCENT expected',
      ['sink --smtp 127.0.0.1:0 --smtp-code rcp=550=5'] = "did you mean 'rcpt'?",
      ['sink --http 127.0.0.1:0 --until 0'] = 'out of range',
      ['sink --http 127.0.0.1:0 --until'] = 'needs a value',
      ['sink --http 127.0.0.1:0 --json=yes'] = 'takes no value',
      ['sink --http nonsense'] = 'HOST:PORT expected',
      ['inject --smtp 127.0.0.1:1 --http http://127.0.0.1:1'] = 'one of --smtp and --http',
      ['inject --smtp 127.0.0.1:1 --rate fast'] = 'a number per second',
      ['inject --smtp 127.0.0.1:1 --size 10 some.eml'] = '--size is for generated messages',
    } do
      it('refuses: ' .. args, function()
        local text, status = run(args)
        assert.is_truthy(text:find(expected, 1, true), text)
        assert.are.equal(64, status)
      end)
    end

    it('describes each command', function()
      local text, status = run 'help inject'
      assert.are.equal(0, status)
      assert.is_truthy(text:find('--recipients-per-message', 1, true))
    end)

    it('says so when a file cannot be read', function()
      local text, status = run 'inject --smtp 127.0.0.1:1 /nonexistent/x.eml'
      assert.are.equal(66, status)
      assert.is_truthy(text:find('/nonexistent/x.eml', 1, true))
    end)
  end)

  describe('mail', function()
    it('is counted alike on both sides, and the sink ends at --until', function()
      local ids = temp_file()
      local sink = start '--smtp 127.0.0.1:0 --until 200'
      local sent, status = run(
        ('inject --smtp %s --count 200 --connections 7 --recipients-per-message 2 --messages-per-connection 9'
          .. ' --json --ids %s'):format(
          sink.smtp,
          ids
        )
      )
      local got, sink_status = finish(sink)
      assert.are.equal(0, status)
      assert.are.equal(0, sink_status)
      assert.are.equal(200, number(sent, 'accepted'))
      assert.are.equal(200, number(sent, '250', 'codes'))
      assert.are.equal(400, number(sent, 'recipients'))
      assert.are.equal(200, number(got, 'messages', 'smtp'))
      assert.are.equal(400, number(got, 'recipients', 'smtp'))
      assert.are.equal(number(sent, 'bytes'), number(got, 'bytes', 'smtp'))
      assert.are.equal(number(sent, 'connections'), number(got, 'connections', 'smtp'))
      local distinct, count = {}, 0
      for _, id in ipairs(read_lines(ids)) do
        count = count + (distinct[id] and 0 or 1)
        distinct[id] = true
      end
      assert.are.equal(200, count)
    end)

    it('arrives as it was in the file, dots and all', function()
      local eml = temp_file 'Subject: dots\n\n.\n..two\r\nplain\n.\n'
      local record = temp_file()
      local sink = start(('--smtp 127.0.0.1:0 --until 1 --record-data --record %s'):format(record))
      local _, status = run(
        ("inject --smtp %s --from a@example.com --to b@example.com --header 'X-Customer-ID: 7' %s"):format(sink.smtp, eml)
      )
      finish(sink)
      assert.are.equal(0, status)
      local lines = read_lines(record)
      assert.are.equal(1, #lines)
      assert.is_truthy(lines[1]:find('"from":"a@example.com","rcpts":["b@example.com"]', 1, true), lines[1])
      local data = [["data":"X-Customer-ID: 7\r\nSubject: dots\r\n\r\n.\r\n..two\r\nplain\r\n.\r\n"]]
      assert.is_truthy(lines[1]:find(data, 1, true), lines[1])
    end)

    for stage, code in pairs { mail = 451, rcpt = 550, data = 452, dot = 554 } do
      it(('is refused at %s when the sink is told so'):format(stage), function()
        local sink = start(('--smtp 127.0.0.1:0 --smtp-code %s=%d=100'):format(stage, code))
        local sent, status = run(('inject --smtp %s --count 20 --connections 2 --json'):format(sink.smtp))
        local got = finish(sink, 'TERM')
        assert.are.equal(1, status)
        assert.are.equal(0, number(sent, 'accepted'))
        assert.are.equal(20, number(sent, 'refused'))
        assert.are.equal(20, number(sent, tostring(code), 'codes'))
        assert.are.equal(0, number(got, 'messages', 'smtp'))
        assert.are.equal(20, number(got, tostring(code), stage))
      end)
    end

    it('that was not answered is unknown, and never sent again', function()
      local sink = start '--smtp 127.0.0.1:0 --reset-share 100'
      local sent, status = run(('inject --smtp %s --count 20 --connections 10 --keep-going --json'):format(sink.smtp))
      local got = finish(sink, 'TERM')
      assert.are.equal(0, status)
      assert.are.equal(20, number(sent, 'unknown'))
      assert.are.equal(20, number(got, 'resets'))
      assert.are.equal(20, number(got, 'refused_messages', 'smtp'))
    end)

    it('has nowhere to go where nobody listens', function()
      local text, status = run 'inject --smtp 127.0.0.1:1 --count 3'
      assert.are.equal(69, status)
      assert.is_truthy(text:find('--keep-going', 1, true))
    end)
  end)

  describe('webhooks', function()
    it('are counted by status and by id', function()
      local record = temp_file()
      local sink = start(
        ('--http 127.0.0.1:0 --until 50 --count-ids envelope_sender --record %s'):format(record)
      )
      local sent, status = run(
        ('inject --http http://%s/log --count 100 --http-batch 2 --connections 3 --json'):format(sink.http)
      )
      local got, sink_status = finish(sink)
      assert.are.equal(0, status)
      assert.are.equal(0, sink_status)
      assert.are.equal(100, number(sent, 'accepted'))
      assert.are.equal(50, number(got, 'requests', 'http'))
      assert.are.equal(50, number(got, 'records', 'http'))
      assert.are.equal(50, number(got, '200', 'status'))
      assert.are.equal(50, number(got, 'records', 'ids'))
      assert.are.equal(1, number(got, 'distinct', 'ids'))
      assert.are.equal(49, number(got, 'duplicates', 'ids'))
      local lines = read_lines(record)
      assert.are.equal(50, #lines)
      assert.is_truthy(lines[1]:find('^{"path":"/log","status":200,"headers":{.*"content%-type":"application/json"'))
    end)

    it('are refused by share, the same ones for the same seed', function()
      local refused = {}
      for i, seed in ipairs { 7, 7, 8 } do
        local sink = start(
          ('--http 127.0.0.1:0 --status-share 503=10 --status-share 400=1 --seed %d'):format(seed)
        )
        local sent = run(('inject --http http://%s --count 2000 --connections 4 --json'):format(sink.http))
        local got = finish(sink, 'INT')
        assert.are.equal(2000, number(got, 'requests', 'http'))
        assert.are.equal(number(sent, '503', 'codes'), number(got, '503', 'status'))
        assert.are.equal(number(sent, '400', 'codes'), number(got, '400', 'status'))
        assert.are.equal(number(sent, 'refused'), number(got, 'refused_records', 'http'))
        refused[i] = number(got, '503', 'status')
        assert.is_true(refused[i] > 140 and refused[i] < 260, 'of 2000: ' .. refused[i])
      end
      assert.are.equal(refused[1], refused[2])
    end)

    it('meet resets and garbage, and each is counted once', function()
      local sink = start '--http 127.0.0.1:0 --reset-share 30 --garbage-share 20'
      local sent = run(('inject --http http://%s --count 60 --connections 10 --keep-going --json'):format(sink.http))
      local got = finish(sink, 'TERM')
      assert.are.equal(60, number(got, 'requests', 'http'))
      assert.is_true(number(got, 'resets') > 0)
      assert.is_true(number(got, 'garbage') > 0)
      assert.are.equal(number(got, 'resets') + number(got, 'garbage'), number(sent, 'unknown'))
      assert.are.equal(number(sent, 'accepted'), number(got, '200', 'status'))
    end)
  end)

  it('sink fails when it idles out before --until', function()
    local text, status = run 'sink --http 127.0.0.1:0 --until 1 --idle-exit 0.05'
    assert.are.equal(1, status)
    assert.is_truthy(text:find('0 records accepted', 1, true), text)
  end)
end)
