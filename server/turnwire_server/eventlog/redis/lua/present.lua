-- Who follows a conversation, on each node that said so lately. ARGV: T/C. Answer: {node, version, {user, packed {age in
-- ms or -1, state, instances}, …}, ms until it lapses} of each.
local tag, name = ARGV[1], ARGV[5]
incarnation(tag)
local out, nodes = {}, redis.call('HGETALL', tag .. 'w:' .. name)
for i = 1, #nodes, 2 do
  local node = cmsgpack.unpack(nodes[i + 1])
  if tonumber(node[1]) >= NOW then
    local users = redis.call('HGETALL', tag .. 'x:' .. name .. '/' .. nodes[i])
    for j = 2, #users, 2 do
      local said = cmsgpack.unpack(users[j])
      users[j] = cmsgpack.pack({said[1] == '' and -1 or math.max(0, NOW - tonumber(said[1])), said[2], said[3]})
    end
    out[#out + 1] = {nodes[i], node[2], users, int(tonumber(node[1]) - NOW)}
  end
end
return out
