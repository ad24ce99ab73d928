-- kumo.delivered, kumo.transient, kumo.permanent.
local outcome = require 'outcome'

return { delivered = outcome.delivered, transient = outcome.transient, permanent = outcome.permanent }
