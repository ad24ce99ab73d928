--- Shaping data of a running process: loaded once for each Lua state, read again when a file has changed, and never
--- exchanged for something that is wrong.
local host = require 'tr.host'
local automation = host.internal 'kumo.shaping.automation'
local data = host.internal 'kumo.shaping.data'
local files = host.internal 'kumo.shaping.files'
local findings = host.internal 'kumo.shaping.findings'
local mx = host.internal 'kumo.shaping.mx'
local overlay = host.internal 'kumo.shaping.overlay'
local make_egress_path = require('tr.queue').kumo.make_egress_path
local c = host.c

local MAX_PATHS = 100000 -- that are kept made; then all are made again
local SETTLE_S = 1 -- a file that still changes is being written
local MX_INTERVAL_S = 300 -- the sites of domains may move
local MX_RETRY_S = 60 -- while a look-up has failed
local NOTE = 'shaping.text:' -- names on the board: what worker 0 has read last and found good

---@class kumo.shaping.Live
---@field package _paths string[]
---@field package _options kumo.shaping.Options
---@field package _ttl_s number
---@field package _data? kumo.shaping.Data
---@field package _findings? kumo.shaping.Findings
local live = {}
live.__index = live

---@param paths string[]
---@param options kumo.shaping.Options   complete
---@param ttl_s number   how long a computed path is kept, and between two looks at the files
---@return kumo.shaping.Live
function live.new(paths, options, ttl_s)
  return setmetatable({ _paths = paths, _options = options, _ttl_s = ttl_s, _cache = {}, _count = 0, _mx_at = 0 }, live)
end

--- The files, in their order.
---@return string[]
function live:paths()
  return self._paths
end

-- --- loading ------------------------------------------------------------------------------------------

local function is_blank(text)
  return not text or not text:find '%S'
end

local function log_findings(found)
  for _, one in ipairs(found) do
    if not c.validating then -- `tailrace explain` prints them itself
      c.log(one.level == 'Error' and 'error' or 'warn', 'shaping: ' .. findings.text(one))
    end
  end
end

-- Worker 0 reads the files, the others take what it has found good: all have the same, and nobody reads what is wrong.
local function is_reader()
  return c.worker == 0
end

local function share(texts)
  for path, text in pairs(texts) do
    local old, version = c.board_get(NOTE .. path)
    if old ~= text then
      c.board_swap(NOTE .. path, version, text)
    end
  end
end

-- The texts that worker 0 has found good; nil: it has not read them all yet.
local function shared_texts(self)
  local texts = {}
  for _, path in ipairs(self._paths) do
    texts[path] = c.board_get(NOTE .. path)
    if not texts[path] then
      return nil
    end
  end
  return texts
end

local function adopt(self, made, found)
  local early = self._early
  self._data, self._findings = made, found
  self._primed, self._early = nil, nil
  self._cache, self._count = {}, 0
  self._epoch, self._board = c.epoch(), c.board_version()
  self._mx_at = c.mono()
  if is_reader() then
    share(made.texts)
  end
  for _, path in ipairs(early and self._paths or {}) do
    if files.is_remote(path) then -- paths of hooks were made without it
      require('kumo').bump_config_epoch()
      break
    end
  end
end

-- The first load; others wait for it.
local function load(self)
  while not self._data do
    if self._loading then
      self._loading:wait()
    else
      local latch, found = c.latch(), findings.new()
      self._loading = latch
      local texts = self._primed or not is_reader() and shared_texts(self) or nil
      local ok, made = host.try(data.build, self._paths, self._options, found, texts)
      self._loading = nil
      latch:open()
      if not ok then
        error(made, 0)
      end
      if is_reader() then
        log_findings(found)
      end
      if found:has_fatal() then
        error('shaping: ' .. table.concat(found:texts 'Error', '\n  '), 0)
      end
      adopt(self, made, found)
    end
  end
end

