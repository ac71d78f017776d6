-- What a store does with a bucket: ask, settle, adjust, leave. The clock above
-- has set tick, in nanoseconds, and clock, in ticks.

local GRACE, MARGIN = 5e8 / tick, 6e10 / tick
local SOON = {1e7 / tick, 25e7 / tick}
local PLACES = 128 -- in line: each call reads all of it

-- arguments, taken one after the other
local taken = 0
local function word()
  taken = taken + 1
  return ARGV[taken]
end
local function number() return tonumber(word()) end
local function cost() return {number(), number()} end

-- The server's clock may step. Back by a little, the bucket's time stands still
-- meanwhile; back by much, it goes on from where it was.
local function time(b)
  if not b then return clock end
  if b.now - b.behind - clock > 2e9 / tick then b.behind = b.now - clock end
  return max(clock + b.behind, b.now)
end

-- Nobody is called at the server: who waits comes again at a time that was
-- handed out, to each its own. Its place in line is kept until a grace after
-- that. Who finds no place is told when the need of all before it will have been
-- restored, and comes for one then; tail is the last such time. All keep in mind
-- when their turn was to be, and so those who come late, or come for a place,
-- stand before those whose turn is later. What they keep in mind is ahead of the
-- clock by all that was skipped.
local function waiting(now)
  local q = {tail = 0, skipped = 0}
  local s = redis.call('HGET', key, 'q')
  if not s then return q end
  local tail, skipped = string.match(s, '^(%S+) (%S+)')
  q.tail, q.skipped = tonumber(tail), tonumber(skipped)
  for saved, id, n1, n2, h1, h2, turn, due in string.gmatch(s, '\n((%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+))') do
    if now <= tonumber(due) + GRACE then
      q[#q + 1] = {saved = saved, id = id, need = {tonumber(n1), tonumber(n2)}, hope = {tonumber(h1), tonumber(h2)}, turn = tonumber(turn), due = tonumber(due)}
    else
      q.changed = true
    end
  end
  return q
end

local function keep(q, now)
  if not q.changed then return end
  if #q == 0 and q.tail + q.skipped <= now then
    redis.call('HDEL', key, 'q')
    return
  end
  local f = {text(q.tail) .. ' ' .. text(q.skipped)}
  for _, e in ipairs(q) do
    f[#f + 1] = e.saved or table.concat({e.id, text(e.need[1]), text(e.need[2]), text(e.hope[1]), text(e.hope[2]), text(e.turn), text(e.due)}, ' ')
  end
  redis.call('HSET', key, 'q', table.concat(f, '\n'))
end

-- place takes id out of the line and returns where it stands, whether it had
-- that place, and what those before it need and hope for.
local function place(q, id, turn)
  local at, had = #q + 1, false
  for i, e in ipairs(q) do
    if e.id == id then
      at, had = i, true
      break
    end
    if turn > 0 and turn < e.turn then at = min(at, i) end
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

-- skip passes over the turns of those who have no place yet. It is done when
-- nobody is in line and the bucket is full: then turns have come and gone unused,
-- of workers that were killed. Who is alive loses nothing: to those who come from
-- now on, its turn has come already.
local function skip(q, now)
  q.skipped = q.skipped + q.tail - now
  moveTail(q, now)
end

-- insert puts e in line. The last one may lose its place.
local function insert(q, at, e)
  table.insert(q, at, e)
  q.changed = true
  if #q > PLACES then
    local last = table.remove(q)
    moveTail(q, max(q.tail, last.turn, last.due))
  end
end

-- sharers counts who holds leases or is in line, with the one who asks.
local function sharers(b, q, id)
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

-- fair is how much of a room one of several holders may have, and the least
-- that is worth coming for: its part of half the horizon.
local function fair(b, holders, room)
  local chunk = {math.huge, math.huge}
  for _, r in ipairs(b.rates) do
    local n = muldiv((r.horizon - fmod(r.horizon, 2)) / 2, r.n, r.per, false)
    chunk[r.u] = min(chunk[r.u], (n - fmod(n, holders)) / holders)
  end
  local part = {}
  for u = 1, 2 do part[u] = max(math.floor(room[u] / holders), chunk[u]) end
  return part, chunk
end

-- takes is how long need takes to be restored.
local function takes(b, need)
  local d = 0
  for _, r in ipairs(b.rates) do d = max(d, span(r, need[r.u])) end
  return d
end

-- soon is how long to wait for what is there, and leased to others, who may
-- settle at any time: one after the other, and the longer the longer it has been
-- in vain.
local function soon(b, need, at, vain)
  local d = takes(b, need)
  return min(max(d, SOON[1], vain), SOON[2]) + (at - 1) * min(d, SOON[1])
end

-- ask decides, or says when to come again. What has been settled is applied
-- whatever becomes of it. turn is when the turn of one who comes again was to be,
-- or 0.
local function ask(b, now, q)
  local id, need, want, patience, turn = word(), cost(), cost(), number(), number()
  local defined, limits = word(), word()
  for _ = 1, number() do
    local done, spent = word(), cost()
    if b then settle(b, now, done, spent) end
  end
  b = open(b, now, limits, defined)
  if #q == 0 and q.tail > now and idle(b, now) then skip(q, now) end
  if turn > 0 then turn = turn - q.skipped end
  local at, had, before, hopes = place(q, id, turn)
  local new = not had and turn == 0
  local early = not had and turn > now    -- looks whether others have left
  local behind = new and q.tail > now     -- those who have no place yet
  local promise = need[1] > 0 or need[2] > 0

  if held(id) or not fits(b, need) then return grant(b, now, id, need, want, ttl), b end

  local total = {before[1] + need[1], before[2] + need[2]}
  local there = room(b, now, promise)
  local part, chunk = fair(b, sharers(b, q, id), room(b, now, true))
  local most = share(need, {max(want[1], need[1]), max(want[2], need[2])}, part)
  for u = 1, 2 do most[u] = max(min(most[u], there[u] - before[u]), need[u]) end

  -- One who may wait comes when it can have what is worth an exchange, as long
  -- as refill alone brings that, and all before it could have that too.
  local due = 0
  local hope = {max(min(want[1], chunk[1]), need[1]), max(min(want[2], chunk[2]), need[2])}
  if promise and patience > 0 and not early then due = refill(b, now, {hopes[1] + hope[1], hopes[2] + hope[2]}, true) end
  if behind then
    due = max(due, refill(b, now, total, true), later(q.tail, takes(b, need)) - now)
  end
  local mine = now + due
  if turn > 0 then mine = min(mine, turn) end
  if there[1] < total[1] or there[2] < total[2] or behind or not promise and at > 1 then
    local least = refill(b, now, total, false)
    if early then due, mine = turn - now, turn end
    if behind then least = max(least, due) end
    if not promise or patience <= 0 or least > patience and new then
      -- Once it waits, it waits on: others may settle.
      local first = total
      if not promise then first = {min(want[1], 1), min(want[2], 1)} end
      return refused(b, now, max(least, wait(b, now, first, promise))), b
    end
    if due <= 0 then due = soon(b, need, at, now - mine) end
  end
  if due <= 0 then
    if early then moveTail(q, max(q.tail - takes(b, need), now)) end
    return grant(b, now, id, need, most, ttl), b
  end
  if behind then
    moveTail(q, mine)
  elseif not early then
    insert(q, at, {id = id, need = need, hope = hope, turn = mine, due = now + min(due, patience)})
  end
  local c = level(b, now)
  return table.concat({'wait', text(now), text(c[1]), text(c[2]), text(min(due, patience)), text(mine + q.skipped)}, ' '), b
end

-- leave takes back what an ask may have been granted, and its place or its turn.
local function leave(b, now, q)
  local id, need, turn = word(), cost(), number() - q.skipped
  if not b then return 'ok' end
  local granted = held(id) ~= nil
  settle(b, now, id, {0, 0})
  local _, had = place(q, id, turn)
  if turn > now and not had and not granted then moveTail(q, max(q.tail - takes(b, need), now)) end
  return 'ok', b
end

-- settled tells whether it may have let the first in line through.
local function settled(b, now, q)
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

-- forget drops what is known of clients that have long sent their last. It
-- looks through them once in a while.
local function forget(now)
  if now < (tonumber(redis.call('HGET', key, '@')) or 0) then return end
  local all = redis.call('HGETALL', key)
  for i = 1, #all, 2 do
    local known = string.match(all[i], '^@.') and string.match(all[i + 1], '%S+$')
    if known and tonumber(known) < now then redis.call('HDEL', key, all[i]) end
  end
  redis.call('HSET', key, '@', text(now + MARGIN))
end

-- adjusted applies an adjustment once, however often it comes within patience
-- and a margin: a client sends one at a time, and counts them.
local function adjusted(b, now)
  local client, seq, patience = '@' .. word(), number(), number()
  local a = {returned = cost(), since = number(), charge = cost(), empty = number()}
  local defined, limits = word(), word()
  local last = redis.call('HGET', key, client)
  if last and tonumber(string.match(last, '^%S+')) >= seq then return 'ok', b end
  b = open(b, now, limits, defined)
  adjust(b, now, a)
  forget(now)
  redis.call('HSET', key, client, text(seq) .. ' ' .. text(later(now, patience + MARGIN)))
  return 'ok', b
end

local ops = {ask = ask, leave = leave, settle = settled, adjust = adjusted}

local op = ops[word()]
local b = load()
local now = time(b)
local q = waiting(now)
local answer
answer, b = op(b, now, q)
if b then
  keep(q, now)
  save(b)
  -- Full and with nothing leased, it is the same as no bucket.
  local idle = max(b.last, full(b), now, q.tail + q.skipped)
  for _, e in ipairs(q) do idle = max(idle, e.due) end
  redis.call('PEXPIREAT', key, text(math.floor((idle - b.behind + MARGIN) * (tick / 1e6))))
end
return answer
