-- Extends a lease.
--
-- KEYS[1] the record
-- ARGV    1 token · 2 lease in ms
-- Replies 1 extended · 0 the record is gone · 2 another owner holds the record, or has completed it
redis.call('HDEL', KEYS[1], '_') -- as in complete.lua
local r = redis.call('HMGET', KEYS[1], 's', 'o', 'l')
if not r[1] then return 0 end
if r[1] ~= 'I' or r[2] ~= ARGV[1] or not r[3] then return 2 end
local time = redis.call('TIME')
local ends = time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[2]
-- How long the claim stays visible after its lease does not change.
local keep = redis.call('PTTL', KEYS[1]) + (ends - ARGV[2]) - r[3]
redis.call('HSET', KEYS[1], 'l', string.format('%.0f', ends))
redis.call('PEXPIRE', KEYS[1], string.format('%.0f', math.max(keep, 0) + ARGV[2]))
return 1
