-- policy-extras.shaping in a whole runtime: the hook's defaults, changed files, automation, explain.
local helper = require 'helper'
local kumo = require 'kumo'
local testing = require 'tr.testing'

--- Mail goes to a connection of the policy, which answers what `answer` says.
local POLICY = [[
local kumo = require 'kumo'
local shaping = require 'policy-extras.shaping'
sent, answer = {}, function() return 'ok' end
INIT = INIT or function()
  kumo.define_spool { name = 'data', path = DIR .. '/data' }
  kumo.define_spool { name = 'meta', path = DIR .. '/meta' }
end
kumo.on('init', INIT)
kumo.on('get_queue_config', function()
  return kumo.make_queue_config {
    retry_interval = '1m', max_retry_interval = '1m', protocol = { custom_lua = { constructor = 'make.peer' } },
  }
end)
kumo.on('make.peer', function()
  local conn = {}
  function conn:send(msg)
    sent[#sent + 1] = os.time()
    return answer(msg)
  end
  function conn:close() end
  return conn
end)
helper = shaping:setup_with_automation(OPTIONS)
kumo.on('get_egress_path_config', helper.get_egress_path_config)
function path(domain, source)
  return helper.get_egress_path_config(domain, source or 'unspecified', domain, true)
end
]]

describe('policy-extras.shaping', function()
  local dir, rt

  local function write(text, name)
    return helper.write(dir .. '/' .. (name or 'shaping.toml'), text)
  end

  --- Starts the policy with a file; options as Lua text; init: body of another `init`.
  local function start(text, options, init)
    dir = dir or helper.dir()
    write(text)
    helper.write(
      dir .. '/policy.lua',
      ('DIR = %q\nOPTIONS = { no_default_files = true, extra_files = { DIR .. "/shaping.toml" }, %s }\n'):format(dir, options or '')
        .. (init and ("local kumo = require 'kumo'\nfunction INIT()\n%s\nend\n"):format(init) or '')
        .. POLICY
    )
    rt = testing.start { policy = dir .. '/policy.lua', seed = 7 }
    return rt
  end

  after_each(function()
    if rt then
      assert.is_true((rt:stop(1)))
      rt = nil
    end
    dir = nil
    kumo.shaping._clear_actions()
    helper.cleanup()
  end)

  local function value(key, domain, source)
    return rt:eval(('return path(%q, %q)[%q]'):format(domain, source or 'unspecified', key))
  end

  describe('at the start', function()
    it('answers for paths from the files, refreshed by epoch', function()
      start '[default]\nmax_ready = 7\n["d.test"]\nmx_rollup = false\nmax_ready = 8\n'
      assert.are.equal(7, value('max_ready', 'x.test'))
      assert.are.equal(8, value('max_ready', 'd.test'))
      assert.are.equal('Epoch', value('refresh_strategy', 'd.test'))
    end)

    it('validates: what is wrong in the files, and sources that nobody defines', function()
      start('["d.test"]\nmx_rollup = false\nsources.known.max_ready = 1\nsources.lost.max_ready = 1\n', '', [[
        kumo.define_spool { name = 'data', path = DIR .. '/data' }
        kumo.define_spool { name = 'meta', path = DIR .. '/meta' }
      end
      kumo.on('get_egress_source', function(name)
        return name == 'known' and kumo.make_egress_source { name = name } or error('there is none', 0)
      end)
      function VALIDATE()
        local said, write = {}, io.stderr
        io.stderr = { write = function(_, ...) said[#said + 1] = table.concat { ... } end }
        local host = require 'tr.host'
        local ok, err = pcall(host.dispatch, 'validate_config')
        io.stderr = write
        got = { ok = ok, err = tostring(err), failed = host.validation_has_failed, text = table.concat(said) }
      ]])
      rt:eval "require('tr.host').c.spawn(VALIDATE, 'spec')"
      rt:advance(5)
      local got = rt:eval 'return got'
      assert.is_true(got.ok, got.err)
      assert.is_true(got.failed)
      local place = ('%s/shaping.toml:4'):format(dir)
      assert.are.equal(
        ("ERROR: %s: [\"d.test\".sources.\"lost\"] the source 'lost' is not defined: get_egress_source has no answer for it "
          .. "(its values never apply: define the source, or leave the section out)\n"):format(place),
        got.text
      )
    end)

    it('gives all findings of its files as a list', function()
      start '["d.test"]\nmx_rollup = false\nmax_ready = 1\n[provider.p]\nmax_ready = 2\n'
      rt:eval "require('tr.host').c.spawn(function() got = require('kumo').shaping.findings() end, 'spec')"
      rt:advance(1)
      local got = rt:eval 'return got'
      assert.are.equal(1, #got)
      assert.are.same({ 'Warn', dir .. '/shaping.toml', 4 }, { got[1].level, got[1].file, got[1].line })
      assert.truthy(got[1].text:find('the provider matches nothing', 1, true), got[1].text)
      write 'max_ready = \n' -- the list is of the files, not of what is in force
      rt:eval "require('tr.host').c.spawn(function() got = require('kumo').shaping.findings() end, 'spec')"
      rt:advance(1)
      assert.is_true(rt:eval 'return got'[1].fatal)
      assert.are.equal(1, value('max_ready', 'd.test'))
    end)

    it('keeps a refresh strategy of the files', function()
      start '[default]\nrefresh_strategy = "Ttl"\n'
      assert.are.equal('Ttl', value('refresh_strategy', 'x.test'))
    end)

    it('does not start with files that cannot be used, and says all of it', function()
      local ok, err = pcall(start, '[default]\nmax_redy = 7\nidle_timeout = "x"\n')
      assert.is_false(ok)
      assert.truthy(tostring(err):find("shaping.toml:2: [default] max_redy: there is no such option", 1, true), err)
      assert.truthy(tostring(err):find('shaping.toml:3: [default] idle_timeout', 1, true), err)
    end)

    it('gives a fresh table to those who want to change it', function()
      start '[default]\nmax_ready = 7\n'
      assert.are.equal(7, rt:eval "path('x.test').max_ready = 9; return path('x.test').max_ready")
    end)

    it('has the shipped file before the others', function()
      dir = helper.dir()
      write '[default]\nmax_ready = 7\n'
      helper.write(dir .. '/policy.lua', ('DIR = %q\nOPTIONS = { extra_files = { DIR .. "/shaping.toml" } }\n'):format(dir) .. POLICY)
      rt = testing.start { policy = dir .. '/policy.lua' }
      assert.are.equal('100/s', value('max_message_rate', 'x.test'))
      assert.are.equal(7, value('max_ready', 'x.test'))
      assert.is_nil(value('max_message_rate', 'x.log_hook'))
    end)

    for _, case in ipairs {
      { "shaping:setup '/x.toml'", "a list of files is expected, got string: write shaping:setup { '/x.toml' }" },
      { 'shaping:setup_with_automation { extra_files = "x" }', "field 'extra_files': a list or table expected" },
      { 'shaping:setup {} shaping:setup {}', 'it has been called already' },
    } do
      it('refuses ' .. case[1], function()
        dir = helper.dir()
        helper.write(dir .. '/policy.lua', "local shaping = require 'policy-extras.shaping'\n" .. case[1] .. '\n')
        local ok, err = pcall(testing.start, { policy = dir .. '/policy.lua' })
        assert.is_false(ok)
        assert.truthy(tostring(err):find(case[2], 1, true), err)
      end)
    end
  end)

  describe('by MX', function()
    local ZONE = [[
      kumo.define_spool { name = 'data', path = DIR .. '/data' }
      kumo.define_spool { name = 'meta', path = DIR .. '/meta' }
      kumo.dns.configure_test_resolver { "$ORIGIN mx.test.\n@ 60 MX 5 one.mx.test.\na 60 MX 5 one.mx.test.\nb 60 MX 5 two.mx.test.\n" }
    ]]

    it('a section holds for the domains of its site, with the resolver that init has configured', function()
      start('["mx.test"]\nmax_ready = 8\n[provider.p]\nmatch = [{MXSuffix = ".mx.test"}]\nidle_timeout = "7s"\n', '', ZONE)
      rt:advance(5)
      rt:eval [[
        require('tr.host').c.spawn(function()
          local site = require('kumo').dns.lookup_mx('a.mx.test').site_name
          got = { site = site, params = helper.get_egress_path_config('a.mx.test', 'unspecified', site, true) }
          got.other = helper.get_egress_path_config('b.mx.test', 'unspecified', 'two.mx.test', true)
        end, 'spec')
      ]]
      rt:advance(5)
      local got = rt:eval 'return got'
      assert.are.equal('one.mx.test', got.site)
      assert.are.equal(8, got.params.max_ready)
      assert.are.equal('p', got.params.provider_name)
      assert.are.equal('7s', got.other.idle_timeout)
      assert.is_nil(got.other.max_ready)
    end)

    it('a resolver that does not answer keeps no path waiting, hooks not at all', function()
      start('["mx.test"]\nmax_ready = 8\n["h.log_hook"]\nmax_ready = 9\n', '', [[
        kumo.define_spool { name = 'data', path = DIR .. '/data' }
        kumo.define_spool { name = 'meta', path = DIR .. '/meta' }
        rawset(kumo, 'dns', { lookup_mx = function() kumo.sleep(3600) error('gone', 0) end })
        function LOOK(domain)
          local began = os.time()
          got = { max_ready = helper.get_egress_path_config(domain, 'unspecified', domain).max_ready, took = os.time() - began }
        end
      ]])
      rt:advance(2) -- the first load is under way
      rt:eval "require('tr.host').c.spawn(function() LOOK 'h.log_hook' end, 'spec')"
      assert.are.same({ max_ready = 9, took = 0 }, rt:eval 'return got')
      rt:eval "got = nil require('tr.host').c.spawn(function() LOOK 'mx.test' end, 'spec')"
      assert.is_nil(rt:eval 'return got')
      rt:advance(11)
      assert.are.equal(8, rt:eval('return got').max_ready)
    end)

    it('a domain keeps its site while the resolver is away', function()
      start('["mx.test"]\nmax_ready = 8\n', '', ZONE)
      rt:advance(5)
      rt:eval "rawset(require 'kumo', 'dns', { lookup_mx = function() error('gone', 0) end })"
      write '["mx.test"]\nmax_ready = 9\n'
      rt:advance(60)
      assert.are.equal(9, rt:eval "return helper.get_egress_path_config('a.mx.test', 'unspecified', 'one.mx.test', true).max_ready")
    end)
  end)

  describe('when a file changes', function()
    it('the paths follow within a minute', function()
      start '[default]\nmax_ready = 7\n'
      write '[default]\nmax_ready = 8\n'
      assert.are.equal(7, value('max_ready', 'x.test'))
      rt:advance(60)
      assert.are.equal(8, value('max_ready', 'x.test'))
    end)

    for name, bad in pairs {
      ['half written'] = '[default]\nmax_ready = ',
      ['with a mistake'] = '[default]\nmax_ready = 8\nmax_redy = 1\n',
      ['empty'] = '',
      ['gone'] = false,
    } do
      it(('and is %s, what was there stays in force'):format(name), function()
        start '[default]\nmax_ready = 7\n'
        if bad then
          write(bad)
        else
          os.remove(dir .. '/shaping.toml')
        end
        rt:advance(120)
        assert.are.equal(7, value('max_ready', 'x.test'))
        rt:eval "require 'kumo'.bump_config_epoch()"
        assert.are.equal(7, value('max_ready', 'x.test'))
        write '[default]\nmax_ready = 9\n' -- repaired
        rt:advance(120)
        assert.are.equal(9, value('max_ready', 'x.test'))
      end)
    end

    it('the path object follows, too', function()
      start '[default]\nmax_ready = 7\n'
      local CODE = "return helper.get_egress_path_config('x.test', 'unspecified', 'x.test').max_ready"
      assert.are.equal(7, rt:eval(CODE))
      write '[default]\nmax_ready = 8\n'
      rt:advance(60)
      assert.are.equal(8, rt:eval(CODE))
    end)
  end)

  describe('automation', function()
    local RULE = '[[default.automation]]\nregex = "busy"\nduration = "10m"\n'
    local BUSY = "answer = function() require 'kumo'.reject(451, '4.7.1 too busy') end"

    it('sets an option for a while, without a second daemon', function()
      start('[default]\nmax_ready = 7\n' .. RULE .. 'action = {SetConfig = {name = "max_ready", value = 3}}\n')
      rt:eval(BUSY)
      rt:receive { to = 'a@d.test' }
      rt:advance(5)
      assert.are.equal(3, value('max_ready', 'd.test'))
      assert.are.equal(7, value('max_ready', 'other.test'))
      assert.are.equal(7, value('max_ready', 'd.test', 'another source'))
      local active = rt:eval "return require 'kumo'.shaping.active_actions()"
      assert.are.equal(1, #active)
      assert.are.equal('SetConfig', active[1].action)
      assert.are.equal('d.test', active[1].domain)
      assert.are.equal('451 4.7.1 too busy', active[1].response)
      assert.truthy(active[1].file:find 'shaping.toml$')
      rt:eval "answer = function() return 'ok' end"
      rt:advance(700)
      assert.are.equal(7, value('max_ready', 'd.test'))
      assert.are.same({}, rt:eval "return require 'kumo'.shaping.active_actions()")
    end)

    it('does nothing for other answers, and for deliveries', function()
      start('[default]\nmax_ready = 7\n' .. RULE .. 'action = {SetConfig = {name = "max_ready", value = 3}}\n')
      rt:receive { to = 'a@d.test' }
      rt:eval "answer = function() require 'kumo'.reject(451, 'no') end"
      rt:receive { to = 'a@d.test' }
      rt:advance(5)
      assert.are.equal(2, rt:eval 'return #sent')
      assert.are.same({}, rt:eval "return require 'kumo'.shaping.active_actions()")
    end)

    it('is shown by the HTTP listener', function()
      start(RULE .. 'action = {SetConfig = {name = "max_ready", value = 3}}\n', '', [[
        kumo.define_spool { name = 'data', path = DIR .. '/data' }
        kumo.define_spool { name = 'meta', path = DIR .. '/meta' }
        address = kumo.start_http_listener { listen = '127.0.0.1:0' }
      ]])
      rt:eval(BUSY)
      rt:receive { to = 'a@d.test' }
      rt:advance(5)
      local answer
      rt:eval [[
        local c = require('tr.host').c
        c.spawn(function()
          local client = require('kumo').http.build_client {}
          answer_text = client:get('http://' .. address .. '/api/tailrace/shaping-actions'):send():text()
        end, 'spec')
      ]]
      rt:advance(1)
      answer = kumo.serde.json_parse(rt:eval 'return answer_text')
      assert.are.equal('max_ready', answer[1].name)
      assert.are.equal(3, answer[1].value)
    end)

    it('takes rules that come into the files of a running process', function()
      start '[default]\nmax_ready = 7\n'
      rt:eval(BUSY)
      rt:receive { to = 'a@d.test' }
      rt:advance(5)
      assert.are.equal(7, value('max_ready', 'd.test'))
      write('[default]\nmax_ready = 7\n' .. RULE .. 'action = {SetConfig = {name = "max_ready", value = 3}}\n')
      rt:advance(45) -- the next look at the files
      assert.are.equal(7, value('max_ready', 'd.test')) -- it says nothing about what was before
      rt:receive { to = 'a@d.test' }
      rt:advance(5)
      assert.are.equal(3, value('max_ready', 'd.test'))
      write '[default]\nmax_ready = 7\n'
      rt:advance(45)
      assert.are.equal(3, value('max_ready', 'd.test')) -- what is in force runs to its end
      rt:advance(600)
      rt:receive { to = 'a@d.test' }
      rt:advance(5)
      assert.are.equal(7, value('max_ready', 'd.test'))
    end)

    it('can be turned off', function()
      start('[default]\nmax_ready = 7\n' .. RULE .. 'action = {SetConfig = {name = "max_ready", value = 3}}\n', 'automation = false')
      rt:eval(BUSY)
      rt:receive { to = 'a@d.test' }
      rt:advance(5)
      assert.are.equal(7, value('max_ready', 'd.test'))
    end)

    it('waits for a threshold', function()
      start('[default]\n' .. RULE .. 'trigger = {Threshold = "3/h"}\naction = {SetDomainConfig = {name = "max_ready", value = 3}}\n')
      rt:eval(BUSY)
      rt:receive { to = 'a@d.test' }
      for tries = 1, 3 do
        while rt:eval 'return #sent' < tries do
          rt:advance(5)
        end
        assert.are.equal(tries, rt:eval 'return #sent')
        assert.are.equal(tries == 3 and 3 or nil, value('max_ready', 'd.test'))
      end
    end)

    it('suspends the ready queue until the time is over', function()
      start('[default]\n' .. RULE .. 'action = "Suspend"\n')
      rt:eval(BUSY)
      rt:receive { to = 'a@d.test' }
      rt:advance(5)
      assert.are.equal(1, rt:eval 'return #sent')
      local list = rt:eval "return require 'kumo'.api.admin.suspend_ready_q.list()"
      assert.are.equal(1, #list)
      assert.are.equal('unspecified->d.test@lua:make.peer', list[1].name)
      assert.truthy(list[1].reason:find('automation rule .*shaping.toml:2: 451 4.7.1 too busy %(rule_hash=%x+%)'), list[1].reason)
      rt:eval "answer = function() return 'ok' end"
      rt:advance(500)
      assert.are.equal(1, rt:eval 'return #sent')
      rt:advance(300)
      assert.are.equal(2, rt:eval 'return #sent')
    end)

    it('bounces what is for the domain', function()
      start('[default]\n' .. RULE .. 'action = "Bounce"\n')
      rt:eval(BUSY)
      rt:receive { to = 'a@d.test' }
      rt:advance(200)
      assert.are.equal(1, rt:eval 'return #sent')
      assert.are.equal(1, rt:ledger().mail.bounced)
    end)

    it('suspends a tenant, if there is one', function()
      start('[default]\n' .. RULE .. 'action = ["SuspendTenant", "SuspendCampaign"]\n')
      rt:eval(BUSY)
      rt:receive { to = 'a@d.test' }
      rt:advance(5)
      assert.are.same({}, rt:eval "return require 'kumo'.api.admin.suspend.list()")
      rt:receive { to = 'a@d.test', meta = { tenant = 't', campaign = 'c' } }
      rt:advance(5)
      local list = rt:eval "return require 'kumo'.api.admin.suspend.list()"
      table.sort(list, function(a, b) return (a.campaign or '') < (b.campaign or '') end)
      assert.are.same({ 't', 't', 'c', 'd.test' }, { list[1].tenant, list[2].tenant, list[2].campaign, list[1].domain })
      assert.is_nil(list[1].campaign)
    end)
  end)

  for mail_defaults, expected in pairs { [false] = { 10000, 8192, 10 }, [true] = { 7, 8192, 3 } } do
    it(("gives a log hook %s defaults, and explain knows them"):format(mail_defaults and "mail's" or 'its own'), function()
      start(
        '[default]\nmax_ready = 7\nconnection_limit = 3\n',
        mail_defaults and 'mail_defaults_for_log_hooks = true' or '',
        [[
        kumo.define_spool { name = 'data', path = DIR .. '/data' }
        kumo.define_spool { name = 'meta', path = DIR .. '/meta' }
      end
      require('policy-extras.log_hooks'):new {
        name = 'h', constructor = function() return { send = function() return 'ok' end } end,
      }
      function LOOK()
        local explained = kumo.explain 'h.log_hook'
        local admin = require('tr.host').internal 'admin'
        got = { text = admin.inspect('ready', explained.ready_queue), explained = {} }
        for _, row in ipairs(explained.values) do
          got.explained[row.key] = row.value
        end
      ]])
      rt:receive { to = 'a@d.test' }
      rt:advance(5)
      rt:eval "require('tr.host').c.spawn(LOOK, 'spec')"
      rt:advance(1)
      local got = rt:eval 'return got'
      local path, told = kumo.serde.json_parse(got.text).path_config, got.explained
      assert.are.same(expected, { path.max_ready, path.max_deliveries_per_connection, path.connection_limit })
      local limit = tonumber((tostring(told.connection_limit):gsub('local:', '')))
      assert.are.same(expected, { told.max_ready, told.max_deliveries_per_connection, limit })
    end)
  end

  it('is explained: each value with its line', function()
    start '[default]\nmax_ready = 7\n["d.test"]\nmx_rollup = false\nmax_ready = 8\n'
    local result = rt:eval [[
      local out
      local kumo = require 'kumo'
      local result = kumo.explain('d.test', { source = 's' })
      return result
    ]]
    assert.are.equal('s->d.test@lua:make.peer', result.ready_queue)
    local by_key = {}
    for _, row in ipairs(result.values) do
      by_key[row.key] = row
    end
    assert.are.equal(8, by_key.max_ready.value)
    assert.are.equal(5, by_key.max_ready.line)
    assert.are.equal('["d.test"]', by_key.max_ready.section)
    assert.are.same({ { value = 7, file = dir .. '/shaping.toml', line = 2, section = '[default]' } }, by_key.max_ready.overrode)
    assert.are.equal('helper', by_key.refresh_strategy.from)
    assert.are.equal('default', by_key.idle_timeout.from)
    assert.truthy(result.text:find('max_ready = 8 ', 1, true))
  end)
end)

describe('tailrace explain', function()
  after_each(helper.cleanup)

  local POLICY_OF_HOOK = [[
  local kumo = require 'kumo'
  local log_hooks = require 'policy-extras.log_hooks'
  local shaping = require 'policy-extras.shaping'
  log_hooks:new_json { name = 'webhook', url = 'http://127.0.0.1:9/log' }
  kumo.on('init', function()
    kumo.define_spool { name = 'meta', path = DIR .. '/meta' }
    kumo.define_spool { name = 'data', path = DIR .. '/data' }
    kumo.start_http_listener { listen = '127.0.0.1:0' }
  end)
  kumo.on('pre_init', function()
    kumo.dns.configure_test_resolver { 'silent.example. 60 MX 0 .' }
  end)
  kumo.on('get_egress_source', function(name)
    return kumo.make_egress_source { name = name == 'ip-1' and name or error('there is no ' .. name, 0) }
  end)
  local get = shaping:setup { DIR .. '/shaping.toml' }
  kumo.on('get_egress_path_config', function(domain, source, site)
    local params = get(domain, source, site, true)
    params.max_ready = 77
    return kumo.make_egress_path(params)
  end)
  ]]

  local function explain(text, args)
    local dir = helper.dir()
    helper.write(dir .. '/shaping.toml', text)
    helper.write(dir .. '/policy.lua', ('DIR = %q\n'):format(dir) .. POLICY_OF_HOOK)
    local output, status = helper.sh(
      ('%s explain %s --policy %s'):format(helper.quote(helper.TAILRACE), args, helper.quote(dir .. '/policy.lua'))
    )
    return output, status, dir
  end

  it('prints values, lines, names, and what the policy changed, and opens nothing', function()
    local output, status, dir = explain('["webhook.log_hook"]\nconnection_limit = 3\nmax_ready = 5\n', 'webhook.log_hook')
    assert.are.equal(0, status, output)
    local compact = output:gsub(' +', ' ')
    for _, line in ipairs {
      'protocol lua, constructor make.webhook.log_hook\n',
      'ready queue unspecified->webhook.log_hook@lua:make.webhook.log_hook\n',
      ('connection_limit = 3 %s/shaping.toml:2 ["webhook.log_hook"]\n'):format(dir),
      'max_ready = 77 set by the policy\n',
      ('overrode 5 %s/shaping.toml:3 ["webhook.log_hook"]\n'):format(dir),
      'max_deliveries_per_connection = 8192 default of log hooks\n',
    } do
      assert.truthy(compact:find(line, 1, true), line .. 'is not in\n' .. compact)
    end
    assert.is_nil(helper.read(dir .. '/meta/nodeid'))
  end)

  it('prints JSON', function()
    local output, status = explain('["webhook.log_hook"]\nconnection_limit = 3\n', 'webhook.log_hook --json')
    assert.are.equal(0, status)
    assert.are.equal('webhook.log_hook', kumo.serde.json_parse(output).site)
  end)

  it('keeps the lines that somebody has set short: the default ones do not widen them', function()
    local output = explain('["webhook.log_hook"]\nconnection_limit = 3\n', 'webhook.log_hook')
    assert.truthy(output:find('\nconnection_limit = 3        /', 1, true), output) -- as wide as refresh_strategy = "Epoch"
  end)

  it('says that a domain takes no mail', function()
    local output, status = explain('[default]\nmax_ready = 3\n', 'silent.example --source ip-1')
    assert.are.equal(0, status)
    assert.truthy(output:find('site +none: a null MX, mail for it bounces\n'), output)
    assert.is_nil(output:find 'WARNING')
  end)

  it('warns about a source and a hook that the policy does not have', function()
    local output = explain('[default]\nmax_ready = 3\n', 'other.log_hook --source ip-9')
    assert.truthy(output:find("WARNING: the policy has no source 'ip-9': there is no ip-9\n", 1, true), output)
    assert.truthy(output:find("WARNING: other.log_hook is no queue of a log hook in this policy: what follows is for mail\n", 1, true), output)
    output = explain('[default]\nmax_ready = 3\n', 'webhook.log_hook')
    assert.is_nil(output:find 'WARNING', output)
  end)

  it('says once that a file is missing', function()
    local _, _, dir = explain('[default]\nmax_ready = 3\n', 'webhook.log_hook')
    assert(os.remove(dir .. '/shaping.toml'))
    local output = helper.sh(
      ('%s explain webhook.log_hook --policy %s'):format(helper.quote(helper.TAILRACE), helper.quote(dir .. '/policy.lua'))
    )
    local _, times = output:gsub('No such file or directory %(make the file readable', '')
    assert.are.equal(1, times, output)
  end)

  it('fails with the findings of a wrong file', function()
    local output, status = explain('[default]\nmax_redy = 3\n', 'webhook.log_hook')
    assert.are.equal(78, status)
    assert.truthy(output:find('shaping.toml:2: [default] max_redy: there is no such option', 1, true), output)
  end)

  it('names what is wrong with the call', function()
    local output, status = helper.sh(helper.quote(helper.TAILRACE) .. ' explain')
    assert.are.equal(64, status)
    assert.truthy(output:find('one DOMAIN is required', 1, true))
    output, status = helper.sh(helper.quote(helper.TAILRACE) .. ' explain x.test --policy /nowhere')
    assert.are.equal(78, status)
    assert.truthy(output:find('cannot be read', 1, true))
  end)
end)
