-- Gives a fencing token: the time in µs, or one more than the last token.
--
-- KEYS[1] the last token
-- Replies the token
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local token = math.max(now, (tonumber(redis.call('GET', KEYS[1])) or 0) + 1)
-- After a day the time alone is greater.
redis.call('SET', KEYS[1], string.format('%.0f', token), 'PX', 86400000)
return token
