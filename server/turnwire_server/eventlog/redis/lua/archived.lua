-- The archive has the ending. ARGV: tenant, request.
local tag, id = ARGV[1], ARGV[5] .. '/' .. ARGV[6]
incarnation(tag)
if redis.call('EXISTS', tag .. 'r:' .. id) == 1 then
  redis.call('HSET', tag .. 'r:' .. id, 'archived', '1')
  local conversation = redis.call('HGET', tag .. 'r:' .. id, 'conversation')
  redis.call('SREM', tag .. 'n:' .. ARGV[5] .. '/' .. conversation, ARGV[6])
  redis.call('ZADD', tag .. 'retention', int(NOW), 'r|' .. id)
end
redis.call('ZREM', tag .. 'u', id)
return 1
