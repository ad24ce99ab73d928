---@meta tr.http
-- Types of runtime/transport/http_lua.c, for lua/kumo/http.lua, which makes `kumo.http` of it. Internal.

---@class tr.http
local core = {}

--- Metatable: tr.http.client
---@class tr.http.Client
local Client = {}

---@param options kumo.http.ClientOptions  unknown keys are named by a warning
---@return tr.http.Client
function core.client(options) end

--- Performs a request: a table with _method, _url, _headers, _body or _message, _timeout.
---@async
---@param client tr.http.Client
---@param request kumo.http.Request
---@return integer? status
---@return string head_or_message  header lines of the answer, or what went wrong
---@return string body_or_code     body of the answer, or a stable code such as "ETIMEDOUT"
function core.perform(client, request) end

---@param status integer
---@return string? phrase  as registered
function core.reason(status) end

---@param name string
---@param value string
---@return boolean
function core.header_ok(name, value) end

--- Value of the first line of that name.
---@param head string
---@param name string  in any case
---@return string?
function core.header(head, name) end

--- The line at position `at`: 0, then what the call before returned.
---@param head string
---@param at integer
---@return integer? next_at  nil: there is no further line
---@return string? name
---@return string? value
function core.header_next(head, at) end

---@param bytes string
---@return string
function core.base64(bytes) end

---@param text string
---@return boolean
function core.utf8_valid(text) end

--- What is no valid UTF-8 becomes U+FFFD.
---@param text string
---@return string
function core.utf8_lossy(text) end

---@param url string
---@return true?
---@return string? message
---@return string? code
function core.url_check(url) end

---@param duration number|string
---@return number seconds
function core.duration_s(duration) end

---@return string  32 random hexadecimal digits
function core.random_hex() end

return core
