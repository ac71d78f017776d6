//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/choked/choked/bucket"
	"github.com/choked/choked/integration/internal/fleet"
	"github.com/choked/choked/internal/history"
)

const (
	calmEvery = 30 * time.Second
	lineEvery = 10 * time.Second
	healthyIn = time.Minute      // all workers, once nothing fails any more
	aloneIn   = 10 * time.Second // at most, for the workers that a fault has left
)

// storm is the fleet, and what is being done to it.
type storm struct {
	*fleet.Fleet
	net     *fleet.Network // nil: none of its own
	drift   int            // percent
	rnd     *rand.Rand
	out     io.Writer
	began   time.Time
	counts  map[string]int
	healed  []time.Duration // how long it took, each time
	checked []history.Record
	worst   history.Excess
	line    time.Time // when the next is due
	err     error
}

// rage runs a storm, and returns what it has broken.
func rage(ctx context.Context, o options, out io.Writer) (err error) {
	s := &storm{drift: o.drift, rnd: rand.New(rand.NewPCG(o.seed, 0)), out: out, counts: make(map[string]int), worst: history.Nothing}
	if o.network {
		if s.net, err = fleet.NewNetwork(o.workers); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, s.net.Close()) }()
		s.Fleet, err = fleet.OnNetwork(o.dir, s.net)
	} else {
		s.Fleet, err = fleet.New(o.dir, o.workers)
	}
	if err != nil {
		return err
	}
	defer s.Abandon()
	if err := s.StartAll(nil); err != nil {
		return err
	}
	s.began = time.Now()
	s.line = s.began.Add(lineEvery)
	for ctx.Err() == nil && time.Since(s.began) < o.span {
		for calm := time.Now().Add(calmEvery); ctx.Err() == nil && time.Now().Before(calm) && time.Since(s.began) < o.span; {
			if err := s.strike(ctx); err != nil {
				return err
			}
		}
		if err := s.heal(); err != nil {
			return err
		}
		if err := s.check(); err != nil {
			return err
		}
		if err := s.wipe(); err != nil {
			return err
		}
	}
	if err := s.Stop(); err != nil {
		return err
	}
	return s.sumUp()
}

// A fault befalls workers; end, if there is one, takes it from them again.
type fault struct {
	name string
	do   func(s *storm, slot int) (end func() error, err error)
}

var faults = []fault{
	{"kill", func(s *storm, slot int) (func() error, error) { return nil, s.kill(slot) }},
	{"kill the leader", func(s *storm, slot int) (func() error, error) {
		return nil, s.kill(s.leader(slot))
	}},
	{"pause", func(s *storm, slot int) (func() error, error) { return s.pause(slot) }},
	{"pause the leader", func(s *storm, slot int) (func() error, error) { return s.pause(s.leader(slot)) }},
	{"leave", func(s *storm, slot int) (func() error, error) {
		if p := s.Slot(slot); p.Running() {
			return nil, p.Leave(30 * time.Second)
		}
		return nil, nil
	}},
	{"starve", func(s *storm, slot int) (func() error, error) { // as on a machine that has too much to do
		return s.repeat(60*time.Millisecond, s.Slot(slot).Pause, s.Slot(slot).Resume)
	}},
	{"kill all", func(s *storm, _ int) (func() error, error) {
		var errs []error
		for slot := range s.Hosts {
			errs = append(errs, s.kill(slot))
		}
		return s.startThoseGone, errors.Join(errs...)
	}},
}

// Those that take a network of one's own.
var networkFaults = []fault{
	{"cut", func(s *storm, slot int) (func() error, error) {
		var one, other []int
		for i := range s.Hosts {
			if i == slot || s.rnd.IntN(3) == 0 {
				one = append(one, i)
			} else {
				other = append(other, i)
			}
		}
		return s.net.Heal, s.net.Cut(one, other)
	}},
	{"cut the leader off", func(s *storm, slot int) (func() error, error) {
		slot = s.leader(slot)
		return s.net.Heal, s.net.Cut([]int{slot}, s.others(slot))
	}},
	{"deafen", func(s *storm, slot int) (func() error, error) {
		return s.net.Heal, s.net.Deaf(slot, s.others(slot)...)
	}},
	{"flap", func(s *storm, slot int) (func() error, error) {
		return s.repeat(200*time.Millisecond, func() error { return s.net.Cut([]int{slot}, s.others(slot)) }, s.net.Heal)
	}},
	{"ring", func(s *storm, _ int) (func() error, error) { // each reaches its neighbours only
		var errs []error
		n := len(s.Hosts)
		for i := range n {
			var far []int
			for j := range n {
				if d := (i - j + n) % n; d > 1 && d < n-1 {
					far = append(far, j)
				}
			}
			errs = append(errs, s.net.Deaf(i, far...))
		}
		return s.net.Heal, errors.Join(errs...)
	}},
	{"deafen the leader", func(s *storm, slot int) (func() error, error) {
		slot = s.leader(slot)
		return s.net.Heal, s.net.Deaf(slot, s.others(slot)...)
	}},
	{"lose packets", func(s *storm, _ int) (func() error, error) {
		var errs []error
		rule := fmt.Sprintf("numgen random mod 100 < %d drop", 5+s.rnd.IntN(25))
		for i := range s.Hosts {
			errs = append(errs, s.net.Rules(i, rule))
		}
		return s.net.Heal, errors.Join(errs...)
	}},
}

