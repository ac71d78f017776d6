package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"

	"github.com/choked/choked"
	"github.com/choked/choked/bucket"
	"github.com/choked/choked/fsm"
)

// first measures how long the first admission under a new key takes, against
// what it has to wait for: one fsync and one round trip.
func first(ctx context.Context, c config) ([]table, error) {
	fsync, err := fsyncs(200)
	if err != nil {
		return nil, err
	}
	trip, err := trips()
	if err != nil {
		return nil, err
	}
	entry, err := entries(200)
	if err != nil {
		return nil, err
	}
	t := table{
		note: "One caller, one new key after the other. The floor is the median fsync of 1 KiB plus the median exchange of a byte over TCP on loopback. " +
			"raft-boltdb needs two fsyncs for an entry of the log, and Raft has the leader store it before the followers do: that is the second floor, two entries and a round trip. What nodes take that keep nothing on disk is the part of all the rest.",
		head: []string{"", "p50", "p99", "p50 against the floor", "against two entries and a round trip"},
	}
	floor := quantile(fsync, 0.5) + quantile(trip, 0.5)
	second := 2*quantile(entry, 0.5) + quantile(trip, 0.5)
	t.row("fsync", quantile(fsync, 0.5), quantile(fsync, 0.99), "", "")
	t.row("round trip", quantile(trip, 0.5), quantile(trip, 0.99), "", "")
	t.row("an entry in raft-boltdb", quantile(entry, 0.5), quantile(entry, 0.99), "", "")
	for _, dirs := range []bool{true, false} {
		disk := ""
		if !dirs {
			disk = ", nothing on disk"
		}
		if err := firstOn(ctx, dirs, func(node string, took []time.Duration) {
			p50 := quantile(took, 0.5)
			t.row("first admission at "+node+disk, p50, quantile(took, 0.99), ratio(float64(p50), float64(floor)), ratio(float64(p50), float64(second)))
		}); err != nil {
			return nil, err
		}
	}
	return []table{t}, nil
}

// firstOn reports how long each of 300 first admissions took, for each of three
// nodes.
func firstOn(ctx context.Context, dirs bool, report func(node string, took []time.Duration)) (err error) {
	nodes, stop, err := startNodes(ctx, 3, dirs)
	if err != nil {
		return err
	}
	defer func() { err = cmp.Or(err, stop()) }()
	limits := choked.MustLimits("100/s", "")
	for i, node := range nodes {
		name := fmt.Sprint("node ", i+1)
		if m, ok := node.Leader(); ok && m.Self {
			name += ", the leader"
		}
		choke := choked.New(node)
		var took []time.Duration
		for j := range 300 {
			l, err := choke.Limiter(fmt.Sprint("first-", i, "-", j), limits, nil)
			if err != nil {
				return err
			}
			begun := time.Now()
			if err := l.Wait(ctx, choked.Cost{Requests: 1}); err != nil {
				return err
			}
			took = append(took, time.Since(begun))
		}
		if err := choke.Close(); err != nil {
			return err
		}
		report(name, took)
	}
	return nil
}

func quantile(ds []time.Duration, p float64) time.Duration {
	slices.Sort(ds)
	return ds[min(int(p*float64(len(ds))), len(ds)-1)].Round(time.Microsecond)
}

