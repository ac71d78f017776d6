//go:build linux

package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// round is a sequence of faults, of some half a minute, after which the fleet has to
// recover.
type round struct {
	injections []injection
	loss       loss
}

// loss is what happens to the directory of a slot after a round. Each kind loses what
// was there.
type loss struct {
	name         string // diskLoss, dirCopy; "": nothing
	slot         int
	copied       int           // dirCopy: slot whose directory takes the place
	copyFirst    bool          // dirCopy: the copy starts first
	betweenStart time.Duration // dirCopy: between the starts
}

// injection is one fault with its parameters. Each kind of fault uses some of them.
type injection struct {
	*fault
	slot       int
	side       []int // slots on one side of a cut, slot included
	loss       int   // percent of packets
	duration   time.Duration
	pauseAfter time.Duration // after the end of the fault
	restart    bool          // start the stopped workers afterwards
}

const injectionsPerRound = 6

// newRound returns the round of a number. The round depends on the seed, the number
// and the parameters alone, so that it can be repeated.
func newRound(seed, number uint64, workers int, network, disks bool) round {
	kinds := possible(network, disks)
	random := func(part uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, number<<8|part)) }
	var r round
	for i := range uint64(injectionsPerRound) {
		r.injections = append(r.injections, newInjection(random(i), workers, kinds))
	}
	r.loss = newLoss(random(injectionsPerRound), workers)
	return r
}

func newLoss(rnd *rand.Rand, workers int) loss {
	l := loss{name: []string{"", diskLoss, dirCopy}[rnd.IntN(3)], slot: rnd.IntN(workers)}
	if l.name == dirCopy {
		l.copied = (l.slot + 1 + rnd.IntN(workers-1)) % workers
		l.copyFirst = rnd.IntN(2) == 0
		l.betweenStart = time.Duration(rnd.IntN(4000)) * time.Millisecond
	}
	return l
}

func newInjection(rnd *rand.Rand, workers int, kinds []*fault) injection {
	between := func(a, b time.Duration) time.Duration { return a + time.Duration(rnd.Int64N(int64(b-a))) }
	s := injection{
		fault: kinds[rnd.IntN(len(kinds))], slot: rnd.IntN(workers), loss: 5 + rnd.IntN(25),
		duration: between(500*time.Millisecond, 5*time.Second), pauseAfter: between(500*time.Millisecond, 4*time.Second),
		restart: rnd.IntN(2) == 0,
	}
	for i := range workers {
		if rnd.IntN(3) == 0 || i == s.slot {
			s.side = append(s.side, i)
		}
	}
	return s
}

// fault is a kind of fault.
type fault struct {
	name    string
	leader  bool // hits the leader instead of the drawn slot
	all     bool // hits all workers: they recover after its end
	network bool // needs a [fleet.Network]
	disks   bool // needs a small disk for each worker ([fleet.Fleet.SmallDisk])
	// do injects the fault. end, unless nil, ends it.
	do func(s *storm, k injection) (end func() error, err error)
}

// possible returns the faults that can be injected with or without a network and
// small disks.
func possible(network, disks bool) (kinds []*fault) {
	for i := range faults {
		if f := &faults[i]; (network || !f.network) && (disks || !f.disks) {
			kinds = append(kinds, f)
		}
	}
	return kinds
}

var faults = [...]fault{
	{name: "kill", do: func(s *storm, k injection) (func() error, error) { return nil, s.Slot(k.slot).Kill() }},
	{name: "kill the leader", leader: true, do: func(s *storm, k injection) (func() error, error) { return nil, s.Slot(k.slot).Kill() }},
	{name: "pause", do: func(s *storm, k injection) (func() error, error) { return s.pause(k.slot) }},
	{name: "pause the leader", leader: true, do: func(s *storm, k injection) (func() error, error) { return s.pause(k.slot) }},
	{name: "leave", do: func(s *storm, k injection) (func() error, error) {
		p := s.Slot(k.slot)
		if !p.Running() {
			return nil, nil
		}
		if err := s.tolerateIfBusy(p.Leave(30 * time.Second)); err != nil {
			return nil, err
		}
		return nil, p.Kill()
	}},
	{name: "starve", do: func(s *storm, k injection) (func() error, error) { // as on an overloaded machine
		return repeat(60*time.Millisecond, s.Slot(k.slot).Pause, s.Slot(k.slot).Resume)
	}},
	{name: "kill all", all: true, do: func(s *storm, _ injection) (func() error, error) { return s.restartStopped, s.killAll() }},
	{name: "fill a disk", disks: true, do: func(s *storm, k injection) (func() error, error) { return s.fill(k.slot), nil }},
	{name: "fill the leader's disk", leader: true, disks: true, do: func(s *storm, k injection) (func() error, error) { return s.fill(k.slot), nil }},
	{name: "fill all disks", all: true, disks: true, do: func(s *storm, _ injection) (func() error, error) { return s.fill(s.except()...), nil }},

	{name: "cut", all: true, network: true, do: func(s *storm, k injection) (func() error, error) {
		return s.net.Heal, s.net.Cut(k.side, s.except(k.side...))
	}},
	{name: "cut the leader off", leader: true, network: true, do: func(s *storm, k injection) (func() error, error) {
		return s.net.Heal, s.net.Cut([]int{k.slot}, s.except(k.slot))
	}},
	{name: "deafen", network: true, do: func(s *storm, k injection) (func() error, error) {
		return s.net.Heal, s.net.DropFrom(k.slot, s.except(k.slot)...)
	}},
	{name: "deafen the leader", leader: true, network: true, do: func(s *storm, k injection) (func() error, error) {
		return s.net.Heal, s.net.DropFrom(k.slot, s.except(k.slot)...)
	}},
	{name: "flap", network: true, do: func(s *storm, k injection) (func() error, error) {
		cut := func() error { return s.net.Cut([]int{k.slot}, s.except(k.slot)) }
		return repeat(200*time.Millisecond, cut, s.net.Heal)
	}},
	{name: "ring", all: true, network: true, do: func(s *storm, _ injection) (func() error, error) { // each host reaches its two neighbours only
		var errs []error
		n := len(s.Hosts)
		for i := range n {
			errs = append(errs, s.net.DropFrom(i, s.except(i, (i+1)%n, (i+n-1)%n)...))
		}
		return s.net.Heal, errors.Join(errs...)
	}},
	{name: "lose packets", all: true, network: true, do: func(s *storm, k injection) (func() error, error) {
		var errs []error
		for i := range s.Hosts {
			errs = append(errs, s.net.Rules(i, fmt.Sprintf("numgen random mod 100 < %d drop", k.loss)))
		}
		return s.net.Heal, errors.Join(errs...)
	}},
}

// repeat calls do and undo in turn until end is called.
func repeat(every time.Duration, do, undo func() error) (end func() error, err error) {
	stop, done := make(chan struct{}), make(chan error, 1)
	go func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			if err := do(); err != nil {
				done <- err
				return
			}
			<-tick.C
			if err := undo(); err != nil {
				done <- err
				return
			}
			select {
			case <-stop:
				done <- nil
				return
			case <-tick.C:
			}
		}
	}()
	return func() error {
		close(stop)
		return <-done
	}, nil
}
