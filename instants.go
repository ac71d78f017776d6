package choked

import "slices"

// instants tells what time it was at the store, at the least, when it was some
// time here: each answer bears the store's time, and came later. No clock is
// compared with another.
type instants []instant

type instant struct {
	here  int64 // the answer came
	there int64 // it was given
}

// keptInstants bounds how many are kept. When there are more, every other one
// goes, so that the older ones are the farther apart; between two of them the
// earlier one holds.
const keptInstants = 64

// hear adds an instant, the latest so far. One that comes soon after another
// would tell little more.
func (in instants) hear(here, there int64) instants {
	if n := len(in); n > 0 && here-in[n-1].here < int64(hold) {
		return in
	}
	in = append(in, instant{here, there})
	if len(in) <= keptInstants {
		return in
	}
	for i := range keptInstants / 2 {
		in[i] = in[2*i+1]
	}
	in[keptInstants/2] = in[keptInstants]
	return slices.Clip(in[:keptInstants/2+1])
}

// at is an instant of the store's time not after it was here, as late as is
// known; zero: the beginning.
func (in instants) at(here int64) int64 {
	i, found := slices.BinarySearchFunc(in, here, func(x instant, t int64) int { return int(min(max(x.here-t, -1), 1)) })
	if found {
		return in[i].there
	}
	if i == 0 {
		return 0
	}
	return in[i-1].there
}
