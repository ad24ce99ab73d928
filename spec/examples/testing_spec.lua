-- The example of docs/testing.md, run as the page says.
local helper = require 'helper'

describe('examples/testing', function()
  it('passes', function()
    local output, status = helper.sh(([[
      program=$(realpath %s)
      cd examples/testing && "$program" test -o plainTerminal
    ]]):format(helper.quote(helper.TAILRACE)))
    assert.are.equal(0, status, output)
    assert.is_not_nil(output:find('6 successes', 1, true), output)
  end)
end)
