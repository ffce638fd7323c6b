-- Gives a claim up.
--
-- KEYS[1] the record
-- ARGV    1 token · 2 free | unknown
-- Replies 1 released · 0 this token does not hold the claim
redis.call('HDEL', KEYS[1], '_') -- as in complete.lua
local r = redis.call('HMGET', KEYS[1], 's', 'o', 'e', 'p')
if r[1] ~= 'I' or r[2] ~= ARGV[1] then return 0 end
if ARGV[2] == 'unknown' then
  -- The lease ends now, and the record stays visible as one whose owner was lost.
  local time = redis.call('TIME')
  redis.call('HSET', KEYS[1], 'l', string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000)))
elseif r[3] then
  -- The completed record beneath the claim is restored.
  redis.call('HSET', KEYS[1], 's', 'D', 'o', r[4])
  redis.call('HDEL', KEYS[1], 'l', 'e', 'p', 't')
  redis.call('PEXPIREAT', KEYS[1], r[3])
else
  redis.call('DEL', KEYS[1])
end
return 1
