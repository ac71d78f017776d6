//go:build linux

package fleet

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/choked/choked"
	"github.com/choked/choked/internal/testkit/history"
)

// Busy limits both units to less than the workers ask for together.
var Busy = choked.MustLimits("requests 100/s burst 25; tokens 2200/s burst 600")

// Slow has a burst of ten seconds of refill, so that a burst admitted too early
// shows as an excess for long.
var Slow = choked.MustLimits("requests 10/s burst 100")

const (
	key     = "provider"
	callers = 6
	port    = "7946"
)

// Fleet is a set of workers on one machine that share a key. Only one goroutine at
// a time may call its methods.
type Fleet struct {
	Dir        string        // holds the logs, records and state of the workers
	Hosts      []string      // the address of each slot
	Limits     choked.Limits // of the key
	Seeds      []string      // host:port
	Network    *Network      // nil: loopback
	Secret     string
	FailedDisk map[int]bool // slots whose disk failed: their Raft logs are not read
	Faults     []Fault      // injected so far, in order of time
	slots      []*Process   // the latest process of each slot
	all        []*Process
	diskLog    replicatedLog // read from the disks so far
}

// Fault is a fault that was injected into a worker.
type Fault struct {
	At   int64 // of history.Now
	What string
	Slot int
}

// New prepares a fleet of n workers on loopback addresses. The first three workers
// are the seeds. It starts no process.
func New(dir string, n int) (*Fleet, error) {
	f := &Fleet{Dir: dir, Limits: Busy, FailedDisk: make(map[int]bool), slots: make([]*Process, n), Secret: rand.Text()}
	for _, sub := range []string{"logs", "records", "state"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			return nil, err
		}
	}
	var err error
	if f.Hosts, err = freeLoopbackHosts(n); err != nil {
		return nil, err
	}
	f.seedByFirst()
	return f, nil
}

// OnNetwork prepares a fleet with a worker on each host of a network.
func OnNetwork(dir string, net *Network) (*Fleet, error) {
	f, err := New(dir, len(net.Hosts))
	if err != nil {
		return nil, err
	}
	f.Network, f.Hosts = net, net.Hosts
	f.seedByFirst()
	return f, nil
}

func (f *Fleet) seedByFirst() { f.SetSeeds([]int{0, 1, 2}[:min(3, len(f.Hosts))]...) }

// SetSeeds makes the workers of some slots the seeds of all processes that are
// started from now on.
func (f *Fleet) SetSeeds(slots ...int) {
	f.Seeds = nil
	for _, slot := range slots {
		f.Seeds = append(f.Seeds, net.JoinHostPort(f.Hosts[slot], port))
	}
}

// freeLoopbackHosts returns n loopback addresses whose port is free. The port is
// below the range from which the system chooses ports, so that it is still free
// when a worker is restarted.
func freeLoopbackHosts(n int) ([]string, error) {
	var last error
	for range 100 {
		a, b := 1+mathrand.IntN(254), mathrand.IntN(256)
		hosts := make([]string, n)
		free := true
		for i := range hosts {
			hosts[i] = fmt.Sprintf("127.%d.%d.%d", a, b, 1+i)
			l, err := net.Listen("tcp", net.JoinHostPort(hosts[i], port))
			if err != nil {
				last, free = err, false
				break
			}
			l.Close()
		}
		if free {
			return hosts, nil
		}
	}
	return nil, fmt.Errorf("no loopback addresses are free: %w", last)
}

// Move gives all slots new addresses, and the seeds with them. Processes that are
// started from now on use them.
func (f *Fleet) Move() error {
	hosts, err := freeLoopbackHosts(len(f.Hosts))
	if err != nil {
		return err
	}
	f.Hosts = hosts
	f.seedByFirst()
	return nil
}

// StateDir returns the directory in which a slot's node keeps its state.
func (f *Fleet) StateDir(slot int) string {
	return filepath.Join(f.Dir, "state", fmt.Sprintf("worker-%d", slot+1))
}

