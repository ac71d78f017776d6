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

// jobEnv is the environment variable with the job of a child process, which runs this
// same program.
const jobEnv = "CHOKED_BENCH_NODE"

// job is the configuration of a child process: a cluster node, with callers that
// wait for admission again and again.
type job struct {
	Name, Bind, Dir string
	Join            []string
	Serve           string // address of the HTTP service; empty: none
	Worker          int
	Callers         int    // number for each of the demands; zero: the process is a voter without callers
	Records         string // file to which admissions are written
}

// demand is the demand of the callers in a child process on one key.
type demand struct {
	name     string
	limit    choked.Rate
	interval time.Duration // pause of a caller after each admission; zero: none
}

var demands = []demand{
	{"flat out on 200/s", perSecond(200), 0},
	{"below the limit of 2,000/s", perSecond(2000), 20 * time.Millisecond},
}

// Lines that a child process prints.
const (
	reportComplete = "complete" // the node sees three voters and a leader
	reportLeads    = "leads"    // the node became leader
	reportFollows  = "follows"  // the node lost leadership
)

// runAsNode runs a job and exits, if the process was started for one; otherwise it
// returns at once. The job ends on SIGTERM, or when the parent process has ended.
func runAsNode() {
	text := os.Getenv(jobEnv)
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
	signal.Ignore(os.Interrupt) // Ctrl-C signals all processes of a terminal; only the parent reacts
	go func() {
		os.Stdin.Read(make([]byte, 1)) //nolint:errcheck // returns when the parent has ended
		stop()
	}()
	node, err := cluster.Start(cluster.Config{Name: j.Name, Bind: j.Bind, Join: j.Join, Dir: j.Dir, Secret: secret})
	if err != nil {
		return err
	}
	choke := choked.New(node)
	var work sync.WaitGroup
	work.Go(func() { j.report(ctx, node) })
	if j.Serve != "" {
		err = j.serve(ctx, node, &work)
	}
	if j.Callers > 0 && err == nil {
		err = j.startCallers(ctx, choke, &work)
	}
	if err != nil {
		stop()
	}
	<-ctx.Done()
	err = errors.Join(err, choke.Close())
	work.Wait()
	return errors.Join(err, node.Close())
}

// report prints when the cluster is complete and when the node becomes leader or loses
// leadership, until ctx ends.
func (j job) report(ctx context.Context, node *cluster.Node) {
	if awaitComplete(ctx, node, len(j.Join)) == nil {
		fmt.Println(reportComplete)
	}
	led := false
	for tick := time.NewTicker(2 * time.Millisecond); ctx.Err() == nil; {
		if m, ok := node.Leader(); led != (ok && m.Self) {
			led = !led
			fmt.Println(map[bool]string{true: reportLeads, false: reportFollows}[led])
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

// serve runs the node's HTTP service until ctx ends.
func (j job) serve(ctx context.Context, node *cluster.Node, work *sync.WaitGroup) error {
	l, err := net.Listen("tcp", j.Serve)
	if err != nil {
		return err
	}
	s := server.New(server.Config{Store: node})
	work.Go(func() { s.Serve(l) }) //nolint:errcheck // an error shows at the clients
	work.Go(func() {
		<-ctx.Done()
		s.Shutdown(context.Background()) //nolint:errcheck // as above
	})
	return nil
}

// startCallers starts the callers, which end with ctx or when choke closes.
func (j job) startCallers(ctx context.Context, choke *choked.Choke, work *sync.WaitGroup) error {
	w, err := history.Open(j.Records)
	if err != nil {
		return err
	}
	for key, d := range demands {
		l, err := choke.Limiter(d.name, choked.Limits{Requests: []choked.Rate{d.limit}}, nil)
		if err != nil {
			return err
		}
		for range j.Callers {
			work.Go(func() { j.call(ctx, l, w, key) })
		}
	}
	return nil
}

// call waits for one admission after the other under the key of a demand. It records
// each before it asks for the next. An outage of the cluster does not end it.
func (j job) call(ctx context.Context, l *choked.Limiter, w *history.Writer, key int) {
	for ctx.Err() == nil {
		r := history.Record{Before: history.Now(), Cost: bucket.Cost{Requests: 1}, Worker: uint32(j.Worker), Key: uint32(key)}
		err := l.Wait(ctx, choked.Cost{Requests: 1})
		if r.After = history.Now(); err == nil {
			err = w.Append(r)
		}
		if err != nil && !errors.Is(err, choked.ErrNoQuorum) {
			return
		}
		sleep(ctx, demands[key].interval) //nolint:errcheck // the loop checks ctx
	}
}

// process is a child process with its job.
type process struct {
	job      job
	cmd      *exec.Cmd
	complete chan struct{} // closed when the node has reported three voters and a leader
	leads    atomic.Bool
	ended    chan struct{}
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
	p := &process{job: j, cmd: exec.Command(self), complete: make(chan struct{}), ended: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), jobEnv+"="+string(text))
	p.cmd.Stderr = os.Stderr
	if _, err := p.cmd.StdinPipe(); err != nil { // its end lets the child exit when this process does
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
			case reportComplete:
				close(p.complete)
			case reportLeads, reportFollows:
				p.leads.Store(lines.Text() == reportLeads)
			}
		}
		p.leads.Store(false)
		p.cmd.Wait() //nolint:errcheck // a failure shows in its records
	}()
	return p, nil
}

