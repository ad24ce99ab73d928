---@meta
-- Types of what runtime/message/*_lua.c gives to Lua.

---@class kumo
local kumo = {}

--- A message of your own, for kumo.inject_message. Raises for a bad address.
---@param sender string|kumo.EnvelopeAddress
---@param recipient string|kumo.EnvelopeAddress
---@param data string  complete message: header, blank line, body
---@return kumo.Message
function kumo.make_message(sender, recipient, data) end

--- Read-only. `tostring` gives `email`.
--- Metatable: tr.address
---@class kumo.EnvelopeAddress
---@field user string    local part, without quotes
---@field domain string  "" for the null sender
---@field email string   "" for the null sender
local EnvelopeAddress = {}

--- What a JSON text can hold.
---@alias kumo.Json nil|boolean|number|string|table

---@class (exact) kumo.Schedule
---@field dow? string        days, e.g. "Mon,Tue"
---@field tz? string         name of a time zone
---@field start? string      "HH:MM:SS"
---@field ["end"]? string    "HH:MM:SS"
---@field first_attempt? string  moment, RFC 3339
---@field expires? string        moment, RFC 3339

--- Valid until the handler that got it returns, or until it is handed on; then every method raises.
--- Methods that change something mark the message, so that it is stored again.
--- Metatable: tr.message
---@class kumo.Message
local Message = {}

---@return string id  32 hexadecimal digits
function Message:id() end

---@return kumo.EnvelopeAddress
function Message:sender() end

---@param address string|kumo.EnvelopeAddress
function Message:set_sender(address) end

---@return nil|kumo.EnvelopeAddress|kumo.EnvelopeAddress[]  a list only for more than one recipient
function Message:recipient() end

---@return kumo.EnvelopeAddress[]
function Message:recipient_list() end

--- Replaces the recipients. One bad entry raises and changes nothing.
---@param address string|kumo.EnvelopeAddress|(string|kumo.EnvelopeAddress)[]
function Message:set_recipient(address) end

--- The scheduled queue's name, from the meta values `queue`, or `campaign`, `tenant`, `routing_domain` and the recipient.
---@return string
function Message:queue_name() end

---@return integer
function Message:num_attempts() end

--- The event_id of a log record, the same on every attempt. Ours.
---@return string?  32 characters; nil for other messages
function Message:event_id() end

function Message:increment_num_attempts() end

--- Of a log record, in should_enqueue_log_record: it goes after those of its queue that came before it with this key,
--- whatever becomes of them. nil: in any order. Ours.
---@param key string|number|nil
function Message:set_order_key(key) end

---@return string? key
function Message:order_key() end

---@param name string
---@return kumo.Json value  a copy; nil if there is none
function Message:get_meta(name) end

---@param name string
---@param value kumo.Json
function Message:set_meta(name, value) end

---@return string bytes  header and body
function Message:get_data() end

---@param bytes string
function Message:set_data(bytes) end

--- Moves the next attempt, within the message's schedule if it has one.
---@param when? string  moment, RFC 3339; nil: now
---@return string? due  moment as it was set; nil: now
function Message:set_due(when) end

---@param schedule? kumo.Schedule  nil removes it
---@return kumo.Schedule?
function Message:set_scheduling(schedule) end

---@param name string  in any case
---@return string? value  decoded
function Message:get_first_named_header_value(name) end

---@param name string
---@return string[] values  decoded
function Message:get_all_named_header_values(name) end

---@return string[][] pairs  { name, decoded value }
function Message:get_all_headers() end

--- Adds the field DKIM-Signature at the top; what is changed afterwards breaks it. Raises for a message without header.
---@async
---@param signer kumo.DkimSigner
function Message:dkim_sign(signer) end

--- Behind the last header field.
---@param name string
---@param value string
---@param encode? boolean  true: fold and encode as RFC 2047 asks
function Message:append_header(name, value, encode) end

--- Before the first header field; the body is not copied.
---@param name string
---@param value string
---@param encode? boolean
function Message:prepend_header(name, value, encode) end

---@param name string
function Message:remove_all_named_headers(name) end

--- Removes the named fields, or all X- fields.
---@param names? string[]
function Message:remove_x_headers(names) end

--- Copies header fields into meta values: "X-Job-Id" becomes `x_job_id`. Without names all X- fields.
---@param names? string[]  names, or prefixes with a trailing '*'
function Message:import_x_headers(names) end

--- Reads a schedule (JSON) from a header field.
---@param name string
---@param remove? boolean
---@return kumo.Schedule? schedule  nil if there is no such field
function Message:import_scheduling_header(name, remove) end

---@class (exact) kumo.ImportSpec
---@field name string                exact, or with a trailing '*'
---@field match? 'first'|'last'|'all'  which of several; default last; all: a list
---@field transform? 'snake_case'|'kebab_case'|'camel_case'|'pascal_case'  of the name into the key; default snake_case
---@field target? string             the key; not with a wildcard
---@field remove? boolean            remove the headers that were taken

--- Copies headers into meta values. The first spec that matches a header takes it.
---@param specs kumo.ImportSpec[]
function Message:import_headers(specs) end

---@class kumo.HeaderAddress
---@field name? string    display name, decoded
---@field user string
---@field domain? string
---@field email string

--- `user`, `domain`, `email` and `name` raise unless there is exactly one address; `list` has all, groups flattened.
---@class kumo.AddressHeader : kumo.HeaderAddress
---@field list kumo.HeaderAddress[]

--- First header of that name as a list of addresses; nil if there is none, raises if it cannot be parsed.
---@param name string
---@return kumo.AddressHeader?
function Message:get_address_header(name) end

---@return kumo.AddressHeader?
function Message:from_header() end

---@return kumo.AddressHeader?
function Message:to_header() end

--- Messages are stored with each change of their state: this only checks that the message has data.
function Message:save() end

--- The runtime decides what stays in memory.
---@return false
function Message:shrink() end

---@return false
function Message:shrink_data() end
