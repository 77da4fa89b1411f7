-- Compare and set: the server is another one, or has begun anew, since this partition was last used (DESIGN, Epoch).
-- ARGV: random, keep ('1': the server loses nothing over a restart, redis_durability = always).
local tag = ARGV[1]
local meta = redis.call('HMGET', tag .. 'meta', 'replid', 'inc')
if meta[1] == REPLID then return {meta[2], '0'} end
if meta[1] and ARGV[6] == '1' then
  redis.call('HSET', tag .. 'meta', 'replid', REPLID)
  return {meta[2], '0'}
end
redis.call('HSET', tag .. 'meta', 'replid', REPLID, 'inc', ARGV[5], 'since', int(NOW), 'ready', '0')
publish(tag, {OWNER, 'd'})
return {ARGV[5], '1'}
