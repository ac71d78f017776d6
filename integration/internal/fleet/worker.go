//go:build linux

package fleet

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/choked/choked"
	"github.com/choked/choked/cluster"
	"github.com/choked/choked/internal/testkit/history"
)

// workerEnv is set in the processes that a program starts from itself.
const workerEnv = "CHOKED_INTEGRATION_WORKER"

// Main makes the program a worker if it was started as one, and does not return
// then. A program that starts a [Fleet] calls it first.
func Main() {
	if os.Getenv(workerEnv) != "" {
		os.Exit(work(os.Stdin, os.Stdout, os.Stderr))
	}
}

// Job is what a worker has to do: the first line on its standard input.
type Job struct {
	Slot, Incarnation int

	// Of the node.
	Name, Bind, Advertise, Dir, Secret string
	Join                               []string
	Expect                             int
	Timeout                            time.Duration
	ColdStart                          cluster.ColdStart
	Recover                            bool

	Key     string
	Limits  choked.Limits
	Callers int           // that ask for more as soon as they are served
	Records string        // file of admissions
	Tell    time.Duration // how often it says its status
	Look    time.Duration // how often it looks at its line, and whether it is late
	Busy    int           // loops that never rest, beside the rest on one processor; 0: on all there are
}

// Order is each further line. The end of input tells the worker to leave.
type Order struct {
	Callers int // from now on
}

// Status is how a worker stands: each line on its standard output.
type Status struct {
	At      int64 // of history.Now
	PID     int
	ID      string // of the node
	Health  string // or what is wrong
	Leader  string // the id, as far as it knows
	Leads   bool
	Members []cluster.Member
	Callers int // as ordered last

	Sent     int64       // calls, admitted
	NoQuorum int64       // calls refused for want of one
	Failed   int64       // other calls that came to nothing
	Error    string      // the last, of either kind
	Failure  string      // the last of the other calls'
	Leased   choked.Cost // in hand

	Up    int64         // since when it runs
	Late  time.Duration // by which it was kept waiting for a processor and the disk, in all
	Stall time.Duration // for a processor, at once, at most

	Final bool          // it admits no more
	Leave time.Duration // when Final: how long its node took to leave
}

// worker is what one process of the fleet does.
type worker struct {
	job     Job
	node    *cluster.Node
	limiter *choked.Limiter
	records *history.Writer
	queue   *history.Queue

	up                                           int64
	sent, noQuorum, failed, callers, late, stall atomic.Int64

	mu           sync.Mutex
	err, failure error // the last
}

// raftLeaves is what Raft v1.8.0 leaves behind, now and then, when it hands over
// leadership and loses it meanwhile: what it sends to the replication to the
// follower, which has ended, nobody takes.
var raftLeaves = []goleak.Option{
	goleak.IgnoreTopFunction("github.com/hashicorp/raft.(*Raft).leadershipTransfer"),
	goleak.IgnoreTopFunction("github.com/hashicorp/raft.(*Raft).leaderLoop.func2"),
}

// work is the whole life of a worker process. It returns the exit status.
func work(in io.Reader, out, logs io.Writer) int {
	signal.Ignore(os.Interrupt) // it reaches all processes of a terminal
	before := goleak.IgnoreCurrent()
	if err := run(bufio.NewReader(in), json.NewEncoder(out), logs); err != nil {
		fmt.Fprintln(logs, "worker:", err)
		return 1
	}
	// Gossip's last probe of a member that doesn't answer ends by its own time,
	// which is up to AwarenessMaxMultiplier probe intervals: 4 s.
	var err error
	for began := time.Now(); time.Since(began) < 8*time.Second; {
		if err = goleak.Find(append(raftLeaves, before)...); err == nil {
			return 0
		}
	}
	fmt.Fprintln(logs, "worker:", err)
	return 3
}

func run(in *bufio.Reader, out *json.Encoder, logs io.Writer) (err error) {
	orders := json.NewDecoder(in)
	w := &worker{up: history.Now()}
	if err := orders.Decode(&w.job); err != nil {
		return fmt.Errorf("read what to do: %w", err)
	}
	if w.records, err = history.Open(w.job.Records); err != nil {
		return err
	}
	defer w.records.Close()
	w.node, err = cluster.Start(cluster.Config{
		Name: w.job.Name, Bind: w.job.Bind, Advertise: w.job.Advertise, Join: w.job.Join, Expect: w.job.Expect, Dir: w.job.Dir, Secret: w.job.Secret,
		Timeout: w.job.Timeout, ColdStart: w.job.ColdStart, Recover: w.job.Recover, Logger: slog.New(slog.NewTextHandler(logs, nil)),
	})
	if err != nil {
		return err
	}
	choke := choked.New(w.node)
	if w.limiter, err = choke.Limiter(w.job.Key, w.job.Limits, nil); err != nil {
		return errors.Join(err, w.node.Close())
	}
	w.queue = &history.Queue{Stats: w.limiter.Stats}

	ctx, stop := context.WithCancel(context.Background())
	counts := make(chan int, 1)
	counts <- w.job.Callers
	go func() { // ends after the input, and so after the parent
		defer stop()
		var o Order
		for orders.Decode(&o) == nil {
			select {
			case counts <- o.Callers:
			case <-ctx.Done():
			}
		}
	}()
	var others sync.WaitGroup
	others.Go(func() { w.tell(ctx, out) })
	others.Go(func() { w.pulse(ctx) })
	if w.job.Dir != "" {
		others.Go(func() { w.touch(ctx) })
	}
	for range w.job.Busy {
		others.Go(func() { spin(ctx) })
	}
	w.serve(ctx, counts)
	others.Wait()

	final := w.status()
	began := time.Now()
	err = choke.Close()
	if errors.Is(err, choked.ErrUnavailable) || errors.Is(err, context.Canceled) { // its leases are lost, which is no fault of its own
		err = nil
	}
	err = errors.Join(err, w.node.Close())
	final.Final, final.Leave = true, time.Since(began)
	return errors.Join(err, out.Encode(final))
}

