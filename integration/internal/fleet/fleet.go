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

// Busy is limits of which the workers together ask for more, in both units.
var Busy = choked.MustLimits("100/s burst 25", "2200/s burst 600")

// Slow is limits under which a burst that comes too early is not soon allowed.
var Slow = choked.MustLimits("10/s burst 100", "")

const (
	key     = "provider"
	callers = 6
	port    = "7946"
)

// Fleet is workers on one machine that share a key. Its methods belong to one
// goroutine at a time.
type Fleet struct {
	Dir     string        // holds all that the workers leave
	Hosts   []string      // the address of each slot
	Limits  choked.Limits // of the key
	Seeds   []string      // host:port
	Network *Network      // nil: loopback
	Secret  string
	Spoiled map[int]bool // slots whose logs are not to be read
	Faults  []Fault      // what was done to it
	slots   []*Process   // the present, or last, one of each
	all     []*Process
	disks   replicated // as far as they were read
}

// Fault is what was done to a worker, and when.
type Fault struct {
	At   int64
	What string
	Slot int
}

// New prepares a fleet of n workers, all of them seeds up to the third. Nothing
// is started.
func New(dir string, n int) (*Fleet, error) {
	f := &Fleet{Dir: dir, Limits: Busy, Spoiled: make(map[int]bool), slots: make([]*Process, n), Secret: rand.Text()}
	for _, sub := range []string{"logs", "records", "state"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			return nil, err
		}
	}
	var err error
	if f.Hosts, err = loopback(n); err != nil {
		return nil, err
	}
	f.seed()
	return f, nil
}

// OnNetwork prepares a fleet with a worker on each host of a network.
func OnNetwork(dir string, net *Network) (*Fleet, error) {
	f, err := New(dir, len(net.Hosts))
	if err != nil {
		return nil, err
	}
	f.Network, f.Hosts = net, net.Hosts
	f.seed()
	return f, nil
}

func (f *Fleet) seed() { f.SeedBy([]int{0, 1, 2}[:min(3, len(f.Hosts))]...) }

// SeedBy has those that are started from now on look for the workers of some slots.
func (f *Fleet) SeedBy(slots ...int) {
	f.Seeds = nil
	for _, slot := range slots {
		f.Seeds = append(f.Seeds, net.JoinHostPort(f.Hosts[slot], port))
	}
}

// loopback returns n addresses of this machine that nobody else uses for
// workers. The port is below those that the system hands out, so that it is
// free, too, when a worker comes back to it.
func loopback(n int) ([]string, error) {
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

// Move gives a slot another address, of which its next process and those that
// look for it later learn from the seeds.
func (f *Fleet) Move() error {
	hosts, err := loopback(len(f.Hosts))
	if err != nil {
		return err
	}
	f.Hosts = hosts
	f.seed()
	return nil
}

// State is the directory of a slot's node.
func (f *Fleet) State(slot int) string {
	return filepath.Join(f.Dir, "state", fmt.Sprintf("worker-%d", slot+1))
}

// Start starts the next process of a slot. change, which may be nil, is given
// its job before; wrap is a command to run it by.
func (f *Fleet) Start(slot int, change func(*Job), wrap ...string) (*Process, error) {
	name := fmt.Sprintf("worker-%d", slot+1)
	job := Job{
		Slot: slot, Incarnation: 1, Name: name, Bind: net.JoinHostPort(f.Hosts[slot], port), Dir: f.State(slot),
		Secret: f.Secret, Join: f.Seeds, Timeout: 2 * time.Second, Key: key, Limits: f.Limits, Callers: callers, Tell: f.tell(), Look: f.look(),
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

// StartAll starts all slots and returns when they are a cluster that can lose
// its leader and go on.
func (f *Fleet) StartAll(change func(*Job)) error {
	for slot := range f.slots {
		if _, err := f.Start(slot, change); err != nil {
			return err
		}
	}
	return f.Whole(30 * time.Second)
}

// Slot returns the present, or last, process of a slot.
func (f *Fleet) Slot(slot int) *Process { return f.slots[slot] }

// Put makes p, which was started before, the present process of a slot.
func (f *Fleet) Put(slot int, p *Process) { f.slots[slot] = p }

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

// Leader returns the process that leads, waiting for one.
func (f *Fleet) Leader(within time.Duration) (*Process, error) {
	var leader *Process
	err := f.await(within, "a leader", func() bool {
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

// Whole returns when the processes that run know the same leader and the same
// voters, as many of them as there should be, and are well.
func (f *Fleet) Whole(within time.Duration) error {
	return f.await(within, "a whole cluster", func() bool {
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

// tell is how often each worker says its status, and look how often it looks how
// things are: all of them together some hundred times a second, so that many do
// not keep the machine busy by it.
func (f *Fleet) tell() time.Duration {
	return max(25*time.Millisecond, time.Duration(len(f.slots))*10*time.Millisecond)
}

func (f *Fleet) look() time.Duration {
	return max(10*time.Millisecond, time.Duration(len(f.slots))*2*time.Millisecond)
}

func (f *Fleet) await(within time.Duration, what string, as func() bool) error {
	for end := time.Now().Add(within); !as(); time.Sleep(f.look()) {
		if time.Now().After(end) {
			var standing []error
			for _, p := range f.slots {
				if p != nil {
					standing = append(standing, fmt.Errorf("%s: running %v, %+v", p.Job.Name, p.Running(), p.Status()))
				}
			}
			return fmt.Errorf("no %s within %v:\n%w", what, within, errors.Join(standing...))
		}
	}
	return nil
}

// Do notes a fault as one that happens now, and lets it happen.
func (f *Fleet) Do(what string, p *Process, do func() error) error {
	f.Faults = append(f.Faults, Fault{history.Now(), what, p.Job.Slot})
	return do()
}

// Served returns when each running worker has had n more calls admitted.
func (f *Fleet) Served(within time.Duration, n int64) error {
	running := f.Running()
	want := make([]int64, len(running))
	for i, p := range running {
		want[i] = p.Status().Sent + n
	}
	end := time.Now().Add(within)
	for i, p := range running {
		if err := p.Await(time.Until(end), fmt.Sprint("served ", n, " calls"), func(s Status) bool { return s.Sent >= want[i] }); err != nil {
			return err
		}
	}
	return nil
}

// Stall is the longest time for which a worker was kept waiting for a processor.
func (f *Fleet) Stall() (longest time.Duration) {
	for _, p := range f.all {
		longest = max(longest, p.Status().Stall)
	}
	return longest
}

// Stop has all workers leave that run, one after the other, and ends the rest. Its
// error is, too, that of each that had ended by itself, now or in a former life of
// its slot, but for those of which a test has learnt by [Process.Ended].
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

// Abandon ends all that may still run.
func (f *Fleet) Abandon() {
	for _, p := range f.all {
		p.kill()
	}
}

// Records returns all admissions so far, ordered by time.
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

// Alarms returns what the logs have of things that must never happen.
func (f *Fleet) Alarms() error {
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
