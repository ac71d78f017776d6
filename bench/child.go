package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/choked/choked"
	"github.com/choked/choked/bucket"
	"github.com/choked/choked/cluster"
	"github.com/choked/choked/httpstore"
	"github.com/choked/choked/internal/testkit/history"
	"github.com/choked/choked/internal/testkit/ports"
	"github.com/choked/choked/server"
)

// jobVar has the job of a process that this program starts of itself.
const jobVar = "CHOKED_BENCH_NODE"

// job is a node in a process of its own, and callers there who take what they
// can get.
type job struct {
	Name, Bind, Dir string
	Join            []string
	Serve           string // address of its HTTP service; empty: none
	Worker          int
	Callers         int    // under each of the demands; none: it only decides
	Records         string // file of what was admitted
}

// demand is what callers in such a process want of a key.
type demand struct {
	name  string
	limit choked.Rate
	every time.Duration // a caller needs one; zero: at once again
}

var demands = []demand{
	{"flat out on 200/s", perSecond(200), 0},
	{"below the limit of 2,000/s", perSecond(2000), 20 * time.Millisecond},
}

// What a process says of itself, in lines.
const (
	sayWhole   = "whole"   // three vote, one leads
	sayLeads   = "leads"   // this one
	sayFollows = "follows" // not this one
)

