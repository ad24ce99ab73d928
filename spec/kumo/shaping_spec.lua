local helper = require 'helper'
local kumo = require 'kumo'

after_each(helper.cleanup)

local raised = helper.raised

--- Files of a directory of its own: name -> text. Returns their paths in the order of `names`.
local function write(texts, names)
  local dir, paths = helper.dir(), {}
  for name, text in pairs(texts) do
    helper.write(dir .. '/' .. name, text)
  end
  for i, name in ipairs(names) do
    paths[i] = dir .. '/' .. name
  end
  return paths, dir
end

local OFF = { skip_dns = true } -- sections hold for their domains; the look-ups are tested below

local function load(text, options)
  return kumo.shaping.load(write({ ['a.toml'] = text }, { 'a.toml' }), options or OFF)
end

local function resolve(text, domain, source, site)
  return load(text):get_egress_path_config(domain, source or 'unspecified', site or domain)
end

-- --- precedence ----------------------------------------------------------------------------------------

local LAYERS = [[
[default]
max_ready = 1
connection_limit = 11
[default.sources.s]
max_ready = 2

[provider.one]
match = [{DomainSuffix = ".example"}]
max_ready = 3
[provider.one.sources.s]
max_ready = 5

[provider.two]
match = [{DomainSuffix = "b.example"}]
max_ready = 4
[provider.two.sources.s]
max_ready = 6

["b.example"]
mx_rollup = false
max_ready = 7
["b.example".sources.s]
max_ready = 8

["c.example"]
mx_rollup = false
replace_base = true
idle_timeout = "9s"
]]

describe('the strongest is', function()
  local cases = {
    { 'default', 'other.test', 'unspecified', 1 },
    { "default's source", 'other.test', 's', 2 },
    { 'a provider', 'a.example', 'unspecified', 3 },
    { "a provider's source", 'a.example', 's', 5 },
    { 'a domain', 'b.example', 'unspecified', 7 },
    { "a domain's source", 'b.example', 's', 8 },
  }
  for _, case in ipairs(cases) do
    it(case[1], function()
      local params = resolve(LAYERS, case[2], case[3])
      assert.are.equal(case[4], params.max_ready)
      assert.are.equal(11, params.connection_limit)
    end)
  end

  it('the later one of two providers', function()
    local text = LAYERS:gsub('%["b.example"%].*$', '')
    assert.are.equal(4, resolve(text, 'b.example').max_ready)
    assert.are.equal(6, resolve(text, 'b.example', 's').max_ready)
    assert.are.equal('two', resolve(text, 'b.example').provider_name)
  end)

  it('a section with replace_base alone', function()
    assert.are.same({ idle_timeout = '9s' }, resolve(LAYERS, 'c.example'))
    assert.are.same({ idle_timeout = '9s' }, resolve(LAYERS, 'c.example', 's'))
  end)
end)

describe('a provider', function()
  it('has limits that its sites share, each source by itself', function()
    local params = resolve(
      [[
      [provider.big]
      match = [{DomainSuffix = ".example"}]
      provider_connection_limit = 7
      provider_max_message_rate = "5/s"
      additional_connection_limits = { own = 3 }
      [provider.big.sources.s]
      provider_source_selection_rate = "1/s"
      ]],
      'a.example', 's'
    )
    assert.are.same({
      provider_name = 'big',
      additional_connection_limits = { own = 3, ['shaping-provider-big-s-limit'] = 7 },
      additional_message_rate_throttles = { ['shaping-provider-big-s-rate'] = '5/s' },
      additional_source_selection_rates = { ['shaping-provider-big-s-selection-rate'] = '1/s' },
    }, params)
  end)

  local cases = {
    { '.outlook.test', 'a.outlook.test', true },
    { '.outlook.test', 'outlook.test', false }, -- "ends with", no more
    { 'outlook.test', 'outlook.test', true },
    { 'outlook.test', 'myoutlook.test', true },
    { 'Outlook.TEST', 'a.outlook.test', true }, -- a suffix in capitals could never match
    { '.outlook.test', 'a.outlook.test.', true },
    { '.8008', 'http://127.0.0.1:8008', false }, -- not a name
  }
  for _, case in ipairs(cases) do
    it(('with the suffix %s is %sone of %s'):format(case[1], case[3] and '' or 'not ', case[2]), function()
      local text = ('[provider.p]\nmatch = [{DomainSuffix = "%s"}]\nmax_ready = 9\n'):format(case[1])
      assert.are.equal(case[3] and 9 or nil, resolve(text, case[2]).max_ready)
    end)
  end
end)

