-- Who follows conversations on this node, for a while. ARGV: keep in ms, then for each: T/C, the version that the changes
-- go on from ('': these are all), version, users (packed list of {user, age in ms or -1, state, instances}), those who
-- left (packed list). Answer: for each the nodes that have somebody there, and their versions.
local tag, keep = ARGV[1], tonumber(ARGV[5])
incarnation(tag)
local out = {}
for i = 6, #ARGV, 5 do
  local name, base, version = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local nodes, here = tag .. 'w:' .. name, tag .. 'x:' .. name .. '/' .. OWNER
  local said = redis.call('HGET', nodes, OWNER)
  local known = said and cmsgpack.unpack(said)[2] or ''
  -- Both keys end at the same time; one that is gone alone was taken away by hand.
  if redis.call('EXISTS', here) == 0 then known = '' end
  if known ~= version and (base == '' or base == known) then
    if base == '' then redis.call('DEL', here) end
    for _, user in ipairs(cmsgpack.unpack(ARGV[i + 3])) do
      local at = user[2] < 0 and '' or int(NOW - user[2])
      redis.call('HSET', here, user[1], cmsgpack.pack({at, user[3], user[4]}))
    end
    for _, user in ipairs(cmsgpack.unpack(ARGV[i + 4])) do redis.call('HDEL', here, user) end
    publish(tag, {OWNER, 'p', name, base, version, ARGV[i + 3], ARGV[i + 4]})
    known = version
  end
  if redis.call('EXISTS', here) == 0 then
    redis.call('HDEL', nodes, OWNER)
  elseif known == version then
    redis.call('HSET', nodes, OWNER, cmsgpack.pack({int(NOW + keep), version}))
    redis.call('PEXPIRE', nodes, keep)
    redis.call('PEXPIRE', here, keep)
  end
  local versions, flatly = {}, redis.call('HGETALL', nodes)
  for j = 1, #flatly, 2 do
    local node = cmsgpack.unpack(flatly[j + 1])
    if tonumber(node[1]) >= NOW then
      versions[#versions + 1], versions[#versions + 2] = flatly[j], node[2]
    else
      redis.call('HDEL', nodes, flatly[j])
    end
  end
  out[#out + 1] = versions
end
return out
