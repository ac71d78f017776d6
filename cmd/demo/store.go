package main

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/choked/choked"
	"github.com/choked/choked/cluster"
)

// storeKinds are the values of -store. Another kind is a case in [openStore],
// and if it has demands on the other flags, in [checkStore].
var storeKinds = []string{"cluster", "local", "none"}

const storeHelp = "where the workers keep their quota: a `kind`\n" +
	"cluster: among themselves, in memory\n" +
	"local: nowhere shared; each has 1/workers of each limit for itself, and a worker that\n" +
	"  is started again does not know what it has spent before\n" +
	"none: nowhere; nothing holds them back but the provider's answers"

// checkStore reports what flags do not go together with -store.
func checkStore(o options) error {
	switch o.store {
	case "cluster":
		if o.kill && o.workers < 3 {
			return fmt.Errorf("-workers %d -kill: want 3 or more workers, or -kill=false: fewer are no majority without the leader", o.workers)
		}
	case "local":
		if _, err := shareOf(o); err != nil {
			return fmt.Errorf("-store local: a limit cannot be divided among %d workers: %w", o.workers, err)
		}
	}
	return nil
}

// shareOf returns the limits that each worker's limiter has.
func shareOf(o options) (choked.Limits, error) {
	if o.store != "local" {
		return o.limits, nil
	}
	share := func(rates []choked.Rate) (out []choked.Rate) {
		for _, r := range rates {
			r.Burst /= int64(o.workers)
			r.Per *= time.Duration(o.workers)
			out = append(out, r)
		}
		return out
	}
	l := choked.Limits{Requests: share(o.limits.Requests), Tokens: share(o.limits.Tokens)}
	return l, l.Check()
}

// home is where one worker's quota comes from.
type home struct {
	store choked.Store // nil: nothing is limited

	// leader says who leads, and whether that is this worker. ok is false while
	// nobody does.
	leader func() (name string, self, ok bool)
	// ready returns nil when the worker has a part in the store, or what is
	// missing for that.
	ready func() error
	// complete reports whether the store can lose its leader and go on, as far
	// as this worker knows: such news may take a while to reach all.
	complete func() bool
}

func openStore(j job, log *slog.Logger) (home, error) {
	alone := home{
		leader:   func() (string, bool, bool) { return "", false, false },
		ready:    func() error { return nil },
		complete: func() bool { return true },
	}
	switch j.Store {
	case "none":
		return alone, nil
	case "local":
		alone.store = choked.NewLocal()
		return alone, nil
	case "cluster":
		return openCluster(j, log)
	}
	return home{}, fmt.Errorf("store %.80q: want %s", j.Store, alternatives(storeKinds))
}

func openCluster(j job, log *slog.Logger) (home, error) {
	node, err := cluster.Start(cluster.Config{Name: j.Name, Bind: j.Bind, Join: j.Join, Secret: j.Secret, Logger: log})
	if err != nil {
		return home{}, err
	}
	leader := func() (string, bool, bool) {
		m, ok := node.Leader()
		return m.Name, m.Self, ok
	}
	complete := func() bool {
		voters := 0
		for _, m := range node.Members() {
			if m.Voter {
				voters++
			}
		}
		_, led := node.Leader()
		return led && voters >= j.Voters
	}
	return home{node, leader, node.Health, complete}, nil
}
