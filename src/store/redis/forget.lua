-- Removes a record, unless a live owner holds it.
--
-- KEYS[1] the record
-- Replies 1 removed · 0 there was none · 2 a live owner holds it
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local r = redis.call('HMGET', KEYS[1], 's', 'l')
if r[1] == 'I' and r[2] and tonumber(r[2]) > now then return 2 end
return redis.call('DEL', KEYS[1])
