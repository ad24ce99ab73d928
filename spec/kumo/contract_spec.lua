-- Each name of tier A and B of the reference's API is there, or docs/compatibility.md says that it is not.
local helper = require 'helper'
local kumo = require 'kumo'
local host = require 'tr.host'

-- Namespace -> names. '' is kumo itself; a name behind a colon is a method of what the example makes.
local NAMES = {
  [''] = [[on reject disconnect make_queue_config make_egress_path make_egress_source make_egress_pool make_listener_domain
    configure_log_hook configure_local_logs configure_log_disposition_hook configure_bounce_classifier define_spool
    start_esmtp_listener start_http_listener set_config_monitor_globs eval_config_monitor_globs bump_config_epoch spawn_task sleep
    version available_parallelism suspend_delivery_when_spool_unhealthy validation_failed traceback get_event_registrars
    prometheus_metrics log_error log_warn log_info log_debug set_diagnostic_log_filter make_message inject_message
    generate_rfc3464_message apply_supplemental_trace_header invoke_get_egress_path_config invoke_get_egress_source
    invoke_get_egress_pool invoke_get_queue_config compute_egress_path_config_constraints compute_queue_config_constraints
    format_egress_path_config_constraints format_egress_path_config_toml format_queue_config_toml memoize make_throttle
    configure_redis_throttles set_lruttl_cache_capacity set_httpinject_recipient_rate_limit json_load json_parse json_encode
    json_encode_pretty toml_load toml_parse toml_encode toml_encode_pretty read_dir glob uncached_glob
    set_httpinject_threads set_logging_threads set_qmaint_threads set_ready_qmaint_threads set_readyq_threads set_smtpsrv_threads
    set_spoolin_threads set_max_lua_context_use_count set_max_spare_lua_contexts set_lua_gc_on_put set_max_lua_context_age
    get_memory_hard_limit set_memory_hard_limit get_memory_soft_limit set_memory_soft_limit get_memory_low_thresh
    set_memory_low_thresh enable_memory_callstack_tracking configure_accounting_db_path set_timeq_spawn_reinsertion]],
  counter_series = 'define',
  mpsc = 'define',
  serde = [[json_load json_parse json_encode json_encode_pretty toml_load toml_parse toml_encode toml_encode_pretty
    toml_encode_pretty_compact yaml_load yaml_parse yaml_encode]],
  encode = [[base32_encode base32_nopad_encode base32hex_encode base32hex_nopad_encode base64_encode base64_nopad_encode
    base64url_encode base64url_nopad_encode hex_encode base32_decode base32_nopad_decode base32hex_decode base32hex_nopad_decode
    base64_decode base64_nopad_decode base64url_decode base64url_nopad_decode hex_decode charset_encode charset_decode]],
  digest = [[sha1 sha224 sha256 sha384 sha512 sha512_256 sha3_256 sha3_384 sha3_512 crc32 hmac_sha1 hmac_sha224 hmac_sha256
    hmac_sha384 hmac_sha512]],
  crypto = 'aes_encrypt_block aes_decrypt_block aws_sign_v4',
  string = [[replace replacen split splitn rsplit rsplitn split_whitespace split_ascii_whitespace starts_with ends_with trim
    trim_start trim_end psl_domain psl_suffix eval_template normalize_smtp_response wrap]],
  regex = 'compile escape',
  regex_set_map = 'new',
  uuid = 'parse new_v1 new_v4 new_v6 new_v7',
  domain_map = 'new',
  cidr = 'make_map',
  time = 'now from_unix_timestamp with_ymd_hms parse_rfc3339 parse_rfc2822 parse_duration sleep start_timer',
  fs = 'open read_dir glob uncached_glob metadata_for_path symlink_metadata_for_path',
  jsonl = 'new_writer new_tailer new_multi_tailer',
  secrets = 'load',
  dns = [[lookup_mx lookup_addr lookup_txt lookup_ptr rbl_lookup ptr_host reverse_ip configure_resolver define_resolver
    configure_test_resolver configure_test_mta_sts set_mx_concurrency_limit set_mx_timeout set_mx_negative_cache_ttl
    set_mta_sts_enabled]],
  dkim = 'rsa_sha256_signer ed25519_signer',
  ['api.inject'] = 'inject_v1 build_v1',
  ['api.admin.bounce'] = 'bounce list delete',
  ['api.admin.suspend'] = 'suspend list delete',
  ['api.admin.suspend_ready_q'] = 'suspend list delete',
  shaping = 'load',
  http = 'build_client build_url connect_websocket',
  amqp = 'build_client basic_publish',
  kafka = 'build_producer',
  nats = 'connect',
}

