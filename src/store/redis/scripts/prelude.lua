-- The beginning of every script: the layout of a record, and the steps of its life that several scripts share.
--
-- KEYS[1] the record: one hash
--
-- There is no shebang on purpose: without one, Redis at maxmemory still answers reads, and refuses only the writes of a
-- new claim.
local KEY = KEYS[1]

-- The layout that this process writes, and another one that it reads, if there is one.
local WRITES, READS = '@WRITES@', '@READS@'

local time = redis.call('TIME')
local now_us = time[1] * 1000000 + time[2]
local now = math.floor(now_us / 1000)

local function text(number) return string.format('%.0f', number) end

-- Deletes nothing. It is a write that maxmemory allows, and after it Redis lets the writes of the script pass at maxmemory
-- too: an operation that has run must not lose its response.
local function write_at_maxmemory() redis.call('HDEL', KEY, '_') end

local STATES = {I = true, L = true, D = true, X = true, F = true}

-- The record, or nil. A second value `true` means that the key holds something else.
local function read()
  local f = redis.call('HMGET', KEY, 'v', 's', 'o', 'f', 'a', 'n', 'l', 'g', 'q', 'x', 'm', 'e', 'j', 'b')
  if not f[1] then return nil, redis.call('EXISTS', KEY) == 1 end
  local r = {version = f[1], state = f[2], owner = f[3], fingerprint = f[4], attempt = tonumber(f[5]),
    fence = tonumber(f[6]), ends = tonumber(f[7]), grace = tonumber(f[8] or 0), keep = tonumber(f[9] or 0),
    lost = f[10] == '1', completions = tonumber(f[11] or 0), previous = tonumber(f[12]), steps = tonumber(f[13] or 0),
    acknowledged = f[14]}
  local known = r.version == WRITES or r.version == READS
  local whole = STATES[r.state or ''] and #(r.owner or '') == 16 and #(r.fingerprint or '') == 42 and r.attempt and r.fence
  if not (known and whole) or ((r.state == 'I' or r.state == 'L') and not r.ends) then return nil, true end
  return r
end

-- Whether two fingerprints are those of the same operation, and whether only their targets were compared.
local function compare(a, b)
  if a == b then return true, 0 end
  local other = a:sub(1, 2) ~= b:sub(1, 2) and a:sub(3, 10) == b:sub(3, 10)
  return other, other and 1 or 0
end

local function is_held(r, token)
  return (r.state == 'I' or r.state == 'L') and r.owner == token and r.version == WRITES
end

-- An unfinished record is kept for so many ms, and at least as long as the completed record beneath it.
local function keep_for(ms, previous)
  if previous then ms = math.max(ms, previous - now) end
  redis.call('PEXPIRE', KEY, text(math.max(ms, 1)))
end

-- How many ms the owner is waited for, and 1 when that is within the grace. Notes a lease that is over. Nil: nobody holds
-- the record. A claim of the other layout is not written into, so it has no grace.
local function awaited(r)
  if r.state == 'I' and r.ends > now then return r.ends - now, 0 end
  if r.version ~= WRITES then return nil end
  if r.state == 'I' then
    r.state, r.ends = 'L', now + r.grace
    write_at_maxmemory()
    redis.call('HSET', KEY, 's', 'L', 'l', text(r.ends))
    keep_for(r.keep, r.previous)
  end
  if r.state == 'L' and r.ends > now then return r.ends - now, 1 end
end

-- The completed record comes out from beneath the claim. Attempt, lost owner and steps stay.
local function uncover(r, lost)
  r.owner = redis.call('HGET', KEY, 'p')
  redis.call('HSET', KEY, 's', 'D', 'o', r.owner, 'x', lost and '1' or '0')
  redis.call('HDEL', KEY, 'l', 'g', 'q', 'e', 'p', 'w')
  redis.call('PEXPIREAT', KEY, text(r.previous))
end

-- The steps: name, result and moment of each, one after the other. A result of `false`: the step was started.
local function steps(count)
  local fields = {}
  for n = 1, count do
    fields[3 * n - 2], fields[3 * n - 1], fields[3 * n] = 'J' .. n, 'R' .. n, 'T' .. n
  end
  return count > 0 and redis.call('HMGET', KEY, unpack(fields)) or {}
end

local function forget_steps(count)
  for n = 1, count do redis.call('HDEL', KEY, 'J' .. n, 'R' .. n, 'T' .. n) end
  redis.call('HDEL', KEY, 'j')
end
