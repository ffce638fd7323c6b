-- Stores a response.
--
-- ARGV    1 token · 2 fingerprint · 3 attempt · 4 fence · 5 completions · 6 principal tag · 7 TTL in ms · 8 the response
-- Replies {'K'}            kept, perhaps by an earlier call with the same token
--         {'S', response}  superseded: another owner has completed the record of the same operation
--         {'S'}            superseded: another owner holds the claim, or it was another operation
--         {'C'}            a record of another version, or a foreign value
write_at_maxmemory()
local r, foreign = read()
if foreign then return {'C'} end
local completions = ARGV[5]
if r then
  local same = compare(r.fingerprint, ARGV[2])
  if r.state == 'D' then
    if r.owner == ARGV[1] then return {'K'} end
    return {'S', same and redis.call('HGET', KEY, 'r')}
  end
  -- Nobody holds a lost or free record: a late response is better than none.
  local nobodys = (r.state == 'X' or r.state == 'F') and same
  if not (nobodys or is_held(r, ARGV[1])) then return {'S'} end
  completions = r.completions
  forget_steps(r.steps)
end
redis.call('HSET', KEY, 'v', WRITES, 's', 'D', 'o', ARGV[1], 'f', ARGV[2], 'a', ARGV[3], 'n', ARGV[4],
  'm', text(completions + 1), 'i', ARGV[6], 'r', ARGV[8])
if r then
  redis.call('HDEL', KEY, 'l', 'g', 'q', 'x', 'w', 'e', 'p')
else
  redis.call('HSET', KEY, 'c', text(now), 'u', text(now))
end
redis.call('PEXPIRE', KEY, ARGV[7])
return {'K'}
