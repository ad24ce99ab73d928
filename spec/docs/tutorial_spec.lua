-- docs/tutorial.md, block by block: a Lua block that begins with "-- FILE" is that file, a shell block is run, and each line of a
-- text block is in what the shell block before it printed, in that order.
local helper = require 'helper'
local host = require 'tr.host'

local function blocks_of(text)
  local list, kind, lines = {}, nil, nil
  for line in text:gmatch '([^\n]*)\n' do
    local fence = line:match '^```(.*)$'
    if fence and not lines then
      kind, lines = fence, {}
    elseif fence then
      list[#list + 1] = { kind = kind, text = table.concat(lines, '\n') .. '\n' }
      lines = nil
    elseif lines then
      lines[#lines + 1] = line
    end
  end
  return list
end

describe('the tutorial', function()
  after_each(helper.cleanup)

  it('does what it says', function()
    local dir, output = helper.dir(), nil
    helper.write(dir .. '/tailrace', ('#!/bin/sh\nexec %s "$@"\n'):format(helper.quote(helper.TAILRACE)))
    os.execute('chmod +x ' .. dir .. '/tailrace && mkdir ' .. dir .. '/files')
    local ran, compared = 0, 0
    for _, block in ipairs(blocks_of(assert(helper.read(host.c.share_dir .. '/docs/tutorial.md')))) do
      if block.kind == 'lua' then
        helper.write(dir .. '/files/' .. block.text:match '^%-%- (%S+)\n', block.text)
      elseif block.kind == 'sh' then
        helper.write(dir .. '/block.sh', 'set -e\n' .. block.text)
        local status
        output, status = helper.sh(('cd %s/files && PATH=%s:$PATH sh ../block.sh'):format(dir, dir))
        assert.are.equal(0, status, block.text .. output)
        ran = ran + 1
      else
        assert.are.equal('text', block.kind)
        local at = 1
        for line in block.text:gmatch '[^\n]+' do
          local _, stop = output:find(line, at, true)
          assert.is_truthy(stop, ('no %q behind byte %d of\n%s'):format(line, at, output))
          at = stop + 1
          compared = compared + 1
        end
      end
    end
    assert.is_true(ran >= 9 and compared >= 25, ('%d blocks, %d lines'):format(ran, compared))
  end)
end)
