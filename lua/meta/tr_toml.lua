---@meta
-- Types of runtime/policy/toml_lua.c.

---@class tr.toml
local toml = {}

--- Where the values of a document stand: by key the line of a plain value, or the places of a table or array. [0] is the
--- line of the table's own key; [-1] is the list of its keys in the order of the file.
---@alias tr.toml.Places table<string|integer, integer|table>

--- Reads TOML. Dates and times become text.
---@param text string
---@param places? boolean   with the third result
---@return boolean good
---@return table|string value_or_message
---@return tr.toml.Places|integer|nil places_or_line  line 0: not at one place
---@return integer? column
function toml.parse(text, places) end

--- The places of JSON text, which must be valid.
---@param text string
---@return tr.toml.Places
function toml.json_places(text) end

return toml
