-- The operations of a store on one bucket: ask, leave, settle, adjust. The lines above
-- have defined clock, the time of the server in ticks.
--
-- KEYS[1] is the key of the bucket. The arguments are words:
--   ask     <units> <lease id> <need> <want> <max wait> <slot> <defined> <limits> <settlements>
--   leave   <units> <lease id> <need> <slot>
--   settle  <units> <settlements>
--   adjust  <units> <client> <number> <timeout> <return> <since> <charge> <empty> <defined> <limits>
-- A need, want, return, charge or spent is a word for each of the units. Settlements
-- are their number, then for each one lease id and spent. Limits are one word: see
-- limited in bucket.lua. A slot is 0, or that of the last answer.
--
-- The answer is one string:
--   grant   <now> <level> <ttl> <granted> [<unit> <ready> <n> <per>]...
--   wait    <now> <level> <delay until the next ask> <slot>
--   refuse  <now> <level> <retry after>
--   burst   <limits>    the need exceeds the burst of the limits in force
--   freed   settle: the first ask of the queue may be granted now
--   ok      settle, adjust, leave
-- A level or granted is units, then a number for each of them. A level has the limited
-- units. ttl, ready and delays count from now.
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
-- The field q is "<tail> <skipped> <units>", then a line for each entry: lease id,
-- slot, retry, need, hope. A need or hope is a number for each of the units.

-- time returns the time of the bucket, which does not step back when the server's
-- clock does. After a small step it stands still until the clock has caught up. After
-- a step of more than MAX_STEP it goes on from its last value.
local function time(b)
  if not b then return clock end
  if b.now - b.behind - clock > MAX_STEP then b.behind = b.now - clock end
  return max(clock + b.behind, b.now)
end

-- entry returns an entry of the queue from its line and the words of it. The words of
-- need and hope remain texts until costs reads them.
local function entry(saved, id, slot, retry, ...)
  return saved and {saved = saved, id = id, slot = tonumber(slot), retry = tonumber(retry), ...}
end

