--- The events of a policy: names that fire, and who handles them.
local host = require 'tr.host'

---@class tr.repl.events
local events = {}

-- docs/policy.md tells about each.
local FIXED = [[
  pre_init init shutdown_logging get_listener_domain smtp_server_get_dynamic_parameters smtp_server_connection_accepted
  smtp_server_ehlo smtp_server_mail_from smtp_server_rcpt_to smtp_server_data smtp_server_split_transaction
  smtp_server_message_received smtp_server_rewrite_response http_message_generated http_server_validate_auth_basic
  http_server_validate_auth_bearer get_queue_config get_egress_path_config get_egress_source get_egress_pool
  throttle_insert_ready_queue requeue_message rebind_message spool_message_enumerated should_enqueue_log_record
  smtp_client_rewrite_delivery_status
]]

--- Names of events that fire, and of those that the policy handles, sorted.
function events.names()
  local list, seen = {}, {}
  local function see(name)
    if not seen[name] then
      seen[name] = true
      list[#list + 1] = name
    end
  end
  for name in FIXED:gmatch '%S+' do
    see(name)
  end
  for _, name in ipairs(host.handler_names()) do
    see(name)
  end
  table.sort(list)
  return list
end

return events
