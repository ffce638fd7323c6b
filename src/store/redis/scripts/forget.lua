-- Removes a record that nobody holds. Like `begin`, it notes a lease that is over.
--
-- Replies {'K'} removed · {'N'} there was none · {'P'} an owner holds it, or is waited for
local r, foreign = read()
if not (r or foreign) then return {'N'} end
if r and r.state ~= 'D' and awaited(r) then return {'P'} end
redis.call('DEL', KEY)
return {'K'}
