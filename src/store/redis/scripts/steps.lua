-- Tells the steps of a record. Changes nothing.
--
-- Replies {'K', steps…} · {'N'} there is no record · {'C'} a foreign value
local r, foreign = read()
if foreign then return {'C'} end
if not r then return {'N'} end
local reply = {'K'}
for _, part in ipairs(steps(r.steps)) do reply[#reply + 1] = part end
return reply
