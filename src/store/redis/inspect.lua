-- Tells what is known of a record. Changes nothing.
--
-- KEYS[1] the record
-- Replies {state, attempt, ms left, response, owner, replays, first seen in ms, last seen in ms}
--           state: 'D' completed · 'P' in flight · 'X' owner lost; ms left: of the lease, else of the record
--         {'N'}  there is none
--         {'C'}  a record of another version
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local r = redis.call('HMGET', KEYS[1], 'v', 's', 'a', 'l', 'r', 'o', 'k', 'c', 'u')
if not r[1] then return {'N'} end
if r[1] ~= '1' then return {'C'} end
local keep = redis.call('PTTL', KEYS[1])
local function reply(state, left, response)
  return {state, tonumber(r[3]), left, response, r[6], tonumber(r[7] or 0), tonumber(r[8] or 0), tonumber(r[9] or 0)}
end
if r[2] == 'D' and r[3] then return reply('D', keep, r[5]) end
if not r[3] or not r[4] then return {'C'} end
local left = r[4] - now
if left > 0 then return reply('P', left, false) end
return reply('X', keep, false)
