-- kumo.memoize: results of a function in a process-wide cache. Values travel between Lua states as bytes, so they are nil,
-- booleans, numbers, strings and tables of these. An object can be kept if its metatable has __freeze(self) -> kind, data
-- and host.thaw[kind](data) makes it again.
local host = require 'tr.host'
local c = host.c

local ERROR_TTL_S = 60 -- of the contract: an error is remembered that long, whatever the ttl
local TRIES = 3
local OBJECT = '\0object' -- field of a table that stands for an object: its kind

local pending = {} -- cache name -> key -> latch of the task that populates it in this state

local function freeze(value, depth)
  local kind = type(value)
  if kind ~= 'table' and kind ~= 'userdata' then
    if kind == 'function' or kind == 'thread' then
      error('a ' .. kind .. ' cannot be memoized', 0)
    end
    return value
  elseif value == c.NULL then
    return nil
  elseif depth > 60 then
    error('a table nested so deep (or in itself) cannot be memoized', 0)
  end
  local meta = debug.getmetatable(value)
  if meta and meta.__freeze then
    local name, data = meta.__freeze(value)
    return { [OBJECT] = name, data = freeze(data, depth + 1) }
  elseif kind == 'userdata' and not (meta and meta.__memoized) then
    error('this userdata cannot be memoized', 0)
  end
  local copy = {}
  for k, v in pairs(value) do
    copy[freeze(k, depth + 1)] = freeze(v, depth + 1)
  end
  if meta == host.array_meta or meta and meta.__array then
    c.array(copy)
  end
  return copy
end

local function revive(value)
  if type(value) ~= 'table' then
    return value
  end
  local kind = rawget(value, OBJECT)
  if kind then
    return host.thaw[kind](revive(value.data))
  end
  for k, v in pairs(value) do
    if type(v) == 'table' then
      value[k] = revive(v)
    end
  end
  return value
end

-- A table comes back as a userdata over a copy of its own: writes stay local to it.
local function wrap(value)
  value = revive(value)
  if type(value) ~= 'table' or (debug.getmetatable(value) or host.array_meta) ~= host.array_meta then
    return value
  end
  return c.userdata {
    __memoized = true,
    __array = debug.getmetatable(value) == host.array_meta,
    __index = value,
    __newindex = value,
    __len = function()
      return #value
    end,
    __pairs = function()
      return next, value, nil
    end,
  }
end

local function key_of(...)
  local count = select('#', ...)
  local args = ...
  if count == 0 then
    args = nil
  elseif count > 1 then
    args = {}
    for i = 1, count do
      local value = select(i, ...)
      args[i] = value == nil and c.NULL or value
    end
    c.array(args)
  end
  local text = c.json_encode(args, true) -- sorted keys
  if not text then
    text = host.internal('kumo.serde').serde.json_encode_pretty(args)
  end
  return text
end

