-- Who follows a conversation, on any node that said so lately. ARGV: T/C. Answer: packed lists of users.
local tag = ARGV[1]
incarnation(tag)
local out = {}
for _, packed in ipairs(redis.call('HVALS', tag .. 'w:' .. ARGV[5])) do
  local said = cmsgpack.unpack(packed)
  if tonumber(said[1]) >= NOW then out[#out + 1] = said[2] end
end
return out
