--- Queues from files: retry schedules, egress pools and routing by domain, tenant and campaign.
---
---     local queue_module = require 'policy-extras.queue'
---     local queues = queue_module:setup { '/etc/tailrace/queues.toml' }
---     kumo.on('smtp_server_message_received', function(msg) queues:apply(msg) end)
---
--- Set it up behind log hooks and other handlers of get_queue_config: it answers for every domain. See docs/shaping-files.md.
local kumo = require 'kumo'
local typing = require 'policy-extras.typing'

---@class queue_module
local queue_module = {}

local CHECK_S = 30 -- between two looks at the files
local MIN_CHECK_S = 1 -- when queues ask again, all at once
local MAX_THROTTLES = 10000

-- --- what a file may say ------------------------------------------------------------------------------------

local TOP = {
  scheduling_header = 'string',
  tenant_header = 'string',
  campaign_header = 'string',
  remove_tenant_header = 'boolean',
  remove_campaign_header = 'boolean',
  default_tenant = 'string',
}

local QUEUE_OPTIONS = {} -- of kumo.make_queue_config
do
  local _, err = pcall(kumo.make_queue_config, { [' '] = true })
  for name in tostring(err):gsub(', while processing.*$', ''):gsub('^.-expected one of', ''):gmatch "'([%w_]+)'" do
    QUEUE_OPTIONS[name] = true
  end
end

local reader = {} -- of one file: { name, problems }
reader.__index = reader