-- The same files without anything that waits for the network.
local function local_options(self)
  local options = {}
  for key, value in pairs(self._options) do
    options[key] = value
  end
  options.skip_dns, options.skip_remote = true, true
  return options
end

--- Reads and checks the local files without look-ups, for a start that is to fail if they are wrong. If they are not, what
--- was read is what the first load takes.
---@async
---@return kumo.shaping.Findings found
function live:prime()
  local found = findings.new()
  local made = data.build(self._paths, local_options(self), found)
  if not found:has_fatal() then
    self._primed = {}
    for path, text in pairs(made.texts) do
      if not is_blank(text) then
        self._primed[path] = text
      end
    end
  end
  return found
end

--- Loads the data if it is not there yet.
---@async
function live:load()
  load(self)
end

-- The texts of all files; nil for one that cannot be read.
local function read_all(self, with_remote)
  local texts, message = {}, {}
  for _, path in ipairs(self._paths) do
    if not files.is_remote(path) then
      texts[path], message[path] = files.text(path, self._options)
    else
      if with_remote and not self._options.skip_remote then
        texts[path] = files.text(path, self._options)
      end
      texts[path] = texts[path] or self._data.texts[path]
    end
  end
  return texts, message
end

local function differs(self, texts, from)
  for _, path in ipairs(self._paths) do
    if (texts[path] or '') ~= (from[path] or '') then
      return true
    end
  end
  return false
end

-- A file that has become nothing is one that somebody is writing, or has lost.
local function check_vanished(self, texts, message, found)
  for _, path in ipairs(self._paths) do
    if is_blank(texts[path]) and not is_blank(self._data.texts[path]) then
      found:fatal(
        { file = path, line = 0 },
        texts[path] and 'the file has become empty' or 'the file cannot be read any more: ' .. tostring(message[path]),
        'write it again; an empty section such as [default] makes an empty configuration'
      )
    end
  end
end

-- Takes other texts, unless they are wrong: then nothing changes, and the findings are told once.
local function rebuild(self, texts, message)
  if self._refused and not differs(self, texts, self._refused) then
    return false, c.array {}
  end
  local found = findings.new()
  check_vanished(self, texts, message or {}, found)
  local made
  if not found:has_fatal() then
    made = data.build(self._paths, self._options, found, texts, self._data.site_of)
  end
  log_findings(found)
  if found:has_fatal() then
    self._refused = texts
    c.log('error', 'shaping: the changed files are not used: what was loaded before stays in force')
    return false, found:texts 'Error'
  end
  self._refused = nil
  adopt(self, made, found)
  if is_reader() then
    c.log('info', 'shaping: the changed files are in force')
    require('kumo').bump_config_epoch()
    self._epoch = c.epoch()
  end
  return true
end

