-- Extends a lease.
--
-- ARGV    1 token · 2 lease in ms
-- Replies {'K'} extended · {'S'} another owner holds the record, or nobody, or it is completed
--         {'G', now in ms} there is no such record any more · {'C'} a foreign value
local r, foreign = read()
if foreign then return {'C'} end
if not r then return {'G', now} end
if not is_held(r, ARGV[1]) then return {'S'} end
write_at_maxmemory()
redis.call('HSET', KEY, 's', 'I', 'l', text(now + ARGV[2]))
keep_for(ARGV[2] + r.keep, r.previous)
return {'K'}
