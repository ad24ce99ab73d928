---@meta
-- What lua/kumo.lua puts together at run time, where an editor cannot follow. Never executed.

---@class kumo
local kumo = {}

--- Registers a handler; only while the policy is loaded. Events, arguments and results: docs/policy.md.
---@param event string
---@param handler fun(...): ...
function kumo.on(event, handler) end

--- Call stacks ("FILE:LINE") of those who registered a handler.
---@param event string
---@return string[][]?
function kumo.get_event_registrars(event) end

kumo.api = require 'api'
kumo.cidr = require('kumo.cidr').cidr
kumo.digest = require 'kumo.digest'
kumo.dns = require 'kumo.dns'
kumo.domain_map = require('kumo.domain_map').domain_map
kumo.encode = require 'kumo.encode'
kumo.fs = require 'kumo.fs'
kumo.http = require 'kumo.http'
kumo.memoize = require('kumo.memoize').memoize
kumo.regex = require 'kumo.regex'
kumo.secrets = require('kumo.secrets').secrets
kumo.serde = require('kumo.serde').serde
kumo.string = require('kumo.string').string
kumo.time = require('kumo.time').time
kumo.uuid = require 'kumo.uuid'
