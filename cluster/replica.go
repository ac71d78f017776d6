package cluster

import (
	"io"
	"sync"

	"github.com/hashicorp/raft"

	"github.com/choked/choked/bucket"
	"github.com/choked/choked/fsm"
	"github.com/choked/choked/internal/boottime"
)

// replica is this node's copy of the state, and its notion of the store's time.
//
// The store's time goes on at the pace of the leader's clock. A follower notes
// the time of each entry against its own clock, and should it lead, it goes on
// from there: what it stamps is a time that was, plus a time that has passed
// since. So the store's time may lose a moment when the leader changes, never
// gain one, whatever any wall clock says.
type replica struct {
	*fsm.Machine
	clock *boottime.Clock

	mu      sync.Mutex
	leading bool
	offset  int64 // of the store's time from clock, as noted
	noted   int64 // when, by clock
}

func newReplica(clock *boottime.Clock) *replica {
	return &replica{Machine: fsm.New(), clock: clock, offset: -clock.Now(), noted: clock.Now()}
}

// now is the store's time.
func (r *replica) now() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.clock.Now() + r.offset
}

// lead says whether this node's clock is the store's.
func (r *replica) lead(on bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.leading, r.noted = on, r.clock.Now()
}

// Apply implements [raft.FSM].
func (r *replica) Apply(l *raft.Log) any {
	result := r.Machine.Apply(l)
	r.note()
	return result
}

// Restore implements [raft.FSM]. What a snapshot tells of the time counts as the
// entries that it stands for: none may come after it.
func (r *replica) Restore(from io.ReadCloser) error {
	if err := r.Machine.Restore(from); err != nil {
		return err
	}
	r.note()
	return nil
}

// note compares the state's time with the clock. An entry comes late by what it
// took to arrive, so the least late one tells most; but what the two clocks may
// have drifted apart since then is believed at once.
func (r *replica) note() {
	var at int64
	r.View(func(t *bucket.Table) { at = t.Now() })
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.clock.Now()
	late := now + r.offset - at
	drift := int64(float64(now-r.noted) * 2 * bucket.Drift)
	if !r.leading && late < drift {
		r.offset, r.noted = at-now, now
	}
}