describe('a log hook', function()
  local TEXT = [[
    [default]
    max_message_rate = "100/s"
    connection_limit = 10
    ["webhook.log_hook"]
    max_ready = 5
    ["webhook.log_hook".sources.unspecified]
    idle_timeout = "7s"
  ]]

  it('needs no mx_rollup = false, and asks for no MX', function()
    local data = load(TEXT, {})
    assert.are.same({}, data:get_errors())
    assert.are.same({}, data:get_warnings())
    local params = data:get_egress_path_config('webhook.log_hook', 'unspecified', 'webhook.log_hook')
    assert.are.same({ max_ready = 5, idle_timeout = '7s' }, params)
  end)

  it("takes none of mail's default, with a section or without", function()
    assert.are.same({}, resolve(TEXT, 'other.log_hook'))
  end)

  it("takes mail's default if it is told to", function()
    local data = load(TEXT, { skip_dns = true, mail_defaults_for_log_hooks = true })
    assert.are.same(
      { connection_limit = 10, max_message_rate = '100/s' },
      data:get_egress_path_config('other.log_hook', 'unspecified', 'other.log_hook')
    )
  end)

  it('can be of a provider', function()
    local text = TEXT .. '[provider.hooks]\nmatch = [{DomainSuffix = ".log_hook"}]\nmax_ready = 6\n'
    assert.are.equal(6, resolve(text, 'other.log_hook').max_ready)
    assert.are.equal(5, resolve(text, 'webhook.log_hook').max_ready)
  end)
end)

-- --- several files -----------------------------------------------------------------------------------------

describe('several files', function()
  local A = [[
    [provider.p]
    match = [{DomainSuffix = ".one"}]
    provider_max_message_rate = "1/s"
    provider_connection_limit = 1
    max_ready = 1
    ["d.example"]
    mx_rollup = false
    max_ready = 1
    idle_timeout = "1s"
    additional_connection_limits = { x = 1, y = 1 }
    sources.s.max_ready = 11
  ]]
  local function merged(b, domain, source)
    local paths = write({ ['a.toml'] = A, ['b.toml'] = b }, { 'a.toml', 'b.toml' })
    return kumo.shaping.load(paths, OFF):get_egress_path_config(domain, source or 'unspecified', domain)
  end

  it('are merged key by key, the later one stronger', function()
    local params = merged(
      '["d.example"]\nmx_rollup = false\nmax_ready = 2\nadditional_connection_limits = { y = 2, z = 2 }\n',
      'd.example'
    )
    assert.are.same({
      max_ready = 2,
      idle_timeout = '1s',
      additional_connection_limits = { x = 1, y = 2, z = 2 },
    }, params)
  end)

  it('merge what is said of sources', function()
    local b = '["d.example"]\nmx_rollup = false\nsources.s.idle_timeout = "2s"\n'
    assert.are.equal(11, merged(b, 'd.example', 's').max_ready)
    assert.are.equal('2s', merged(b, 'd.example', 's').idle_timeout)
  end)

  it('replace a section that says so', function()
    local b = '["d.example"]\nmx_rollup = false\nreplace_base = true\nidle_timeout = "2s"\n'
    assert.are.same({ idle_timeout = '2s' }, merged(b, 'd.example', 's'))
  end)

  it("add to a provider's rules, and change all of its limits", function()
    local b = '[provider.p]\nmatch = [{DomainSuffix = ".two"}]\nprovider_max_message_rate = "2/s"\n'
    for _, domain in ipairs { 'a.one', 'a.two' } do
      local params = merged(b, domain)
      assert.are.equal(1, params.max_ready)
      assert.are.same({ ['shaping-provider-p-unspecified-rate'] = '2/s' }, params.additional_message_rate_throttles)
      assert.are.same({ ['shaping-provider-p-unspecified-limit'] = 1 }, params.additional_connection_limits)
    end
  end)

  it('may be JSON, or either by a name that does not say', function()
    local json = '{ // comment\n "default": { "max_ready": 3 },\n "d.example": { "mx_rollup": false, "max_ready": 4 } }'
    local paths = write({ ['a.json'] = json, conf = json, plain = '[default]\nmax_ready = 5\n' }, { 'a.json', 'conf', 'plain' })
    for i, expected in ipairs { 3, 3, 5 } do
      local data = kumo.shaping.load({ paths[i] }, OFF)
      assert.are.same({}, data:get_errors())
      assert.are.equal(expected, data:get_egress_path_config('x.test', 'unspecified', 'x.test').max_ready)
    end
  end)
end)

