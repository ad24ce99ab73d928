-- Writes docs/reference from the type comments: build/release/tailrace lua spec/reference_pages.lua. spec/policy/reference_spec.lua
-- fails when the pages are behind.
local host = require 'tr.host'
local pages = host.internal('reference_text').markdown_pages()
local dir = host.c.share_dir .. '/docs/reference'

os.execute(("mkdir -p '%s' && rm -f '%s'/*.md"):format(dir, dir))
for name, text in pairs(pages) do
  local file = assert(io.open(dir .. '/' .. name, 'wb'))
  file:write(text)
  file:close()
end
