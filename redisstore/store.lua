-- What a store does with a bucket: ask, settle, adjust, leave. The clock above
-- has set tick, in nanoseconds, and clock, in ticks.

local GRACE, MARGIN = 5e8 / tick, 6e10 / tick
local SOON = {1e7 / tick, 25e7 / tick}

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

-- The queue is no line at the server: who waits comes again at a time that was
-- handed out, to each its own. The place is kept until a grace after that.
local function waiting(now)
  local q, f = {}, {}
  for w in string.gmatch(redis.call('HGET', key, 'q') or '', '%S+') do f[#f + 1] = w end
  for i = 1, #f, 6 do
    local e = {id = f[i], need = {tonumber(f[i + 1]), tonumber(f[i + 2])}, hope = {tonumber(f[i + 3]), tonumber(f[i + 4])}, due = tonumber(f[i + 5])}
    if now <= e.due + GRACE then q[#q + 1] = e end
  end
  return q
end

local function keep(q)
  if #q == 0 then
    redis.call('HDEL', key, 'q')
    return
  end
  local f = {}
  for _, e in ipairs(q) do
    f[#f + 1] = e.id
    for _, x in ipairs({e.need[1], e.need[2], e.hope[1], e.hope[2], e.due}) do f[#f + 1] = text(x) end
  end
  redis.call('HSET', key, 'q', table.concat(f, ' '))
end

-- out takes id from the queue and returns its place, whether it was there, and
-- what those before it need and hope for.
local function out(q, id)
  local need, hope = {0, 0}, {0, 0}
  for i, e in ipairs(q) do
    if e.id == id then
      table.remove(q, i)
      return i, true, need, hope
    end
    for u = 1, 2 do
      need[u] = need[u] + e.need[u]
      hope[u] = hope[u] + e.hope[u]
    end
  end
  return #q + 1, false, need, hope
end

-- sharers counts who holds leases or waits, with the one who asks; of those who
-- wait, as many as fit into one command.
local function sharers(b, q, id)
  local first = '#' .. holder(id)
  local fields, seen = {first}, {[first] = true}
  for i = 1, min(#q, 1000) do
    local f = '#' .. holder(q[i].id)
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

-- back_soon is when to come again for what is there, and leased to others, who
-- may settle at any time: after the time that it takes to refill.
local function back_soon(b, need)
  local d = 0
  for _, r in ipairs(b.rates) do d = max(d, span(r, need[r.u])) end
  return max(min(d, SOON[2]), SOON[1])
end

-- ask decides, or says when to come again. What has been settled is applied
-- whatever becomes of it.
local function ask(b, now)
  local id, need, want, patience = word(), cost(), cost(), number()
  local defined, limits = word(), word()
  for _ = 1, number() do
    local done, spent = word(), cost()
    if b then settle(b, now, done, spent) end
  end
  b = open(b, now, limits, defined)
  local q = waiting(now)
  local place, again, before, hopes = out(q, id)

  local known = held(id) ~= nil
  local promise = need[1] > 0 or need[2] > 0
  local answer
  if known or not fits(b, need) then
    answer = grant(b, now, id, need, want, ttl)
  else
    local total = {before[1] + need[1], before[2] + need[2]}
    local there = room(b, now, promise)
    local part, chunk = fair(b, sharers(b, q, id), room(b, now, true))
    local most = share(need, {max(want[1], need[1]), max(want[2], need[2])}, part)
    for u = 1, 2 do most[u] = max(min(most[u], there[u] - before[u]), need[u]) end

    -- One who may wait comes when it can have what is worth an exchange, as
    -- long as refill alone brings that, and all before it could have that too.
    local due, retry = 0, 0
    local hope = {max(min(want[1], chunk[1]), need[1]), max(min(want[2], chunk[2]), need[2])}
    if promise and patience > 0 then due = refill(b, now, {hopes[1] + hope[1], hopes[2] + hope[2]}, true) end
    if there[1] < total[1] or there[2] < total[2] or not promise and place > 1 then
      local least = refill(b, now, total, false)
      if not promise then
        retry = max(least, wait(b, now, {min(want[1], 1), min(want[2], 1)}, false), 1)
      elseif patience <= 0 or least > patience and not again then
        -- Once it waits, it waits on: others may settle.
        retry = max(least, wait(b, now, total, true), 1)
      elseif due <= 0 then
        due = back_soon(b, need)
      end
    end
    if retry > 0 then
      answer = refused(b, now, retry)
    elseif due > 0 then
      due = min(due, patience)
      table.insert(q, place, {id = id, need = need, hope = hope, due = now + due})
      local c = level(b, now)
      answer = table.concat({'wait', text(now), text(c[1]), text(c[2]), text(due)}, ' ')
    else
      answer = grant(b, now, id, need, most, ttl)
    end
  end
  keep(q)
  return answer, b
end

-- leave takes back what an ask may have been granted, and its place.
local function leave(b, now)
  local id = word()
  if not b then return 'ok' end
  settle(b, now, id, {0, 0})
  local q = waiting(now)
  out(q, id)
  keep(q)
  return 'ok', b
end

-- settled tells whether it may have let the first in line through.
local function settled(b, now)
  local freed = false
  local first = waiting(now)[1]
  local full = b and first and over(b, first.need)
  for _ = 1, number() do
    local id, spent = word(), cost()
    if b and settle(b, now, id, spent) then freed = true end
  end
  if full and not over(b, first.need) then freed = true end
  return freed and 'freed' or 'ok', b
end

-- adjusted applies an adjustment once, however often it comes: a client sends
-- one at a time, and counts them.
local function adjusted(b, now)
  local client, seq = '@' .. word(), number()
  local a = {returned = cost(), since = number(), charge = cost(), empty = number()}
  local defined, limits = word(), word()
  if (tonumber(redis.call('HGET', key, client)) or 0) >= seq then return 'ok', b end
  b = open(b, now, limits, defined)
  adjust(b, now, a)
  redis.call('HSET', key, client, text(seq))
  return 'ok', b
end

local ops = {ask = ask, leave = leave, settle = settled, adjust = adjusted}

local op = ops[word()]
local b = load()
local now = time(b)
local answer
answer, b = op(b, now)
if b then
  save(b)
  -- Full and with nothing leased, it is the same as no bucket.
  local idle = max(b.last, full(b), now)
  for _, e in ipairs(waiting(now)) do idle = max(idle, e.due) end
  redis.call('PEXPIREAT', key, text(math.floor((idle - b.behind + MARGIN) * (tick / 1e6))))
end
return answer
