//go:build linux

package fleet

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"

	"github.com/choked/choked/bucket"
	"github.com/choked/choked/fsm"
)

// Ledger is what became of all that was granted, as the log tells.
type Ledger struct {
	Entries                                 int // of the log
	Leases                                  int
	Granted, Spent, Returned, Expired, Live bucket.Cost
	Lost                                    map[uint64]bucket.Cost // expired, by holder
}

func (l Ledger) String() string {
	return fmt.Sprintf("%d entries, %d leases: granted %v = spent %v + returned %v + expired %v + live %v",
		l.Entries, l.Leases, l.Granted, l.Spent, l.Returned, l.Expired, l.Live)
}

// Audit reads the logs that the workers have left, which must agree, and replays
// them. It keeps books of its own beside the bucket's: no lease is
// granted anew that was settled or is out, and what was granted and is neither
// settled nor expired is what the bucket counts as out, after each entry.
func (f *Fleet) Audit() (Ledger, error) {
	var longest []raft.Log
	var of string
	for slot := range f.slots {
		dir := f.State(slot)
		if _, err := os.Stat(dir); err != nil || f.Spoiled[slot] {
			continue
		}
		entries, err := readLog(dir)
		if err != nil {
			return Ledger{}, err
		}
		if len(longest) > 0 && len(entries) > 0 {
			if err := agree(longest, entries); err != nil {
				return Ledger{}, fmt.Errorf("logs of %s and %s: %w", filepath.Base(of), filepath.Base(dir), err)
			}
		}
		if len(longest) == 0 || len(entries) > 0 && later(entries, longest) {
			longest, of = entries, dir
		}
	}
	return replay(longest)
}

// readLog returns all of a log. Runs of the tests are too short for snapshots.
func readLog(dir string) ([]raft.Log, error) {
	store, err := raftboltdb.New(raftboltdb.Options{Path: filepath.Join(dir, "raft.db"), BoltOptions: &bbolt.Options{ReadOnly: true}})
	if err != nil {
		return nil, fmt.Errorf("read log of %s: %w", dir, err)
	}
	defer store.Close()
	first, err := store.FirstIndex()
	if err != nil {
		return nil, err
	}
	last, err := store.LastIndex()
	if err != nil {
		return nil, err
	}
	if first > 1 {
		return nil, fmt.Errorf("%s: %w", dir, ErrCompacted)
	}
	entries := make([]raft.Log, last-first+1)
	if last == 0 {
		return nil, nil
	}
	for i := range entries {
		if err := store.GetLog(first+uint64(i), &entries[i]); err != nil {
			return nil, fmt.Errorf("%s: entry %d: %w", dir, first+uint64(i), err)
		}
	}
	return entries, nil
}

// ErrCompacted means that a log does not go back to its beginning any more.
var ErrCompacted = errors.New("the log begins with a snapshot")

// later reports whether a node with log a would refuse its vote to one with b.
func later(a, b []raft.Log) bool {
	x, y := a[len(a)-1], b[len(b)-1]
	return x.Term > y.Term || x.Term == y.Term && x.Index > y.Index
}

// agree reports where two logs differ that should not: if they have an entry of
// one term, all before it are the same. What comes after may not have been
// committed.
func agree(a, b []raft.Log) error {
	common := min(len(a), len(b))
	for common > 0 && a[common-1].Term != b[common-1].Term {
		common--
	}
	for i := range common {
		if a[i].Term != b[i].Term || a[i].Type != b[i].Type || !bytes.Equal(a[i].Data, b[i].Data) {
			return fmt.Errorf("entry %d differs", a[i].Index)
		}
	}
	return nil
}

// replay keeps the books.
func replay(entries []raft.Log) (Ledger, error) {
	l := Ledger{Entries: len(entries), Lost: make(map[uint64]bucket.Cost)}
	type lease struct {
		granted bucket.Cost
		expiry  int64
	}
	live, settled := make(map[bucket.LeaseID]lease), make(map[bucket.LeaseID]bool)
	settle := func(s bucket.Settlement) {
		if lease, ok := live[s.ID]; ok {
			delete(live, s.ID)
			settled[s.ID] = true
			l.Spent = l.Spent.Add(s.Spent)
			l.Returned = l.Returned.Add(lease.granted.Sub(s.Spent))
		}
	}
	m, now := fsm.New(), int64(0)
	for i := range entries {
		if entries[i].Type != raft.LogCommand {
			continue
		}
		fail := func(format string, args ...any) (Ledger, error) {
			return l, fmt.Errorf("entry %d: "+format, append([]any{entries[i].Index}, args...)...)
		}
		e, err := fsm.Decode(entries[i].Data)
		if err != nil {
			return fail("%w", err)
		}
		results, ok := m.Apply(&entries[i]).([]bucket.Result)
		if !ok || len(results) != len(e.Ops) {
			return fail("%d operations have the results %v", len(e.Ops), results)
		}
		now = max(now, e.At)
		for id, lease := range live {
			if lease.expiry <= now {
				delete(live, id) // it may be asked for again, if the answer was lost
				l.Expired = l.Expired.Add(lease.granted)
				l.Lost[id.Holder] = l.Lost[id.Holder].Add(lease.granted)
			}
		}
		for j, op := range e.Ops {
			switch op := op.(type) {
			case *bucket.Settlement:
				settle(*op)
			case *bucket.Ask:
				for _, s := range op.Done {
					settle(s)
				}
				g := results[j].Grant
				if !g.OK || g.Granted.IsZero() {
					continue
				}
				before, again := live[op.ID]
				switch {
				case again && before.granted != g.Granted:
					return fail("lease %v was granted as %v and now is as %v", op.ID, before.granted, g.Granted)
				case settled[op.ID]:
					return fail("lease %v is granted again, and was settled", op.ID)
				case !again:
					live[op.ID] = lease{g.Granted, g.At + int64(g.TTL)}
					l.Leases++
					l.Granted = l.Granted.Add(g.Granted)
				}
			}
		}
		l.Live = bucket.Cost{}
		for _, lease := range live {
			l.Live = l.Live.Add(lease.granted)
		}
		var out bucket.Cost
		m.View(func(t *bucket.Table) {
			if b := t.Get(key); b != nil {
				out = b.Leased(now)
			}
		})
		if out != l.Live {
			return fail("%v is out on leases, the bucket counts %v", l.Live, out)
		}
	}
	return l, nil
}
