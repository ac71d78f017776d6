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

// replica is this node's copy of the state, and its notion of the store's time.
//
// The store's time goes on at the pace of the leader's clock. A follower notes
// the time of each entry against its own clock, and should it lead, it goes on
// from there: what it stamps is a time that was, plus a time that has passed
// since. So the store's time may lose a moment when the leader changes, never
// gain one, whatever any wall clock says. What was lost stays lost: what this
// node knew of the time before another one stamped an entry counts no more.
type replica struct {
	*fsm.Machine
	clock *boottime.Clock

	mu      sync.Mutex
	leading bool
	term    uint64 // of the leader whose time this is
	offset  int64  // of the store's time from clock, as noted
	noted   int64  // when, by clock
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

// lead makes this node's clock the store's in a term that it leads.
func (r *replica) lead(term uint64) {
	last := r.last()
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.clock.Now()
	// The entry noted came before the last one by what the other clock counted
	// between them; it may have been slow, and this one fast.
	between := last - (r.noted + r.offset)
	r.offset = max(r.offset-apart(between), last-now)
	r.leading, r.term, r.noted = true, max(r.term, term), now
}

// follow makes the store's time another's again.
func (r *replica) follow() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.leading, r.noted = false, r.clock.Now()
}

// last is the time of the latest entry that was applied.
func (r *replica) last() (at int64) {
	r.View(func(t *ledger.Table) { at = t.Now() })
	return at
}

// apart is what two clocks may differ by when one of them has counted d.
func apart(d int64) int64 { return int64(bucket.Late(time.Duration(d))) - max(d, 0) }

// Apply implements [raft.FSM].
func (r *replica) Apply(l *raft.Log) any {
	result := r.Machine.Apply(l)
	r.note(l.Term)
	return result
}

// Restore implements [raft.FSM]. A snapshot tells the time as the last of the
// entries that it stands for would have: there may be none after it.
func (r *replica) Restore(from io.ReadCloser) error {
	if err := r.Machine.Restore(from); err != nil {
		return err
	}
	at := r.last()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.noted = r.clock.Now()
	r.term, r.offset = 0, at-r.noted // by whom it was stamped is not known
	return nil
}

// note compares the state's time with the clock, after an entry of a term. An
// entry comes late by what it took to arrive, so of one leader's the least late
// one tells most; but what the two clocks may have drifted apart since then is
// believed at once.
func (r *replica) note(term uint64) {
	at := r.last()
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.clock.Now()
	late := now + r.offset - at
	if term > r.term || !r.leading && late < apart(now-r.noted) {
		r.term, r.offset, r.noted = max(r.term, term), at-now, now
	}
}
