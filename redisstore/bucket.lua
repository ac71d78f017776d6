-- The bucket of package bucket: the same rules in the same order, under the same
-- names, so that the two can be read side by side. A number is a double, which is
-- exact for whole numbers below 2^53.
--
-- Words:
--   tick      unit of time; all instants and durations are whole ticks
--   unit u    kind of units, from 1 to NUM_UNITS, in the order of bucket.Unit
--   units     a set of units: their digits in ascending order, such as "12", or "-"
--   cost      units of each kind, as a table of NUM_UNITS numbers
--   rate r    r.n units every r.per ticks for unit r.u, in lowest terms
--   burst     most units that a bucket holds
--   fill      time in which the burst refills
--   horizon   how far ahead of the refill a lease may promise units
--   tat       theoretical arrival time: the instant at which the rate is full again;
--             until then the bucket lacks (tat - now) * n / per units
--   out       units that are leased at present
--   lows      past minima of what the bucket lacked, which bound refunds
--   former    rates of earlier definitions that are not full yet
--   defined   when the limits were defined, as twenty digits; the latest definition
--             is in force
--   drip      promised units of a lease: n every per, the last of them at ready
--   behind    what is added to the clock of the server, since it has stepped back
--
-- One hash is one bucket:
--   b             format, defined, the units of out, then the numbers that save writes
--   l             the limits as in the arguments of an ask
--   q             the queue of waiting asks: see store.lua
--   =<lease id>   a lease: units, how many of each are granted, expiry, then unit,
--                 ready, n and per of each drip
--   #<holder>     number of leases of a holder
--   @<client>     number of the client's last adjustment, and until when to keep it
--   @             when to remove expired fields of the kind above
--
-- The numbers of save: now, behind, next (first expiry, or earlier), last (latest
-- expiry), number of holders, out of each unit; for each rate tat, the number of lows,
-- and at and least of each; for each former rate u, n, per, window and tat.
--
-- A key limits one or two units, as a rule. So costs in arguments, answers and the
-- hash consist of the units in use only, and loops run over those.
--
-- Go defines tick (in nanoseconds), ttl, uniform and the constants in capitals that are
-- not defined here: see settings in script.go. uniform(x) is a cost of x in each unit.

local key = KEYS[1]
local MOST = 9007199254740992 -- 2^53
local END = MOST / 2          -- the end of time: later instants count as END
local KEPT_LOWS = 6

local min, max, fmod = math.min, math.max, math.fmod
local byte, format = string.byte, string.format

-- The arguments are words, taken one after the other. All costs among them are of the
-- same units, and have a number for each of these.
local taken = 0
local given, units = '-', {} -- those units, and their list

local function word()
  taken = taken + 1
  return ARGV[taken]
end

local function number() return tonumber(word()) end

-- unitsIn returns the list of the units of a set.
local function unitsIn(set)
  if set == '-' then return {} end
  local us = {byte(set, 1, -1)}
  for i = 1, #us do us[i] = us[i] - 48 end
  return us
end

-- union returns the units in set a or set b.
local function union(a, b)
  if b == '-' or string.find(a, b, 1, true) then return a end
  local us = ''
  for u = 1, NUM_UNITS do
    local digit = string.char(48 + u)
    if string.find(a, digit, 1, true) or string.find(b, digit, 1, true) then us = us .. digit end
  end
  return us
end

-- takeUnits reads the units of the costs that follow.
local function takeUnits()
  given = word()
  units = unitsIn(given)
end

local function cost()
  local c = uniform(0)
  for i = 1, #units do c[units[i]] = number() end
  return c
end

-- some reports whether a cost of the given units is not zero.
local function some(c)
  for i = 1, #units do
    if c[units[i]] > 0 then return true end
  end
  return false
end

-- covers reports whether c is at least d in each of the given units.
local function covers(c, d)
  for i = 1, #units do
    if c[units[i]] < d[units[i]] then return false end
  end
  return true
