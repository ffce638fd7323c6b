-- Gives a claim up.
--
-- ARGV    1 token · 2 free | unknown | not-stored | ended · 3 with not-stored: the status · 4 how long it is kept, in ms
-- Replies {'K'} released · {'S'} this token does not hold the claim · {'C'} a foreign value
local r, foreign = read()
if foreign then return {'C'} end
if not r or not is_held(r, ARGV[1]) then return {'S'} end
write_at_maxmemory()
if ARGV[2] == 'ended' then
  redis.call('DEL', KEY)
elseif ARGV[2] == 'unknown' then
  redis.call('HSET', KEY, 's', 'X')
  redis.call('HDEL', KEY, 'l')
  keep_for(r.keep, r.previous)
elseif r.previous and r.previous > now then
  uncover(r, r.lost)
elseif ARGV[2] == 'free' and not r.lost and r.steps == 0 then
  redis.call('DEL', KEY)
else
  redis.call('HSET', KEY, 's', 'F')
  redis.call('HDEL', KEY, 'l', 'r', 'e', 'p')
  if ARGV[2] == 'not-stored' then redis.call('HSET', KEY, 'w', ARGV[3]) end
  keep_for((r.lost or r.steps > 0) and r.keep or tonumber(ARGV[4]))
end
return {'K'}
