-- Answers whether this request may run, and claims the record if it may.
--
-- KEYS[1] the record
-- ARGV    1 token · 2 fingerprint · 3 lease in ms · 4 how long a lost claim stays visible, in ms
--         5 replay | rerun: what a completed record leads to · 6 rerun | reject: what a lost owner leads to
-- Replies {'A', attempt, fence, taken over, previous response}  acquired: the claim is this request's
--         {'P', ms until the lease ends}                        in flight: another request runs
--         {'R', response, ms until it expires}                  completed: replay it
--         {'M'}                                                 mismatch: the key was used for another operation
--         {'X'}                                                 the owner was lost, and ARGV[6] is reject
--         {'C'}                                                 a record of another version, or a foreign value
-- Fields  as in the documentation of `RedisStore`
--
-- There is no shebang on purpose: without one, Redis at maxmemory still answers reads, and refuses only the HSET of a
-- new claim.
local time = redis.call('TIME')
local now_us = time[1] * 1000000 + time[2]
local now = math.floor(now_us / 1000)

local r = redis.call('HMGET', KEYS[1], 'v', 's', 'o', 'f', 'a', 'n', 'l', 'e')
local version, state, owner, fingerprint = r[1], r[2], r[3], r[4]
local attempt, fence, lease_ends, previous_expires = tonumber(r[5]), tonumber(r[6]), tonumber(r[7]), tonumber(r[8])

-- A claim stays visible for ARGV[4] after its lease, and at least as long as the completed record beneath it.
local function expire()
  local keep = ARGV[3] + ARGV[4]
  if previous_expires then keep = math.max(keep, previous_expires - now) end
  redis.call('PEXPIRE', KEYS[1], string.format('%.0f', keep))
end

local function claim(attempt, fence, taken_over)
  fence = math.max(now_us, fence + 1)
  local now_text = string.format('%.0f', now)
  redis.call('HSET', KEYS[1], 'v', '1', 's', 'I', 'o', ARGV[1], 'f', ARGV[2], 'a', attempt,
    'n', string.format('%.0f', fence), 'l', string.format('%.0f', now + ARGV[3]), 't', taken_over, 'u', now_text)
  expire()
  redis.pcall('HSETNX', KEYS[1], 'c', now_text)
  return {'A', attempt, fence, taken_over, ARGV[5] == 'rerun' and redis.call('HGET', KEYS[1], 'r')}
end

if not version then
  if redis.call('EXISTS', KEYS[1]) == 1 then return {'C'} end
  return claim(1, 0, 0)
end
if version ~= '1' then return {'C'} end
if not (owner and fingerprint and attempt and fence and (state == 'D' or lease_ends)) then return {'C'} end
if fingerprint ~= ARGV[2] then return {'M'} end

if state == 'I' and owner ~= ARGV[1] and lease_ends <= now and ARGV[5] == 'replay' and previous_expires then
  -- A manual owner was lost over a completed record: everybody else gets that record, while it lasts.
  if previous_expires <= now then
    redis.call('DEL', KEYS[1])
    previous_expires = nil
    return claim(1, fence, 0)
  end
  redis.call('HDEL', KEYS[1], '_') -- as in complete.lua
  redis.call('HSET', KEYS[1], 's', 'D', 'o', redis.call('HGET', KEYS[1], 'p'))
  redis.call('HDEL', KEYS[1], 'l', 'e', 'p', 't')
  redis.call('PEXPIREAT', KEYS[1], string.format('%.0f', previous_expires))
  state = 'D'
end

if state == 'D' then
  if ARGV[5] == 'replay' then
    -- Only operators see these two, so an answer must not fail for them.
    redis.pcall('HSET', KEYS[1], 'u', string.format('%.0f', now))
    redis.pcall('HINCRBY', KEYS[1], 'k', 1)
    return {'R', redis.call('HGET', KEYS[1], 'r'), redis.call('PTTL', KEYS[1])}
  end
  -- The record stays beneath the claim, with its own expiry and owner.
  local left = redis.call('PTTL', KEYS[1])
  if left < 0 then left = ARGV[4] end
  previous_expires = now + left
  redis.call('HSET', KEYS[1], 'e', string.format('%.0f', previous_expires), 'p', owner)
  return claim(attempt + 1, fence, 0)
end

if owner == ARGV[1] then
  -- The same call once more: its first answer was lost.
  redis.call('HSET', KEYS[1], 'l', string.format('%.0f', now + ARGV[3]))
  expire()
  return {'A', attempt, fence, tonumber(redis.call('HGET', KEYS[1], 't')), redis.call('HGET', KEYS[1], 'r')}
end
if lease_ends > now then return {'P', lease_ends - now} end
if ARGV[6] == 'reject' then return {'X'} end
if previous_expires and previous_expires <= now then
  redis.call('HDEL', KEYS[1], 'r', 'e', 'p')
  previous_expires = nil
end
return claim(attempt + 1, fence, 1)
