-- Extends a lock for the token that holds it.
--
-- KEYS[1] the lock
-- ARGV    1 token · 2 TTL in ms
-- Replies 1 extended · 0 this token does not hold the lock
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