// serve keeps as many callers as was said last, until ctx ends.
func (w *worker) serve(ctx context.Context, counts <-chan int) {
	var callers sync.WaitGroup
	stop := func() {}
	for {
		n := 0
		select {
		case <-ctx.Done():
		case n = <-counts:
		}
		stop()
		callers.Wait()
		if ctx.Err() != nil {
			return
		}
		var during context.Context
		during, stop = context.WithCancel(ctx)
		for range n {
			callers.Go(func() { w.call(during) })
		}
		w.callers.Store(int64(n))
	}
}

// call asks for one admission after the other and writes each down, until ctx
// ends.
func (w *worker) call(ctx context.Context) {
	for ctx.Err() == nil {
		cost := choked.Cost{Requests: 1, Tokens: 1 + rand.Int64N(40)}
		asked, turn := w.queue.Join()
		err := w.limiter.Wait(ctx, cost)
		if err == nil {
			now, before := history.Now(), asked
			if ctx.Err() == nil { // else some may have left the line unserved
				before = w.queue.Since(turn, asked)
			}
			err = w.records.Append(history.Record{
				Before: before, After: now, Waited: time.Duration(now - asked), Requests: cost.Requests, Tokens: cost.Tokens,
				Worker: uint32(w.job.Slot), Incarnation: uint32(w.job.Incarnation),
			})
		}
		switch {
		case err == nil:
			w.sent.Add(1)
			continue
		case ctx.Err() != nil:
			return
		case errors.Is(err, choked.ErrNoQuorum):
			w.noQuorum.Add(1)
		default:
			w.failed.Add(1)
		}
		w.mu.Lock()
		if w.err = err; !errors.Is(err, choked.ErrNoQuorum) {
			w.failure = err
		}
		w.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// grain is how late something may be that is nobody's fault.
const grain = time.Millisecond

// pulse sleeps for a moment, over and over, until ctx ends. By how much it wakes
// too late, the others of this process may have been late as well, each time that
// they had something to do. Then it looks at the line of callers.
func (w *worker) pulse(ctx context.Context) {
	for ctx.Err() == nil {
		began := time.Now()
		time.Sleep(w.job.Look)
		late := int64(max(0, time.Since(began)-w.job.Look-grain))
		w.late.Add(late)
		w.stall.Store(max(w.stall.Load(), late))
		w.queue.Join()
	}
}

// touch does the same with the disk: it waits for a byte to be there, as Raft does
// for each entry.
func (w *worker) touch(ctx context.Context) {
	f, err := os.CreateTemp(filepath.Dir(filepath.Dir(w.job.Records)), "touched-")
	if err != nil {
		return
	}
	defer f.Close()
	os.Remove(f.Name())
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for err == nil && ctx.Err() == nil {
		began := time.Now()
		_, err = f.WriteAt([]byte{byte(began.UnixNano())}, 0)
		err = errors.Join(err, unix.Fdatasync(int(f.Fd())))
		w.late.Add(int64(max(0, time.Since(began)-grain)))
		<-tick.C
	}
}

// spin does nothing, and gives way to nobody of its own accord, until ctx ends.
func spin(ctx context.Context) {
	for ctx.Err() == nil {
	}
}

// tell writes the status until ctx ends, or until nobody reads it.
func (w *worker) tell(ctx context.Context, out *json.Encoder) {
	tick := time.NewTicker(w.job.Tell)
	defer tick.Stop()
	for out.Encode(w.status()) == nil {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (w *worker) status() Status {
	stats := w.limiter.Stats()
	s := Status{
		At: history.Now(), PID: os.Getpid(), ID: w.node.ID(), Members: w.node.Members(), Callers: int(w.callers.Load()),
		Sent: w.sent.Load(), NoQuorum: w.noQuorum.Load(), Failed: w.failed.Load(), Leased: stats.Leased,
		Up: w.up, Late: time.Duration(w.late.Load()), Stall: time.Duration(w.stall.Load()),
	}
	if m, ok := w.node.Leader(); ok {
		s.Leader, s.Leads = m.ID, m.Self
	}
	if err := w.node.Health(); err != nil {
		s.Health = err.Error()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		s.Error = w.err.Error()
	}
	if w.failure != nil {
		s.Failure = w.failure.Error()
	}
	return s
}