// repeat does something and undoes it, over and over, until end is called.
func (s *storm) repeat(every time.Duration, do, undo func() error) (end func() error, err error) {
	stop, over := make(chan struct{}), make(chan error, 1)
	go func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			if err := do(); err != nil {
				over <- err
				return
			}
			<-tick.C
			if err := undo(); err != nil {
				over <- err
				return
			}
			select {
			case <-stop:
				over <- nil
				return
			case <-tick.C:
			}
		}
	}()
	return func() error {
		close(stop)
		return <-over
	}, nil
}

// strike lets the next fault happen, waits, ends it, and waits again. Each draws
// as often from the seed, whatever state the workers are in.
func (s *storm) strike(ctx context.Context) error {
	all := faults
	if s.net != nil {
		all = slices.Concat(faults, networkFaults)
	}
	which, slot := s.rnd.IntN(len(all)), s.rnd.IntN(len(s.Hosts))
	lasts, rests := s.between(500*time.Millisecond, 5*time.Second), s.between(500*time.Millisecond, 4*time.Second)
	again := s.rnd.IntN(2) == 0
	f := all[which]
	s.counts[f.name]++
	s.Faults = append(s.Faults, fleet.Fault{At: history.Now(), What: f.name, Slot: slot})
	end, err := f.do(s, slot)
	if err != nil {
		return fmt.Errorf("%s, slot %d: %w", f.name, slot, err)
	}
	s.wait(ctx, lasts)
	if end != nil {
		if err := end(); err != nil {
			return fmt.Errorf("end of %s, slot %d: %w", f.name, slot, err)
		}
	}
	// Some of those that are gone stay so, but never so many that a majority of
	// the others could be missing when one more goes.
	if gone := len(s.Hosts) - len(s.Running()); again || gone > 1 {
		if err := s.startThoseGone(); err != nil {
			return err
		}
	}
	s.wait(ctx, rests)
	return s.err
}

func (s *storm) between(a, b time.Duration) time.Duration {
	return a + time.Duration(s.rnd.Int64N(int64(b-a)))
}

// wait prints the lines that are due meanwhile.
func (s *storm) wait(ctx context.Context, d time.Duration) {
	end := time.NewTimer(d)
	defer end.Stop()
	for {
		line := time.NewTimer(time.Until(s.line))
		select {
		case <-end.C:
			line.Stop()
			return
		case <-ctx.Done():
			line.Stop()
			return
		case <-line.C:
			s.print()
		}
	}
}

func (s *storm) print() {
	s.line = s.line.Add(lineEvery)
	n := 0
	for _, c := range s.counts {
		n += c
	}
	var admitted, noQuorum, failed int64
	for _, p := range s.All() {
		st := p.Status()
		admitted, noQuorum, failed = admitted+st.Sent, noQuorum+st.NoQuorum, failed+st.Failed
	}
	fmt.Fprintf(s.out, "%8v  %d of %d run  %d admitted  %d without quorum  %d failed  %d faults  worst excess %.2f (suspected %.2f)\n",
		time.Since(s.began).Round(time.Second), len(s.Running()), len(s.Hosts), admitted, noQuorum, failed, n, s.worst.Proved, s.worst.Suspect)
}

// leader is the slot that leads, or another if none does.
func (s *storm) leader(other int) int {
	for slot := range s.Hosts {
		if p := s.Slot(slot); p.Running() && p.Status().Leads {
			return slot
		}
	}
	return other
}

func (s *storm) others(slot int) (list []int) {
	for i := range s.Hosts {
		if i != slot {
			list = append(list, i)
		}
	}
	return list
}

func (s *storm) kill(slot int) error { return s.Slot(slot).Kill() }

func (s *storm) pause(slot int) (func() error, error) {
	p := s.Slot(slot)
	if !p.Running() {
		return nil, nil
	}
	return p.Resume, p.Pause()
}

