-- http_spec.lua once more with libcurl for plain http, too: policies must not see which of the two carries a request.
local helper = require 'helper'
local host = require 'tr.host'

describe('kumo.http over libcurl alone', function()
  it('does what http_spec.lua says', function()
    local output, status = helper.sh(
      ("cd %s && TAILRACE_HTTP=curl %s lua /usr/bin/busted --output=plainTerminal --lpath='./spec/?.lua' %s"):format(
        helper.quote(host.c.share_dir),
        helper.quote(helper.TAILRACE),
        'spec/transport/http_spec.lua'
      )
    )
    assert.are.equal(0, status, output)
    assert.is_truthy(output:find '[1-9]%d* successes / 0 failures / 0 errors', output)
  end)
end)
