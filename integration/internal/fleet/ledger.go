//go:build linux

package fleet

import (
	"fmt"

	"github.com/hashicorp/raft"

	"github.com/choked/choked/bucket"
	"github.com/choked/choked/fsm"
	"github.com/choked/choked/internal/ledger"
)

// Ledger sums up the granted quota and its use, as the log of the cluster has it.
// Granted is the sum of Spent, Returned, Expired and Live.
type Ledger struct {
	From, To                                uint64 // first and last entry of the log
	Snapshots                               int    // compared with the replayed log
	Leases                                  int
	Granted, Spent, Returned, Expired, Live bucket.Cost
	Lost                                    map[uint64]bucket.Cost // expired, by holder
}

func (l Ledger) String() string {
	return fmt.Sprintf("entries %d to %d, %d snapshots, %d leases: granted %v = spent %v + returned %v + expired %v + live %v",
		l.From, l.To, l.Snapshots, l.Leases, l.Granted, l.Spent, l.Returned, l.Expired, l.Live)
}

// Audit reads the disks of all workers, replays the log and returns its ledger.
// It returns an error if the logs contradict each other or the entries that
// [Fleet.ReadDisk] has read before, if a settled lease is granted again, or a live
// one with another amount, if after any entry the bucket's sum of leased quota is
// not that of the leases which are neither settled nor expired, or if a snapshot
// is not the state that follows from the log.
//
// If the log does not begin with the first entry, the replay begins with a
// snapshot.
func (f *Fleet) Audit() (Ledger, error) {
	for slot := range f.slots {
		if err := f.read(slot, 0); err != nil {
			return Ledger{}, err
		}
	}
	if err := f.diskLog.skipGaps(); err != nil {
		return Ledger{}, err
	}
	return f.diskLog.replay()
}

// maxLeaseLife is an upper bound of the time from the grant of a lease to its
// expiry, in the store's time: a lease expires bucket.TTL after all of it has
// become available.
const maxLeaseLife = 2 * bucket.TTL

// auditor computes a ledger entry by entry.
type auditor struct {
	Ledger
	live    map[bucket.LeaseID]lease
	settled map[bucket.LeaseID]bool
}

type lease struct {
	granted bucket.Cost
	expiry  int64
}

func (r *replicatedLog) replay() (Ledger, error) {
	b := auditor{Ledger{Lost: make(map[uint64]bucket.Cost)}, make(map[bucket.LeaseID]lease), make(map[bucket.LeaseID]bool)}
	if len(r.entries) == 0 {
		return b.Ledger, nil
	}
	m, first, err := r.startingState()
	if err != nil {
		return b.Ledger, err
	}
	b.From, b.To = first, r.entries[len(r.entries)-1].Index
	now := timeOf(m)
	completeFrom := now // from then on, every live lease was granted by a replayed entry
	if first > 1 {
		completeFrom += int64(maxLeaseLife)
	}
	rest := r.entries[first-r.entries[0].Index:]
	for i := range rest {
		e := &rest[i]
		fail := func(err error) (Ledger, error) { return b.Ledger, fmt.Errorf("entry %d: %w", e.Index, err) }
		if e.Type == raft.LogCommand {
			if now, err = b.apply(m, e); err != nil {
				return fail(err)
			}
			if out := leased(m, now); now >= completeFrom && out != b.Live {
				return fail(fmt.Errorf("live leases sum up to %v, the bucket counts %v", b.Live, out))
			}
		}
		snapshots, err := r.checkSnapshots(m, e.Index)
		if err != nil {
			return fail(err)
		}
		b.Snapshots += snapshots
	}
	return b.Ledger, nil
}

// apply applies an entry to m and enters its effects in the ledger. It returns
// the store's time after the entry.
func (b *auditor) apply(m *fsm.Machine, l *raft.Log) (now int64, err error) {
	e, err := fsm.Decode(l.Data)
	if err != nil {
		return 0, err
	}
	results, ok := m.Apply(l).([]ledger.Result)
	if !ok || len(results) != len(e.Ops) {
		return 0, fmt.Errorf("results %v: want one for each of %d operations", results, len(e.Ops))
	}
	now = timeOf(m)
	for id, lease := range b.live {
		if lease.expiry <= now {
			delete(b.live, id) // the same id may be granted again, if the answer was lost
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

func (b *auditor) grant(id bucket.LeaseID, g bucket.Grant) error {
	if !g.OK || g.Granted.IsZero() {
		return nil
	}
	before, again := b.live[id]
	switch {
	case again && before.granted != g.Granted:
		return fmt.Errorf("lease %v of %v was granted again as %v", id, before.granted, g.Granted)
	case b.settled[id]:
		return fmt.Errorf("lease %v was granted again after its settlement", id)
	case !again:
		b.live[id] = lease{g.Granted, g.At + int64(g.TTL)}
		b.Leases++
		b.Granted = b.Granted.Add(g.Granted)
	}
	return nil
}

func (b *auditor) settle(s bucket.Settlement) {
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

// leased returns the leased quota that m counts at time now.
func leased(m *fsm.Machine, now int64) (out bucket.Cost) {
	m.View(func(t *ledger.Table) {
		if b := t.Get(key); b != nil {
			out = b.Leased(now)
		}
	})
	return out
}
