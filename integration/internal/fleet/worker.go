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

// workerEnv is the environment variable that is set in worker processes, which run
// the program that starts the fleet.
const workerEnv = "CHOKED_INTEGRATION_WORKER"

// Main runs a worker and exits if the process was started as one; otherwise it
// returns at once. A program that starts a [Fleet] calls it first.
func Main() {
	if os.Getenv(workerEnv) != "" {
		os.Exit(work(os.Stdin, os.Stdout, os.Stderr))
	}
}

// Job is the configuration of a worker: the first line on its standard input.
type Job struct {
	Slot, Incarnation int

	// Of the cluster node.
	Name, Bind, Advertise, Dir, Secret string
	Join                               []string
	Expect                             int
	Timeout                            time.Duration
	ColdStart                          cluster.ColdStart
	Recover                            bool

	Key         string
	Limits      choked.Limits
	Callers     int           // each asks again as soon as it is admitted
	Records     string        // file to which admissions are written
	StatusEvery time.Duration // how often it reports its status
	ProbeEvery  time.Duration // how often it measures its lateness and samples its queue
	BusyLoops   int           // busy loops, which share a single processor with the worker; 0: no loops, all processors
}

// Order is each further line on standard input. The end of input makes the worker
// leave the cluster and exit.
type Order struct {
	Callers int // new number of callers
}

// Status is the state of a worker: each line on its standard output.
type Status struct {
	At      int64 // of history.Now
	PID     int
	ID      string // of the node
	Health  string // error of Node.Health; "": healthy
	Out     string // error of Node.SteppedOut; "": it takes part
	Leader  string // id of the leader, as far as the worker knows
	Leads   bool
	Members []cluster.Member
	Callers int // as set by the last order

	Sent     int64       // admitted calls
	NoQuorum int64       // calls that failed with ErrNoQuorum
	Refused  int64       // calls that failed as the node has stepped out
	Failed   int64       // calls that failed with another error
	Error    string      // the last of any kind
	Failure  string      // the last that counts as Failed
	Leased   choked.Cost // quota in the leases of the worker

	Up           int64         // start of the worker, of history.Now
	Late         time.Duration // total time that it waited for a processor or the disk
	LongestStall time.Duration // longest single wait for a processor

	Final bool          // this is the last status: the worker admits no more calls
	Leave time.Duration // when Final: how long its node took to leave
}

// worker is the work of one process of the fleet.
type worker struct {
	job     Job
	node    *cluster.Node
	limiter *choked.Limiter
	records *history.Writer
	queue   *history.Queue

	up                                                    int64
	sent, noQuorum, refused, failed, callers, late, stall atomic.Int64

	mu           sync.Mutex
	err, failure error // the last
}

// raftLeaks are goroutines that Raft v1.8.0 leaks now and then, when it loses
// leadership during a leadership transfer: they send to the replication goroutine
// of the follower, which has ended.
var raftLeaks = []goleak.Option{
	goleak.IgnoreTopFunction("github.com/hashicorp/raft.(*Raft).leadershipTransfer"),
	goleak.IgnoreTopFunction("github.com/hashicorp/raft.(*Raft).leaderLoop.func2"),
}