// Start starts the next process of a slot. change, if not nil, may modify its job
// before; wrap is a command that runs the process, such as strace.
func (f *Fleet) Start(slot int, change func(*Job), wrap ...string) (*Process, error) {
	name := fmt.Sprintf("worker-%d", slot+1)
	job := Job{
		Slot: slot, Incarnation: 1, Name: name, Bind: net.JoinHostPort(f.Hosts[slot], port), Dir: f.StateDir(slot),
		Secret: f.Secret, Join: f.Seeds, Timeout: 2 * time.Second, Key: key, Limits: f.Limits, Callers: callers, StatusEvery: f.statusEvery(), ProbeEvery: f.probeEvery(),
	}
	for _, p := range f.all {
		if p.Job.Slot == slot {
			job.Incarnation++
		}
	}
	if change != nil {
		change(&job)
	}
	file := fmt.Sprintf("%s.%d", name, job.Incarnation)
	job.Records = filepath.Join(f.Dir, "records", file)
	if f.Network != nil {
		wrap = append(f.Network.enter(slot), wrap...)
	}
	p, err := launch(job, filepath.Join(f.Dir, "logs", file+".log"), wrap)
	if err != nil {
		return nil, err
	}
	f.slots[slot] = p
	f.all = append(f.all, p)
	return p, nil
}

// StartAll starts all slots and waits until the cluster is complete.
func (f *Fleet) StartAll(change func(*Job)) error {
	for slot := range f.slots {
		if _, err := f.Start(slot, change); err != nil {
			return err
		}
	}
	return f.AwaitComplete(30 * time.Second)
}

// Slot returns the latest process of a slot.
func (f *Fleet) Slot(slot int) *Process { return f.slots[slot] }

// SetSlot makes p, which was started before, the latest process of a slot.
func (f *Fleet) SetSlot(slot int, p *Process) { f.slots[slot] = p }

// All returns all processes that were ever started.
func (f *Fleet) All() []*Process { return f.all }

// Running returns the processes that run, and are not paused.
func (f *Fleet) Running() (list []*Process) {
	for _, p := range f.slots {
		if p != nil && p.Running() {
			list = append(list, p)
		}
	}
	return list
}

// AwaitLeader waits until a worker leads and most running workers know it as the
// leader, and returns its process.
func (f *Fleet) AwaitLeader(timeout time.Duration) (*Process, error) {
	var leader *Process
	err := f.await(timeout, "leader", func() bool {
		leader = nil
		votes := make(map[string]int)
		running := f.Running()
		for _, p := range running {
			votes[p.Status().Leader]++
		}
		for _, p := range running {
			if s := p.Status(); s.Leads && 2*votes[s.ID] > len(running) {
				leader = p
			}
		}
		return leader != nil
	})
	return leader, err
}

// AwaitComplete waits until all running workers are healthy, know the same leader,
// and know as many members and voters as there should be: three voters, or with
// fewer workers, one.
func (f *Fleet) AwaitComplete(timeout time.Duration) error {
	return f.await(timeout, "complete cluster", func() bool {
		running := f.Running()
		want := min(3, len(running)-(len(running)+1)%2)
		var leader string
		for _, p := range running {
			s := p.Status()
			leader = cmp.Or(leader, s.Leader)
			voters := 0
			for _, m := range s.Members {
				if m.Voter {
					voters++
				}
			}
			if s.Health != "" || s.Leader == "" || s.Leader != leader || voters != want || len(s.Members) != len(running) {
				return false
			}
		}
		return len(running) > 0
	})
}

// statusEvery is how often a worker reports its status. It grows with the number
// of workers, so that all of them together report a hundred times a second at most.
func (f *Fleet) statusEvery() time.Duration {
	return max(25*time.Millisecond, time.Duration(len(f.slots))*10*time.Millisecond)
}

// probeEvery is how often a worker measures its lateness. It grows with the number
// of workers, so that the measurement does not keep the machine busy.
func (f *Fleet) probeEvery() time.Duration {
	return max(10*time.Millisecond, time.Duration(len(f.slots))*2*time.Millisecond)
}

