-- What a tenant uses; see quotas.base. All its keys have one hash tag.
-- KEYS: window (hash of r<second> and t<second>), holds (hash: tokens nano second), expiry of holds (sorted set),
--       money (hash: day, month (starts in days), dn, mn, held, at, gen, sn (settled in this generation))
-- ARGV: step, now in ms or '', request, then by step
local WINDOW = 60
local step, request = ARGV[1], ARGV[3]
local now = tonumber(ARGV[2])
if not now then
  local t = redis.call('TIME')
  now = t[1] * 1000 + math.floor(t[2] / 1000)
end
local second, today = math.floor(now / 1000), math.floor(now / 86400000)

local function int(number)
  return string.format('%.0f', number)
end

-- The first days of this month and the next one, counted from the epoch (proleptic Gregorian, Hinnant's days_from_civil).
local function days_of(year, month)
  if month <= 2 then year = year - 1 end
  local era = math.floor(year / 400)
  local of_era = year - era * 400
  local of_year = math.floor((153 * ((month + 9) % 12) + 2) / 5)
  return era * 146097 + of_era * 365 + math.floor(of_era / 4) - math.floor(of_era / 100) + of_year - 719468
end
local year = 1970 + math.floor(today / 365.2425)
if days_of(year, 1) > today then year = year - 1 elseif days_of(year + 1, 1) <= today then year = year + 1 end
local month = 1
while month < 12 and days_of(year, month + 1) <= today do month = month + 1 end
local this_month = days_of(year, month)
local next_month = month == 12 and days_of(year + 1, 1) or days_of(year, month + 1)

local money = {}
local found = redis.call('HGETALL', KEYS[4])
for i = 1, #found, 2 do money[found[i]] = tonumber(found[i + 1]) end

local function set(name, value)
  money[name] = value
  redis.call('HSET', KEYS[4], name, int(value))
end
local function next_generation()
  set('gen', (money.gen or 0) + 1)
  set('sn', 0)
end
local function doubt()
  money.at = nil
  redis.call('HDEL', KEYS[4], 'at')
end

-- What is over is over.
local function split(hold)
  local tokens, nano, at = string.match(hold, '^(%d+) (%d+) (%d+)$')
  return tonumber(tokens), tonumber(nano), tonumber(at)
end
local function drop(id)
  local hold = redis.call('HGET', KEYS[2], id)
  if not hold then return nil end
  local tokens, nano, at = split(hold)
  redis.call('HDEL', KEYS[2], id)
  redis.call('ZREM', KEYS[3], id)
  set('held', (money.held or 0) - nano)
  return tokens, nano, at
end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', now, 'LIMIT', 0, 1000)) do
  drop(id)
  doubt()
  next_generation()
end
if money.day ~= today then
  -- The clock was set back (a fail-over): what this day has cost was forgotten.
  if money.day and today < money.day then doubt() end
  set('day', today)
  set('dn', 0)
  next_generation()
end
if money.month ~= this_month then
  set('month', this_month)
  set('mn', 0)
end

local used = {r = {}, t = {}}
found = redis.call('HGETALL', KEYS[1])
for i = 1, #found, 2 do
  local kind, at = string.sub(found[i], 1, 1), tonumber(string.sub(found[i], 2))
  -- What lies far ahead is of a clock that was set back since.
  if math.abs(at - second) > WINDOW then
    redis.call('HDEL', KEYS[1], found[i])
  else
    used[kind][at] = tonumber(found[i + 1])
  end
end
local function add(kind, at, amount)
  used[kind][at] = (used[kind][at] or 0) + amount
  redis.call('HSET', KEYS[1], kind .. int(at), int(used[kind][at]))
end
local function give_back(kind, at, amount)
  if used[kind][at] then add(kind, at, -amount) end
end
local function sum(kind)
  local total, newest = 0, nil
  for at, amount in pairs(used[kind]) do
    total = total + amount
    if amount > 0 and (not newest or at > newest) then newest = at end
  end
  return total, newest and (newest + WINDOW + 1) * 1000 - now or 0
end
local function room(kind, wanted, limit)
  local total, reset = sum(kind)
  local over = total + wanted - limit
  for at = second - WINDOW, second + WINDOW do
    over = over - (used[kind][at] or 0)
    if used[kind][at] and over <= 0 then return (at + WINDOW + 1) * 1000 - now end
  end
  return reset
end

local function standing(first, second_field, third)
  local requests, requests_reset = sum('r')
  local tokens, tokens_reset = sum('t')
  redis.call('PEXPIRE', KEYS[1], 2 * WINDOW * 1000)
  for i = 2, 4 do redis.call('PEXPIRE', KEYS[i], 2 * 86400000) end
  local answer = {first, second_field, third, int(now), int(requests), int(tokens), int(requests_reset), int(tokens_reset),
    int(money.dn or 0), int(money.mn or 0), int(money.held or 0),
    int((today + 1) * 86400000 - now), int(next_month * 86400000 - now)}
  return answer
end

if step == 'reserve' then
  local tokens, nano = tonumber(ARGV[4]), tonumber(ARGV[5])
  local rpm, tpm, day, mon = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
  local hold_ms, recount_ms = tonumber(ARGV[10]), tonumber(ARGV[11])
  if redis.call('HEXISTS', KEYS[2], request) == 1 then return standing('admitted', '', '0') end
  if (day or mon) and (not money.at or now - money.at > recount_ms) then
    standing('', '', '')
    return {'uncounted', int(money.gen or 0), int(money.sn or 0), int(today * 86400000), int(this_month * 86400000)}
  end
  if tpm and tokens > tpm then tokens = tpm end
  if rpm and sum('r') + 1 > rpm then
    return standing('refused', 'requests_per_minute', int(room('r', 1, rpm)))
  end
  if tpm and sum('t') + tokens > tpm then
    return standing('refused', 'tokens_per_minute', int(room('t', tokens, tpm)))
  end
  local held = (money.held or 0) + nano
  if day and (money.dn >= day or money.dn + held > day) then
    return standing('refused', 'budget_usd_per_day', int((today + 1) * 86400000 - now))
  end
  if mon and (money.mn >= mon or money.mn + held > mon) then
    return standing('refused', 'budget_usd_per_month', int(next_month * 86400000 - now))
  end
  add('r', second, 1)
  add('t', second, tokens)
  redis.call('HSET', KEYS[2], request, int(tokens) .. ' ' .. int(nano) .. ' ' .. int(second))
  redis.call('ZADD', KEYS[3], now + hold_ms, request)
  set('held', held)
  return standing('admitted', '', '0')
end

if step == 'settle' then
  local tokens, nano = tonumber(ARGV[4]), tonumber(ARGV[5])
  local held, _, at = drop(request)
  set('dn', money.dn + nano)
  set('mn', money.mn + nano)
  set('sn', (money.sn or 0) + nano)
  if not held then
    add('t', second, tokens)
    doubt()
    standing('', '', '')
    return {'unknown'}
  end
  if tokens < held then give_back('t', at, held - tokens) else add('t', second, tokens - held) end
  return standing('settled', '', '0')
end

if step == 'release' then
  local held, _, at = drop(request)
  if held then
    give_back('r', at, 1)
    give_back('t', at, held)
  end
  return {'released'}
end

-- count: generation and what was settled in it when the ledger was about to be read, then its sums of day and month
if tonumber(ARGV[4]) ~= (money.gen or 0) then return {'stale'} end
local since = (money.sn or 0) - tonumber(ARGV[5])
set('dn', tonumber(ARGV[6]) + since)
set('mn', tonumber(ARGV[7]) + since)
set('at', now)
standing('', '', '')
return {'counted'}