end

-- raise raises c to d in each of the given units.
local function raise(c, d)
  for i = 1, #units do c[units[i]] = max(c[units[i]], d[units[i]]) end
end

-- oneOfEach returns a unit of each kind in c.
local function oneOfEach(c)
  local one = uniform(0)
  for i = 1, #units do one[units[i]] = min(c[units[i]], 1) end
  return one
end

-- muldiv returns a·b/c for whole a, b >= 0 and c > 0, rounded down or up. If the
-- product is not exact, b is split into digits of seven bits, as in long division.
local function muldiv(a, b, c, up)
  local p = a * b
  if p == 0 or c == 1 and p < MOST then return p end -- most calls
  local q, rem = 0, 0
  if p < MOST then
    rem = fmod(p, c)
    q = (p - rem) / c
  else
    local r = fmod(a, c)
    local digit = 1
    while digit * 128 <= b do digit = digit * 128 end
    local left = b
    while digit >= 1 do
      local d = (left - fmod(left, digit)) / digit
      left = left - d * digit
      digit = digit / 128
      local x = rem * 128 + r * d
      rem = fmod(x, c)
      q = q * 128 + (x - rem) / c
    end
    q = q + (a - r) / c * b
  end
  if up and rem > 0 then q = q + 1 end
  return min(q, MOST)
end

local function span(r, n) return muldiv(n, r.per, r.n, true) end
local function back(r, n) return muldiv(n, r.per, r.n, false) end
local function later(t, d) return min(t + d, END) end

-- ready returns when n units are available in a bucket that is full at tat: see
-- Rate.ready.
local function ready(r, tat, n)
  if n > r.burst then return later(tat, span(r, n - r.burst)) end
  return tat - back(r, r.burst - n)
end

-- ahead returns how far ahead of the refill a grant may reach: see Rate.ahead.
local function ahead(r, promise)
  if promise then return r.horizon end
  if r.n ~= 1 then return 2 end
  return 0
end

