-- The operations of a store on one bucket: ask, leave, settle, adjust. The lines above
-- have defined clock, the time of the server in ticks.
--
-- KEYS[1] is the key of the bucket. The arguments are words:
--   ask     <lease id> <need> <want> <max wait> <slot> <defined> <limits> <settlements>
--   leave   <lease id> <need> <slot>
--   settle  <settlements>
--   adjust  <client> <number> <timeout> <return> <since> <charge> <empty> <defined> <limits>
-- A need, want, return or charge is two words, requests and tokens. Settlements are
-- their number, then for each one lease id, spent requests and spent tokens. Limits
-- are one word: see limited in bucket.lua. A slot is 0, or that of the last answer.
--
-- The answer is one string:
--   grant   <now> <level> <level> <ttl> <granted> <granted> [<unit> <ready> <n> <per>]...
--   wait    <now> <level> <level> <delay until the next ask> <slot>
--   refuse  <now> <level> <level> <retry after>
--   burst   <limits>    the need exceeds the burst of the limits in force
--   freed   settle: the first ask of the queue may be granted now
--   ok      settle, adjust, leave
-- The first value of a pair is for requests, the second for tokens. ttl, ready and
-- delays count from now.
--
-- The queue. Redis cannot call a waiting ask, so each one asks again at a time of its
-- own. Words:
--   slot      the instant at which the refill serves a waiter, if no lease is returned;
--             it is the waiter's place in the order, even if it asks late
--   retry     the instant at which a waiter asks again; its entry lapses GRACE after it
--   hope      what a waiter would take if it were first: its need, or what is worth an
--             exchange
--   tail      the last slot that was given to a waiter without an entry, because the
--             queue was full
--   skipped   the time by which slots without an entry were moved forward; a slot in
--             an answer includes it
--   probe     an ask that comes before its slot and has no entry, in case others left
--
-- The field q is "<tail> <skipped>", then a line for each entry: lease id, need, hope
-- (two numbers each), slot, retry.

-- arguments, taken one after the other
local taken = 0
local function word()
  taken = taken + 1
  return ARGV[taken]
end
local function number() return tonumber(word()) end
local function cost() return {number(), number()} end

-- time returns the time of the bucket, which does not step back when the server's
-- clock does. After a small step it stands still until the clock has caught up. After
-- a step of more than MAX_STEP it goes on from its last value.
local function time(b)
  if not b then return clock end
  if b.now - b.behind - clock > MAX_STEP then b.behind = b.now - clock end
  return max(clock + b.behind, b.now)
end

