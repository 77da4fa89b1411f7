-- What this node owns and does not run becomes an orphan, as if the node had died. ARGV: tenant, request.
local tag, id = ARGV[1], ARGV[5] .. '/' .. ARGV[6]
incarnation(tag)
if redis.call('HGET', tag .. 'r:' .. id, 'owner') == OWNER then
  redis.call('HSET', tag .. 'r:' .. id, 'owner', '-')
  own(tag, id, OWNER, '-')
  publish_orphan(tag)
end
return 1