func (s *storm) startThoseGone() error {
	for slot := range s.Hosts {
		if s.Slot(slot).Running() {
			continue
		}
		if err := s.Slot(slot).Ended(0); errors.Is(err, fleet.ErrRuns) {
			return err
		} else if err != nil {
			return fmt.Errorf("%s has ended by itself: %w", s.Slot(slot).Job.Name, err)
		}
		if _, err := s.Start(slot, nil); err != nil {
			return err
		}
	}
	return nil
}

// heal ends all faults. All workers must be served then.
func (s *storm) heal() error {
	if s.net != nil {
		if err := s.net.Heal(); err != nil {
			return err
		}
	}
	if err := s.startThoseGone(); err != nil {
		return err
	}
	began := time.Now()
	s.Faults = append(s.Faults, fleet.Fault{At: history.Now(), What: "heal"})
	if err := s.Served(healthyIn, 20); err != nil {
		return fmt.Errorf("does not recover: %w", err)
	}
	s.healed = append(s.healed, time.Since(began))
	if err := s.Whole(healthyIn); err != nil {
		return fmt.Errorf("does not recover: %w", err)
	}
	return s.Alarms()
}

// wipe has one worker come back without its disk, half of the times. The others
// are whole.
func (s *storm) wipe() error {
	slot, do := s.rnd.IntN(len(s.Hosts)), s.rnd.IntN(2) == 0
	if !do {
		return nil
	}
	s.counts["lose a disk"]++
	s.Faults = append(s.Faults, fleet.Fault{At: history.Now(), What: "lose a disk", Slot: slot})
	if err := s.kill(slot); err != nil {
		return err
	}
	if err := os.RemoveAll(s.State(slot)); err != nil {
		return err
	}
	if _, err := s.Start(slot, nil); err != nil {
		return err
	}
	if err := s.Whole(healthyIn); err != nil {
		return fmt.Errorf("does not recover: %w", err)
	}
	return nil
}

// recent is how many admissions are checked again with those that are new: all
// windows of some minutes. In the end all are checked together.
const recent = 30_000

// allowed is the limits of the key, as a clock that is fast by the drift sees
// them.
func (s *storm) allowed() bucket.Limits {
	l := s.Limits
	for _, rates := range []*bucket.Rates{&l.Requests, &l.Tokens} {
		*rates = slices.Clone(*rates)
		for i := range *rates {
			(*rates)[i].Per = (*rates)[i].Per * 100 / time.Duration(100+s.drift)
		}
	}
	return l
}

func (s *storm) check() error {
	all, err := s.Records()
	if err != nil {
		return err
	}
	from := max(0, len(s.checked)-recent)
	if len(s.checked) > 0 {
		s.worst = s.worst.Max(history.Check(all[min(from, len(all)):], s.allowed()))
	} else {
		s.worst = s.worst.Max(history.Check(all, s.allowed()))
	}
	s.checked = all
	if s.worst.Proved > 1e-6 {
		return fmt.Errorf("%.2f units over the bound, proved", s.worst.Proved)
	}
	return nil
}

func (s *storm) sumUp() error {
	if err := s.Alarms(); err != nil {
		return err
	}
	rs, err := s.Records()
	if err != nil {
		return err
	}
	s.worst = history.Check(rs, s.allowed())
	var list []string
	for _, name := range slices.Sorted(maps.Keys(s.counts)) {
		list = append(list, fmt.Sprintf("%s %d", name, s.counts[name]))
	}
	fmt.Fprintf(s.out, "faults: %s\n", strings.Join(list, ", "))
	var leaders []time.Duration
	for _, r := range s.Recoveries(rs, "kill the leader", aloneIn) {
		leaders = append(leaders, r.Gap)
	}
	var leave time.Duration
	for _, p := range s.All() {
		leave = max(leave, p.Status().Leave)
	}
	fmt.Fprintf(s.out, "leader killed: p50, p99, max: %v\n", fleet.Quantiles(leaders))
	fmt.Fprintf(s.out, "all faults over: each worker served 20 calls after p50, p99, max: %v\n", fleet.Quantiles(s.healed))
	fmt.Fprintf(s.out, "longest time to leave %v\n", leave.Round(time.Millisecond))
	fmt.Fprintf(s.out, "%d admissions, worst excess %.2f, suspected %.2f\n", len(rs), s.worst.Proved, s.worst.Suspect)
	if s.worst.Proved > 1e-6 {
		return fmt.Errorf("%.2f units over the bound, proved", s.worst.Proved)
	}
	return nil
}
