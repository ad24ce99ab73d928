---@meta
-- Functions of the reference that are there to say that they are not supported.

---@class kumo
local kumo = {}

---@class kumo.dns
kumo.dns = {}

--- Not supported: raises. kumo.dns.configure_resolver takes name servers.
function kumo.dns.configure_unbound_resolver() end

--- Not supported: raises. The resolver reads /etc/resolv.conf itself.
function kumo.dns.load_resolv_conf() end