-- parseQueue returns the saved queue without lapsed entries.
local function parseQueue(s, now)
  local q = {tail = 0, skipped = 0, units = '-', list = {}}
  if not s then return q end
  local tail, skipped, set = string.match(s, '^(%S+) (%S+) (%S+)')
  q.tail, q.skipped, q.units, q.list = tonumber(tail), tonumber(skipped), set, unitsIn(set)
  -- A for statement could not take all words. The state is for miniredis.
  local lines, state = string.gmatch(s, '\n((%S+) (%S+) (%S+)' .. string.rep(' (%S+)', 2 * #q.list) .. ')')
  local e = entry(lines(state))
  while e do
    if now <= e.retry + GRACE then
      q[#q + 1] = e
    else
      q.changed = true
    end
    e = entry(lines(state))
  end
  return q
end

-- costs adds the need and the hope of an entry that was parsed to two costs.
local function costs(q, e, need, hope)
  local n = #q.list
  for i = 1, n do
    local u = q.list[i]
    need[u] = need[u] + tonumber(e[i])
    hope[u] = hope[u] + tonumber(e[n + i])
  end
end

local function saveQueue(q, now)
  if not q.changed then return end
  if #q == 0 and q.tail + q.skipped <= now then
    redis.call('HDEL', key, 'q')
    return
  end
  local lines = {text(q.tail) .. ' ' .. text(q.skipped) .. ' ' .. q.units}
  for _, e in ipairs(q) do
    local line = e.saved
    if not line then
      local f = {e.id, text(e.slot), text(e.retry)}
      if q.units ~= '-' then
        put(f, q.units, e.need)
        put(f, q.units, e.hope)
      end
      line = table.concat(f, ' ')
    end
    lines[#lines + 1] = line
  end
  redis.call('HSET', key, 'q', table.concat(lines, '\n'))
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
  local need, hope = uniform(0), uniform(0)
  for i = 1, at - 1 do costs(q, q[i], need, hope) end
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

-- widen adds the units of a set to those of the queue.
local function widen(q, set)
  local us = union(q.units, set)
  if us == q.units then return end
  for _, e in ipairs(q) do
    e.saved, e.need, e.hope = nil, uniform(0), uniform(0)
    costs(q, e, e.need, e.hope)
  end
  q.units, q.list = us, unitsIn(us)
end

-- enqueue inserts entry e at a position. If the queue is full, its last entry becomes a
-- waiter without one.
local function enqueue(q, at, e)
  widen(q, given)
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
-- that is worth an exchange: the holder's part of half the horizon. Both are of the
-- given units.
local function fairShare(b, holders, room)
  local least, part = uniform(math.huge), uniform(0)
  for _, r in ipairs(b.rates) do
    local n = muldiv((r.horizon - fmod(r.horizon, 2)) / 2, r.n, r.per, false)
    least[r.u] = min(least[r.u], (n - fmod(n, holders)) / holders)
  end
  for i = 1, #units do
    local u = units[i]
    part[u] = max(math.floor(room[u] / holders), least[u])
  end
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

-- short reports whether c is short of d in a limited unit.
local function short(b, c, d)
  for _, r in ipairs(b.rates) do
    if c[r.u] < d[r.u] then return true end
  end
  return false
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
  local at, had, total, hopes = dequeue(q, id, slot) -- of the asks before this one
  local new = not had and slot == 0
  local probe = not had and slot > now
  local behind = new and q.tail > now -- after waiters without an entry
  local promise = some(need)

  if held(id) or not fits(b, need) then return grant(b, now, id, need, want, ttl), b end

  raise(want, need)
  local available = room(b, now, promise)
  local part, least = fairShare(b, countHolders(b, q, id), promise and available or room(b, now, true))
  local offer, hope = share(need, want, part), uniform(0)
  for i = 1, #units do
    local u = units[i]
    offer[u] = max(min(offer[u], available[u] - total[u]), need[u])
    hope[u] = max(min(want[u], least[u]), need[u])
    total[u] = total[u] + need[u]
    hopes[u] = hopes[u] + hope[u]
  end

  -- An ask that may wait is granted once it can have what it hopes for, as long as the
  -- refill alone brings that, and all asks before it could have theirs, too.
  local delay = 0 -- until it asks again
  if promise and maxWait > 0 and not probe then delay = refill(b, now, hopes, true) end
  if behind then
    delay = max(delay, refill(b, now, total, true), later(q.tail, refillTime(b, need)) - now)
  end
  local newSlot = now + delay
  if slot > 0 then newSlot = min(newSlot, slot) end
  if short(b, available, total) or behind or not promise and at > 1 then
    local soonest = refill(b, now, total, false)
    if probe then delay, newSlot = slot - now, slot end
    if behind then soonest = max(soonest, delay) end
    if not promise or maxWait <= 0 or soonest > maxWait and new then
      -- An ask that waits already goes on: leases may be settled.
      local first = promise and total or oneOfEach(want)
      return refused(b, now, max(soonest, wait(b, now, first, promise))), b
    end
    if delay <= 0 then delay = retrySoon(b, need, at, now - newSlot) end
  end
  if delay <= 0 then
    if probe then moveTail(q, max(q.tail - refillTime(b, need), now)) end
    return lend(b, now, id, need, offer, ttl), b
  end
  if behind then
    moveTail(q, newSlot)
  elseif not probe then
    enqueue(q, at, {id = id, need = need, hope = hope, slot = newSlot, retry = now + min(delay, maxWait)})
  end
  local f = {'wait', text(now)}
  putLevel(f, b, now)
  f[#f + 1] = text(min(delay, maxWait))
  f[#f + 1] = text(newSlot + q.skipped)
  return table.concat(f, ' '), b
end

-- leave returns the lease that an ask may have been granted, and frees its entry or
-- slot.
local function leave(b, now, q)
  local id, need, slot = word(), cost(), number() - q.skipped
  if not b then return 'ok' end
  local granted = held(id) ~= nil
  settle(b, now, id, uniform(0))
  local _, had = dequeue(q, id, slot)
  if slot > now and not had and not granted then moveTail(q, max(q.tail - refillTime(b, need), now)) end
  return 'ok', b
end

-- settleAll answers whether the first ask of the queue may be granted now.
local function settleAll(b, now, q)
  local freed = false
  local first = q[1]
  local need = uniform(0)
  if first then costs(q, first, need, uniform(0)) end
  local full = b and first and over(b, need)
  for _ = 1, number() do
    local id, spent = word(), cost()
    if b and settle(b, now, id, spent) then freed = true end
  end
  if full and not over(b, need) then freed = true end
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
takeUnits()
local b, saved, refusal = load()
if refusal then return redis.error_reply(refusal) end
local now = time(b)
local q = parseQueue(saved, now)
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
