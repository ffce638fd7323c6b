-- Answers whether this request may run, and claims the record if it may.
--
-- ARGV    1 token · 2 fingerprint · 3 lease in ms · 4 grace in ms · 5 keep in ms · 6 principal tag
--         7 replay | rerun: what a completed record leads to · 8 rerun | reject: what a lost owner leads to
-- Replies {'A', attempt, fence, lost owner, completions, other scheme, previous response, steps…}
--                                                acquired: the claim is this request's
--         {'P', ms, 0 | 1}                       in flight: another request runs, or its owner is waited for (1)
--         {'R', response, ms left, other scheme, owner}
--                                                completed: replay it. No owner: enough replicas have had the response
--         {'M'}                                  mismatch: the key was used for another operation
--         {'X'}                                  an owner was lost, and ARGV[8] is reject
--         {'C'}                                  a record of another version, or a foreign value
local token, lease, grace, keep = ARGV[1], tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5])
local replays, rejects = ARGV[7] == 'replay', ARGV[8] == 'reject'

local function acquired(r, other)
  local reply = {'A', r.attempt, r.fence, r.lost and 1 or 0, r.completions, other,
    r.previous and redis.call('HGET', KEY, 'r') or false}
  for _, part in ipairs(steps(r.steps)) do reply[#reply + 1] = part end
  return reply
end

local function claim(r, other)
  r.attempt = r.attempt + 1
  r.fence = math.max(now_us, r.fence + 1)
  redis.call('HSET', KEY, 'v', WRITES, 's', 'I', 'o', token, 'f', ARGV[2], 'a', r.attempt, 'n', text(r.fence),
    'l', text(now + lease), 'g', grace, 'q', ARGV[5], 'x', r.lost and '1' or '0', 'm', r.completions, 'i', ARGV[6],
    'u', text(now))
  if r.state == 'F' then redis.call('HDEL', KEY, 'w') end
  keep_for(lease + keep, r.previous)
  return acquired(r, other)
end

local r, foreign = read()
if foreign then return {'C'} end
if not r then
  local reply = claim({attempt = 0, fence = 0, completions = 0, steps = 0}, 0)
  redis.pcall('HSET', KEY, 'c', text(now))
  return reply
end
local same, other = compare(r.fingerprint, ARGV[2])
if not same then return {'M'} end

if is_held(r, token) then
  -- The same call once more: its first answer was lost.
  write_at_maxmemory()
  redis.call('HSET', KEY, 's', 'I', 'f', ARGV[2], 'l', text(now + lease), 'g', grace, 'q', ARGV[5])
  keep_for(lease + keep, r.previous)
  return acquired(r, other)
end

if r.state ~= 'D' then
  local ms, lapsed = awaited(r)
  if ms then return {'P', ms, lapsed} end
  local lost = r.lost or r.state ~= 'F'
  if r.previous and r.previous <= now then
    write_at_maxmemory()
    redis.call('HDEL', KEY, 'r', 'e', 'p')
    keep_for(redis.call('PTTL', KEY))
    r.previous = nil
  end
  if r.previous and replays then
    -- A manual owner was lost over a completed record: everybody else gets that record, while it lasts.
    write_at_maxmemory()
    uncover(r, lost)
    r.state = 'D'
  end
  r.lost = lost
end

if r.state == 'D' and replays then
  -- Only operators see these two, so an answer must not fail for them.
  redis.pcall('HSET', KEY, 'u', text(now))
  redis.pcall('HINCRBY', KEY, 'k', 1)
  return {'R', redis.call('HGET', KEY, 'r'), redis.call('PTTL', KEY), other,
    r.acknowledged ~= r.owner and r.owner}
end
if r.lost and rejects then return {'X'} end
if r.state == 'D' then
  -- The record stays beneath the claim, with its own expiry and owner.
  local left = redis.call('PTTL', KEY)
  if left < 0 then left = keep end
  r.previous = now + left
  redis.call('HSET', KEY, 'e', text(r.previous), 'p', r.owner)
end
return claim(r, other)
