-- What is known of a record.
-- KEYS[1] the record
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local r = redis.call('HMGET', KEYS[1], 'v', 's', 'a', 'l', 'r')
if not r[1] then return {'N'} end
if r[1] ~= '1' then return {'C'} end
local keep = redis.call('PTTL', KEYS[1])
if r[2] == 'D' and r[3] then return {'D', tonumber(r[3]), keep, r[5]} end
if not r[3] or not r[4] then return {'C'} end
local left = r[4] - now
if left > 0 then return {'P', tonumber(r[3]), left} end
return {'X', tonumber(r[3]), keep}
