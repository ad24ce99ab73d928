local kumo = require 'kumo'
local log_hooks = require 'policy-extras.log_hooks'
local retry_after = require 'retry_after'

local function raised(fn, ...)
  local ok, err = pcall(fn, ...)
  assert.is_false(ok)
  return err
end

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
    { 'new_json', { name = 'x', url = 'http://a', batch_size = 2 }, "unknown field 'batch_size'" },
    { 'new_json', { name = 'x', url = 'http://a', filter = print }, "unknown field 'filter'" },
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
    local soon = log_hooks._retry_after_s(os.date('!%a, %d %b %Y %H:%M:%S GMT', os.time() + 300))
    assert.is_true(soon >= 298 and soon <= 300)
  end)
end)

-- A client that gives one answer, and notes what was asked.
local function client_of(status, body, headers, seen)
  local reasons = { [200] = 'OK', [503] = 'Service Unavailable' }
  return {
    post_message = function(_, url, msg, content_type)
      seen.url, seen.type, seen.body = url, content_type or 'application/json', msg:get_data()
      if status == nil then
        return nil, 'connection refused', 'EREFUSED'
      end
      return status, reasons[status], body or '', (headers or {})['retry-after']
    end,
  }
end

local message = { get_data = function() return '{"type":"Delivery"}\n' end }

local function post(status, body, headers)
  local seen = {}
  return seen, pcall(log_hooks._post, client_of(status, body, headers, seen), 'http://hook.test/log', message)
end

describe('new_json', function()
  it('sends the record as it is', function()
    local seen, ok, text = post(200, 'stored')
    assert.is_true(ok)
    assert.are.equal('200 OK: stored', text)
    assert.are.same({ url = 'http://hook.test/log', type = 'application/json', body = '{"type":"Delivery"}\n' }, seen)
  end)

  for _, status in ipairs { 200, 201, 204, 299 } do
    it(status .. ' is delivered', function()
      local _, ok = post(status)
      assert.is_true(ok)
    end)
  end
  for _, status in ipairs { 301, 304, 401, 403, 404, 408, 425, 429, 500, 502, 503, 599 } do
    it(status .. ' is tried again', function()
      local _, ok, err = post(status, 'no')
      assert.is_false(ok)
      assert.truthy(tostring(err):find '450')
    end)
  end
  for _, status in ipairs { 400, 405, 409, 410, 413, 415, 422, 451 } do
    it(status .. ' ends the record', function()
      local _, ok, err = post(status, 'no')
      assert.is_false(ok)
      assert.truthy(tostring(err):find '500')
      assert.is_nil(retry_after.get(err))
    end)
  end

  it('passes on failures of the network', function()
    local _, ok, err = post(nil)
    assert.is_false(ok)
    assert.are.equal('connection refused', err)
  end)

  it('heeds Retry-After', function()
    local _, ok, err = post(503, 'busy', { ['retry-after'] = '17' })
    assert.is_false(ok)
    assert.are.equal(17, retry_after.get(err))
  end)

  it('cuts long bodies between characters', function()
    local _, _, text = post(200, ('x'):rep(999) .. '\195\188' .. ('y'):rep(5000))
    assert.are.equal('200 OK: ' .. ('x'):rep(999), text)
    _, _, text = post(200, ('x'):rep(998) .. '\195\188' .. ('y'):rep(5000))
    assert.are.equal('200 OK: ' .. ('x'):rep(998) .. '\195\188', text)
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
    { 'local_logs', { log_dir = '/x', min_free_space = 'much' }, "field 'min_free_space'" },
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
