//go:build linux

package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// round is what befalls the workers between two calms, some half a minute.
type round struct {
	strikes []strike
	wiped   int // the slot that loses its disk afterwards; -1: none
}

// strike is one fault. Which of the fields it uses depends on the fault.
type strike struct {
	*fault
	slot  int
	side  []int // slots on one side of a cut, the one above among them
	loss  int   // percent of packets
	lasts time.Duration
	rests time.Duration // what comes after it
	again bool          // those that are gone are started afterwards
}

const strikesPerRound = 6

// draw returns a round. It follows from the seed and the round's number, and so
// does each strike: neither time nor what was drawn before has a part in it.
func draw(seed, number uint64, workers int, network, disks bool) round {
	able := possible(network, disks)

	random := func(part uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, number<<8|part)) }
	var r round
	for i := range uint64(strikesPerRound) {
		r.strikes = append(r.strikes, drawStrike(random(i), workers, able))
	}
	rnd := random(strikesPerRound)
	r.wiped = rnd.IntN(workers)
	if rnd.IntN(2) == 0 {
		r.wiped = -1
	}
	return r
}

func drawStrike(rnd *rand.Rand, workers int, able []*fault) strike {
	between := func(a, b time.Duration) time.Duration { return a + time.Duration(rnd.Int64N(int64(b-a))) }
	s := strike{
		fault: able[rnd.IntN(len(able))], slot: rnd.IntN(workers), loss: 5 + rnd.IntN(25),
		lasts: between(500*time.Millisecond, 5*time.Second), rests: between(500*time.Millisecond, 4*time.Second),
		again: rnd.IntN(2) == 0,
	}
	for i := range workers {
		if rnd.IntN(3) == 0 || i == s.slot {
			s.side = append(s.side, i)
		}
	}
	return s
}

// fault befalls workers; end, if there is one, takes it from them again.
type fault struct {
	name    string
	leader  bool // hits the slot that leads, whichever was drawn
	all     bool // hits all: they recover when it is over
	network bool // needs a network of the storm's own
	disks   bool // needs disks of its own
	do      func(s *storm, k strike) (end func() error, err error)
}

// possible returns the faults that can be made.
func possible(network, disks bool) (able []*fault) {
	for i := range faults {
		if f := &faults[i]; (network || !f.network) && (disks || !f.disks) {
			able = append(able, f)
		}
	}
	return able
}

var faults = [...]fault{
	{name: "kill", do: func(s *storm, k strike) (func() error, error) { return nil, s.Slot(k.slot).Kill() }},
	{name: "kill the leader", leader: true, do: func(s *storm, k strike) (func() error, error) { return nil, s.Slot(k.slot).Kill() }},
	{name: "pause", do: func(s *storm, k strike) (func() error, error) { return s.pause(k.slot) }},
	{name: "pause the leader", leader: true, do: func(s *storm, k strike) (func() error, error) { return s.pause(k.slot) }},
	{name: "leave", do: func(s *storm, k strike) (func() error, error) {
		p := s.Slot(k.slot)
		if !p.Running() {
			return nil, nil
		}
		if err := s.unwell(p.Leave(30 * time.Second)); err != nil {
			return nil, err
		}
		return nil, p.Kill()
	}},
	{name: "starve", do: func(s *storm, k strike) (func() error, error) { // as on a machine that has too much to do
		return repeat(60*time.Millisecond, s.Slot(k.slot).Pause, s.Slot(k.slot).Resume)
	}},
	{name: "kill all", all: true, do: func(s *storm, _ strike) (func() error, error) { return s.startThoseGone, s.killAll() }},
	{name: "fill a disk", disks: true, do: func(s *storm, k strike) (func() error, error) { return s.fill(k.slot), nil }},
	{name: "fill the leader's disk", leader: true, disks: true, do: func(s *storm, k strike) (func() error, error) { return s.fill(k.slot), nil }},
	{name: "fill all disks", all: true, disks: true, do: func(s *storm, _ strike) (func() error, error) { return s.fill(s.except()...), nil }},

	{name: "cut", all: true, network: true, do: func(s *storm, k strike) (func() error, error) {
		return s.net.Heal, s.net.Cut(k.side, s.except(k.side...))
	}},
	{name: "cut the leader off", leader: true, network: true, do: func(s *storm, k strike) (func() error, error) {
		return s.net.Heal, s.net.Cut([]int{k.slot}, s.except(k.slot))
	}},
	{name: "deafen", network: true, do: func(s *storm, k strike) (func() error, error) {
		return s.net.Heal, s.net.DropFrom(k.slot, s.except(k.slot)...)
	}},
	{name: "deafen the leader", leader: true, network: true, do: func(s *storm, k strike) (func() error, error) {
		return s.net.Heal, s.net.DropFrom(k.slot, s.except(k.slot)...)
	}},
	{name: "flap", network: true, do: func(s *storm, k strike) (func() error, error) {
		cut := func() error { return s.net.Cut([]int{k.slot}, s.except(k.slot)) }
		return repeat(200*time.Millisecond, cut, s.net.Heal)
	}},
	{name: "ring", all: true, network: true, do: func(s *storm, _ strike) (func() error, error) { // each reaches its neighbours only
		var errs []error
		n := len(s.Hosts)
		for i := range n {
			errs = append(errs, s.net.DropFrom(i, s.except(i, (i+1)%n, (i+n-1)%n)...))
		}
		return s.net.Heal, errors.Join(errs...)
	}},
	{name: "lose packets", all: true, network: true, do: func(s *storm, k strike) (func() error, error) {
		var errs []error
		for i := range s.Hosts {
			errs = append(errs, s.net.Rules(i, fmt.Sprintf("numgen random mod 100 < %d drop", k.loss)))
		}
		return s.net.Heal, errors.Join(errs...)
	}},
}

// repeat does something and undoes it, over and over, until end is called.
func repeat(every time.Duration, do, undo func() error) (end func() error, err error) {
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
