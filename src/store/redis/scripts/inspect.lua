-- Tells what is known of a record. Changes nothing.
--
-- Replies {state, attempt, ms left, response, owner, fingerprint, replays, first seen in ms, last seen in ms, lost owner,
--          status not stored, principal tag, acknowledged, steps: name, size and moment in ms (0: not known)…}
--           state: 'D' completed · 'P' in flight · 'L' lapsed · 'X' lost · 'F' free; ms left: of the lease, of the
--           grace (0: it is over), else of the record; acknowledged: 1 if enough replicas have had the response; a size
--           of -1: the step was started
--         {'N'}  there is none
--         {'C'}  a record of another version
local r, foreign = read()
if foreign then return {'C'} end
if not r then return {'N'} end
local f = redis.call('HMGET', KEY, 'r', 'k', 'c', 'u', 'w', 'i')
local state, left = r.state, redis.call('PTTL', KEY)
if r.state == 'I' then
  state, left = 'P', r.ends - now
  if left <= 0 then state, left = 'L', math.max(left + r.grace, 0) end
elseif r.state == 'L' then
  left = math.max(r.ends - now, 0)
end
local reply = {state, r.attempt, left, state == 'D' and f[1], r.owner, r.fingerprint, tonumber(f[2] or 0),
  tonumber(f[3] or 0), tonumber(f[4] or 0), (r.lost or state == 'X') and 1 or 0, f[5], f[6],
  r.acknowledged == r.owner and 1 or 0}
for n = 1, r.steps do
  reply[#reply + 1] = redis.call('HGET', KEY, 'J' .. n)
  reply[#reply + 1] = redis.call('HEXISTS', KEY, 'R' .. n) == 1 and redis.call('HSTRLEN', KEY, 'R' .. n) or -1
  reply[#reply + 1] = tonumber(redis.call('HGET', KEY, 'T' .. n) or 0)
end
return reply
