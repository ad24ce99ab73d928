---@meta
-- What lua/kumo.lua puts together at run time, where an editor cannot follow. Never executed.

---@class kumo
local kumo = {}

--- Registers a handler; only while the policy is loaded. The events, their arguments and results: `tailrace help events`.
---@param event string
---@param handler fun(...): ...
---@overload fun(event: 'pre_init', handler: kumo.event.pre_init)
---@overload fun(event: 'init', handler: kumo.event.init)
---@overload fun(event: 'validate_config', handler: kumo.event.validate_config)
---@overload fun(event: 'main', handler: kumo.event.main)
---@overload fun(event: 'shutdown_logging', handler: kumo.event.shutdown_logging)
---@overload fun(event: 'smtp_server_get_dynamic_parameters', handler: kumo.event.smtp_server_get_dynamic_parameters)
---@overload fun(event: 'smtp_server_connection_accepted', handler: kumo.event.smtp_server_connection_accepted)
---@overload fun(event: 'smtp_server_ehlo', handler: kumo.event.smtp_server_ehlo)
---@overload fun(event: 'smtp_server_mail_from', handler: kumo.event.smtp_server_mail_from)
---@overload fun(event: 'smtp_server_rcpt_to', handler: kumo.event.smtp_server_rcpt_to)
---@overload fun(event: 'get_listener_domain', handler: kumo.event.get_listener_domain)
---@overload fun(event: 'smtp_server_data', handler: kumo.event.smtp_server_data)
---@overload fun(event: 'smtp_server_split_transaction', handler: kumo.event.smtp_server_split_transaction)
---@overload fun(event: 'smtp_server_message_received', handler: kumo.event.smtp_server_message_received)
---@overload fun(event: 'smtp_server_message_deferred_inject', handler: kumo.event.smtp_server_message_deferred_inject)
---@overload fun(event: 'smtp_server_rewrite_response', handler: kumo.event.smtp_server_rewrite_response)
---@overload fun(event: 'smtp_server_auth_plain', handler: kumo.event.smtp_server_auth_plain)
---@overload fun(event: 'http_server_validate_auth_basic', handler: kumo.event.http_server_validate_auth_basic)
---@overload fun(event: 'http_server_validate_auth_bearer', handler: kumo.event.http_server_validate_auth_bearer)
---@overload fun(event: 'http_message_generated', handler: kumo.event.http_message_generated)
---@overload fun(event: 'get_acl_definition', handler: kumo.event.get_acl_definition)
---@overload fun(event: 'get_queue_config', handler: kumo.event.get_queue_config)
---@overload fun(event: 'get_egress_pool', handler: kumo.event.get_egress_pool)
---@overload fun(event: 'get_egress_source', handler: kumo.event.get_egress_source)
---@overload fun(event: 'get_egress_path_config', handler: kumo.event.get_egress_path_config)
---@overload fun(event: 'throttle_insert_ready_queue', handler: kumo.event.throttle_insert_ready_queue)
---@overload fun(event: 'requeue_message', handler: kumo.event.requeue_message)
---@overload fun(event: 'rebind_message', handler: kumo.event.rebind_message)
---@overload fun(event: 'spool_message_enumerated', handler: kumo.event.spool_message_enumerated)
---@overload fun(event: 'should_enqueue_log_record', handler: kumo.event.should_enqueue_log_record)
---@overload fun(event: 'smtp_client_rewrite_delivery_status', handler: kumo.event.smtp_client_rewrite_delivery_status)
---@overload fun(event: 'xfer_message_received', handler: kumo.event.xfer_message_received)
function kumo.on(event, handler) end

--- Call stacks ("FILE:LINE") of those who registered a handler.
---@param event string
---@return string[][]?
function kumo.get_event_registrars(event) end

--- Writes a line at level error to the diagnostic log, with the place of the call. So do log_warn, log_info and log_debug.
---@param ... any  shown by tostring, parted by blanks
function kumo.log_error(...) end

--- Writes a line at level warn.
---@param ... any
function kumo.log_warn(...) end

--- Writes a line at level info.
---@param ... any
function kumo.log_info(...) end

--- Writes a line at level debug.
---@param ... any
function kumo.log_debug(...) end

kumo.cidr = require('kumo.cidr').cidr
kumo.counter_series = require 'kumo.counter_series'
kumo.crypto = require 'kumo.crypto'
kumo.digest = require 'kumo.digest'
kumo.dkim = require 'kumo.dkim'
kumo.dns = require 'kumo.dns'
kumo.domain_map = require('kumo.domain_map').domain_map
kumo.encode = require 'kumo.encode'
kumo.fs = require 'kumo.fs'
kumo.http = require 'kumo.http'
kumo.jsonl = require 'kumo.jsonl'
kumo.memoize = require('kumo.memoize').memoize
kumo.mpsc = require 'kumo.mpsc'
kumo.regex = require 'kumo.regex'
kumo.regex_set_map = require 'kumo.regex_set_map'
kumo.secrets = require('kumo.secrets').secrets
kumo.serde = require('kumo.serde').serde
kumo.string = require('kumo.string').string
kumo.time = require('kumo.time').time
kumo.uuid = require 'kumo.uuid'