-- loadQueue returns the queue without lapsed entries.
local function loadQueue(now)
  local q = {tail = 0, skipped = 0}
  local s = redis.call('HGET', key, 'q')
  if not s then return q end
  local tail, skipped = string.match(s, '^(%S+) (%S+)')
  q.tail, q.skipped = tonumber(tail), tonumber(skipped)
  for saved, id, n1, n2, h1, h2, slot, retry in string.gmatch(s, '\n((%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+))') do
    if now <= tonumber(retry) + GRACE then
      q[#q + 1] = {saved = saved, id = id, need = {tonumber(n1), tonumber(n2)}, hope = {tonumber(h1), tonumber(h2)}, slot = tonumber(slot), retry = tonumber(retry)}
    else
      q.changed = true
    end
  end
  return q
end

local function saveQueue(q, now)
  if not q.changed then return end
  if #q == 0 and q.tail + q.skipped <= now then
    redis.call('HDEL', key, 'q')
    return
  end
  local f = {text(q.tail) .. ' ' .. text(q.skipped)}
  for _, e in ipairs(q) do
    f[#f + 1] = e.saved or table.concat({e.id, text(e.need[1]), text(e.need[2]), text(e.hope[1]), text(e.hope[2]), text(e.slot), text(e.retry)}, ' ')
  end
  redis.call('HSET', key, 'q', table.concat(f, '\n'))
end

-- dequeue removes the entry of id, if there is one. It returns the position of the ask,
-- whether it had an entry, and the sums of the needs and hopes before it.
local function dequeue(q, id, slot)
  local at, had = #q + 1, false
  for i, e in ipairs(q) do
    if e.id == id then
      at, had = i, true
      break
    end
    if slot > 0 and slot < e.slot then at = min(at, i) end
  end
  if had then
    table.remove(q, at)
    q.changed = true
  end
  local need, hope = {0, 0}, {0, 0}
  for i = 1, at - 1 do
    for u = 1, 2 do
      need[u] = need[u] + q[i].need[u]
      hope[u] = hope[u] + q[i].hope[u]
    end
  end
  return at, had, need, hope
end

local function moveTail(q, t)
  q.tail, q.changed = t, true
end

-- skip moves the slots of waiters without an entry to now. That is right when the
-- queue is empty and the bucket is full: then slots have passed unused, since their
-- workers were killed. A live waiter loses nothing, since its slot has come, too.
local function skip(q, now)
  q.skipped = q.skipped + q.tail - now
  moveTail(q, now)
end

-- enqueue inserts entry e at a position. If the queue is full, its last entry becomes a
-- waiter without one.
local function enqueue(q, at, e)
  table.insert(q, at, e)
  q.changed = true
  if #q > QUEUE_CAP then
    local last = table.remove(q)
    moveTail(q, max(q.tail, last.slot, last.retry))
  end
end

-- countHolders counts the holders that have a lease or an entry, and the one that asks.
local function countHolders(b, q, id)
  local first = '#' .. holder(id)
  local fields, seen = {first}, {[first] = true}
  for _, e in ipairs(q) do
    local f = '#' .. holder(e.id)
    if not seen[f] then fields[#fields + 1], seen[f] = f, true end
  end
  local n = b.holders
  for _, leased in ipairs(redis.call('HMGET', key, unpack(fields))) do
    if not leased then n = n + 1 end
  end
  return n
end

-- fairShare returns how much of room one of several holders may have, and the least
-- that is worth an exchange: the holder's part of half the horizon.
local function fairShare(b, holders, room)
  local least = {math.huge, math.huge}
  for _, r in ipairs(b.rates) do
    local n = muldiv((r.horizon - fmod(r.horizon, 2)) / 2, r.n, r.per, false)
    least[r.u] = min(least[r.u], (n - fmod(n, holders)) / holders)
  end
  local part = {}
  for u = 1, 2 do part[u] = max(math.floor(room[u] / holders), least[u]) end
  return part, least
end

-- refillTime returns how long need takes to refill.
local function refillTime(b, need)
  local d = 0
  for _, r in ipairs(b.rates) do d = max(d, span(r, need[r.u])) end
  return d
end

-- retrySoon returns how long to wait for units that are available or leased to others,
-- who may return them at any time. Waiters retry one after the other, and less often
-- the longer they have waited.
local function retrySoon(b, need, at, waited)
  local d = refillTime(b, need)
  return min(max(d, MIN_RETRY, waited), MAX_RETRY) + (at - 1) * min(d, MIN_RETRY)
end

-- ask decides, or answers when to ask again. Its settlements are applied in any case.
local function ask(b, now, q)
  local id, need, want, maxWait, slot = word(), cost(), cost(), number(), number()
  local defined, limits = word(), word()
  for _ = 1, number() do
    local done, spent = word(), cost()
    if b then settle(b, now, done, spent) end
  end
  b = open(b, now, limits, defined)
  if #q == 0 and q.tail > now and idle(b, now) then skip(q, now) end
  if slot > 0 then slot = slot - q.skipped end
  local at, had, needBefore, hopeBefore = dequeue(q, id, slot)
  local new = not had and slot == 0
  local probe = not had and slot > now
  local behind = new and q.tail > now -- after waiters without an entry
  local promise = need[1] > 0 or need[2] > 0

  if held(id) or not fits(b, need) then return grant(b, now, id, need, want, ttl), b end

  local total = {needBefore[1] + need[1], needBefore[2] + need[2]}
  local available = room(b, now, promise)
  local part, least = fairShare(b, countHolders(b, q, id), room(b, now, true))
  local offer = share(need, {max(want[1], need[1]), max(want[2], need[2])}, part)
  for u = 1, 2 do offer[u] = max(min(offer[u], available[u] - needBefore[u]), need[u]) end

  -- An ask that may wait is granted once it can have what it hopes for, as long as the
  -- refill alone brings that, and all asks before it could have theirs, too.
  local delay = 0 -- until it asks again
  local hope = {max(min(want[1], least[1]), need[1]), max(min(want[2], least[2]), need[2])}
  if promise and maxWait > 0 and not probe then delay = refill(b, now, {hopeBefore[1] + hope[1], hopeBefore[2] + hope[2]}, true) end
  if behind then
    delay = max(delay, refill(b, now, total, true), later(q.tail, refillTime(b, need)) - now)
  end
  local newSlot = now + delay
  if slot > 0 then newSlot = min(newSlot, slot) end
  if available[1] < total[1] or available[2] < total[2] or behind or not promise and at > 1 then
    local soonest = refill(b, now, total, false)
    if probe then delay, newSlot = slot - now, slot end
    if behind then soonest = max(soonest, delay) end
    if not promise or maxWait <= 0 or soonest > maxWait and new then
      -- An ask that waits already goes on: leases may be settled.
      local first = total
      if not promise then first = {min(want[1], 1), min(want[2], 1)} end
      return refused(b, now, max(soonest, wait(b, now, first, promise))), b
    end
    if delay <= 0 then delay = retrySoon(b, need, at, now - newSlot) end
  end
  if delay <= 0 then
    if probe then moveTail(q, max(q.tail - refillTime(b, need), now)) end
    return grant(b, now, id, need, offer, ttl), b
  end
  if behind then
    moveTail(q, newSlot)
  elseif not probe then
    enqueue(q, at, {id = id, need = need, hope = hope, slot = newSlot, retry = now + min(delay, maxWait)})
  end
  local c = level(b, now)
  return table.concat({'wait', text(now), text(c[1]), text(c[2]), text(min(delay, maxWait)), text(newSlot + q.skipped)}, ' '), b
end

-- leave returns the lease that an ask may have been granted, and frees its entry or
-- slot.
local function leave(b, now, q)
  local id, need, slot = word(), cost(), number() - q.skipped
  if not b then return 'ok' end
  local granted = held(id) ~= nil
  settle(b, now, id, {0, 0})
  local _, had = dequeue(q, id, slot)
  if slot > now and not had and not granted then moveTail(q, max(q.tail - refillTime(b, need), now)) end
  return 'ok', b
end

-- settleAll answers whether the first ask of the queue may be granted now.
local function settleAll(b, now, q)
  local freed = false
  local first = q[1]
  local full = b and first and over(b, first.need)
  for _ = 1, number() do
    local id, spent = word(), cost()
    if b and settle(b, now, id, spent) then freed = true end
  end
  if full and not over(b, first.need) then freed = true end
  return freed and 'freed' or 'ok', b
end

-- forget removes the records of clients whose last adjustment is long ago. It runs at
-- most once in RETENTION.
local function forget(now)
  if now < (tonumber(redis.call('HGET', key, '@')) or 0) then return end
  local all = redis.call('HGETALL', key)
  for i = 1, #all, 2 do
    local known = string.match(all[i], '^@.') and string.match(all[i + 1], '%S+$')
    if known and tonumber(known) < now then redis.call('HDEL', key, all[i]) end
  end
  redis.call('HSET', key, '@', text(now + RETENTION))
end

-- adjustOnce applies an adjustment once, however often it arrives within its timeout
-- and RETENTION. A client sends one at a time and numbers them.
local function adjustOnce(b, now)
  local client, seq, timeout = '@' .. word(), number(), number()
  local a = {returned = cost(), since = number(), charge = cost(), empty = number()}
  local defined, limits = word(), word()
  local last = redis.call('HGET', key, client)
  if last and tonumber(string.match(last, '^%S+')) >= seq then return 'ok', b end
  b = open(b, now, limits, defined)
  adjust(b, now, a)
  forget(now)
  redis.call('HSET', key, client, text(seq) .. ' ' .. text(later(now, timeout + RETENTION)))
  return 'ok', b
end

local ops = {ask = ask, leave = leave, settle = settleAll, adjust = adjustOnce}

local op = ops[word()]
local b = load()
local now = time(b)
local q = loadQueue(now)
local answer
answer, b = op(b, now, q)
if b then
  saveQueue(q, now)
  save(b)
  -- A bucket that is full and has no leases is the same as none.
  local idle = max(b.last, full(b), now, q.tail + q.skipped)
  for _, e in ipairs(q) do idle = max(idle, e.retry) end
  redis.call('PEXPIREAT', key, text(math.floor((idle - b.behind + RETENTION) * (tick / 1e6))))
end
return answer