// beNode does its job and ends, in a process that was started for one: when it
// is told to, or when who started it has ended.
func beNode() {
	text := os.Getenv(jobVar)
	if text == "" {
		return
	}
	var j job
	err := json.Unmarshal([]byte(text), &j)
	if err == nil {
		err = j.do()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "node:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func (j job) do() (err error) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	signal.Ignore(os.Interrupt) // it is for who started this one
	go func() {
		os.Stdin.Read(make([]byte, 1)) //nolint:errcheck // it ends with the other process
		stop()
	}()
	node, err := cluster.Start(cluster.Config{Name: j.Name, Bind: j.Bind, Join: j.Join, Dir: j.Dir, Secret: secret})
	if err != nil {
		return err
	}
	choke := choked.New(node)
	var work sync.WaitGroup
	work.Go(func() { j.tell(ctx, node) })
	if j.Serve != "" {
		err = j.serve(ctx, node, &work)
	}
	if j.Callers > 0 && err == nil {
		err = j.work(ctx, choke, &work)
	}
	if err != nil {
		stop()
	}
	<-ctx.Done()
	err = errors.Join(err, choke.Close())
	work.Wait()
	return errors.Join(err, node.Close())
}

// tell says what this node is, until ctx ends.
func (j job) tell(ctx context.Context, node *cluster.Node) {
	if whole(ctx, node, len(j.Join)) == nil {
		fmt.Println(sayWhole)
	}
	led := false
	for tick := time.NewTicker(2 * time.Millisecond); ctx.Err() == nil; {
		if m, ok := node.Leader(); led != (ok && m.Self) {
			led = !led
			fmt.Println(map[bool]string{true: sayLeads, false: sayFollows}[led])
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

// serve is the node's HTTP service, until ctx ends.
func (j job) serve(ctx context.Context, node *cluster.Node, work *sync.WaitGroup) error {
	l, err := net.Listen("tcp", j.Serve)
	if err != nil {
		return err
	}
	s := server.New(server.Config{Store: node})
	work.Go(func() { s.Serve(l) }) //nolint:errcheck // how it ended shows at its clients
	work.Go(func() {
		<-ctx.Done()
		s.Shutdown(context.Background()) //nolint:errcheck // as above
	})
	return nil
}

// work has callers take until ctx ends, or their choke closes. Each admission is
// in the file when the next is asked for.
func (j job) work(ctx context.Context, choke *choked.Choke, work *sync.WaitGroup) error {
	w, err := history.Open(j.Records)
	if err != nil {
		return err
	}
	for i, d := range demands {
		l, err := choke.Limiter(d.name, choked.Limits{Requests: []choked.Rate{d.limit}}, nil)
		if err != nil {
			return err
		}
		for range j.Callers {
			work.Go(func() {
				for ctx.Err() == nil {
					r := history.Record{Before: history.Now(), Requests: 1, Worker: uint32(j.Worker), Key: uint32(i)}
					err := l.Wait(ctx, choked.Cost{Requests: 1})
					if r.After = history.Now(); err == nil {
						err = w.Append(r)
					}
					if err != nil && !errors.Is(err, choked.ErrNoQuorum) {
						break
					}
					sleep(ctx, d.every) //nolint:errcheck // the loop looks
				}
			})
		}
	}
	return nil
}

// process is one that does a job.
type process struct {
	job   job
	cmd   *exec.Cmd
	whole chan struct{} // closed when it has seen three that vote
	leads atomic.Bool
	ended chan struct{}
}

func start(j job) (*process, error) {
	text, err := json.Marshal(j)
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &process{job: j, cmd: exec.Command(self), whole: make(chan struct{}), ended: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), jobVar+"="+string(text))
	p.cmd.Stderr = os.Stderr
	if _, err := p.cmd.StdinPipe(); err != nil { // it ends when this process does
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { // ends with the process
		defer close(p.ended)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			switch lines.Text() {
			case sayWhole:
				close(p.whole)
			case sayLeads, sayFollows:
				p.leads.Store(lines.Text() == sayLeads)
			}
		}
		p.leads.Store(false)
		p.cmd.Wait() //nolint:errcheck // how it ended shows in what it did
	}()
	return p, nil
}

// end sends the process a signal and waits for its end.
func (p *process) end(s syscall.Signal) {
	p.cmd.Process.Signal(s) //nolint:errcheck // it has ended
	select {
	case <-p.ended:
	case <-time.After(10 * time.Second):
		p.cmd.Process.Kill() //nolint:errcheck // as above
		<-p.ended
	}
}

// trio is three nodes that vote, in processes of their own.
type trio struct {
	dir   string
	procs []*process
}

// startTrio starts them, all with the callers of j and an HTTP service, and returns
// when they are a whole.
func startTrio(ctx context.Context, j job, dirs bool) (*trio, error) {
	addrs, err := ports.Free(6)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "choked-bench-")
	if err != nil {
		return nil, err
	}
	t := &trio{dir: dir}
	for i := range 3 {
		j.Name, j.Bind, j.Join, j.Serve, j.Worker = fmt.Sprint("voter-", i+1), addrs[i], addrs[:3], addrs[3+i], i
		j.Records = fmt.Sprintf("%s/records-%d", dir, i)
		if dirs {
			j.Dir = fmt.Sprintf("%s/%d", dir, i)
			if err := os.Mkdir(j.Dir, 0o700); err != nil {
				return nil, errors.Join(err, t.stop())
			}
		}
		p, err := start(j)
		if err != nil {
			return nil, errors.Join(err, t.stop())
		}
		t.procs = append(t.procs, p)
	}
	for _, p := range t.procs {
		if err := p.await(ctx); err != nil {
			return nil, errors.Join(err, t.stop())
		}
	}
	return t, nil
}

func (p *process) await(ctx context.Context) error {
	select {
	case <-p.whole:
		return nil
	case <-p.ended:
		return fmt.Errorf("%s has ended", p.job.Name)
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(60 * time.Second):
		return fmt.Errorf("%s does not find three that vote", p.job.Name)
	}
}

func (t *trio) stop() error {
	for _, p := range t.procs {
		p.end(syscall.SIGTERM)
	}
	return os.RemoveAll(t.dir)
}

// leader is the one that leads, once there is one.
func (t *trio) leader(ctx context.Context) (i int, err error) {
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end) && ctx.Err() == nil; time.Sleep(5 * time.Millisecond) {
		for i, p := range t.procs {
			if p.leads.Load() {
				return i, nil
			}
		}
	}
	return 0, errors.Join(errors.New("none of three processes leads"), ctx.Err())
}

// replace starts another process in place of the i-th, which has ended, and
// returns when all are a whole again.
func (t *trio) replace(ctx context.Context, i int) (err error) {
	if t.procs[i], err = start(t.procs[i].job); err != nil {
		return err
	}
	return t.procs[i].await(ctx)
}

// members starts n nodes in this process, which are clients of the three, and
// waits until they have found each other.
func (t *trio) members(ctx context.Context, n int) (stores []choked.Store, stop func() error, err error) {
	addrs, err := ports.Free(n)
	if err != nil {
		return nil, nil, err
	}
	var nodes []*cluster.Node
	stop = func() error { // all at once: each waits until its good-bye has spread
		return sameTime(nodes, (*cluster.Node).Close)
	}
	for i, addr := range addrs {
		node, err := cluster.Start(cluster.Config{Name: fmt.Sprint("member-", i+1), Bind: addr, Join: t.procs[0].job.Join, Secret: secret})
		if err != nil {
			return nil, nil, errors.Join(err, stop())
		}
		nodes = append(nodes, node)
	}
	for _, node := range nodes {
		if err := whole(ctx, node, n+3); err != nil {
			return nil, nil, errors.Join(err, stop())
		}
	}
	return spread(nodes, n), stop, nil
}

// clients are n workers in this process that are no members: each has connections
// of its own to the HTTP service of one of the three, and has been served once.
func (t *trio) clients(ctx context.Context, n int) (stores []choked.Store, stop func() error, err error) {
	var remote []*httpstore.Store
	stop = func() error { return sameTime(remote, (*httpstore.Store).Close) }
	for i := range n {
		s, err := httpstore.New("http://"+t.procs[i%len(t.procs)].job.Serve, "")
		if err != nil {
			return nil, nil, errors.Join(err, stop())
		}
		remote = append(remote, s)
	}
	err = sameTime(remote, func(s *httpstore.Store) error {
		return s.Adjust(ctx, bucket.Adjustment{Key: "hello", Limits: choked.MustLimits("100/s", "")})
	})
	if err != nil {
		return nil, nil, errors.Join(err, stop())
	}
	return spread(remote, n), stop, nil
}

// sameTime calls f for all of them at the same time.
func sameTime[T any](all []T, f func(T) error) error {
	errs := make([]error, len(all))
	var wg sync.WaitGroup
	for i, x := range all {
		wg.Go(func() { errs[i] = f(x) })
	}
	wg.Wait()
	return errors.Join(errs...)
}