local function numbers(s)
  local list = {}
  for w in string.gmatch(s, '%S+') do list[#list + 1] = tonumber(w) end
  return list
end

-- '%d' is several times faster than '%.0f', and wrong where Lua's integers are short.
local WHOLE = format('%d', END) == '4503599627370496' and '%d' or '%.0f'

local function text(x) return format(WHOLE, x) end

-- limited sets the limits of b: a line with their units and their name, then a line
-- for each rate, in ascending order of units, with unit, n, per, burst, fill, horizon
-- and window.
local function limited(b, limits)
  local rates = {}
  b.units, b.name = string.match(limits, '^(%d+) ([^\n]*)')
  for u, n, per, burst, fill, horizon, window in string.gmatch(limits, '\n(%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+)') do
    rates[#rates + 1] = {
      u = tonumber(u), n = tonumber(n), per = tonumber(per), burst = tonumber(burst),
      fill = tonumber(fill), horizon = tonumber(horizon), window = tonumber(window),
    }
  end
  b.limits, b.rates = limits, rates
end

-- fresh makes b a full bucket.
local function fresh(b, limits, defined)
  limited(b, limits)
  b.defined = defined
  b.tats, b.lows = {}, {}
  for i = 1, #b.rates do b.tats[i], b.lows[i] = 0, {} end
  b.former = {}
  b.out, b.outUnits = uniform(0), b.units
  b.holders, b.next, b.last = 0, END, 0
end

-- load returns the saved bucket, or nil, and the saved queue, or nil. A bucket of
-- another format is an error, which Go explains: see failure in retry.go.
local function load()
  local s = redis.call('HMGET', key, 'b', 'l', 'q')
  if not s[1] then return nil end
  local version, defined, outUnits, rest = string.match(s[1], '^(%S+) (%S+) (%S+) (.*)$')
  if tonumber(version) ~= FORMAT then return nil, nil, 'FORMAT ' .. (version or 'unknown') end
  local b = {defined = defined, savedLimits = s[2], outUnits = outUnits, out = uniform(0)}
  limited(b, s[2])
  local f = numbers(rest)
  b.now, b.behind, b.next, b.last, b.holders = f[1], f[2], f[3], f[4], f[5]
  for i = 1, #outUnits do b.out[byte(outUnits, i) - 48] = f[5 + i] end
  b.tats, b.lows, b.former = {}, {}, {}
  local at = 6 + #outUnits
  for i = 1, #b.rates do
    b.tats[i], b.lows[i] = f[at], {}
    for j = 1, f[at + 1] do b.lows[i][j] = {at = f[at + 2 * j], least = f[at + 2 * j + 1]} end
    at = at + 2 + 2 * f[at + 1]
  end
  for i = at, #f, 5 do b.former[#b.former + 1] = {u = f[i], n = f[i + 1], per = f[i + 2], window = f[i + 3], tat = f[i + 4]} end
  return b, s[3]
end

-- put appends to words f how many units of a set are in c.
local function put(f, set, c)
  for i = 1, #set do f[#f + 1] = text(c[byte(set, i) - 48]) end
end

local function save(b)
  local f = {FORMAT, b.defined, b.outUnits, text(b.now), text(b.behind), text(b.next), text(b.last), text(b.holders)}
  put(f, b.outUnits, b.out)
  for i = 1, #b.rates do
    f[#f + 1] = text(b.tats[i])
    f[#f + 1] = text(#b.lows[i])
    for _, x in ipairs(b.lows[i]) do
      f[#f + 1] = text(x.at)
      f[#f + 1] = text(x.least)
    end
  end
  for _, r in ipairs(b.former) do
    for _, x in ipairs({r.u, r.n, r.per, r.window, r.tat}) do f[#f + 1] = text(x) end
  end
  redis.call('HSET', key, 'b', table.concat(f, ' '))
  if b.limits ~= b.savedLimits then redis.call('HSET', key, 'l', b.limits) end
end

-- lease parses the field '=id'.
local function lease(id, s)
  local set, rest = string.match(s, '^(%S+) (.*)$')
  local f = numbers(rest)
  local n = #set
  local l = {id = id, units = set, granted = uniform(0), expiry = f[n + 1], drips = {}}
  for i = 1, n do l.granted[byte(set, i) - 48] = f[i] end
  for i = n + 2, #f, 4 do l.drips[#l.drips + 1] = {u = f[i], ready = f[i + 1], n = f[i + 2], per = f[i + 3]} end
  return l
end

-- leases returns the leases in order of expiry.
local function leases()
  local list = {}
  local all = redis.call('HGETALL', key)
  for i = 1, #all, 2 do
    if string.sub(all[i], 1, 1) == '=' then list[#list + 1] = lease(string.sub(all[i], 2), all[i + 1]) end
  end
  table.sort(list, function(a, b) return a.expiry < b.expiry or a.expiry == b.expiry and a.id < b.id end)
  return list
end

local function holder(id) return string.match(id, '^[^-]*') end

-- subtract subtracts cost d from cost c.
local function subtract(c, d)
  for u = 1, NUM_UNITS do c[u] = c[u] - d[u] end
end

-- drop removes a lease.
local function drop(b, l)
  redis.call('HDEL', key, '=' .. l.id)
  if redis.call('HINCRBY', key, '#' .. holder(l.id), -1) <= 0 then
    redis.call('HDEL', key, '#' .. holder(l.id))
    b.holders = b.holders - 1
  end
  subtract(b.out, l.granted)
  if b.holders == 0 then b.next = END end
end

-- clamp keeps room for the leased units: see Bucket.clamp.
local function clamp(b, t)
  for i, r in ipairs(b.rates) do b.tats[i] = max(b.tats[i], later(t, span(r, b.out[r.u]))) end
  for _, r in ipairs(b.former) do r.tat = max(r.tat, later(t, span(r, b.out[r.u]))) end
end

-- note records what the bucket lacks at t: see type shortfalls.
local function note(b, t)
  for i, r in ipairs(b.rates) do
    local lacking = max(b.tats[i] - t - span(r, b.out[r.u]), 0)
    local kept = {}
    for _, x in ipairs(b.lows[i]) do
      if x.least < lacking then kept[#kept + 1] = x end
    end
    kept[#kept + 1] = {at = t, least = lacking}
    if #kept > KEPT_LOWS then
      local first = 1
      for j = 2, #kept - 1 do
        if kept[j + 1].least - kept[j].least < kept[first + 1].least - kept[first].least then first = j end
      end
      kept[first + 1].least = kept[first].least
      table.remove(kept, first)
    end
    b.lows[i] = kept
  end
end

-- advance expires the leases that end by now. next is the first expiry, or earlier
-- if that lease was settled meanwhile.
local function advance(b, now)
  if b.next <= now then
    b.next = END
    for _, l in ipairs(leases()) do
      if l.expiry <= now then
        clamp(b, l.expiry)
        note(b, l.expiry)
        drop(b, l)
      else
        b.next = min(b.next, l.expiry)
      end
    end
  end
  clamp(b, now)
  note(b, now)
  b.now = now
end

-- full returns when b is full, also under former rates, if no unit is taken.
local function full(b)
  local at = 0
  for _, tat in ipairs(b.tats) do at = max(at, tat) end
  for _, r in ipairs(b.former) do at = max(at, r.tat) end
  return at
end

local function idle(b, now)
  return b.holders == 0 and full(b) <= now
end

local function missing(b, i, now)
  if b.tats[i] <= now then return 0 end
  return muldiv(b.tats[i] - now, b.rates[i].n, b.rates[i].per, true)
end

-- putLevel appends to words f the limited units and the level of each.
local function putLevel(f, b, now)
  f[#f + 1] = b.units
  local at, least = #f, 0
  local last
  for i, r in ipairs(b.rates) do
    local n = r.burst - missing(b, i, now)
    if r.u == last then
      least = min(least, n)
    else
      at, last, least = at + 1, r.u, n
    end
    f[at] = text(least)
  end
end

local function room(b, now, promise)
  local c = uniform(math.huge)
  for i, r in ipairs(b.rates) do
    local n = min(r.burst - missing(b, i, now + ahead(r, promise)), r.burst - b.out[r.u])
    c[r.u] = max(min(c[r.u], n), 0)
  end
  return c
end

local function refill(b, now, need, promise)
  local d = 0
  for i, r in ipairs(b.rates) do
    local n = need[r.u]
    if n > 0 then d = max(d, ready(r, max(b.tats[i], now), n) - now - ahead(r, promise)) end
  end
  return d
end

local function over(b, need)
  for _, r in ipairs(b.rates) do
    if need[r.u] > 0 and b.out[r.u] + need[r.u] > r.burst then return true end
  end
  return false
end

local function wait(b, now, need, promise)
  local at = now + refill(b, now, need, promise)
  if b.holders == 0 or at < b.next and not over(b, need) then return at - now end
  local c = {rates = b.rates, tats = {unpack(b.tats)}, former = {}, out = {unpack(b.out)}}
  local t = now
  for _, l in ipairs(leases()) do
    if l.expiry > t then
      at = t + refill(c, t, need, promise)
      if at < l.expiry and not over(c, need) then return at - now end
      t = l.expiry
      clamp(c, t)
    end
    subtract(c.out, l.granted)
  end
  return t + refill(c, t, need, promise) - now
end

-- share returns the part of want, which is at least need, that fits into room: see
-- Share. All three are of the given units.
local function share(need, want, room)
  local give = uniform(0)
  for i = 1, #units do
    local u = units[i]
    give[u] = max(min(want[u], room[u]), 0)
  end
  for i = 1, #units do
    local scarce = units[i]
    local fit = max(min(want[scarce], room[scarce]), 0)
    if fit < want[scarce] then
      for j = 1, #units do
        local u = units[j]
        if u ~= scarce then give[u] = min(give[u], max(need[u], muldiv(want[u], fit, want[scarce], true))) end
      end
    end
  end
  return give
end

-- granted returns the answer for lease l at now.
local function granted(b, now, l)
  local f = {'grant', text(now)}
  putLevel(f, b, now)
  f[#f + 1] = text(l.expiry - now)
  f[#f + 1] = l.units
  put(f, l.units, l.granted)
  for _, d in ipairs(l.drips) do
    if d.ready > now then
      for _, x in ipairs({d.u, d.ready - now, d.n, d.per}) do f[#f + 1] = text(x) end
    end
  end
  return table.concat(f, ' ')
end

local function refused(b, now, retry)
  local f = {'refuse', text(now)}
  putLevel(f, b, now)
  f[#f + 1] = text(max(retry, 1))
  return table.concat(f, ' ')
end

-- held returns the lease id, if it exists.
local function held(id)
  local s = redis.call('HGET', key, '=' .. id)
  if s then return lease(id, s) end
end

local function fits(b, need)
  for _, r in ipairs(b.rates) do
    if need[r.u] > r.burst then return false end
  end
  return true
end

-- lend grants what it can of want to an ask without a lease, or refuses if that does
-- not cover need.
local function lend(b, now, id, need, want, ttl)
  local promise = some(need)
  raise(want, need)
  local give = share(need, want, room(b, now, promise))
  if not covers(give, need) or not some(give) then
    local first = promise and need or oneOfEach(want)
    return refused(b, now, wait(b, now, first, promise))
  end
  local l = {id = id, units = given, granted = give, drips = {}}
  local f = {given}
  put(f, given, give)
  local last = now
  b.outUnits = union(b.outUnits, given)
  for i = 1, #units do b.out[units[i]] = b.out[units[i]] + give[units[i]] end
  local expiry = #f + 1
  f[expiry] = ''
  for i, r in ipairs(b.rates) do
    local tat = max(b.tats[i], now)
    local at = ready(r, tat, give[r.u])
    b.tats[i] = later(tat, span(r, give[r.u]))
    if at > now and give[r.u] > 0 then
      l.drips[#l.drips + 1] = {u = r.u, ready = at, n = r.n, per = r.per}
      for _, x in ipairs({r.u, at, r.n, r.per}) do f[#f + 1] = text(x) end
      last = max(last, at)
    end
  end
  l.expiry = later(last, ttl)
  f[expiry] = text(l.expiry)
  b.next, b.last = min(b.next, l.expiry), max(b.last, l.expiry)
  redis.call('HSET', key, '=' .. id, table.concat(f, ' '))
  if redis.call('HINCRBY', key, '#' .. holder(id), 1) == 1 then b.holders = b.holders + 1 end
  return granted(b, now, l)
end

-- grant decides an ask at now, after b was advanced to now: see Bucket.Lease.
local function grant(b, now, id, need, want, ttl)
  local l = held(id)
  if l then return granted(b, now, l) end
  if not fits(b, need) then return 'burst ' .. b.name end
  return lend(b, now, id, need, want, ttl)
end

-- move returns the units of credit to the bucket, less those of debit. It reports
-- whether any limited units are returned.
local function move(b, now, credit, debit)
  local freed = false
  for i, r in ipairs(b.rates) do
    local n = credit[r.u] - debit[r.u]
    if n >= 0 then
      b.tats[i] = b.tats[i] - min(back(r, n), max(b.tats[i], 0))
      freed = freed or n > 0
    else
      b.tats[i] = later(max(b.tats[i], now), span(r, -n))
    end
  end
  clamp(b, now)
  return freed
end

-- settle settles a lease and reports whether units were returned.
local function settle(b, now, id, spent)
  advance(b, now)
  local l = held(id)
  if not l then return false end
  drop(b, l)
  return move(b, now, l.granted, spent)
end

local function adjust(b, now, a)
  for i, r in ipairs(b.rates) do
    local least = 0
    for _, x in ipairs(b.lows[i]) do
      least = x.least
      if x.at > a.since then break end
    end
    if a.since > now then least = 0 end -- an instant of a store that was replaced
    local worth = min(back(r, a.returned[r.u]), least)
    b.tats[i] = b.tats[i] - worth
    for _, x in ipairs(b.lows[i]) do x.least = max(x.least - worth, 0) end
  end
  move(b, now, uniform(0), a.charge)
  if a.empty > 0 then
    for i, r in ipairs(b.rates) do b.tats[i] = max(b.tats[i], later(now + a.empty, r.fill)) end
  end
end

local function same(r, q) return r.u == q.u and r.n == q.n and r.per == q.per and r.window == q.window end

-- remember sets former to those of the rates in left that are not full and not in
-- force: for each unit the MAX_RATES that take longest to refill.
local function remember(b, now, left)
  for i, r in ipairs(left) do r.place = i end
  table.sort(left, function(r, q) return r.u < q.u or r.u == q.u and (r.tat > q.tat or r.tat == q.tat and r.place < q.place) end)
  b.former = {}
  local kept = uniform(0)
  for _, r in ipairs(left) do
    local gone = r.tat > now and kept[r.u] < MAX_RATES
    for _, q in ipairs(b.rates) do gone = gone and not same(r, q) end
    if gone then
      kept[r.u] = kept[r.u] + 1
      b.former[#b.former + 1] = r
    end
  end
end

-- before compares texts by their bytes. The operator < uses the server's locale.
local function before(a, b)
  for i = 1, min(#a, #b) do
    local x, y = string.byte(a, i), string.byte(b, i)
    if x ~= y then return x < y end
  end
  return #a < #b
end

-- redefine gives b other limits if their definition is later, and reports whether it
-- did: see Bucket.Redefine.
local function redefine(b, now, limits, defined)
  if defined < b.defined then return false end
  if limits == b.limits then
    b.defined = defined
    return false
  end
  local old = {rates = b.rates, tats = b.tats, name = b.name}
  local new = {}
  limited(new, limits)
  if defined == b.defined and before(new.name, old.name) then return false end
  limited(b, limits)
  local left = {}
  for i, r in ipairs(old.rates) do left[i] = {u = r.u, n = r.n, per = r.per, window = r.window, tat = old.tats[i]} end
  for _, r in ipairs(b.former) do left[#left + 1] = r end
  b.defined, b.tats, b.lows = defined, {}, {}
  for i, r in ipairs(b.rates) do
    local most, missed = 0, nil
    for j, q in ipairs(old.rates) do
      if q.u == r.u then
        local n = missing(old, j, now)
        most = max(most, n)
        if q.window == r.window then missed = n end
      end
    end
    b.tats[i] = later(now, span(r, missed or min(most, r.burst)))
    for _, q in ipairs(left) do
      if same(r, q) then b.tats[i] = max(b.tats[i], q.tat) end
    end
  end
  remember(b, now, left)
  clamp(b, now)
  for i = 1, #b.rates do b.lows[i] = {{at = now, least = 0}} end
  return true
end

-- open advances the bucket to now, under the later of its limits and these. An idle
-- bucket counts as absent.
local function open(b, now, limits, defined)
  if b then advance(b, now) end
  if b and not idle(b, now) then
    if not redefine(b, now, limits, defined) then return b end
  else
    b = b or {behind = 0}
    fresh(b, limits, defined)
  end
  advance(b, now)
  return b
end
