package pool

import "slices"

// storeTimes maps an instant of this worker's clock to a lower bound of the
// store's time at that instant. Each answer carries the store's time and arrived
// after it was read, so no clock is compared with another. The zero value knows no
// answer.
type storeTimes []storeTime

type storeTime struct {
	here  int64 // when the answer arrived, by this worker's clock
	there int64 // when it was given, in the store's time
}

// keptTimes bounds the answers that are kept. Beyond it every other one is
// dropped, so that older ones lie farther apart. Between two kept answers the
// earlier one is the bound.
const keptTimes = 64

// observe adds an answer, the latest so far. An answer soon after a kept one would
// improve the bound little and is dropped.
func (ts storeTimes) observe(here, there int64) storeTimes {
	if n := len(ts); n > 0 && here-ts[n-1].here < int64(hold) {
		return ts
	}
	ts = append(ts, storeTime{here, there})
	if len(ts) <= keptTimes {
		return ts
	}
	for i := range keptTimes / 2 {
		ts[i] = ts[2*i+1]
	}
	ts[keptTimes/2] = ts[keptTimes]
	return slices.Clip(ts[:keptTimes/2+1])
}

// at returns an instant of the store's time that was not after here, as late as
// is known. Zero is the beginning of the store's time.
func (ts storeTimes) at(here int64) int64 {
	i, found := slices.BinarySearchFunc(ts, here, func(x storeTime, t int64) int { return int(min(max(x.here-t, -1), 1)) })
	if found {
		return ts[i].there
	}
	if i == 0 {
		return 0
	}
	return ts[i-1].there
}
