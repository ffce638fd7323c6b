-- Notes that enough replicas have the response. The note holds for this completion alone.
--
-- ARGV    1 token
-- Replies {'K'}
local r = read()
-- It only spares later replays the question, so a server that takes no writes is no error.
if r and r.state == 'D' and r.owner == ARGV[1] then redis.pcall('HSET', KEY, 'b', ARGV[1]) end
return {'K'}