local METHODS = {
  ['regex:'] = {
    kumo.regex.compile 'a',
    'captures is_match find find_all replace replace_all replacen split',
  },
  ['counter_series:'] = {
    kumo.counter_series.define { name = 'contract', num_buckets = 1, bucket_size = 1 },
    'increment delta observe sum sum_over',
  },
  ['mpsc:'] = {
    kumo.mpsc.define 'contract',
    'send send_timeout try_send recv try_recv recv_many len is_empty is_closed close',
  },
  ['throttle:'] = {
    kumo.make_throttle('contract', '1/s'),
    'throttle sleep_if_throttled delay_message_if_throttled explain',
  },
  ['time:'] = {
    kumo.time.now(),
    'year month day hour minute second unix_timestamp unix_timestamp_millis rfc2822 rfc3339 elapsed format',
  },
  ['timedelta:'] = {
    kumo.time.parse_duration(1),
    'seconds milliseconds microseconds nanoseconds human',
  },
  ['timer:'] = { kumo.time.start_timer 'contract', 'done' },
  ['digest:'] = {
    kumo.digest.sha1 'x',
    [[bytes hex base32 base32_nopad base32hex base32hex_nopad base64 base64_nopad base64url base64url_nopad]],
  },
  ['uuid:'] = { kumo.uuid.new_v4(), 'hyphenated simple braced urn bytes' },
  ['file:'] = { kumo.fs.open '/dev/null', 'read write seek flush close' },
  ['message:'] = {
    kumo.make_message('a@example.com', 'b@example.com', 'Subject: x\r\n\r\nx'),
    [[id sender set_sender recipient recipient_list set_recipient queue_name num_attempts increment_num_attempts save shrink
    shrink_data get_meta set_meta get_data set_data append_text_plain append_text_html parse_rfc3464
    get_first_named_header_value get_all_named_header_values get_all_headers append_header prepend_header
    remove_all_named_headers remove_x_headers import_x_headers import_headers get_address_header from_header to_header
    import_scheduling_header dkim_sign set_due set_scheduling]],
  },
  ['redis.'] = { require 'redis', 'open' },
  ['redis:'] = { require('redis').open { node = 'redis://127.0.0.1:1' }, 'query' },
  ['sqlite.'] = { require 'sqlite', 'open' },
  ['sqlite:'] = { require('sqlite').open ':memory:', 'execute close' },
}

local POLICY_EXTRAS = {
  policy_utils = [[equals assert_eq assert_ne assert_matches merge_into recursive_merge_into table_contains table_keys
    table_is_empty load_json_or_toml_file starts_with ends_with split_ip_port dumps]],
  log_hooks = 'new new_json new_disposition_hook',
  queue = 'setup setup_with_options',
  shaping = 'setup setup_with_automation',
  sources = 'setup',
  listener_domains = 'setup',
  dkim_sign = 'setup',
  rollup = 'apply_ip_rollup_to_queue_config reroute_using_ip_rollup reroute_based_on_mx_host_suffix',
  typing = 'record list map option enum default variant number string boolean Function any extract_deserialize_error',
}

-- What compatibility.md says in `code`, as a set of words.
local told = {}
for code in helper.read(host.c.share_dir .. '/docs/compatibility.md'):match('\n## Not there yet\n(.*)$'):gmatch '`([^`]+)`' do
  for word in code:gmatch '[%w_]+' do
    told[word] = true
  end
end

--- The value of a name; nil, too, when all that it does is to say that it is not supported.
local function value_of(holder, name)
  local ok, value = pcall(function()
    return holder[name]
  end)
  if not ok or value == nil then
    return nil
  end
  if type(value) == 'function' then
    local info = debug.getinfo(value, 'S')
    if info.what == 'Lua' and info.linedefined > 0 and info.lastlinedefined - info.linedefined <= 2 then
      local called, err = pcall(value)
      if not called and tostring(err):find 'not supported by Tailrace' then
        return nil
      end
    end
  end
  return value
end

local function namespace(path)
  local at = kumo
  for part in path:gmatch '[^.]+' do
    local ok, value = pcall(function()
      return at[part]
    end)
    at = ok and value or {}
  end
  return at
end

local function check(shown, holder, names)
  local missing = {}
  for name in names:gmatch '%S+' do
    if value_of(holder, name) == nil and not told[name] and not told[shown:match '[%w_]+' or name] then
      missing[#missing + 1] = shown .. name
    end
  end
  assert.are.same({}, missing)
end

describe('the contract', function()
  for path, names in pairs(NAMES) do
    it('is met by kumo.' .. path, function()
      check(path ~= '' and path .. '.' or '', namespace(path), names)
    end)
  end
  for shown, case in pairs(METHODS) do
    it('is met by ' .. shown, function()
      check(shown, case[1], case[2])
    end)
  end
  for name, names in pairs(POLICY_EXTRAS) do
    it('is met by policy-extras.' .. name, function()
      local ok, module = pcall(require, 'policy-extras.' .. name)
      check(name .. '.', ok and module or {}, names)
    end)
  end
  it('has looked', function()
    assert.is_nil(value_of(kumo, 'no_such_name_at_all'))
    assert.has_error(function()
      check('x.', {}, 'no_such_name_at_all')
    end)
  end)
end)