-- --- MX -----------------------------------------------------------------------------------------------------

describe('with MX look-ups', function()
  local zones = {
    ['a.example'] = { site = 'mx.(one|two).example', hosts = { 'one.example.', 'two.example.' } },
    ['b.example'] = { site = 'mx.(one|two).example', hosts = { 'one.example.', 'two.example.' } },
    ['null.example'] = { site = '', hosts = { '.' } },
    ['c.example'] = { site = 'c.example', hosts = { 'c.example.' } },
  }
  local before, asked

  setup(function()
    before = rawget(kumo, 'dns')
    rawset(kumo, 'dns', {
      lookup_mx = function(name)
        asked[name] = (asked[name] or 0) + 1
        kumo.sleep(0)
        local zone = zones[name] or error('no such domain: ' .. name, 0)
        return { hosts = zone.hosts, site_name = zone.site, is_mx = true }
      end,
    })
  end)
  teardown(function()
    rawset(kumo, 'dns', before)
  end)
  before_each(function()
    asked = {}
  end)

  it('a section holds for all domains of its site', function()
    local data = load('["a.example"]\nmax_ready = 4\n', {})
    assert.are.equal(4, data:get_egress_path_config('b.example', 'unspecified', zones['b.example'].site).max_ready)
    assert.is_nil(data:get_egress_path_config('b.example', 'unspecified', 'b.example').max_ready)
  end)

  it('a domain section is stronger than a site, and weaker than the source of a site', function()
    local data = load(
      '["a.example"]\nmax_ready = 4\nsources.s.max_ready = 6\n["b.example"]\nmx_rollup = false\nmax_ready = 5\n',
      {}
    )
    local site = zones['b.example'].site
    assert.are.equal(5, data:get_egress_path_config('b.example', 'unspecified', site).max_ready)
    assert.are.equal(6, data:get_egress_path_config('b.example', 's', site).max_ready)
    assert.are.same({ s = { 'site:' .. site } }, data:get_referenced_sources())
  end)

  it('each domain is asked for once', function()
    load('["a.example"]\nmax_ready = 4\n["a.example".sources.s]\nmax_ready = 5\n["x.log_hook"]\nmax_ready = 5\n', {})
    assert.are.same({ ['a.example'] = 1 }, asked)
  end)

  it('a domain that cannot be looked up keeps its section for itself', function()
    local data = load('["gone.example"]\nmax_ready = 4\n', { dns_fail = 'Error' })
    assert.are.equal(4, data:get_egress_path_config('gone.example', 'unspecified', 'gone.example').max_ready)
    assert.truthy(data:get_errors()[1]:find('a.toml:1: ["gone.example"] the MX cannot be looked up', 1, true))
    assert.are.same({}, load('["gone.example"]\nmax_ready = 4\n', {}):get_errors())
  end)

  it('a null MX is told', function()
    local data = load('["null.example"]\nmax_ready = 4\n', { null_mx = 'Warn' })
    assert.is_nil(data:get_egress_path_config('null.example', 'unspecified', 'null.example').max_ready)
    assert.truthy(data:get_warnings()[1]:find('takes no mail (null MX)', 1, true))
  end)

  it('two domains of one site are told, with both lines of a different value', function()
    local text = '["a.example"]\nmax_ready = 4\nidle_timeout = "5s"\n["b.example"]\nmax_ready = 5\nidle_timeout = "5s"\n'
    local found = kumo.shaping.check((write({ ['a.toml'] = text }, { 'a.toml' })))
    assert.are.equal(2, #found)
    assert.truthy(found[1].text:find('a.toml:4: ["b.example"] the MX of b.example and of a.example', 1, true), found[1].text)
    assert.are.equal('max_ready', found[2].key)
    assert.truthy(found[2].text:find('a.toml:5: ["b.example"] max_ready: b.example is one site with a.example, which sets 4 at', 1, true))
  end)

  it('a section beside a provider of its domain is told', function()
    local text = '[provider.p]\nmatch = [{MXSuffix = ".example"}]\n["a.example"]\nmax_ready = 4\n'
    local data = load(text, { provider_overlap = 'Error' })
    assert.truthy(data:get_errors()[1]:find('a.example is also a domain of the provider p', 1, true))
  end)

  local cases = {
    { '{MXSuffix = ".example"}', 'a.example', true },
    { '{MXSuffix = "one.example"}', 'a.example', false }, -- every host must match
    { '{MXSuffix = "one.example"}, {HostName = "two.example"}', 'a.example', true },
    { '{HostName = "c.example"}', 'c.example', true },
    { '{HostName = "example"}', 'c.example', false },
    { '{MXSuffix = ".example"}', 'gone.example', false },
    { '{MXSuffix = ""}', 'null.example', nil },
    { '{HostName = "x"}, {DomainSuffix = "gone.example"}', 'gone.example', true },
  }
  for _, case in ipairs(cases) do
    if case[3] ~= nil then
      it(('a provider with %s is %sone of %s'):format(case[1], case[3] and '' or 'not ', case[2]), function()
        local data = load(('[provider.p]\nmatch = [%s]\nmax_ready = 9\n'):format(case[1]), {})
        assert.are.equal(case[3] and 9 or nil, data:get_egress_path_config(case[2], 'unspecified', 'x').max_ready)
      end)
    end
  end
end)

-- --- bad input --------------------------------------------------------------------------------------------------

describe('kumo.shaping.check finds', function()
  -- text, level, line, and parts of the finding
  local cases = {
    { '[default]\nmax_redy = 5\n', 'Error', 2, "[default] max_redy: there is no such option (did you mean 'max_ready'?)" },
    { '[provider.p]\nmatch = []\nprovider_conection_limit = 5\n', 'Error', 3, "did you mean 'provider_connection_limit'" },
    { '[default]\nmax_ready = "many"\n', 'Error', 2, 'max_ready: ', 'got "many" (write a whole number)' },
    { '[default]\nmax_ready = -1\n', 'Error', 2, 'max_ready: ', 'got -1' },
    { '[default]\nconnection_limit = 0\n', 'Error', 2, 'connection_limit: ', 'leave the line out' },
    { '[default]\nidle_timeout = "s"\n', 'Error', 2, 'idle_timeout: ', 'got "s" (write seconds or a text with units' },
    { '[default]\nidle_timeout = "60"\n', 'Error', 2, 'idle_timeout: ', 'as in 30, "30s"' },
    { '[default]\nidle_timeout = -5\n', 'Error', 2, 'idle_timeout: ' },
    { '[default]\nmax_message_rate = "/s"\n', 'Error', 2, 'max_message_rate: ', 'as in "100/s"' },
    { '[default]\nmax_message_rate = "100"\n', 'Error', 2, 'max_message_rate: ', 'as in "100/s"' },
    { '[default]\nmax_message_rate = 100\n', 'Error', 2, 'max_message_rate: ', 'as in "100/s"' },
    { '[default]\nmax_message_rate = "5/seconds"\n', 'Error', 2, 'max_message_rate: ', 'no plural' },
    { '[default]\nadditional_connection_limits = { a = 0 }\n', 'Error', 2, 'additional_connection_limits.a: ' },
    { '[default]\nadditional_connection_limits = 5\n', 'Error', 2, 'a table of names is expected' },
    { '[default]\nmx_rollup = "no"\n', 'Error', 2, 'mx_rollup: true or false is expected, got "no"' },
    { '[default]\nsources = 5\n', 'Error', 2, 'sources: a table of source names is expected' },
    { '["a.b".sources.s]\nmax_redy = 5\n', 'Error', 2, '["a.b".sources."s"] max_redy: there is no such option' },
    { '[provider.p.sources.s]\nprovider_source_selection_rate = 5\n', 'Error', 2, 'provider_source_selection_rate: ' },
    { 'max_ready = 5\n', 'Error', 1, 'max_ready: a section is expected, got 5', 'put it below [default]' },
    { 'provider.p = 5\n', 'Error', 1, 'provider.p: a section is expected' },
    { '[example.com]\nmax_ready = 5\n', 'Error', 1, 'com: a table where an option', 'Write ["example.com"]' },
    { '[example]\nmx_rollup = false\n', 'Warn', 1, '["example"] the domain has a single label' },
    { '["Example.com"]\nmx_rollup = false\n', 'Warn', 1, 'capital letters' },
    { '[provider.p]\nmax_ready = 5\n', 'Warn', 1, '[provider."p"] the provider matches nothing' },
    { '[provider.p]\nmatch = []\n', 'Warn', 2, 'the provider matches nothing: the list is empty' },
    { '[provider.p]\nmatch = [{DomainSufix = "x"}]\n', 'Error', 2, "did you mean 'DomainSuffix'?" },
    { '[provider.p]\nmatch = [{DomainSuffix = "x", HostName = "y"}]\n', 'Error', 2, 'one key' },
    { '[provider.p]\nmatch = {DomainSuffix = "x"}\n', 'Error', 2, 'a list of rules is expected' },
    { '[provider.p]\nmatch = [{DomainSuffix = ""}]\n', 'Error', 2, 'a name is expected, got ""' },
    { '[provider.p]\nmatch = [{DomainSuffix = ".X"}]\n', 'Warn', 2, 'compared as lower case' },
    { '[default]\nmax_ready = 99999999\n', 'Warn', 2, 'max_ready: 99999999 is more than' },
    { '[default]\nconnection_limit = "local:9999999"\n', 'Warn', 2, 'it limits nothing' },
    { '[default]\nidle_timeout = "1 year"\n', 'Warn', 2, 'more than a month' },
    { '[default]\nmax_message_rate = "99999999999/s"\n', 'Warn', 2, 'it limits nothing' },
    { '', 'Warn', 0, 'the file is empty' },
    { '[default]\nmax_ready = \n', 'Error', 2, '' },
    { '[default\n', 'Error', 1, "expected ']'" },
    { '[default]\nmax_ready = 1\nmax_ready = 2\n', 'Error', 3, 'redefine', 'put what belongs together into one' },
    { '["a.b"]\nmax_ready = 1\n["a.b"]\nmax_ready = 2\n', 'Error', 3, 'redefine', 'put what belongs together into one' },
    { '[default]\nmax_message_rate = 5/s\n', 'Error', 2, 'column', 'texts are quoted' },
    { '["a.b"]\nmax_ready = 1\n["c', 'Error', 3, 'end-of-file', 'is the file written to the end?' },
    { '[default]\nautomation = 5\n', 'Error', 2, 'a list of rules is expected, got 5' },
  }
  local RULE = { regex = "'x'", action = '"Suspend"', duration = '"1h"' }
  local function rule(changes)
    local lines = { '[[default.automation]]' }
    for _, key in ipairs { 'regex', 'action', 'duration', 'trigger', 'match_internal', 'durration' } do
      local value = changes[key] or RULE[key]
      if value and changes[key] ~= false then
        lines[#lines + 1] = key .. ' = ' .. value
      end
    end
    return table.concat(lines, '\n') .. '\n'
  end
  local rules = {
    { { regex = "'(x'" }, 'Error', 2, 'automation.regex: it does not compile: ', 'position' },
    { { regex = "['x', '(']" }, 'Error', 2, 'pattern 2 does not compile' },
    { { regex = '5' }, 'Error', 2, 'a pattern is expected, got 5' },
    { { regex = '[]' }, 'Error', 2, 'a pattern is expected' },
    { { action = '"Suspnd"' }, 'Error', 3, "there is no action \"Suspnd\" (did you mean 'Suspend'?)" },
    { { action = '{SetConfig = {name = "max_redy", value = 1}}' }, 'Error', 3, "did you mean 'max_ready'?" },
    { { action = '{SetConfig = {name = "max_ready"}}' }, 'Error', 3, 'SetConfig needs name and value' },
    { { action = '{SetConfig = {name = "max_ready", value = "x"}}' }, 'Error', 3, 'SetConfig: max_ready: ' },
    { { action = '[]' }, 'Error', 3, 'there is no action' },
    { { duration = false }, 'Error', 1, 'automation.duration: it is missing' },
    { { duration = '"soon"' }, 'Error', 4, 'a duration is expected, got "soon"' },
    { { duration = '0' }, 'Error', 4, 'longer than nothing' },
    { { trigger = '"Later"' }, 'Error', 5, 'a trigger is expected, got "Later"' },
    { { trigger = '{Threshold = "ten/h"}' }, 'Error', 5, 'no number and period' },
    { { trigger = '{Threshold = "99999/h"}' }, 'Error', 5, 'at most 10000' },
    { { match_internal = '"yes"' }, 'Error', 5, 'true or false is expected' },
    { { durration = '1' }, 'Warn', 5, "it is ignored (did you mean 'duration'?)" },
  }
  for _, one in ipairs(rules) do
    one[1] = rule(one[1])
    cases[#cases + 1] = one
  end

  for _, case in ipairs(cases) do
    it(('%q: %s'):format(case[1], case[4]), function()
      local paths = write({ ['a.toml'] = case[1] }, { 'a.toml' })
      local found = kumo.shaping.check(paths, OFF)
      local hit
      for _, one in ipairs(found) do
        hit = hit or one.level == case[2] and one.line == case[3] and one
      end
      local texts = {}
      for i, one in ipairs(found) do
        texts[i] = one.level .. ' ' .. one.text
      end
      assert.is_not_nil(hit, table.concat(texts, '\n'))
      for i = 4, #case do
        assert.truthy(hit.text:find(case[i], 1, true), hit.text)
      end
      assert.are.equal(paths[1], hit.file)
      if hit.fatal then
        local err = raised(kumo.shaping.load, paths, OFF)
        assert.truthy(err:find(hit.text, 1, true), err)
      end
    end)
  end

  it('all of it at once, in the order of the files', function()
    local paths = write({
      ['a.toml'] = '[default]\nmax_redy = 5\nidle_timeout = "x"\n',
      ['b.json'] = '{"default": {\n"max_ready": 1,\n"max_ready": -2}}',
    }, { 'a.toml', 'b.json', 'none.toml' })
    local where = {}
    for i, one in ipairs(kumo.shaping.check(paths, OFF)) do
      where[i] = one.file:match '[^/]+$' .. ':' .. one.line
    end
    assert.are.same({ 'a.toml:2', 'a.toml:3', 'b.json:3', 'b.json:3', 'none.toml:0' }, where)
  end)

  it('nothing in the file that comes along', function()
    local shipped = require('tr.host').c.share_dir .. '/policy-extras/shaping.toml'
    local found = kumo.shaping.check({ shipped }, OFF)
    assert.are.equal(0, #found, found[1] and found[1].text)
  end)
end)

describe('kumo.shaping.load', function()
  it('has a missing file among its errors, whatever other options are given', function()
    local paths = { '/nowhere/shaping.toml' }
    assert.truthy(kumo.shaping.load(paths):get_errors()[1]:find('No such file', 1, true))
    assert.truthy(kumo.shaping.load(paths, OFF):get_errors()[1]:find('No such file', 1, true))
    assert.are.same({}, kumo.shaping.load(paths, { local_load = 'Ignore' }):get_errors())
    assert.truthy(kumo.shaping.load(paths, { local_load = 'Warn' }):get_warnings()[1]:find('No such file', 1, true))
  end)

  it('tells a remote file that it does not read', function()
    local data = kumo.shaping.load({ 'http://127.0.0.1:1/x.toml' }, { skip_remote = true })
    assert.truthy(data:get_warnings()[1]:find('skip_remote is set', 1, true))
  end)

  it('goes on without a remote file', function()
    local data = kumo.shaping.load({ 'http://127.0.0.1:1/x.toml' }, { remote_load = 'Error' })
    assert.truthy(data:get_errors()[1]:find('http://127.0.0.1:1/x.toml: ', 1, true))
  end)

  for _, case in ipairs {
    { { 'x' }, { dns_fial = 'Warn' }, "did you mean 'dns_fail'?" },
    { { 'x' }, { dns_fail = 'warn' }, "'Ignore', 'Warn' or 'Error' expected, got warn" },
    { { 'x' }, { skip_dns = 1 }, 'boolean expected' },
    { { 'x' }, { http_timeout = 'long' }, 'http_timeout' },
    { 'x', nil, 'a list of files is expected, got string' },
    { { 5 }, nil, 'file 1: string expected' },
  } do
    it('refuses ' .. case[3], function()
      local err = raised(kumo.shaping.load, case[1], case[2])
      assert.truthy(err:find(case[3], 1, true), err)
    end)
  end

  it('has a hash of what it says, not of where', function()
    local a, b = load '[default]\nmax_ready = 1\n', load '# x\n\n[default]\nmax_ready = 1\n'
    assert.are.equal(a:hash(), b:hash())
    assert.are.equal(64, #a:hash())
    assert.are_not.equal(a:hash(), load('[default]\nmax_ready = 2\n'):hash())
  end)
end)

-- --- explain ------------------------------------------------------------------------------------------------------

describe('each value', function()
  it('knows the line that set it, and what it overrode', function()
    local paths = write({
      ['a.toml'] = '[default]\nmax_ready = 1\n["d.example"]\nmx_rollup = false\nmax_ready = 2\n',
      ['b.toml'] = '["d.example"]\nmx_rollup = false\nmax_ready = 3\n["d.example".sources.s]\nmax_ready = 4\n',
    }, { 'a.toml', 'b.toml' })
    local told = kumo.shaping.load(paths, OFF):explain('d.example', 's', 'd.example')
    assert.are.same({
      max_ready = {
        value = 4, file = paths[2], line = 5, section = '["d.example".sources."s"]',
        overrode = {
          { value = 3, file = paths[2], line = 3, section = '["d.example"]' },
          { value = 2, file = paths[1], line = 5, section = '["d.example"]' },
          { value = 1, file = paths[1], line = 2, section = '[default]' },
        },
      },
    }, told)
  end)

  it('of a provider, too, and of maps by name', function()
    local paths = write({
      ['a.toml'] = '[provider.p]\nmatch = [{DomainSuffix = ".x"}]\nprovider_connection_limit = 5\n'
        .. '[provider.p.sources.s]\nmax_ready = 2\n',
    }, { 'a.toml' })
    local told = kumo.shaping.load(paths, OFF):explain('a.x', 's', 'a.x')
    assert.are.equal(3, told['additional_connection_limits.shaping-provider-p-s-limit'].line)
    assert.are.same({}, told['additional_connection_limits.shaping-provider-p-s-limit'].overrode)
    assert.are.equal(1, told.provider_name.line)
    assert.are.equal('[provider."p".sources."s"]', told.max_ready.section)
  end)
end)

-- --- rules ------------------------------------------------------------------------------------------------------------

describe('match_rules', function()
  local TEXT = [=[
    [[default.automation]]
    regex = ['limit(?! of)', 'slow']
    action = "Suspend"
    duration = "1h"
    [[default.automation]]
    regex = 'internal'
    action = "Bounce"
    duration = "1h"
    match_internal = true
    ["d.example"]
    mx_rollup = false
    [["d.example".automation]]
    regex = '^451 4\.7\.1 '
    action = [{SetConfig = {name = "max_ready", value = 5}}, "SuspendTenant"]
    duration = "1h"
  ]=]
  local function record(code, content, enhanced, to)
    return {
      type = 'TransientFailure',
      recipient = to or 'a@d.example',
      site = 'unspecified->d.example@smtp_client',
      response = { code = code, content = content, enhanced_code = enhanced },
    }
  end
  local cases = {
    { 'a pattern', record(451, 'too slow'), { 1 } },
    { 'look-around', record(451, 'limit of'), {} },
    { 'the line with code and class', record(451, 'go away', { class = 4, subject = 7, detail = 1 }), { 12 } },
    { 'lines of an answer as one', record(451, 'first\r\nslow', { class = 4, subject = 7, detail = 1 }), { 1, 12 } },
    { 'another domain', record(451, 'go away', { class = 4, subject = 7, detail = 1 }, 'a@x.test'), {} },
    { 'several recipients by the first', record(451, '4.7.1 go', nil, { 'a@d.example', 'b@x.test' }), { 12 } },
    { 'internal texts only where they are asked for', record(451, 'KumoMTA internal: slow internal'), { 5 } },
    { 'a record without response', { type = 'Reception' }, {} },
  }
  for _, case in ipairs(cases) do
    it('sees ' .. case[1], function()
      local lines = {}
      for i, rule in ipairs(load(TEXT):match_rules(case[2])) do
        lines[i] = rule.line
      end
      assert.are.same(case[3], lines)
    end)
  end

  it('gives what the rule says', function()
    local rule = load(TEXT):match_rules(record(451, '4.7.1 x'))[1]
    assert.are.same({ '^451 4\\.7\\.1 ' }, rule.regex)
    assert.are.equal(3600, rule.duration)
    assert.are.equal('Immediate', rule.trigger)
    assert.are.equal('SetConfig', rule.action[1].kind)
    assert.are.equal(16, #rule.rule_hash)
  end)
end)
