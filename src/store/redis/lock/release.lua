-- Frees a lock for the token that holds it.
--
-- KEYS[1] the lock
-- ARGV    1 token
-- Replies 1 freed · 0 this token does not hold the lock
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
