--- kumo.prometheus_metrics. Contract lua-modules.md section 2.1.
local host = require 'tr.host'
local core = require 'tr.http_server'

local metrics = {}

--- All metrics of the process, in the shape of GET /metrics.json: by name `{ type = , help = , value = }`, where a metric with
--- labels has nested tables for its value.
---@return table<string, table>
function metrics.prometheus_metrics()
  local ok, value = host.c.json_parse(core.metrics 'json', false)
  if not ok then
    error('kumo.prometheus_metrics: the metrics cannot be read', 2)
  end
  return value
end

metrics.apply_supplemental_trace_header = host.internal('inject').apply_supplemental_trace_header

return metrics
