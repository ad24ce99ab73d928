---@meta
-- The events of Tailrace: an alias kumo.event.NAME with the type of the handler each. `tailrace check` takes from here which
-- events there are, `tailrace help NAME` what they are for. kumo.on in kumo.lua has an overload for each.

--- The policy has been loaded. Worker 0 only. Several handlers; for helpers.
---@alias kumo.event.pre_init fun()

--- Sets up the process: spools, listeners, logs. Worker 0 only, behind pre_init. An error ends the start.
---@alias kumo.event.init fun()

--- `tailrace check` has fired pre_init and init. Several handlers. Call kumo.validation_failed() for what is wrong; lines
--- "ERROR: ..." and "WARNING: ..." on standard error become findings. `tailrace run` does not fire it.
---@alias kumo.event.validate_config fun()

--- The program of `tailrace lua FILE` runs as this event: there handlers may be registered.
---@alias kumo.event.main fun(...: string)

--- The queues have stopped. Worker 0 only; it has to end within what is left of the stop's deadline.
---@alias kumo.event.shutdown_logging fun()

--- Options of the listener for one SMTP session.
---@alias kumo.event.smtp_server_get_dynamic_parameters fun(listener: string, conn: kumo.ConnMeta): kumo.EsmtpSessionOptions?

--- A client has connected. A rejection is the banner, and ends the session.
---@alias kumo.event.smtp_server_connection_accepted fun(conn: kumo.ConnMeta)

--- EHLO or HELO (without a list). What is returned stands in place of the extensions.
---@alias kumo.event.smtp_server_ehlo fun(domain: string, conn: kumo.ConnMeta, extensions: string[]?): string[]?

--- MAIL FROM.
---@alias kumo.event.smtp_server_mail_from fun(sender: kumo.EnvelopeAddress, conn: kumo.ConnMeta)

--- RCPT TO.
---@alias kumo.event.smtp_server_rcpt_to fun(recipient: kumo.EnvelopeAddress, conn: kumo.ConnMeta)

--- Who may relay: asked for the domains of sender and recipient, kept for the session. nil: `relay_hosts` alone decides.
---@alias kumo.event.get_listener_domain fun(domain: string, listener: string, conn: kumo.ConnMeta): kumo.ListenerDomain?

--- The whole transaction, before it is parted: the message has all recipients.
---@alias kumo.event.smtp_server_data fun(msg: kumo.Message, conn: kumo.ConnMeta)

--- Parts the recipients: a message for each list of them. nil: as `batch_handling` says.
---@alias kumo.event.smtp_server_split_transaction fun(msg: kumo.Message, conn: kumo.ConnMeta): string[][]?

--- A message has come in by SMTP: the place for tenant, campaign, queue and due times. Meta `queue` = "null" drops it.
---@alias kumo.event.smtp_server_message_received fun(msg: kumo.Message, conn: kumo.ConnMeta)

--- Never fired: injection is not deferred here.
---@alias kumo.event.smtp_server_message_deferred_inject fun(msg: kumo.Message, conn: kumo.ConnMeta)

--- Before each reply to an SMTP client. nil keeps what is there.
---@alias kumo.event.smtp_server_rewrite_response fun(code: integer, text: string, command: string?, conn: kumo.ConnMeta): integer?, string?

--- Never fired: AUTH is not offered yet.
---@alias kumo.event.smtp_server_auth_plain fun(authz: string, authc: string, password: string, conn: kumo.ConnMeta): boolean

--- Basic authentication of a request over HTTP; the answer is kept for 60 s. A table may have `identities` and `groups`.
---@alias kumo.event.http_server_validate_auth_basic fun(user: string, password: string?): boolean|table

--- A bearer token of a request over HTTP; the answer is kept for 60 s.
---@alias kumo.event.http_server_validate_auth_bearer fun(token: string): boolean|table

--- A message has come in over HTTP, once for each recipient. An error or rejection makes this recipient fail.
---@alias kumo.event.http_message_generated fun(msg: kumo.Message, auth: table)

--- Never fired: there are no access rules yet.
---@alias kumo.event.get_acl_definition fun(resource: string): any

--- How a queue behaves. Several handlers: the first that returns anything is the last. Without: SMTP with defaults.
---@alias kumo.event.get_queue_config fun(domain: string, tenant: string?, campaign: string?, routing_domain: string?): kumo.QueueConfig?

--- The pool that `egress_pool` of a queue names. Kept for its ttl.
---@alias kumo.event.get_egress_pool fun(name: string): kumo.EgressPool

--- A source that a pool names. Kept for its ttl.
---@alias kumo.event.get_egress_source fun(name: string): kumo.EgressSource

--- Limits and rates of a path. `site` is the MX site's name; of other protocols than SMTP the routing domain.
---@alias kumo.event.get_egress_path_config fun(routing_domain: string, source: string, site: string): kumo.EgressPath

--- A message is about to leave its scheduled queue. Several handlers. A due time in the future sends it back to wait.
---@alias kumo.event.throttle_insert_ready_queue fun(msg: kumo.Message)

--- A message goes back to wait. Several handlers. Another queue by meta moves it there at once; a rejection ends it.
---@alias kumo.event.requeue_message fun(msg: kumo.Message, response: string, context: string[], increment_attempts: boolean, delay: kumo.TimeDelta?)

--- An administrator's rebind with `trigger_rebind_event`: the handler changes the meta that name the queue.
---@alias kumo.event.rebind_message fun(msg: kumo.Message, data: table<string, string>)

--- A message has been read from the spool at the start, before its queue is known.
---@alias kumo.event.spool_message_enumerated fun(msg: kumo.Message)

--- A log record, for each hook: true puts it into the queue that meta `queue` names, false drops it. Several handlers.
---@alias kumo.event.should_enqueue_log_record fun(msg: kumo.Message, hook_name: string): boolean?

--- A peer's answer that is not 250, for each recipient: a code that counts instead, or nil.
---@alias kumo.event.smtp_client_rewrite_delivery_status fun(response: string, domain: string, tenant: string?, campaign: string?, routing_domain: string?): integer?

--- Never fired: messages are not transferred between nodes.
---@alias kumo.event.xfer_message_received fun(msg: kumo.Message, auth: table)
