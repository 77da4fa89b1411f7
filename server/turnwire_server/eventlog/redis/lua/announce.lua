-- Who follows conversations on this node, for a while. ARGV: keep in ms, then for each: T/C, users (packed list).
local tag = ARGV[1]
incarnation(tag)
for i = 6, #ARGV, 2 do
  local key = tag .. 'w:' .. ARGV[i]
  if #cmsgpack.unpack(ARGV[i + 1]) == 0 then
    redis.call('HDEL', key, OWNER)
  else
    redis.call('HSET', key, OWNER, cmsgpack.pack({int(NOW + tonumber(ARGV[5])), ARGV[i + 1]}))
    redis.call('PEXPIRE', key, ARGV[5])
  end
end
return 1
