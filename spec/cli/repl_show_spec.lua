-- Values as the prompt shows them (lua/repl/show.lua), and what Tab offers (lua/repl/complete.lua).
local host = require 'tr.host'
local kumo = require 'kumo'
local show = host.internal 'repl.show'
local complete = host.internal 'repl.complete'

local function nested(depth)
  return depth == 0 and {} or { nested(depth - 1) }
end

local function wide(n)
  local list = {}
  for i = 1, n do
    list[i] = i
  end
  return list
end

describe('show.value', function()
  local cyclic = { name = 'x' }
  cyclic.inner = { up = cyclic }
  local shared = { 1 }
  for what, case in pairs {
    ['integers exactly'] = { 2 ^ 53 - 1, '9007199254740991' },
    ['numbers so that they read back'] = { 0.1 + 0.2, '0.30000000000000004' },
    ['what is no number'] = { { 0 / 0, 1 / 0, -1 / 0 }, '{ nan, inf, -inf }' },
    ['control characters as escapes'] = { 'a\n\t\27[31m\0\127"\\', [["a\n\t\x1b[31m\x00\x7f\"\\"]] },
    ['UTF-8 as it is'] = { 'größe 語 🙂', '"größe 語 🙂"' },
    ['C1 controls, which a terminal obeys, too'] = { 'a\194\155m', [["a\u{9b}m"]] },
    ['characters that change the direction'] = { 'a\226\128\174b\226\129\166', [["a\u{202e}b\u{2066}"]] },
    ['invisible ones'] = { '\239\187\191a\226\128\139b', [["\u{feff}a\u{200b}b"]] },
    ['bytes that are no UTF-8'] = { 'a\255\195(\226\130', [["a\xff\xc3(\xe2\x82"]] },
    ['an overlong form'] = { '\192\175', [["\xc0\xaf"]] },
    ['long strings with their length, cut between characters'] = { { 'x' .. ('ä'):rep(1000) },
      '{\n  "x' .. ('ä'):rep(99) .. '"... (2,001 bytes)\n}' },
    ['keys in order: numbers, texts, the rest'] = {
      { 1, 2, [10] = 'x', [-1.5] = 'y', b = 1, a = 2, ['not a name'] = 3, ['end'] = 4, [true] = 5 },
      [[{
  [-1.5] = "y",
  1,
  2,
  [10] = "x",
  a = 2,
  b = 1,
  ["end"] = 4,
  ["not a name"] = 3,
  [true] = 5
}]],
    },
    ['holes'] = { { 1, nil, 3 }, '{ 1, [3] = 3 }' },
    ['cycles by their path'] = { cyclic, '{ inner = { up = <the same as it> }, name = "x" }' },
    ['what is there twice, twice'] = { { shared, shared }, '{ { 1 }, { 1 } }' },
    ['six levels'] = { nested(9), '{ { { { { { {...} } } } } } }' },
    ['an empty table'] = { {}, '{}' },
    ['null'] = { host.c.NULL, 'null' },
    ['an object whose __tostring fails'] = { host.c.userdata { __tostring = error }, 'userdata whose __tostring fails' },
    ['an object with control characters'] = { host.c.userdata { __tostring = function() return '\27]0;x\7' end }, '\\x1b]0;x\\x07' },
    ['a rejection'] = { select(2, pcall(kumo.reject, 450, 'busy\27')), 'rejection 450 busy\\x1b' },
    ['a table with metamethods, without running them'] = {
      setmetatable({ a = 1 }, { __index = error, __tostring = error }), '{ a = 1 }' },
  } do
    it('shows ' .. what, function()
      assert.are.equal(case[2], show.value(case[1]))
    end)
  end

  it('shows functions with their arguments and where they are written', function()
    assert.is_truthy(show.value(nested):find '^function%(depth%) .*spec/cli/repl_show_spec%.lua:7$')
    assert.are.equal('function(...) in C', show.value(math.max))
  end)

  it('shows messages, also those that are gone', function()
    local msg = kumo.make_message('a@example.com', 'b@example.org', 'Subject: x\27\r\n\r\nbody')
    assert.are.equal(('message %s from <a@example.com> to <b@example.org>, 19 bytes, queue example.org'):format(msg:id()),
      show.value(msg))
  end)

  it('bounds what is large', function()
    assert.is_truthy(show.value(wide(1e6)):find('... 999,900 more', 1, true))
    local big = {}
    for i = 1, 100 do
      big[i] = wide(100)
    end
    assert.is_true(#show.value(big) < 20000)
    assert.is_truthy(show.value(('x'):rep(1e7)):find('... (10,000,000 bytes)', 1, true))
  end)

  it('keeps line ends and tabs of plain text', function()
    assert.are.equal('a\n\tb\\x0d\\x1b', show.plain 'a\n\tb\r\27')
  end)

  it('parts lines at blanks, and never inside a character', function()
    assert.are.equal('one two\n  three\n  four', show.wrapped('one two three four', 8, '  '))
    assert.are.equal('ää|ää|ä', show.wrapped('äääää', 5, '|'):gsub('\n', ''))
  end)
end)

describe('completion', function()
  local session = { commands = { ':events', ':help', ':explain' } }
  local globals = {
    kumo = kumo,
    settings = { list = { { deep = 1 } }, limit = 2, ['not a name'] = 3, _hidden = 4 },
    strict = setmetatable({ own = 1 }, { __index = error }),
    msg = kumo.make_message('a@example.com', 'b@example.org', ''),
  }
  function session:lookup(name) -- luacheck: ignore self
    return globals[name]
  end
  function session:each_global(see) -- luacheck: ignore self
    for name, value in pairs(globals) do
      see(name, value)
    end
  end

  for line, expected in pairs {
    ['settings.li'] = { 'limit', 'list' },
    ['settings._'] = { '_hidden' },
    ['x = 1 + settings.list[1].d'] = { 'deep' },
    ['settings["list"][1].d'] = { 'deep' },
    ['set'] = { 'settings' },
    ['kumo.time.par'] = { 'parse_duration', 'parse_rfc2822', 'parse_rfc3339' },
    ['strict.o'] = { 'own' },
    ['strict.nothing.o'] = {},
    ['msg:get_m'] = { 'get_meta' },
    ['msg.get_m'] = { 'get_meta' },
    [':e'] = { ':events', ':explain' },
    [':fire smtp_server_mail'] = { 'smtp_server_mail_from' },
    ["kumo.on('get_egress_p"] = { 'get_egress_path_config', 'get_egress_pool' },
    ['kumo.on "spool_'] = { 'spool_message_enumerated' },
    ["print('set"] = {},
    ['retur'] = { 'return' },
    [''] = {},
    ['1.5'] = {},
  } do
    it(('offers %s for %q'):format(#expected == 0 and 'nothing' or table.concat(expected, ', '), line), function()
      local names = {}
      for i, candidate in ipairs((complete.at(session, line))) do
        names[i] = candidate[1]
      end
      assert.are.same(expected, names)
    end)
  end

  it('inserts what all have in common, and the rest when there is one', function()
    assert.are.equal('i\nlimit\nlist', complete.answer(session, 'settings.l'))
    assert.are.equal('tings', complete.answer(session, 'set'))
    assert.are.equal('_from ', complete.answer(session, ':fire smtp_server_mail'))
    assert.are.equal("_enumerated'", complete.answer(session, "kumo.on('spool_message"))
  end)
end)
