--- `tailrace plan`: what a path lets through, and what a load makes of it. Pure: numbers in, numbers out.
---
---   connections:  C sessions, each a request of B messages every L seconds        C x B / L
---   rates:        max_message_rate of the path, of the queue, additional ones     as they are
---   reconnects:   max_connection_rate x max_deliveries_per_connection
--- The lowest is the limit of the path. A queue that is fed from several sources has the sum, as far as their shares let it.
local arithmetic = {}

---@class tr.plan.Term
---@field kind 'connections'|'rate'|'reconnects'|'queue'
---@field limit number messages a second
---@field text string  how it comes about

---@class tr.plan.Path
---@field connections? number      nil: no limit
---@field batch integer            messages of a request; 1: no batches
---@field latency_s number         of a request
---@field message_rate? number     a second: the lowest of the path's rates
---@field message_rate_text? string
---@field reconnect_rate? number   messages a second that reconnecting lets through
---@field reconnect_text? string
---@field queue_rate? number       a second: max_message_rate of the queue

local function number(value)
  if value == math.floor(value) and value < 1e15 then
    local text = ('%.0f'):format(value)
    while true do
      local count
      text, count = text:gsub('^(%-?%d+)(%d%d%d)', '%1,%2')
      if count == 0 then
        return text
      end
    end
  end
  return value >= 100 and number(math.floor(value + 0.5)) or (('%.1f'):format(value):gsub('%.0$', ''))
end
arithmetic.number = number

--- A time for people: 20 ms, 1.5 s, 12 min, 3 h.
function arithmetic.time(seconds)
  if seconds < 1 then
    return ('%.3g ms'):format(seconds * 1000)
  elseif seconds < 120 then
    return ('%.3g s'):format(seconds)
  elseif seconds < 7200 then
    return ('%.3g min'):format(seconds / 60)
  elseif seconds < 48 * 3600 then
    return ('%.3g h'):format(seconds / 3600)
  end
  return ('%.3g days'):format(seconds / 86400)
end

--- The terms of a path, the lowest first; an empty list: nothing limits it.
---@param path tr.plan.Path
---@return tr.plan.Term[]
function arithmetic.terms(path)
  local terms = {}
  local function add(kind, limit, text)
    terms[#terms + 1] = { kind = kind, limit = limit, text = text, order = #terms }
  end
  if path.connections then
    local batch = path.batch > 1 and (' x %s messages'):format(number(path.batch)) or ''
    add('connections', path.connections * path.batch / path.latency_s,
      ('%s connection%s%s / %s'):format(number(path.connections), path.connections == 1 and '' or 's', batch,
        arithmetic.time(path.latency_s)))
  end
  if path.message_rate then
    add('rate', path.message_rate, path.message_rate_text)
  end
  if path.reconnect_rate then
    add('reconnects', path.reconnect_rate, path.reconnect_text)
  end
  if path.queue_rate then
    add('queue', path.queue_rate, 'max_message_rate of the queue')
  end
  table.sort(terms, function(a, b)
    if a.limit ~= b.limit then
      return a.limit < b.limit
    end
    return a.order < b.order
  end)
  return terms
end

---@class tr.plan.Share
---@field share number      of the queue's messages that this path takes
---@field terms tr.plan.Term[]

--- What a queue lets through: the path that is full first decides, as each takes its share.
---@param shares tr.plan.Share[]
---@return number? limit messages a second; nil: nothing limits it
---@return tr.plan.Term? term what does
---@return tr.plan.Share? path
function arithmetic.limit(shares)
  local limit, term, path
  for _, one in ipairs(shares) do
    local lowest = one.terms[1]
    if lowest and one.share > 0 and (not limit or lowest.limit / one.share < limit) then
      limit, term, path = lowest.limit / one.share, lowest, one
    end
  end
  return limit, term, path
end

--- What a queue does with a demand.
---@param demand number messages a second
---@param limit? number
---@param outage_s number nothing is taken for so long
---@return { load: number?, grows: number, after_outage: number, drains_s: number? }  grows: a second; drains_s nil: never
function arithmetic.outlook(demand, limit, outage_s)
  local backlog = demand * outage_s
  if not limit then
    return { grows = 0, after_outage = backlog, drains_s = 0 }
  end
  return {
    load = demand / limit,
    grows = math.max(0, demand - limit),
    after_outage = backlog,
    drains_s = limit > demand and backlog / (limit - demand) or nil,
  }
end

--- The value of the setting behind a term that lets `demand` through with a fifth to spare, and half as much again as now.
---@param term tr.plan.Term
---@param path tr.plan.Path
---@param demand number messages a second that this path has to take
---@return string advice
function arithmetic.advice(term, path, demand)
  local wanted = math.max(demand * 1.2, term.limit * 1.5)
  if term.kind == 'connections' then
    local connections = math.max(path.connections + 1, math.ceil(wanted * path.latency_s / path.batch))
    local text = ('connection_limit = %s'):format(number(connections))
    if path.can_batch then
      local batch = math.max(path.batch + 1, math.ceil(wanted * path.latency_s / path.connections))
      text = ('batch_size = %s, or %s'):format(number(batch), text)
    end
    return text
  elseif term.kind == 'reconnects' then
    return ("max_deliveries_per_connection = %s, or a higher max_connection_rate"):format(
      number(math.ceil(path.deliveries * wanted / term.limit)))
  end
  return ("max_message_rate = '%s/s'"):format(('%.0f'):format(math.ceil(wanted)))
end

return arithmetic
