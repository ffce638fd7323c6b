-- Saves a step, or its result.
--
-- ARGV    1 token · 2 most steps · 3 name · 4 result: '0', or '1' and its bytes · 5 moment in ms, 0: not known
-- Replies {'K'} saved · {'F'} the record has too many steps · {'S'} this token does not hold the claim
--         {'G'} there is no such record any more · {'C'} a foreign value
local r, foreign = read()
if foreign then return {'C'} end
if not r then return {'G'} end
if not is_held(r, ARGV[1]) then return {'S'} end
local known = steps(r.steps)
local at = r.steps + 1
for n = 1, r.steps do
  if known[3 * n - 2] == ARGV[3] then
    -- The first result stays. An empty one says that the step had no effect, and does not stay.
    local result = known[3 * n - 1]
    if result and result ~= '' then return {'K'} end
    if result and ARGV[4] == '0' then redis.call('HDEL', KEY, 'R' .. n) end
    at = n
  end
end
if at > tonumber(ARGV[2]) then return {'F'} end
if at > r.steps then redis.call('HSET', KEY, 'J' .. at, ARGV[3], 'j', at) end
if ARGV[4] ~= '0' then redis.call('HSET', KEY, 'R' .. at, ARGV[4]:sub(2)) end
if ARGV[5] ~= '0' then redis.call('HSET', KEY, 'T' .. at, ARGV[5]) end
return {'K'}
