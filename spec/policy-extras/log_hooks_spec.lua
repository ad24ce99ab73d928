local kumo = require 'kumo'
local log_hooks = require 'policy-extras.log_hooks'

local raised = require('helper').raised

local function constructor()
  return { send = function() end }
end

describe('log_hooks refuses, naming field and caller:', function()
  local cases = {
    { 'new', {}, "missing field 'constructor'" },
    { 'new', { constructor = constructor }, "missing field 'name'" },
    { 'new', { name = 'x', constructor = 'make' }, "field 'constructor': function expected, got string" },
    { 'new', { name = 'x', constructor = constructor, batchsize = 10 }, "unknown field 'batchsize'" },
    { 'new', { name = 'x', constructor = constructor, batchsize = 10 }, "did you mean 'batch_size'?" },
    { 'new', { name = 'x', constructor = constructor, max_batch_latency = 5 }, "field 'max_batch_latency': string expected" },
    { 'new', { name = 'x', constructor = constructor, filter = true }, "field 'filter': function expected" },
    { 'new', { name = 'x', constructor = constructor, queue_config = { max_aeg = '1 day' } }, 'max_aeg' },
    { 'new', { name = 'x', constructor = constructor, queue_config = { max_age = true } }, 'max_age' },
    { 'new', { name = '', constructor = constructor }, "field 'name': it is empty" },
    { 'new_json', { name = 'x' }, "missing field 'url'" },
    { 'new_json', { name = 'x', url = 'ftp://a' }, "field 'url': 'http://...' or 'https://...' expected" },
    { 'new_json', { name = 'x', url = 'http://a', batchsize = 2 }, "did you mean 'batch_size'?" },
    { 'new_json', { name = 'x', url = 'http://a', outcomes = 'strict' }, "field 'outcomes': 'default', 'reference' or a table" },
    { 'new_json', { name = 'x', url = 'http://a', compression = 'lzma' }, "compression: 'gzip' or 'zstd' expected, got lzma" },
    { 'new_json', { name = 'x', url = 'http://a', secrets = { 'whsec_?' } }, 'what follows whsec_ is not base64' },
    { 'new_json', { name = 'x', url = 'http://a', headers = { ['X:'] = 'y' } }, 'is no header' },
    { 'new_json', { name = 'x', url = 'http://169.254.169.254/', deny_private_addresses = true },
      '169.254.169.254 is no public address (deny_private_addresses)' },
    { 'new_json', { name = 'x', url = 'http://2130706433/', deny_private_addresses = true }, '127.0.0.1 is no public address' },
    { 'new_json', { name = 'x', url = 'http://a', deny_private_addresses = true, allow_addresses = { '10.0.0.1/8' } },
      'did you mean 10.0.0.0/8' },
    { 'new_json', { name = 'x', url = 'http://a', allow_addresses = { '10.0.0.0/8' } }, 'no effect without deny_private_addresses' },
    { 'new_kafka', { name = 'x', topic = 't' }, "missing field 'brokers'" },
    { 'new_kafka', { name = 'x', brokers = 'b', topic = 't', partition = 1 }, "unknown field 'partition'" },
    { 'new_amqp', { name = 'x', routing_key = 'q' }, "missing field 'connection'" },
    { 'new_disposition_hook', { name = 'x' }, "missing field 'hook'" },
    { 'new_disposition_hook', { name = 'x', hook = print, meta = {} }, "unknown field 'meta'" },
  }
  for _, case in ipairs(cases) do
    it(('%s: %s'):format(case[1], case[3]), function()
      local err = tostring(raised(function()
        log_hooks[case[1]](log_hooks, case[2])
      end))
      assert.truthy(err:find(case[3], 1, true), err)
      assert.truthy(err:find '^[^\n]*log_hooks_spec.lua:%d+: ', err)
    end)
  end
end)

describe('Retry-After', function()
  for value, seconds in pairs { ['0'] = 0, [' 120 '] = 120, ['999999999'] = 86400 } do
    it(('%q is %d s'):format(value, seconds), function()
      assert.are.equal(seconds, log_hooks._retry_after_s(value))
    end)
  end
  for _, value in ipairs { '', '-5', '1.5', 'soon', 'Wed, 21 Foo 2015 07:28:00 GMT' } do
    it(('%q says nothing'):format(value), function()
      assert.is_nil(log_hooks._retry_after_s(value))
    end)
  end
  it('may be a date', function()
    assert.are.equal(0, log_hooks._retry_after_s 'Wed, 21 Oct 2015 07:28:00 GMT')
    local began = os.time()
    local soon = log_hooks._retry_after_s(os.date('!%a, %d %b %Y %H:%M:%S GMT', began + 300))
    assert.is_true(soon >= 298 - (os.time() - began) and soon <= 300, soon)
  end)
end)