// work runs a worker process and returns its exit status.
func work(in io.Reader, out, logs io.Writer) int {
	signal.Ignore(os.Interrupt) // Ctrl-C signals all processes of a terminal; only the parent reacts
	before := goleak.IgnoreCurrent()
	if err := run(bufio.NewReader(in), json.NewEncoder(out), logs); err != nil {
		fmt.Fprintln(logs, "worker:", err)
		return 1
	}
	// The last gossip probe of a member that does not answer ends after up to
	// AwarenessMaxMultiplier probe intervals: 4 s.
	var err error
	for began := time.Now(); time.Since(began) < 8*time.Second; {
		if err = goleak.Find(append(raftLeaks, before)...); err == nil {
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
		return fmt.Errorf("read job: %w", err)
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
	go func() { // ends after the input, which ends with the parent process at the latest
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
	others.Go(func() { w.reportStatus(ctx, out) })
	others.Go(func() { w.measureWakeups(ctx) })
	if w.job.Dir != "" {
		others.Go(func() { w.measureDisk(ctx) })
	}
	for range w.job.BusyLoops {
		others.Go(func() { spin(ctx) })
	}
	w.serve(ctx, counts)
	others.Wait()

	final := w.status()
	began := time.Now()
	err = choke.Close()
	if errors.Is(err, choked.ErrUnavailable) || errors.Is(err, context.Canceled) { // its leases could not be returned, which is no failure of the worker
		err = nil
	}
	err = errors.Join(err, w.node.Close())
	final.Final, final.Leave = true, time.Since(began)
	return errors.Join(err, out.Encode(final))
}

// serve runs as many callers as the last order says, until ctx ends.
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

// randomCost returns the cost of a call of up to 40 tokens, in every unit.
func randomCost() choked.Cost {
	input, output := 1+rand.Int64N(20), rand.Int64N(21)
	return choked.Cost{Requests: 1, Tokens: input + output, Input: input, Output: output, Spend: 3*input + 15*output}
}

// call waits for one admission after the other and records each, until ctx ends.
func (w *worker) call(ctx context.Context) {
	for ctx.Err() == nil {
		cost := randomCost()
		asked, turn := w.queue.Join()
		err := w.limiter.Wait(ctx, cost)
		if err == nil {
			now, decided := history.Now(), asked
			if ctx.Err() == nil { // once ctx has ended, callers leave the queue unserved and Since does not hold
				decided = w.queue.Since(turn, asked)
			}
			err = w.records.Append(history.Record{
				Before: decided, After: now, Waited: time.Duration(now - asked), Cost: cost,
				Worker: uint32(w.job.Slot), Incarnation: uint32(w.job.Incarnation),
			})
		}
		if err == nil {
			w.sent.Add(1)
			continue
		}
		if ctx.Err() != nil {
			return
		}
		w.fail(err)
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// fail records that a call failed.
func (w *worker) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.err = err
	switch {
	case errors.Is(err, choked.ErrNoQuorum):
		w.noQuorum.Add(1)
	case w.node.SteppedOut() != nil:
		w.refused.Add(1)
	default:
		w.failed.Add(1)
		w.failure = err
	}
}

// grain is the lateness that is not counted: timers and disks take as long.
const grain = time.Millisecond

// measureWakeups sleeps for ProbeEvery again and again until ctx ends, and sums up
// by how much it wakes late: other goroutines of the worker wake as late. After
// each sleep it samples the queue of callers.
func (w *worker) measureWakeups(ctx context.Context) {
	for ctx.Err() == nil {
		began := time.Now()
		time.Sleep(w.job.ProbeEvery)
		late := int64(max(0, time.Since(began)-w.job.ProbeEvery-grain))
		w.late.Add(late)
		w.stall.Store(max(w.stall.Load(), late))
		w.queue.Join()
	}
}

// measureDisk sums up how long the disk takes to sync a byte: Raft waits as long for
// each entry.
func (w *worker) measureDisk(ctx context.Context) {
	f, err := os.CreateTemp(filepath.Dir(filepath.Dir(w.job.Records)), "sync-")
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

// spin keeps a processor busy until ctx ends.
func spin(ctx context.Context) {
	for ctx.Err() == nil {
	}
}

// reportStatus writes the status until ctx ends or the output is closed.
func (w *worker) reportStatus(ctx context.Context, out *json.Encoder) {
	tick := time.NewTicker(w.job.StatusEvery)
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
		Sent: w.sent.Load(), NoQuorum: w.noQuorum.Load(), Refused: w.refused.Load(), Failed: w.failed.Load(), Leased: stats.Leased,
		Up: w.up, Late: time.Duration(w.late.Load()), LongestStall: time.Duration(w.stall.Load()),
	}
	if m, ok := w.node.Leader(); ok {
		s.Leader, s.Leads = m.ID, m.Self
	}
	if err := w.node.Health(); err != nil {
		s.Health = err.Error()
	}
	if err := w.node.SteppedOut(); err != nil {
		s.Out = err.Error()
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