function reader:problem(where, line, message)
  local place = self.name
  if type(line) == 'table' then
    line = line[0]
  end
  if line then
    place = place .. ':' .. line
  end
  self.problems[#self.problems + 1] = ('%s: %s%s'):format(place, where ~= '' and where .. ': ' or '', message)
end

local function why_not(key, value)
  local ok, err = pcall(kumo.make_queue_config, { [key] = value })
  if ok then
    return nil
  end
  return (tostring(err):gsub(', while processing .*$', ''):gsub('^.-kumo%.make_queue_config: ', ''))
end

local function rate_problem(rate)
  if type(rate) ~= 'string' then
    return 'a rate such as "100/s" is expected, got ' .. type(rate)
  end
  return why_not('max_message_rate', rate)
end

-- Options of a queue into `out`; what is none goes to `other(key, value, place)`.
function reader:options(where, value, places, out, other)
  out.params = out.params or {}
  for key, member in pairs(value) do
    local place = places and places[key]
    if QUEUE_OPTIONS[key] then
      local why = why_not(key, member)
      if why then
        self:problem(where .. ' ' .. key, place, why)
      else
        out.params[key] = member
      end
    elseif key == 'routing_domain' then
      if type(member) ~= 'string' then
        self:problem(where .. ' routing_domain', place, 'string expected, got ' .. type(member))
      else
        out.routing_domain = member
      end
    elseif not other(key, member, place) then
      self:problem(where .. ' ' .. tostring(key), place, 'there is no such option of a queue, and it is not a table')
    end
  end
end

local function table_of(value)
  return type(value) == 'table' and value[1] == nil
end

-- queue.D.T.C of files, queues.D.tenants.T.campaigns.C of inline tables.
function reader:queue(where, value, places, out, inner)
  local next_level = inner[1]
  local deeper = {}
  for i = 2, #inner do
    deeper[#deeper + 1] = inner[i]
  end
  local function child(name, member, place)
    out.children = out.children or {}
    out.children[name] = out.children[name] or {}
    self:queue(('%s.%s'):format(where, name), member, place, out.children[name], deeper)
  end
  self:options(where, value, places, out, function(key, member, place)
    if key == 'overall_max_message_rate' then
      kumo.log_warn(
        ('%s: %s overall_max_message_rate has no effect on a queue: write it under [tenant.NAME]'):format(self.name, where)
      )
      return true
    elseif not next_level or not table_of(member) then
      return false
    elseif next_level == 'any' then
      child(key, member, place)
      return true
    elseif key == next_level then
      for name, one in pairs(member) do
        child(name, one, place and place[name])
      end
      return true
    end
    return false
  end)
end

function reader:tenant(where, value, places, out)
  self:options(where, value, places, out, function(key, member, place)
    if key == 'require_authz' then
      if type(member) ~= 'table' then
        self:problem(where .. ' require_authz', place, 'a list of identities is expected, got ' .. type(member))
      else
        out.require_authz = member
      end
      return true
    elseif key == 'overall_max_message_rate' then
      local why = rate_problem(member)
      if why then
        self:problem(where .. ' overall_max_message_rate', place, why)
      else
        out.rate = member
      end
      return true
    elseif key == 'campaigns' and table_of(member) then
      out.campaigns = out.campaigns or {}
      for name, campaign in pairs(member) do
        local rate = type(campaign) == 'table' and campaign.overall_max_message_rate or nil
        local why = rate ~= nil and rate_problem(rate)
        if why then
          local line = place and place[name] and place[name].overall_max_message_rate
          self:problem(('%s.campaigns.%s overall_max_message_rate'):format(where, name), line, why)
        elseif type(campaign) ~= 'table' then
          self:problem(where .. '.campaigns.' .. name, place and place[name], 'a table is expected')
        else
          out.campaigns[name] = out.campaigns[name] or {}
          out.campaigns[name].rate = rate or out.campaigns[name].rate
        end
      end
      return true
    end
    return false
  end)
end

local FILE_SHAPE = { tenants = 'tenant', queues = 'queue', inner = { 'any', 'any' } }
local INLINE_SHAPE = { tenants = 'tenants', queues = 'queues', inner = { 'tenants', 'campaigns' } }

local function read_into(data, self, value, places, shape)
  places = places or {}
  for key, member in pairs(value) do
    local place = places[key]
    if TOP[key] then
      if type(member) ~= TOP[key] then
        self:problem(key, place, ('%s expected, got %s'):format(TOP[key], type(member)))
      else
        data.top[key] = member
      end
    elseif (key == shape.tenants or key == shape.queues) and table_of(member) then
      for name, one in pairs(member) do
        local line = place and place[name]
        local where = ('%s.%s'):format(key, name)
        if not table_of(one) then
          self:problem(where, line, 'a table is expected, got ' .. type(one))
        elseif key == shape.tenants then
          data.tenants[name] = data.tenants[name] or {}
          self:tenant(where, one, line, data.tenants[name])
        else
          data.queues[name] = data.queues[name] or {}
          self:queue(where, one, line, data.queues[name], shape.inner)
        end
      end
    else
      local names = { shape.tenants, shape.queues }
      for name in pairs(TOP) do
        names[#names + 1] = name
      end
      table.sort(names)
      self:problem(tostring(key), place, 'there is no such key; there are: ' .. table.concat(names, ', '))
    end
  end
end

--- Reads and merges all of a list; later ones win. Raises with everything that is wrong.
---@param sources (string|table)[]
local function load(sources)
  local data = { top = {}, tenants = {}, queues = {} }
  local problems = {}
  for i, source in ipairs(sources) do
    if type(source) == 'table' then
      read_into(data, setmetatable({ name = ('table %d'):format(i), problems = problems }, reader), source, nil, INLINE_SHAPE)
    else
      local ok, value, places = pcall(kumo.serde.load_with_places, source)
      if not ok then
        problems[#problems + 1] = tostring(value):gsub('^[^\n]-queue%.lua:%d+: ', '')
      else
        read_into(data, setmetatable({ name = source, problems = problems }, reader), value, places, FILE_SHAPE)
      end
    end
  end
  local default = data.top.default_tenant
  if default and not data.tenants[default] then
    problems[#problems + 1] = ("default_tenant = '%s': there is no such tenant: add [tenant.'%s']"):format(default, default)
  end
  if #problems > 0 then
    error('the queue files cannot be used:\n  ' .. table.concat(problems, '\n  '), 0)
  end
  data.by_domain = kumo.domain_map.new()
  for name, one in pairs(data.queues) do
    if name ~= 'default' then
      data.by_domain[name] = one
    end
  end
  return data
end

-- --- the helper --------------------------------------------------------------------------------------------

---@class queue_module.Helper
local helper = {}
helper.__index = helper

local function texts_of(sources)
  local out = {}
  for i, source in ipairs(sources) do
    if type(source) == 'string' then
      local file = io.open(source, 'rb')
      out[i] = file and file:read '*a' or ''
      if file then
        file:close()
      end
    end
  end
  return out
end

local function same(a, b, sources)
  for i in ipairs(sources) do
    if a[i] ~= b[i] then
      return false
    end
  end
  return true
end

-- Reads the files again if they have changed; what is wrong is logged once, and nothing changes. True: there is new data.
local function refresh(self)
  local texts = texts_of(self._sources)
  self._checked_at = os.clock()
  if self._data and (same(texts, self._texts, self._sources) or self._refused and same(texts, self._refused, self._sources)) then
    return false
  end
  local ok, data = pcall(load, self._sources)
  if ok then
    local first = self._data == nil
    self._data, self._texts, self._refused = data, texts, nil
    return not first
  elseif not self._data then
    error(data, 0)
  end
  self._refused = texts
  kumo.log_error('queue: the changed files are not used, what was loaded before stays in force: ' .. tostring(data))
  return false
end

local function current(self, at_most_s)
  if not self._data or os.clock() - self._checked_at > at_most_s then
    refresh(self)
  end
  return self._data
end

--- Options of kumo.make_queue_config for a queue.
---@async
---@param domain string
---@param tenant? string
---@param campaign? string
---@return table<string, any>
---@return string? routing_domain
function helper:resolve_config(domain, tenant, campaign)
  local data = current(self, MIN_CHECK_S)
  local out, routing_domain = { refresh_strategy = 'Epoch' }, nil
  local function over(one)
    for key, value in pairs(one and one.params or {}) do
      out[key] = value
    end
    routing_domain = one and one.routing_domain or routing_domain
  end
  local of_domain = data.by_domain[domain]
  local of_tenant = of_domain and of_domain.children and of_domain.children[tenant or false]
  over(data.queues.default)
  over(of_domain)
  over(data.tenants[tenant or false])
  over(of_tenant)
  over(of_tenant and of_tenant.children and of_tenant.children[campaign or false])
  if out.provider_name == nil then
    out.provider_name = queue_module:resolve_provider(domain, routing_domain)
  end
  return out, routing_domain
end

--- What comes in gets its tenant, campaign, schedule and routing from headers and files.
---@async
---@param msg kumo.Message
function helper:apply(msg)
  local data = current(self, CHECK_S)
  local top = data.top
  if top.scheduling_header then
    msg:import_scheduling_header(top.scheduling_header, true)
  end
  local function header(name, remove)
    local value = name and msg:get_first_named_header_value(name)
    if value and remove then
      msg:remove_all_named_headers(name)
    end
    return value ~= '' and value or nil
  end
  local campaign = header(top.campaign_header, top.remove_campaign_header)
  if campaign then
    msg:set_meta('campaign', campaign)
  end
  local tenant = header(top.tenant_header, top.remove_tenant_header) or top.default_tenant
  if tenant then
    local of_tenant = data.tenants[tenant]
    if not of_tenant then
      kumo.reject(500, ("tenant '%s' is not defined"):format(tenant))
    end
    if of_tenant.require_authz then
      local identity, listed = msg:get_meta 'authz_id', false
      for _, name in ipairs(of_tenant.require_authz) do
        listed = listed or name == identity
      end
      if not identity or not listed then
        kumo.reject(500, ("tenant '%s' requires authorization"):format(tenant))
      end
    end
    msg:set_meta('tenant', tenant)
  end
  local _, routing_domain = self:resolve_config(msg:recipient().domain, tenant, campaign)
  if routing_domain then
    msg:set_meta('routing_domain', routing_domain)
  end
end

-- --- overall rates ---------------------------------------------------------------------------------------------

local throttles, throttle_count = {}, 0 -- key .. spec -> object

local function throttle(key, rate)
  local name = key .. '\0' .. rate
  local made = throttles[name]
  if not made then
    if throttle_count >= MAX_THROTTLES then
      throttles, throttle_count = {}, 0
    end
    made = kumo.make_throttle(key, rate)
    throttles[name], throttle_count = made, throttle_count + 1
  end
  return made
end

-- The tenant's rate first, the campaign's only if that one lets the message pass.
local function apply_rates(self, msg)
  local tenant = msg:get_meta 'tenant'
  local of_tenant = tenant and current(self, CHECK_S).tenants[tenant]
  if not of_tenant then
    return
  end
  if of_tenant.rate then
    local key = 'queue-helper-tenant-overall_max_message_rate-' .. tenant
    if throttle(key, of_tenant.rate):delay_message_if_throttled(msg) then
      return
    end
  end
  local campaign = msg:get_meta 'campaign'
  local of_campaign = campaign and of_tenant.campaigns and of_tenant.campaigns[campaign]
  if of_campaign and of_campaign.rate then
    local key = ('queue-helper-tenant-campaign-overall_max_message_rate-%s-%s'):format(tenant, campaign)
    throttle(key, of_campaign.rate):delay_message_if_throttled(msg)
  end
end

-- --- provider ------------------------------------------------------------------------------------------------

local provider_of = kumo.memoize(function(domain)
  local ok, name = pcall(function()
    local site = kumo.dns.lookup_mx(domain).site_name
    return kumo.invoke_get_egress_path_config(domain, 'unspecified', site).provider_name
  end)
  return ok and name or nil
end, { name = 'user.queue-helper-provider', ttl = '1 minute', capacity = 4096, invalidate_with_epoch = true })

--- The provider that shaping names for a domain; nil if there is none, or its MX cannot be looked up.
---@async
---@param domain string
---@param routing_domain? string
---@return string?
function queue_module:resolve_provider(domain, routing_domain)
  domain = routing_domain or domain
  if not kumo.get_event_registrars 'get_egress_path_config' or domain:find '%.log_hook$' then
    return nil
  end
  return provider_of(domain)
end

-- --- setting up -----------------------------------------------------------------------------------------------------

local set_up_at -- FILE:LINE of the policy

local setup_options = typing.record('queue:setup_with_options', {
  file_names = typing.list(typing.any),
  skip_queue_config_hook = typing.option(typing.boolean),
  invalidate_with_epoch = typing.option(typing.boolean),
})

local function is_ours(place)
  return place:find('policy-extras/queue.lua:', 1, true) ~= nil
end

-- The place in the policy that led to a registration: the last one that is no helper's.
local function policy_place(stack)
  for _, place in ipairs(stack) do
    if not place:find('policy-extras/', 1, true) then
      return place
    end
  end
  return stack[1] or '?'
end

-- Handlers that were registered later are never asked, because this one answers for every domain.
local function check_order()
  local mine = false
  for _, stack in ipairs(kumo.get_event_registrars 'get_queue_config' or {}) do
    local later = mine
    mine = mine or is_ours(stack[1] or '')
    if later then
      local hook = (stack[1] or ''):find('policy-extras/log_hooks.lua:', 1, true)
      if hook then
        kumo.log_warn(
          ('the queue helper is set up at %s, before the log hook at %s. It leaves domains of log hooks alone, so this works '
            .. 'here; the reference would answer for them: set the helper up last'):format(set_up_at, policy_place(stack))
        )
      else
        kumo.log_error(
          ('the queue helper at %s answers for every domain: the handler of get_queue_config at %s is never asked. '
            .. 'Set the helper up behind it'):format(set_up_at, policy_place(stack))
        )
        kumo.validation_failed()
      end
    end
  end
end

local function is_hook(domain)
  return domain:sub(-9) == '.log_hook'
end

local function check_sources(sources)
  for i, source in ipairs(sources) do
    if type(source) ~= 'string' and type(source) ~= 'table' then
      error(('queue:setup: file %d: a path or a table is expected, got %s'):format(i, type(source)), 4)
    end
  end
end

-- Pools that a file names and the policy does not have: their queues cannot send.
local function unknown_pools(data)
  local out, seen = {}, {}
  if not kumo.get_event_registrars 'get_egress_pool' then
    return out
  end
  local function check(where, one)
    local name = one.params and one.params.egress_pool
    if name and not seen[name] then
      seen[name] = true
      local ok, err = pcall(kumo.invoke_get_egress_pool, name)
      if not ok then
        out[#out + 1] = ("%s: egress_pool '%s': %s"):format(where, name, (tostring(err):gsub('\n.*$', '')))
      end
    end
    for child, value in pairs(one.children or {}) do
      check(where .. '.' .. child, value)
    end
  end
  for name, one in pairs(data.tenants) do
    check('tenant.' .. name, one)
  end
  for name, one in pairs(data.queues) do
    check('queue.' .. name, one)
  end
  table.sort(out)
  return out
end

local function register(self, skip_queue_config)
  kumo.on('pre_init', function()
    current(self, math.huge) -- a policy with files that cannot be used does not start
    check_order()
    kumo.spawn_task { event_name = 'tailrace.queue_helper.watch' }
  end)
  kumo.on('tailrace.queue_helper.watch', function()
    while true do
      kumo.sleep(CHECK_S)
      if refresh(self) then
        kumo.bump_config_epoch()
      end
    end
  end)
  kumo.on('validate_config', function()
    local ok, err = pcall(load, self._sources)
    local problems = ok and unknown_pools(err) or { tostring(err) }
    for _, text in ipairs(problems) do
      io.stderr:write('ERROR: ', text, '\n')
      kumo.validation_failed()
    end
  end)
  if not skip_queue_config then
    kumo.on('get_queue_config', function(domain, tenant, campaign, routing_domain) -- luacheck: ignore routing_domain
      if is_hook(domain) and not current(self, MIN_CHECK_S).queues[domain] then
        return -- the hook's own handler, which may come later
      end
      return kumo.make_queue_config((self:resolve_config(domain, tenant, campaign)))
    end)
  end
  kumo.on('throttle_insert_ready_queue', function(msg)
    apply_rates(self, msg)
  end)
end

local function setup(options, level)
  if set_up_at then
    error('queue:setup: it has been called already, at ' .. set_up_at, level + 1)
  end
  check_sources(options.file_names)
  local info = debug.getinfo(level, 'Sl')
  set_up_at = ('%s:%d'):format(info.short_src, info.currentline)
  local self = setmetatable({ _sources = options.file_names }, helper)
  register(self, options.skip_queue_config_hook)
  return self
end

--- Registers get_queue_config and throttle_insert_ready_queue. Once, behind log hooks.
---@param files (string|table)[]   paths of TOML or JSON files, or tables
---@return queue_module.Helper
function queue_module:setup(files)
  if type(files) ~= 'table' then
    error(('queue:setup: a list of files is expected, got %s: write queue:setup { ... }'):format(type(files)), 2)
  end
  local made = setup({ file_names = files }, 3) -- no tail call: the level counts
  return made
end

---@class (exact) queue_module.Options
---@field file_names (string|table)[]
---@field skip_queue_config_hook? boolean   the policy has its own get_queue_config and calls helper:resolve_config
---@field invalidate_with_epoch? boolean    accepted: a new epoch always makes it look at the files

---@param options queue_module.Options
---@return queue_module.Helper
function queue_module:setup_with_options(options)
  local ok, checked = pcall(setup_options, options)
  if not ok then
    error((tostring(checked):gsub('^[^\n]-:%d+: ', '')), 2)
  end
  local made = setup(checked, 3)
  return made
end

return queue_module