local outcomes = require 'policy-extras.log_hook_outcomes'

--- What a post of new_json says of one answer: ok, and a text or an outcome; or false and the error.
local function post(status, body, retry_after, option)
  local reasons = { [200] = 'OK', [503] = 'Service Unavailable' }
  local poster = {
    post = function()
      if status == nil then
        return nil, 'connection refused', 'EREFUSED'
      end
      return status, reasons[status], body or '', retry_after
    end,
  }
  return pcall(log_hooks._post, poster, outcomes.read(option), {})
end

describe('new_json', function()
  for _, status in ipairs { 200, 201, 204, 299 } do
    it(status .. ' is delivered', function()
      local ok, text = post(status)
      assert.is_true(ok)
      assert.is_string(text)
    end)
  end
  for _, status in ipairs { 301, 304, 401, 403, 404, 408, 425, 429, 500, 502, 503, 599 } do
    it(status .. ' is tried again', function()
      local ok, outcome = post(status, 'no')
      assert.is_true(ok)
      assert.are.same({ 'transient', 450 }, { outcome.kind, outcome.code })
    end)
  end
  for _, status in ipairs { 400, 405, 409, 410, 413, 415, 422, 451 } do
    it(status .. ' ends the record', function()
      local ok, outcome = post(status, 'no')
      assert.is_true(ok)
      assert.are.same({ 'permanent', 500 }, { outcome.kind, outcome.code })
    end)
  end

  it('tells what was answered', function()
    local _, text = post(200, 'stored')
    assert.are.equal('200 OK: stored', text)
    local _, outcome = post(503, 'busy')
    assert.are.equal('503 Service Unavailable: busy', outcome.text)
  end)

  it('passes on failures of the network', function()
    local ok, err = post(nil)
    assert.is_false(ok)
    assert.are.equal('connection refused', err)
  end)

  it('tries again where an address is not allowed, unless told otherwise', function()
    local refusing = {
      post = function()
        return nil, 'not allowed to connect to 10.0.0.1', 'EACCES'
      end,
    }
    local outcome = log_hooks._post(refusing, outcomes.read(nil), {})
    assert.are.same({ 'transient', 450, 'not allowed to connect to 10.0.0.1' }, { outcome.kind, outcome.code, outcome.text })
    outcome = log_hooks._post(refusing, outcomes.read { private = 'permanent' }, {})
    assert.are.same({ 'permanent', 500 }, { outcome.kind, outcome.code })
  end)

  it('heeds Retry-After', function()
    local _, outcome = post(503, 'busy', '17')
    assert.are.equal(17, outcome.retry_after)
  end)

  it('cuts long bodies between characters', function()
    local _, text = post(200, ('x'):rep(999) .. '\195\188' .. ('y'):rep(5000))
    assert.are.equal('200 OK: ' .. ('x'):rep(999), text)
    _, text = post(200, ('x'):rep(998) .. '\195\188' .. ('y'):rep(5000))
    assert.are.equal('200 OK: ' .. ('x'):rep(998) .. '\195\188', text)
  end)

  it('takes other outcomes by status and class, or those of the contract', function()
    local _, outcome = post(422, '', nil, { [422] = 'transient' })
    assert.are.equal('transient', outcome.kind)
    _, outcome = post(503, '', nil, { ['5xx'] = 'permanent' })
    assert.are.equal('permanent', outcome.kind)
    assert.are.equal('409 nil: ', select(2, post(409, '', nil, { [409] = 'delivered' })))
    for _, status in ipairs { 301, 400, 404, 429, 503 } do
      _, outcome = post(status, '', nil, 'reference')
      assert.are.equal('permanent', outcome.kind)
    end
    for expected, option in pairs {
      ["got \"strict\""] = 'strict',
      ["%[private%]: 'transient' or 'permanent' expected, got delivered"] = { private = 'delivered' },
      ['got 42'] = { [42] = 'transient' },
      ['got 6xx'] = { ['6xx'] = 'transient' },
      ["%[404%]: 'delivered', 'transient' or 'permanent' expected, got later"] = { [404] = 'later' },
    } do
      local ok, err = pcall(outcomes.read, option)
      assert.is_false(ok)
      assert.matches(expected, err)
    end
  end)
end)

