-- May this request run?
-- KEYS[1] the record
-- ARGV: 1 token, 2 fingerprint, 3 lease in ms, 4 how long a lost claim stays in ms, 5 once | again, 6 rerun | reject
--
-- No shebang on purpose: at maxmemory reads still answer, and only the HSET of a new claim is refused.
local time = redis.call('TIME')
local now_us = time[1] * 1000000 + time[2]
local now = math.floor(now_us / 1000)

local r = redis.call('HMGET', KEYS[1], 'v', 's', 'o', 'f', 'a', 'n', 'l', 'e')
local version, state, owner, fingerprint = r[1], r[2], r[3], r[4]
local attempt, fence, lease_ends, beneath_ends = tonumber(r[5]), tonumber(r[6]), tonumber(r[7]), tonumber(r[8])

-- A claim stays visible as ARGV[4] says, and at least as long as the completed record beneath it.
local function expire()
  local keep = ARGV[3] + ARGV[4]
  if beneath_ends then keep = math.max(keep, beneath_ends - now) end
  redis.call('PEXPIRE', KEYS[1], string.format('%.0f', keep))
end

local function claim(attempt, fence, taken_over)
  fence = math.max(now_us, fence + 1)
  local now_text = string.format('%.0f', now)
  redis.call('HSET', KEYS[1], 'v', '1', 's', 'I', 'o', ARGV[1], 'f', ARGV[2], 'a', attempt,
    'n', string.format('%.0f', fence), 'l', string.format('%.0f', now + ARGV[3]), 't', taken_over, 'u', now_text)
  expire()
  redis.pcall('HSETNX', KEYS[1], 'c', now_text)
  return {'A', attempt, fence, taken_over, ARGV[5] == 'again' and redis.call('HGET', KEYS[1], 'r')}
end

if not version then
  if redis.call('EXISTS', KEYS[1]) == 1 then return {'C'} end
  return claim(1, 0, 0)
end
if version ~= '1' then return {'C'} end
if not (owner and fingerprint and attempt and fence and (state == 'D' or lease_ends)) then return {'C'} end
if fingerprint ~= ARGV[2] then return {'M'} end

if state == 'I' and owner ~= ARGV[1] and lease_ends <= now and ARGV[5] == 'once' and beneath_ends then
  -- A manual owner was lost over a completed record: that is the answer to everybody else, while it lasts.
  if beneath_ends <= now then
    redis.call('DEL', KEYS[1])
    beneath_ends = nil
    return claim(1, fence, 0)
  end
  redis.call('HDEL', KEYS[1], '_') -- as in complete.lua
  redis.call('HSET', KEYS[1], 's', 'D', 'o', redis.call('HGET', KEYS[1], 'p'))
  redis.call('HDEL', KEYS[1], 'l', 'e', 'p', 't')
  redis.call('PEXPIREAT', KEYS[1], string.format('%.0f', beneath_ends))
  state = 'D'
end

if state == 'D' then
  if ARGV[5] == 'once' then
    -- Only told to operators: an answer must not fail for it.
    redis.pcall('HSET', KEYS[1], 'u', string.format('%.0f', now))
    redis.pcall('HINCRBY', KEYS[1], 'k', 1)
    return {'R', redis.call('HGET', KEYS[1], 'r'), redis.call('PTTL', KEYS[1])}
  end
  -- The record stays beneath the claim, with its own end and owner.
  local left = redis.call('PTTL', KEYS[1])
  if left < 0 then left = ARGV[4] end
  beneath_ends = now + left
  redis.call('HSET', KEYS[1], 'e', string.format('%.0f', beneath_ends), 'p', owner)
  return claim(attempt + 1, fence, 0)
end

if owner == ARGV[1] then
  -- The same call once more: its answer was lost.
  redis.call('HSET', KEYS[1], 'l', string.format('%.0f', now + ARGV[3]))
  expire()
  return {'A', attempt, fence, tonumber(redis.call('HGET', KEYS[1], 't')), redis.call('HGET', KEYS[1], 'r')}
end
if lease_ends > now then return {'P', lease_ends - now} end
if ARGV[6] == 'reject' then return {'X'} end
if beneath_ends and beneath_ends <= now then
  redis.call('HDEL', KEYS[1], 'r', 'e', 'p')
  beneath_ends = nil
end
return claim(attempt + 1, fence, 1)
