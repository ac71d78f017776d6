package bucket

// paceParts is the default burst of a pace: a tenth of the window's limit. A larger
// burst lets the fastest caller take more of the window at once, a smaller one delays
// large calls.
const paceParts = 10

// defaultPace returns the burst of a pace for a window of n units.
func defaultPace(n int64) int64 { return max(n/paceParts, 1) }

// pace spreads the grants of a window over its Per. A bare window goes to whoever is
// fastest and then makes all callers wait until it returns. A pace is a token bucket
// that is refilled at N/Per. It is an attribute of its window, not a limit, and carries
// no bound:
//
//   - a grant is charged at once, and the unspent rest is credited; open leases do not
//     hold the level down, else long calls would use a part of the window only;
//   - a cost above the burst is granted when the bucket is full, and leaves it in debt.
//
// The zero pace is full. Its methods are given the rate with the pace's burst. Instants
// are nanoseconds of the store's time.
type pace struct {
	full int64 // the instant at which the bucket is full
}

// level returns the units in the bucket at now; below zero it is in debt.
func (p pace) level(r Rate, now int64) int64 {
	if p.full <= now {
		return r.Burst
	}
	return r.Burst - mulDivCeil(p.full-now, r.N, int64(r.Per))
}

// room returns the largest grant at now to an ask that needs at least need units.
func (p pace) room(r Rate, now, need int64) int64 {
	if p.full <= now {
		return max(r.Burst, need)
	}
	return max(p.level(r, now), 0)
}

// ready returns the first instant from now on at which n units may be granted.
func (p pace) ready(r Rate, now, n int64) int64 {
	return max(r.ready(max(p.full, now), min(n, r.Burst)), now)
}

// charge takes n units at now. It never refuses.
func (p *pace) charge(r Rate, now, n int64) { p.full = later(max(p.full, now), r.span(n)) }

// credit puts back n units that were charged and not spent. The burst bounds the level.
func (p *pace) credit(r Rate, n int64) { p.full = max(p.full-r.spanDown(n), 0) }

// replaced returns the pace under rate r that has as many units below full at now as p
// has under rate q. Repeated redefinitions give out no units.
func (p pace) replaced(q, r Rate, now int64) pace {
	if q.refillsAs(&r) {
		return p
	}
	return pace{later(now, r.span(q.Burst-p.level(q, now)))}
}