-- True if a domain's section belongs to another site than when it was loaded.
local function mx_moved(self)
  local interval_s = #self._data.failed > 0 and MX_RETRY_S or MX_INTERVAL_S
  if self._options.skip_dns or c.mono() - self._mx_at < interval_s then
    return false
  end
  self._mx_at = c.mono()
  local names = {}
  for domain in pairs(self._data.site_of) do
    names[#names + 1] = domain
  end
  for _, domain in ipairs(self._data.failed) do
    names[#names + 1] = domain
  end
  for domain, answer in pairs(mx.lookup_all(names)) do
    if answer.site and answer.site ~= self._data.site_of[domain] then
      return true
    end
  end
  return false
end

--- Reads the files again if they have changed. What is wrong is logged, and nothing changes.
---@async
---@param now? boolean   also files that have changed within the last second
---@return boolean changed   the data is new
---@return string[]? errors  why it is not
function live:refresh(now)
  load(self)
  local texts, message = read_all(self, true)
  local changed = differs(self, texts, self._data.texts)
  if changed and not now then
    c.sleep(SETTLE_S)
    local again
    again, message = read_all(self, false)
    for _, path in ipairs(self._paths) do
      if files.is_remote(path) then
        again[path] = texts[path]
      end
    end
    if differs(self, again, texts) then
      return false -- somebody is writing: the next look will find the end
    end
  end
  if not changed then
    self._refused = nil
    if not mx_moved(self) then
      return false
    end
  end
  return rebuild(self, texts, message)
end

--- Loads the data, and looks at the files for ever. For a task of its own.
---@async
---@param interval_s number
function live:watch(interval_s)
  while true do
    local ok, err = pcall(self.refresh, self)
    if not ok then
      c.log('error', 'shaping: ' .. tostring(err))
    end
    c.sleep(interval_s)
  end
end

--- The data of this moment. A new epoch or what another worker has read may have changed it.
---@async
---@return kumo.shaping.Data
function live:data()
  load(self)
  if is_reader() then
    local epoch = c.epoch()
    if epoch ~= self._epoch then
      self._epoch = epoch
      local texts, message = read_all(self, false)
      if differs(self, texts, self._data.texts) then
        rebuild(self, texts, message)
      end
    end
  elseif c.board_version() ~= self._board then
    self._board = c.board_version()
    local texts = shared_texts(self)
    if texts and differs(self, texts, self._data.texts) then
      rebuild(self, texts)
    end
  end
  return self._data
end

--- Which sources are named, and where.
---@async
---@return table<string, string[]>
function live:get_referenced_sources()
  return data.referenced_sources(self:data())
end

--- What was found when the data was loaded.
---@return kumo.shaping.Findings
function live:findings()
  return self._findings
end

-- --- resolving -------------------------------------------------------------------------------------------

-- The paths of log hooks depend on no MX: they do not wait for the look-ups of the first load.
local function data_for(self, domain)
  if self._data or not data.is_hook(domain) then
    return self:data()
  elseif not self._early then
    local options, found = local_options(self), findings.new()
    local made = data.build(self._paths, options, found, self._primed)
    if found:has_fatal() then
      return self:data() -- which says so
    end
    self._early = made
  end
  return self._early
end

---@async
---@param domain string   routing domain
---@param source string
---@param site string
---@return { params: kumo.shaping.Params, replace: boolean }[] steps
---@return number until_s   when automation changes it by itself
function live:steps(domain, source, site)
  local over, until_s = overlay.for_path(domain, source, site)
  return data.steps(data_for(self, domain), domain, source, site, over), until_s
end

--- The parameters of a path: a table of the caller's own.
---@async
---@param domain string   routing domain
---@param source string
---@param site string
---@return table<string, any>
function live:params(domain, source, site)
  local params = data.resolve((self:steps(domain, source, site)))
  if params.refresh_strategy == nil then
    params.refresh_strategy = 'Epoch'
  end
  return params
end

--- The object for get_egress_path_config. Kept, so that asking again costs three look-ups.
---@async
---@param domain string   routing domain
---@param source string
---@param site string
---@return kumo.EgressPath
function live:path(domain, source, site)
  if c.changes() ~= self._changes then
    data_for(self, domain)
    self._changes = c.changes()
    self._cache, self._count = {}, 0
  end
  local by_source = self._cache[domain]
  local by_site = by_source and by_source[source]
  local made = by_site and by_site[site]
  if made and made.until_mono > c.mono() then
    return made.path
  end
  local _, until_s = overlay.for_path(domain, source, site)
  local path = make_egress_path(self:params(domain, source, site))
  if self._count >= MAX_PATHS then
    self._cache, self._count = {}, 0
  end
  by_source = self._cache[domain] or {}
  self._cache[domain] = by_source
  by_site = by_source[source] or {}
  by_source[source] = by_site
  by_site[site] = { path = path, until_mono = c.mono() + math.min(self._ttl_s, until_s - c.wall()) }
  self._count = self._count + 1
  return path
end

--- Does what the automation rules say about a record.
---@async
---@param record table
function live:act(record)
  automation.act(self:data(), record)
end

return live
