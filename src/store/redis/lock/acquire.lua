-- Takes a lock, or extends it for the token that holds it.
--
-- KEYS[1] the lock
-- ARGV    1 token · 2 TTL in ms
-- Replies 1 held by this token · 0 held by another one
local owner = redis.call('GET', KEYS[1])
if owner and owner ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
