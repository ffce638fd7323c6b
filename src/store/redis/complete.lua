-- Stores a response.
--
-- KEYS[1] the record
-- ARGV    1 token · 2 fingerprint · 3 attempt · 4 fence · 5 TTL in ms · 6 the response
-- Replies {'K'}            kept, perhaps by an earlier call with the same token
--         {'S', response}  superseded: another owner has completed the record
--         {'S'}            superseded: another owner holds the claim
--         {'C'}            a record of another version, or a foreign value
--
-- The first command deletes nothing. It is a write that maxmemory allows, and after it Redis lets the HSET pass at
-- maxmemory too: the operation has run, and its response must not be lost.
redis.call('HDEL', KEYS[1], '_')
local r = redis.call('HMGET', KEYS[1], 'v', 's', 'o')
local version, state, owner = r[1], r[2], r[3]
if version then
  if version ~= '1' then return {'C'} end
  if owner ~= ARGV[1] then
    if state == 'D' then return {'S', redis.call('HGET', KEYS[1], 'r')} end
    return {'S'}
  end
  if state == 'D' then return {'K'} end
elseif redis.call('EXISTS', KEYS[1]) == 1 then
  return {'C'}
end
redis.call('HSET', KEYS[1], 'v', '1', 's', 'D', 'o', ARGV[1], 'f', ARGV[2], 'a', ARGV[3], 'n', ARGV[4], 'r', ARGV[6])
redis.call('HDEL', KEYS[1], 'l', 'e', 'p', 't')
if not version then
  local time = redis.call('TIME')
  local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
  redis.call('HSET', KEYS[1], 'c', now, 'u', now)
end
redis.call('PEXPIRE', KEYS[1], ARGV[5])
return {'K'}