func fsyncs(n int) (took []time.Duration, err error) {
	f, err := os.CreateTemp("", "choked-bench-")
	if err != nil {
		return nil, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	block := make([]byte, 1024)
	for range n {
		begun := time.Now()
		if _, err := f.Write(block); err != nil {
			return nil, err
		}
		if err := f.Sync(); err != nil {
			return nil, err
		}
		took = append(took, time.Since(begun))
	}
	return took, nil
}

// entries returns how long it takes to append an entry to a log as nodes keep it.
func entries(n uint64) (took []time.Duration, err error) {
	dir, err := os.MkdirTemp("", "choked-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	store, err := raftboltdb.New(raftboltdb.Options{Path: dir + "/log"})
	if err != nil {
		return nil, err
	}
	defer store.Close()
	for i := range n {
		begun := time.Now()
		if err := store.StoreLog(&raft.Log{Index: i + 1, Term: 1, Data: make([]byte, 128)}); err != nil {
			return nil, err
		}
		took = append(took, time.Since(begun))
	}
	return took, nil
}

// many measures 10,000 keys at once, and a thousand workers.
func many(ctx context.Context, c config) ([]table, error) {
	nodes, stop, err := startNodes(ctx, 3, false)
	if err != nil {
		return nil, err
	}
	defer stop()
	at := table{
		note: "10,000 new keys at once, from three nodes.",
		head: []string{"keys", "all admitted after", "p50", "p99", "exchanges an admission"},
	}
	for _, n := range []int{100, 1000, 10_000} {
		took, exchanges, err := rush(ctx, spread(nodes, 3), n, 3)
		if err != nil {
			return nil, err
		}
		at.row(n, slices.Max(took).Round(time.Millisecond), quantile(took, 0.5), quantile(took, 0.99), fmt.Sprintf("%.2f", exchanges))
	}
	workers := table{
		note: "Workers on 100 keys of 100/s each, all wanting more, for 10 s; the workers are in one process, over three nodes that vote.",
		head: []string{"workers", "admitted", "of the limit", "exchanges a second and worker", "exchanges an admission", "CPU"},
	}
	for _, n := range []int{10, 100, 1000} {
		row, err := crowd(ctx, spread(nodes, n), 100, 10*time.Second)
		if err != nil {
			return nil, err
		}
		workers.row(append([]any{n}, row...)...)
	}
	return []table{at, workers}, nil
}

// rush waits once under each of n new keys, all at once.
func rush(ctx context.Context, stores []choked.Store, n, run int) (took []time.Duration, exchanges float64, err error) {
	var chokes []*choked.Choke
	for _, s := range stores {
		c := choked.New(s)
		defer c.Close()
		chokes = append(chokes, c)
	}
	limits := choked.MustLimits("100/s", "")
	ls := make([]*choked.Limiter, n)
	for i := range ls {
		if ls[i], err = chokes[i%len(chokes)].Limiter(fmt.Sprint("rush-", n, "-", i), limits, nil); err != nil {
			return nil, 0, err
		}
	}
	took = make([]time.Duration, n)
	errs := make([]error, n)
	var wg sync.WaitGroup
	begun := time.Now()
	for i, l := range ls {
		wg.Go(func() {
			errs[i] = l.Wait(ctx, choked.Cost{Requests: 1})
			took[i] = time.Since(begun)
		})
	}
	wg.Wait()
	for i, l := range ls {
		if errs[i] != nil {
			return nil, 0, errs[i]
		}
		exchanges += float64(l.Stats().Exchanges) / float64(n)
	}
	return took, exchanges, nil
}

// crowd has workers, one for each store, take what they can under some keys.
func crowd(ctx context.Context, stores []choked.Store, keys int, d time.Duration) ([]any, error) {
	limits := choked.MustLimits("100/s", "")
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	var wg sync.WaitGroup
	var ls []*choked.Limiter
	before := cpu()
	for i, s := range stores {
		c := choked.New(s)
		defer c.Close()
		// Each worker is busy under as many keys as there are workers for a key.
		for j := range max(1, keys/len(stores)) {
			l, err := c.Limiter(fmt.Sprint("crowd-", len(stores), "-", (i+j*len(stores))%keys), limits, nil)
			if err != nil {
				return nil, err
			}
			ls = append(ls, l)
			for range 2 {
				wg.Go(func() {
					for l.Wait(ctx, choked.Cost{Requests: 1}) == nil {
					}
				})
			}
		}
	}
	wg.Wait()
	used := cpu() - before
	var admitted, exchanges int64
	for _, l := range ls {
		s := l.Stats()
		admitted, exchanges = admitted+s.Admitted, exchanges+s.Exchanges
	}
	could := float64(keys) * (100 + 100*d.Seconds())
	return []any{
		admitted, fmt.Sprintf("%.1f%%", 100*float64(admitted)/could),
		fmt.Sprintf("%.1f", float64(exchanges)/d.Seconds()/float64(len(stores))),
		fmt.Sprintf("%.2f", float64(exchanges)/float64(max(admitted, 1))),
		fmt.Sprintf("%.2f cores", used.Seconds()/d.Seconds()),
	}, nil
}

// cpu is how much of it this process has used.
func cpu() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u) //nolint:errcheck // it cannot fail for oneself
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// idle measures what a cluster costs that nobody asks anything.
func idle(ctx context.Context, c config) ([]table, error) {
	nodes, stop, err := startNodes(ctx, 3, false)
	if err != nil {
		return nil, err
	}
	defer stop()
	debug.FreeOSMemory()        // nothing is left to do for what ran before
	time.Sleep(2 * time.Second) // the last of them has found all
	before, begun := cpu(), time.Now()
	time.Sleep(10 * time.Second)
	share := float64(cpu()-before) / float64(time.Since(begun)) / float64(len(nodes))
	t := table{head: []string{"", "of a core, for each node"}}
	t.row("three nodes for 10 s", fmt.Sprintf("%.2f%%", 100*share))
	return []table{t}, nil
}

// state measures the state machine under a million keys that are neither full
// nor leased.
func state(ctx context.Context, c config) ([]table, error) {
	const keys = 1_000_000
	heap := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	limits := choked.MustLimits("100/d", "100000/d")
	empty := heap()
	m := fsm.New()
	var index uint64
	apply := func(at int64, ops ...bucket.Op) time.Duration {
		index++
		data := (&fsm.Entry{At: at, Ops: ops}).Encode()
		begun := time.Now()
		if err, ok := m.Apply(&raft.Log{Index: index, Data: data}).(error); ok {
			panic(err)
		}
		return time.Since(begun)
	}
	key := func(i int) string { return fmt.Sprintf("tenant-%04d/key-%d", i%1000, i) }
	charge := func(i int) bucket.Op {
		return &bucket.Adjustment{Key: key(i), Limits: limits, Defined: 1, Charge: bucket.Cost{Requests: 10, Tokens: 1000}}
	}
	for i := 0; i < keys; i += 1000 {
		var ops []bucket.Op
		for j := range 1000 {
			ops = append(ops, charge(i+j))
		}
		apply(1, ops...)
	}
	full := heap()

	var snapped, persisted time.Duration
	var worst []time.Duration
	file, err := os.CreateTemp("", "choked-bench-")
	if err != nil {
		return nil, err
	}
	defer os.Remove(file.Name())
	defer file.Close()
	runtime.GC()
	done := make(chan error)
	begun := time.Now()
	go func() {
		s, err := m.Snapshot()
		snapped = time.Since(begun)
		if err == nil {
			err = s.Persist(sink{file})
		}
		persisted = time.Since(begun)
		done <- err
	}()
	for over := false; !over; {
		select {
		case err := <-done:
			if err != nil {
				return nil, err
			}
			over = true
		default:
			before := time.Now()
			apply(2, charge(rand.IntN(keys)))
			worst = append(worst, time.Since(before))
		}
	}
	size, err := file.Seek(0, io.SeekCurrent)
	if err != nil {
		return nil, err
	}
	var restored []time.Duration
	for range 3 {
		n := fsm.New()
		begun := time.Now()
		if err := n.Restore(io.NopCloser(io.NewSectionReader(file, 0, size))); err != nil {
			return nil, err
		}
		restored = append(restored, time.Since(begun))
	}
	t := table{head: []string{"", ""}}
	t.row("memory a key, the key's own bytes included", fmt.Sprintf("%d bytes", (full-empty)/keys))
	t.row("snapshot", fmt.Sprintf("%v, %d bytes a key", persisted.Round(time.Millisecond), size/keys))
	t.row("of that, while Raft waits", snapped.Round(time.Millisecond))
	t.row(fmt.Sprintf("an entry applied meanwhile, of %d: p99, longest", len(worst)), fmt.Sprintf("%v, %v", quantile(worst, 0.99), slices.Max(worst).Round(time.Microsecond)))
	t.row("restore, median", median(restored).Round(time.Millisecond))
	runtime.KeepAlive(m)
	return []table{t}, nil
}

// sink is a snapshot in a file, as Raft keeps it.
type sink struct{ *os.File }

func (s sink) ID() string    { return "" }
func (s sink) Cancel() error { return nil }
func (s sink) Close() error  { return s.Sync() }

// trips are round trips of a byte between two connections on loopback.
func trips() (took []time.Duration, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer l.Close()
	go func() {
		if conn, err := l.Accept(); err == nil {
			io.Copy(conn, conn)
			conn.Close()
		}
	}()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	b := make([]byte, 1)
	for range 500 {
		begun := time.Now()
		if _, err := conn.Write(b); err != nil {
			return nil, err
		}
		if _, err := io.ReadFull(conn, b); err != nil {
			return nil, err
		}
		took = append(took, time.Since(begun))
	}
	return took, nil
}