describe('a batch over a broker', function()
  local delivered = kumo.delivered 'ok'

  it('has one outcome when nothing failed, else one for each', function()
    assert.are.equal(delivered, log_hooks._each_outcome(3, {}, delivered))
    local list = log_hooks._each_outcome(3, {
      { index = 1, text = 'busy', permanent = false },
      { index = 3, text = 'too large', permanent = true },
    }, delivered)
    assert.are.same({ 'transient', 450, 'busy' }, { list[1].kind, list[1].code, list[1].text })
    assert.are.equal(delivered, list[2])
    assert.are.same({ 'permanent', 500, 'too large' }, { list[3].kind, list[3].code, list[3].text })
  end)

  it('has outcomes also where the broker talks nonsense', function()
    local list = log_hooks._each_outcome(1, { { index = 1, text = 'caf\233 \255', permanent = true } }, delivered)
    assert.are.same({ 'permanent', 'caf? ?' }, { list[1].kind, list[1].text })
  end)
end)

-- The configuring functions check all they are given even where no recorder is (validation, this runner).
describe('kumo.configure_', function()
  local cases = {
    { 'log_hook', {}, "missing field 'name'" },
    { 'log_hook', { name = 'a', header = {} }, "unknown field 'header'" },
    { 'log_hook', { name = 'a', header = {} }, "did you mean 'headers'?" },
    { 'log_hook', { name = 'a', filter_event = 'x' }, "unknown field 'filter_event'" },
    { 'log_hook', { name = 'a', meta = { 1 } }, "field 'meta': element 1: string expected, got number" },
    { 'log_hook', { name = 'a', meta = { a = 'b' } }, "field 'meta': array of strings expected" },
    { 'log_hook', { name = 'a', back_pressure = 0 }, 'back_pressure' },
    {
      'log_hook',
      { name = 'a', per_record = { Recepton = {} } },
      "there is no record type 'Recepton' (did you mean 'Reception'?)",
    },
    { 'log_hook', { name = 'a', per_record = { Bounce = { enabled = false } } }, "unknown field 'enabled'" },
    {
      'log_hook',
      { name = 'a', per_record = { Any = { template = '\n{{ x | nope }}' } } },
      "per_record.Any.template:2: unknown filter 'nope'",
    },
    { 'log_disposition_hook', { name = 'a', meta = {} }, "unknown field 'meta'" },
    { 'local_logs', {}, "missing field 'log_dir'" },
    { 'local_logs', { log_dir = '/x', max_segment_duration = 'long' }, 'max_segment_duration' },
    { 'local_logs', { log_dir = '/x', compression_level = 99 }, 'compression_level' },
    { 'local_logs', { log_dir = '/x', min_free_space = 'much' }, "min_free_space = 'much': a share" },
    { 'local_logs', { log_dir = '/x', per_record = { Bounce = { suffix = 'a/b' } } }, 'per_record.Bounce.suffix' },
  }
  for _, case in ipairs(cases) do
    it(('%s refuses: %s'):format(case[1], case[3]), function()
      local err = tostring(raised(kumo['configure_' .. case[1]], case[2]))
      assert.truthy(err:find(case[3], 1, true), err)
    end)
  end

  it('log_hook takes everything it knows, but each name once', function()
    local options = {
      name = 'once',
      back_pressure = 10,
      meta = { 'tenant', 'x_*' },
      headers = { 'Subject' },
      deferred_spool = true,
      per_record = {
        Any = { enable = false },
        Bounce = { template = '{{ log_record | tojson }}', suffix = 's', log_dir = '/d', segment_header = 'h' },
      },
    }
    kumo.configure_log_hook(options)
    assert.truthy(tostring(raised(kumo.configure_log_hook, options)):find("named 'once' already", 1, true))
    assert.truthy(tostring(raised(kumo.configure_log_disposition_hook, { name = 'once' })):find("named 'once' already", 1, true))
  end)

  it('local_logs takes everything it knows, more than once', function()
    for _ = 1, 2 do
      kumo.configure_local_logs {
        log_dir = '/nowhere', -- not made: there is no recorder here
        max_file_size = 1000,
        max_segment_duration = '10s',
        compression_level = 3,
        back_pressure = 10,
        meta = {},
        headers = {},
        per_record = {},
        filter_event = 'f',
        min_free_space = '10%',
        min_free_inodes = 1000,
      }
    end
  end)
end)