local KNOWN = {
  name = 'string',
  ttl = 'duration',
  capacity = 'number',
  invalidate_with_epoch = 'boolean',
  populate_timeout = 'duration',
  retry_on_populate_timeout = 'boolean',
  allow_stale_reads = 'boolean',
}
local NAMES = {}
for name in pairs(KNOWN) do
  NAMES[#NAMES + 1] = name
end
table.sort(NAMES)

local BUILT_IN = {}
for name in
  ([[acl_check acl_definition dkim_key_cache dkim_signer_cache dns_resolver_ip dns_resolver_ipv4 dns_resolver_ipv6
  dns_resolver_mx egress_source_pools egress_source_sources http_server_auth mod_filesystem_glob_cache mta_sts_policy
  rustls_client_config smtp_dispatcher_broken_tls smtp_dispatcher_client_certificate smtp_server_tls_config]]):gmatch '%S+'
do
  BUILT_IN[name] = true
end

local function seconds(options, key, default)
  if options[key] == nil then
    return default
  end
  local s, ns = c.duration(options[key], 'kumo.memoize', key)
  return s + ns / 1e9
end

local function check(options)
  if type(options) ~= 'table' then
    error('kumo.memoize: table of options expected, got ' .. type(options), 3)
  end
  local function fail(text)
    error(('kumo.memoize: %s, while processing %s'):format(text, c.json_encode(options) or '{...}'), 4)
  end
  for key, value in pairs(options) do
    local kind = KNOWN[key]
    if not kind then
      local near = type(key) == 'string' and c.nearest(key, NAMES)
      fail(
        ("unknown field '%s', expected one of '%s'"):format(tostring(key), table.concat(NAMES, "', '"))
          .. (near and (" (did you mean '%s'?)"):format(near) or '')
      )
    elseif kind ~= 'duration' and type(value) ~= kind then
      fail(("field '%s': %s expected, got %s"):format(key, kind, type(value)))
    end
  end
  for _, key in ipairs { 'name', 'ttl', 'capacity' } do
    if options[key] == nil then
      fail(("missing field '%s'"):format(key))
    end
  end
  if options.capacity < 1 or options.capacity ~= math.floor(options.capacity) then
    fail "field 'capacity': integer >= 1 expected"
  elseif BUILT_IN[options.name] then
    fail(("the cache name '%s' is built in: use 'user.%s'"):format(options.name, options.name))
  end
end

local function populate(cache, key, fn, ...)
  local results = { n = 0 }
  local function keep(ok, ...)
    results = { n = select('#', ...), ... }
    return ok
  end
  if keep(host.try(fn, ...)) then
    local value
    if results.n > 1 then
      value = {}
      for i = 1, results.n do
        value[i] = results[i] == nil and c.NULL or results[i]
      end
      value = c.array(value)
    else
      value = results[1]
    end
    local ok, frozen = pcall(freeze, value, 1)
    if ok and c.memo_put(cache, key, frozen, false) then
      return true, frozen
    end
    results[1] = 'kumo.memoize: ' .. (ok and 'the result cannot be kept' or frozen)
  elseif rawequal(results[1], host.CANCELLED) then
    return false, host.CANCELLED
  end
  local text = tostring(results[1]) -- failures become text here, rejections included
  c.memo_put(cache, key, text, true, ERROR_TTL_S)
  return false, text
end

--- Remembers the results of `fn` by its arguments.
---@generic F: function
---@param fn F
---@param options table name, ttl, capacity, ...
---@return F
local function memoize(fn, options)
  if type(fn) ~= 'function' then
    error('kumo.memoize: function expected, got ' .. type(fn), 2)
  end
  check(options)
  local name, limit_s = options.name, seconds(options, 'populate_timeout', 120)
  local retry, stale_reads = options.retry_on_populate_timeout, options.allow_stale_reads
  local cache = c.memo_open(name, seconds(options, 'ttl'), options.capacity, options.invalidate_with_epoch, stale_reads)
  pending[name] = pending[name] or {}
  local mine = pending[name]

  return function(...)
    local key = key_of(...)
    local tries = retry and TRIES or 1
    while true do
      local state, value = c.memo_get(cache, key)
      if state == 'value' then
        return wrap(value)
      elseif state == 'error' then
        error(value, 2)
      end
      local latch = mine[key]
      if not latch then
        latch = c.latch()
        mine[key] = latch
        local ok, result = populate(cache, key, fn, ...)
        if mine[key] == latch then
          mine[key] = nil
        end
        latch:open()
        if not ok then
          error(result, 0)
        end
        -- from the cache, as everybody else gets it: not the function's own table
        local again, stored = c.memo_get(cache, key)
        if again == 'value' then
          return wrap(stored)
        end
        return wrap(result)
      end
      if not latch:wait(limit_s) then
        tries = tries - 1
        if state == 'stale' then
          return wrap(value)
        elseif tries <= 0 then
          error(("kumo.memoize: waited %g s for cache '%s' to be populated"):format(limit_s, name), 2)
        end
      end
    end
  end
end

host.freeze, host.revive = freeze, revive -- for values that travel between states in other ways: kumo.mpsc

return { memoize = memoize }
