---@meta

--- The binding behind lua/kumo/kafka.lua (runtime/transport/kafka_lua.c).
---@class tr.kafka
local core = {}

---@class kumo.kafka.Record
---@field topic string
---@field payload string|kumo.Message bytes; a message's are not copied
---@field key? string         drives the partitioner
---@field partition? integer  -1: the partitioner's choice
---@field headers? table<string, string> at most 64
---@field timeout? number|string how long it may wait for room in the producer's queue; default 60 s; no delivery timeout

--- Metatable: tr.kafka.producer
---@class kumo.kafka.Producer
local producer = {}

--- Sends a record and waits for its delivery report. Raises `Message production error: CODE (DESCRIPTION)`.
---@async
---@param record kumo.kafka.Record
---@return integer partition
---@return integer offset -1 with acks = 0
function producer:send(record) end

--- Sends records in order and waits for all reports. A record that is not valid raises before any is sent.
---@async
---@param list kumo.kafka.Record[]
---@return integer[] failed    indexes, ascending; empty: all delivered
---@return string[] errors     parallel to failed
---@return boolean[] permanent parallel to failed: the record would be refused again (too large, invalid)
function producer:send_batch(list) end

--- Sends what messages hold, from where it lies, with the headers `event_id` and `attempt`, and waits for all reports. Not in
--- the reference.
---@async
---@param topic string
---@param messages kumo.Message[]
---@param keys? (string|false)[]          by message; false: any partition
---@param headers? table<string, string>  of each, at most 62
---@return integer[]? failed    indexes, ascending; nil: all are delivered
---@return string[]? errors     parallel to failed
---@return boolean[]? permanent parallel to failed
function producer:send_messages(topic, messages, keys, headers) end

--- Drops the handle; later calls raise `client was closed`. What is under way goes on.
function producer:close() end

--- Raises, naming the property, for what librdkafka refuses.
---@param list string[] name, value ...
---@return kumo.kafka.Producer
function core.open(list) end

--- What librdkafka refuses of a configuration, with the nearest name; nil: nothing. Works at the load of a policy.
---@param list string[] name, value ...
---@return string? error
function core.check(list) end

return core
