---@meta

--- The binding behind lua/kumo/http.lua (runtime/transport/http_lua.c).
---@class tr.http
local core = {}

--- A client's settings and idle handles. Options as kumo.http.build_client; raises for bad ones.
---@param options kumo.http.ClientOptions
---@return userdata client
function core.client(options) end

--- Performs a request. Its fields _method, _url, _headers (name, value, name ...), _body, _message, _timeout are read;
--- it must not change meanwhile.
---@async
---@param client userdata
---@param request table
---@return integer? status
---@return string head     header lines; or the message of the failure
---@return string body     or the failure's code
function core.perform(client, request) end

--- The address that the URL names itself, in any form, and the client does not allow; nil: none, or a name.
---@param client userdata
---@param url string
---@return string? address
function core.url_denied(client, url) end

--- Posts a message's bytes; the names in lua/kumo/http.lua say more.
---@async
---@param client userdata
---@param url string
---@param message kumo.Message
---@param content_type? string
---@return integer? status
---@return string? reason
---@return string text
---@return string? retry_after
function core.post_message(client, url, message, content_type) end

--- Posts a JSON array of messages.
---@async
---@param client userdata
---@param url string
---@param messages kumo.Message[]
---@param content_type? string
---@return integer? status
---@return string? reason
---@return string text
---@return string? retry_after
function core.post_messages(client, url, messages, content_type) end

---@class (exact) tr.http.PosterOptions
---@field url string
---@field headers string[]   name, value ...; with Content-Type
---@field identify boolean
---@field compression? 'gzip'|'zstd'
---@field secrets string[]   keys, at most two

--- What posts to one URL have in common.
---@param client userdata
---@param options tr.http.PosterOptions
---@return userdata poster
function core.poster(client, options) end

--- Posts a message, or the messages of a list as a JSON array.
---@async
---@param poster userdata
---@param what kumo.Message|kumo.Message[]
---@return integer? status
---@return string? reason
---@return string text
---@return string? retry_after
function core.post(poster, what) end

---@return string? phrase nil for codes that are not registered
function core.reason(status) end

---@return boolean ok a token, and a value without line ends
function core.header_ok(name, value) end

---@return string? value of the first line of that name, in any case
function core.header(head, name) end

---@param at integer 0 to begin
---@return integer? at nil at the end
---@return string name
---@return string value
function core.header_next(head, at) end

---@return string
function core.base64(bytes) end

---@return string text bytes that are not UTF-8 become U+FFFD
function core.utf8_lossy(bytes) end

---@return true? ok
---@return string? message
function core.url_check(url) end

--- For texts that people see: the URL without its user and password.
---@param url string
---@return string
function core.url_shown(url) end

--- Seconds of a duration: a number or a text such as "1m 30s". Raises for others.
---@param duration number|string
---@return number
function core.duration_s(duration) end

---@return string hex 32 digits
function core.random_hex() end

return core
