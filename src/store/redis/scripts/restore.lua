-- Claims a record again that the store has lost.
--
-- ARGV    1 token · 2 fingerprint · 3 lease in ms · 4 grace in ms · 5 keep in ms · 6 principal tag
--         7 attempt · 8 fence · 9 lost owner: 0 | 1 · 10 completions · 11 last moment in ms
--         then name, result and moment in ms of each step; a result is '0', or '1' and its bytes; a moment of 0 is not known
-- Replies {'K'} claimed · {'S'} it is too late, or somebody has claimed or completed the record · {'C'} a foreign value
local r, foreign = read()
if foreign then return {'C'} end
if r then
  if not is_held(r, ARGV[1]) then return {'S'} end
  write_at_maxmemory()
  redis.call('HSET', KEY, 's', 'I', 'l', text(now + ARGV[3]))
  keep_for(ARGV[3] + r.keep, r.previous)
  return {'K'}
end
if now > tonumber(ARGV[11]) then return {'S'} end
write_at_maxmemory()
redis.call('HSET', KEY, 'v', WRITES, 's', 'I', 'o', ARGV[1], 'f', ARGV[2], 'a', ARGV[7], 'n', ARGV[8],
  'l', text(now + ARGV[3]), 'g', ARGV[4], 'q', ARGV[5], 'x', ARGV[9], 'm', ARGV[10], 'i', ARGV[6],
  'c', text(now), 'u', text(now))
local count = (#ARGV - 11) / 3
for n = 1, count do
  local name, result, moment = ARGV[9 + 3 * n], ARGV[10 + 3 * n], ARGV[11 + 3 * n]
  redis.call('HSET', KEY, 'J' .. n, name)
  if result:sub(1, 1) == '1' then redis.call('HSET', KEY, 'R' .. n, result:sub(2)) end
  if moment ~= '0' then redis.call('HSET', KEY, 'T' .. n, moment) end
end
if count > 0 then redis.call('HSET', KEY, 'j', text(count)) end
keep_for(ARGV[3] + ARGV[5])
return {'K'}