func (f *Fleet) await(timeout time.Duration, what string, done func() bool) error {
	for end := time.Now().Add(timeout); !done(); time.Sleep(f.probeEvery()) {
		if time.Now().After(end) {
			var states []error
			for _, p := range f.slots {
				if p != nil {
					states = append(states, fmt.Errorf("%s: running %v, %+v", p.Job.Name, p.Running(), p.Status()))
				}
			}
			return fmt.Errorf("await %s: not within %v:\n%w", what, timeout, errors.Join(states...))
		}
	}
	return nil
}

// Inject notes a fault of p, then calls do, which causes it.
func (f *Fleet) Inject(what string, p *Process, do func() error) error {
	f.Faults = append(f.Faults, Fault{history.Now(), what, p.Job.Slot})
	return do()
}

// AwaitServed waits until each running worker has had n more calls admitted.
func (f *Fleet) AwaitServed(timeout time.Duration, n int64) error {
	running := f.Running()
	want := make([]int64, len(running))
	for i, p := range running {
		want[i] = p.Status().Sent + n
	}
	end := time.Now().Add(timeout)
	for i, p := range running {
		if err := p.Await(time.Until(end), fmt.Sprint("served ", n, " calls"), func(s Status) bool { return s.Sent >= want[i] }); err != nil {
			return err
		}
	}
	return nil
}

// AwaitStepOut waits until the worker of one of the slots has stepped out of the
// cluster, and returns its slot.
func (f *Fleet) AwaitStepOut(timeout time.Duration, slots ...int) (out int, err error) {
	err = f.await(timeout, "a worker that steps out", func() bool {
		i := slices.IndexFunc(slots, func(slot int) bool { return f.Slot(slot).Status().Out != "" })
		if i >= 0 {
			out = slots[i]
		}
		return i >= 0
	})
	return out, err
}

// LongestStall returns the longest time that a worker waited for a processor.
func (f *Fleet) LongestStall() (longest time.Duration) {
	for _, p := range f.all {
		longest = max(longest, p.Status().LongestStall)
	}
	return longest
}

// Stop lets all running workers leave, one after the other, and kills the others.
// Its error includes each unexpected end of a process so far, of every slot, unless
// the test has learnt of it by [Process.AwaitEnd].
func (f *Fleet) Stop() error {
	var errs []error
	f.Faults = append(f.Faults, Fault{At: history.Now(), What: "stop"})
	for _, p := range f.slots {
		switch {
		case p == nil:
		case p.Running():
			errs = append(errs, p.Leave(20*time.Second))
		default:
			errs = append(errs, p.Kill())
		}
	}
	for _, p := range f.all {
		errs = append(errs, p.unexpected())
	}
	return errors.Join(errs...)
}

// KillAll kills all processes that may still run.
func (f *Fleet) KillAll() {
	for _, p := range f.all {
		p.killHard()
	}
}

// Records returns all admissions so far, in order of After.
func (f *Fleet) Records() (rs []history.Record, err error) {
	files, err := filepath.Glob(filepath.Join(f.Dir, "records", "*"))
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		some, err := history.Read(file)
		if err != nil {
			return nil, err
		}
		rs = append(rs, some...)
	}
	slices.SortFunc(rs, func(a, b history.Record) int { return cmp.Compare(a.After, b.After) })
	return rs, nil
}

// CheckLogs returns an error if the log of a worker has a data race or a panic.
func (f *Fleet) CheckLogs() error {
	var errs []error
	for _, p := range f.all {
		b, err := os.ReadFile(p.Log)
		if err != nil {
			return err
		}
		for _, bad := range []string{"DATA RACE", "panic:", "fatal error:"} {
			if i := bytes.Index(b, []byte(bad)); i >= 0 {
				errs = append(errs, fmt.Errorf("%s:\n%s", filepath.Base(p.Log), b[max(0, i-200):min(len(b), i+4000)]))
			}
		}
	}
	return errors.Join(errs...)
}