// end sends the process a signal and waits for its end.
func (p *process) end(s syscall.Signal) {
	p.cmd.Process.Signal(s) //nolint:errcheck // fails only if the process has ended
	select {
	case <-p.ended:
	case <-time.After(10 * time.Second):
		p.cmd.Process.Kill() //nolint:errcheck // as above
		<-p.ended
	}
}

// trio is three voters in processes of their own.
type trio struct {
	dir   string
	procs []*process
}

// startTrio starts three voters with the callers of j and an HTTP service, and waits
// until all of them see a complete cluster. With dirs they keep their state on disk.
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
	case <-p.complete:
		return nil
	case <-p.ended:
		return fmt.Errorf("%s has exited", p.job.Name)
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(60 * time.Second):
		return fmt.Errorf("%s: not three voters after 60s", p.job.Name)
	}
}

func (t *trio) stop() error {
	for _, p := range t.procs {
		p.end(syscall.SIGTERM)
	}
	return os.RemoveAll(t.dir)
}

// leader waits until one of the processes leads and returns its index.
func (t *trio) leader(ctx context.Context) (i int, err error) {
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end) && ctx.Err() == nil; time.Sleep(5 * time.Millisecond) {
		for i, p := range t.procs {
			if p.leads.Load() {
				return i, nil
			}
		}
	}
	return 0, errors.Join(errors.New("no leader among three processes after 20s"), ctx.Err())
}

// replace starts another process in place of the i-th, which has ended, and waits
// until it sees a complete cluster.
func (t *trio) replace(ctx context.Context, i int) (err error) {
	if t.procs[i], err = start(t.procs[i].job); err != nil {
		return err
	}
	return t.procs[i].await(ctx)
}

// members starts n nodes in this process, which join the three voters, and waits until
// all nodes know each other.
func (t *trio) members(ctx context.Context, n int) (stores []choked.Store, stop func() error, err error) {
	addrs, err := ports.Free(n)
	if err != nil {
		return nil, nil, err
	}
	var nodes []*cluster.Node
	stop = func() error { // all at once: each waits until gossip has spread its leave
		return forAll(nodes, (*cluster.Node).Close)
	}
	for i, addr := range addrs {
		node, err := cluster.Start(cluster.Config{Name: fmt.Sprint("member-", i+1), Bind: addr, Join: t.procs[0].job.Join, Secret: secret})
		if err != nil {
			return nil, nil, errors.Join(err, stop())
		}
		nodes = append(nodes, node)
	}
	for _, node := range nodes {
		if err := awaitComplete(ctx, node, n+3); err != nil {
			return nil, nil, errors.Join(err, stop())
		}
	}
	return spread(nodes, n), stop, nil
}

// clients returns n stores that are clients of the voters' HTTP services, with their
// own connections. Each client has made a call.
func (t *trio) clients(ctx context.Context, n int) (stores []choked.Store, stop func() error, err error) {
	var remote []*httpstore.Store
	stop = func() error { return forAll(remote, (*httpstore.Store).Close) }
	for i := range n {
		s, err := httpstore.Open(httpstore.Config{URL: "http://" + t.procs[i%len(t.procs)].job.Serve})
		if err != nil {
			return nil, nil, errors.Join(err, stop())
		}
		remote = append(remote, s)
	}
	err = forAll(remote, func(s *httpstore.Store) error {
		return s.Adjust(ctx, bucket.Adjustment{Key: "hello", Limits: choked.MustLimits("requests 100/s")})
	})
	if err != nil {
		return nil, nil, errors.Join(err, stop())
	}
	return spread(remote, n), stop, nil
}

// forAll calls f for all elements of all at the same time.
func forAll[T any](all []T, f func(T) error) error {
	errs := make([]error, len(all))
	var wg sync.WaitGroup
	for i, x := range all {
		wg.Go(func() { errs[i] = f(x) })
	}
	wg.Wait()
	return errors.Join(errs...)
}
