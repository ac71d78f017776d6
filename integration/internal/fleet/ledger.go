//go:build linux

package fleet

import (
	"fmt"

	"github.com/hashicorp/raft"

	"github.com/choked/choked/bucket"
	"github.com/choked/choked/fsm"
	"github.com/choked/choked/internal/ledger"
)

// Ledger is what became of all that was granted, as the log tells.
type Ledger struct {
	From, To                                uint64 // entries of the log
	States                                  int    // that voters were in, and had to be in
	Leases                                  int
	Granted, Spent, Returned, Expired, Live bucket.Cost
	Lost                                    map[uint64]bucket.Cost // expired, by holder
}

func (l Ledger) String() string {
	return fmt.Sprintf("entries %d to %d, %d snapshots, %d leases: granted %v = spent %v + returned %v + expired %v + live %v",
		l.From, l.To, l.States, l.Leases, l.Granted, l.Spent, l.Returned, l.Expired, l.Live)
}

// Audit reads the disks that the workers have left, which must agree with each
// other and with what [Fleet.Read] has found before, and replays the log. It keeps
// books of its own beside the bucket's: no lease is granted anew that was settled
// or is out, and what was granted and is neither settled nor expired is what the
// bucket counts as out, after each entry. Each snapshot is of the state that
// follows from the log.
//
// A log that does not go back to the beginning is replayed from a snapshot.
func (f *Fleet) Audit() (Ledger, error) {
	for slot := range f.slots {
		if err := f.read(slot, 0); err != nil {
			return Ledger{}, err
		}
	}
	return f.disks.replay()
}

// longestLease is longer than any lease lives, in the store's time: bucket.TTL
// once all of it is ripe.
const longestLease = 2 * bucket.TTL

// books are a ledger while it is written.
type books struct {
	Ledger
	live    map[bucket.LeaseID]lease
	settled map[bucket.LeaseID]bool
}

type lease struct {
	granted bucket.Cost
	expiry  int64
}

func (r *replicated) replay() (Ledger, error) {
	b := books{Ledger{Lost: make(map[uint64]bucket.Cost)}, make(map[bucket.LeaseID]lease), make(map[bucket.LeaseID]bool)}
	if len(r.entries) == 0 {
		return b.Ledger, nil
	}
	m, first, err := r.beginning()
	if err != nil {
		return b.Ledger, err
	}
	b.From, b.To = first, r.entries[len(r.entries)-1].Index
	now := timeOf(m)
	complete := now // once no lease is out that nobody has seen granted
	if first > 1 {
		complete += int64(longestLease)
	}
	rest := r.entries[first-r.entries[0].Index:]
	for i := range rest {
		e := &rest[i]
		fail := func(err error) (Ledger, error) { return b.Ledger, fmt.Errorf("entry %d: %w", e.Index, err) }
		if e.Type == raft.LogCommand {
			if now, err = b.enter(m, e); err != nil {
				return fail(err)
			}
			if out := leased(m, now); now >= complete && out != b.Live {
				return fail(fmt.Errorf("%v is out on leases, the bucket counts %v", b.Live, out))
			}
		}
		states, err := r.agree(m, e.Index)
		if err != nil {
			return fail(err)
		}
		b.States += states
	}
	return b.Ledger, nil
}

// enter applies an entry to m and writes down what it does. It returns the
// store's time.
func (b *books) enter(m *fsm.Machine, l *raft.Log) (now int64, err error) {
	e, err := fsm.Decode(l.Data)
	if err != nil {
		return 0, err
	}
	results, ok := m.Apply(l).([]ledger.Result)
	if !ok || len(results) != len(e.Ops) {
		return 0, fmt.Errorf("%d operations have the results %v", len(e.Ops), results)
	}
	now = timeOf(m)
	for id, lease := range b.live {
		if lease.expiry <= now {
			delete(b.live, id) // it may be asked for again, if the answer was lost
			b.Expired = b.Expired.Add(lease.granted)
			b.Lost[id.Holder] = b.Lost[id.Holder].Add(lease.granted)
		}
	}
	for i, op := range e.Ops {
		switch op := op.(type) {
		case *bucket.Settlement:
			b.settle(*op)
		case *bucket.Ask:
			for _, s := range op.Done {
				b.settle(s)
			}
			if err := b.grant(op.ID, results[i].Grant); err != nil {
				return 0, err
			}
		}
	}
	b.Live = bucket.Cost{}
	for _, lease := range b.live {
		b.Live = b.Live.Add(lease.granted)
	}
	return now, nil
}

func (b *books) grant(id bucket.LeaseID, g bucket.Grant) error {
	if !g.OK || g.Granted.IsZero() {
		return nil
	}
	before, again := b.live[id]
	switch {
	case again && before.granted != g.Granted:
		return fmt.Errorf("lease %v was granted as %v and now is as %v", id, before.granted, g.Granted)
	case b.settled[id]:
		return fmt.Errorf("lease %v is granted again, and was settled", id)
	case !again:
		b.live[id] = lease{g.Granted, g.At + int64(g.TTL)}
		b.Leases++
		b.Granted = b.Granted.Add(g.Granted)
	}
	return nil
}

func (b *books) settle(s bucket.Settlement) {
	lease, ok := b.live[s.ID]
	if !ok {
		return
	}
	delete(b.live, s.ID)
	b.settled[s.ID] = true
	b.Spent = b.Spent.Add(s.Spent)
	b.Returned = b.Returned.Add(lease.granted.Sub(s.Spent))
}

func timeOf(m *fsm.Machine) (now int64) {
	m.View(func(t *ledger.Table) { now = t.Now() })
	return now
}

// leased is what m counts as out at an instant.
func leased(m *fsm.Machine, now int64) (out bucket.Cost) {
	m.View(func(t *ledger.Table) {
		if b := t.Get(key); b != nil {
			out = b.Leased(now)
		}
	})
	return out
}
