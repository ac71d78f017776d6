package cluster

import (
	"io"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/choked/choked/bucket"
	"github.com/choked/choked/fsm"
	"github.com/choked/choked/internal/boottime"
	"github.com/choked/choked/internal/ledger"
)

// replica is this node's copy of the state, and its estimate of the store's time.
//
// The store's time advances at the rate of the leader's clock. A follower compares
// the time of each entry with its own clock. If it becomes leader, it continues
// from there: it stamps entries with the time of an earlier entry plus the time
// elapsed since, on its own clock. So at a change of leaders the store's time may
// lose a moment but never gains one, whatever any wall clock says. Lost time stays
// lost: what this node knew of the time before another leader stamped an entry no
// longer counts.
type replica struct {
	*fsm.Machine
	clock *boottime.Clock

	mu       sync.Mutex
	leading  bool
	term     uint64 // of the leader that stamped the entry compared last; 0: not known
	offset   int64  // the store's time minus the clock, as compared last
	compared int64  // when, on the clock
}

func newReplica(clock *boottime.Clock) *replica {
	return &replica{Machine: fsm.New(), clock: clock, offset: -clock.Now(), compared: clock.Now()}
}

// reset forgets everything, before another run of Raft restores the state from the
// disk. No entry may be applied meanwhile.
func (r *replica) reset() {
	r.Machine.Reset()
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.clock.Now()
	r.leading, r.term, r.offset, r.compared = false, 0, -now, now
}

// now returns the store's time.
func (r *replica) now() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.clock.Now() + r.offset
}

// lead makes this node's clock drive the store's time, in a term that it leads.
func (r *replica) lead(term uint64) {
	last := r.last()
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.clock.Now()
	// The entry compared may be older than the last one, by as much as the other
	// leader's clock counted between them. That clock may have been slow, and this
	// one fast.
	between := last - (r.compared + r.offset)
	r.offset = max(r.offset-apart(between), last-now)
	r.leading, r.term, r.compared = true, max(r.term, term), now
}

// follow makes another leader's clock drive the store's time again.
func (r *replica) follow() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.leading, r.compared = false, r.clock.Now()
}

// last returns the time of the last entry that was applied.
func (r *replica) last() (at int64) {
	r.View(func(t *ledger.Table) { at = t.Now() })
	return at
}

// apart returns how far two clocks may drift apart while one of them counts d.
func apart(d int64) int64 { return int64(bucket.Late(time.Duration(d))) - max(d, 0) }

// Apply implements [raft.FSM].
func (r *replica) Apply(l *raft.Log) any {
	result := r.Machine.Apply(l)
	r.compare(l.Term)
	return result
}

// Restore implements [raft.FSM]. A snapshot has the time of the last entry in it.
// Restore compares that with the clock, since the log may hold no later entry.
func (r *replica) Restore(from io.ReadCloser) error {
	if err := r.Machine.Restore(from); err != nil {
		return err
	}
	at := r.last()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.compared = r.clock.Now()
	r.term, r.offset = 0, at-r.compared
	return nil
}

// compare compares the state's time with the clock, after an entry of a term was
// applied. An entry is late by the time it took to arrive, so of the entries of one
// leader the least late one gives the best estimate. A later one replaces it only if
// the drift of the two clocks since then could explain the difference.
func (r *replica) compare(term uint64) {
	at := r.last()
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.clock.Now()
	late := now + r.offset - at
	if term > r.term || !r.leading && late < apart(now-r.compared) {
		r.term, r.offset, r.compared = max(r.term, term), at-now, now
	}
}
