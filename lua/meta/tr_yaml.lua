---@meta
-- Types of runtime/policy/yaml_lua.c, for lua/kumo/yaml.lua. Internal.

---@class tr.yaml
local yaml = {}

--- Raises a text that ends with line and column.
---@param text string  UTF-8
---@return any value  null is nil
function yaml.parse(text) end

return yaml
