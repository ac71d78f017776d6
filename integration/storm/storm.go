//go:build linux

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/choked/choked/bucket"
	"github.com/choked/choked/cluster"
	"github.com/choked/choked/integration/internal/fleet"
	"github.com/choked/choked/internal/testkit/history"
)

const (
	lineEvery = 10 * time.Second
	healthyIn = time.Minute      // all workers, once nothing fails any more
	aloneIn   = 10 * time.Second // at most, for the workers that a fault has left
)

// storm is the fleet, and what is being done to it.
type storm struct {
	*fleet.Fleet
	options
	net     *fleet.Network // nil: none of its own
	out     io.Writer
	began   time.Time
	round   uint64
	struck  int             // faults so far
	last    uint64          // entry that had been read at the last call of readOn
	healed  []time.Duration // how long it took, each time
	checked []history.Record
	worst   history.Excess
	line    time.Time // when the next is due
}

// rage runs a storm, and returns what it has broken.
func rage(ctx context.Context, o options, out io.Writer) (err error) {
	s := &storm{options: o, out: out, worst: history.Nothing}
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
	defer s.KillAll()
	if o.disks {
		for slot := range s.Hosts {
			remove, err := s.SmallDisk(slot, diskSize)
			if err != nil {
				return err
			}
			defer remove() //nolint:errcheck // it is of this storm alone
		}
	}
	if err := s.StartAll(s.job); err != nil {
		return err
	}
	s.began = time.Now()
	s.line = s.began.Add(lineEvery)
	for ctx.Err() == nil && time.Since(s.began) < o.span {
		if err := s.rage(ctx, draw(o.seed, s.round, o.workers, o.network, o.disks)); err != nil {
			return fmt.Errorf("round %d: %w", s.round, err)
		}
		s.round++
	}
	if err := s.stop(); err != nil {
		return err
	}
	return s.sumUp()
}

// rage carries out one round.
func (s *storm) rage(ctx context.Context, r round) error {
	for i, k := range r.strikes {
		if ctx.Err() != nil {
			break
		}
		if i%3 == 0 {
			if err := s.readOn(); err != nil {
				return err
			}
		}
		if err := s.strike(ctx, k); err != nil {
			return fmt.Errorf("%s, slot %d: %w", k.name, k.slot, err)
		}
	}
	if err := s.heal(); err != nil {
		return err
	}
	if err := s.check(); err != nil {
		return err
	}
	return s.wipe(r.wiped)
}

// job changes a worker's, as the options say.
func (s *storm) job(j *fleet.Job) { j.BusyLoops = s.busy }

func (s *storm) note(what string, slot int) {
	s.Faults = append(s.Faults, fleet.Fault{At: history.Now(), What: what, Slot: slot})
}

// strike lets a fault happen, waits, ends it, and waits again.
func (s *storm) strike(ctx context.Context, k strike) error {
	if k.leader {
		k.slot = s.leader(k.slot)
	}
	s.struck++
	s.note(k.name, k.slot)
	end, err := k.do(s, k)
	if err != nil {
		return err
	}
	s.wait(ctx, k.lasts)
	if k.all {
		s.note(over+k.name, nobody)
	}
	if end != nil {
		if err := end(); err != nil {
			return fmt.Errorf("the end of it: %w", err)
		}
	}
	// Some of those that are gone stay so, but never so many that a majority of
	// the others could be missing when one more goes.
	if gone := len(s.Hosts) - len(s.Running()); k.again || gone > 1 {
		if err := s.startThoseGone(); err != nil {
			return err
		}
	}
	s.wait(ctx, k.rests)
	return nil
}

// over is the end of a fault that hit all; that hits nobody.
const (
	over   = "after: "
	nobody = -1
)

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
	var admitted, noQuorum, failed int64
	for _, p := range s.All() {
		st := p.Status()
		admitted, noQuorum, failed = admitted+st.Sent, noQuorum+st.NoQuorum, failed+st.Failed
	}
	fmt.Fprintf(s.out, "%8v  round %d  %d of %d run  %d admitted  %d without quorum  %d failed  %d faults  worst excess %.2f (suspected %.2f)\n",
		time.Since(s.began).Round(time.Second), s.round, len(s.Running()), len(s.Hosts), admitted, noQuorum, failed, s.struck, s.worst.Proved, s.worst.Suspect)
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

func (s *storm) except(slots ...int) (others []int) {
	for i := range s.Hosts {
		if !slices.Contains(slots, i) {
			others = append(others, i)
		}
	}
	return others
}

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
		if err := s.Slot(slot).AwaitEnd(0); errors.Is(err, fleet.ErrRunning) {
			return err
		} else if err != nil {
			return fmt.Errorf("%s has ended by itself: %w", s.Slot(slot).Job.Name, err)
		}
		if err := s.ReadDisk(slot); err != nil { // Raft cuts it off, now and then
			return err
		}
		if _, err := s.Start(slot, s.job); err != nil {
			return err
		}
	}
	return nil
}

// readOn has a worker that votes start again, so that its log can be read, unless some
// log was read since the last call: Raft truncates the logs after a minute or two, and the
// books are of all entries.
func (s *storm) readOn() error {
	last := s.LastEntry()
	if last > s.last {
		s.last = last
		return nil
	}
	for slot := range s.Hosts {
		p := s.Slot(slot)
		if st := p.Status(); !p.Running() || st.Leads || !slices.ContainsFunc(st.Members, func(m cluster.Member) bool { return m.Self && m.Voter }) {
			continue
		}
		if err := p.Kill(); err != nil {
			return err
		}
		if err := s.startThoseGone(); err != nil {
			return err
		}
		break
	}
	s.last = s.LastEntry()
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
	s.note("heal", nobody)
	err := s.AwaitServed(healthyIn, 20)
	if err == nil {
		s.healed = append(s.healed, time.Since(began))
		err = s.AwaitComplete(healthyIn)
	}
	return errors.Join(s.unwell(err), s.CheckLogs())
}

// unwell is the error of a fleet that does not recover, or does not leave when it
// is asked to, where it has to. One that has hardly a processor only has to keep
// to the limit.
func (s *storm) unwell(err error) error {
	if err == nil {
		return nil
	}
	if s.busy > 0 {
		fmt.Fprintln(s.out, "starved: not well after a minute, and not judged for it")
		return nil
	}
	return fmt.Errorf("does not recover: %w", err)
}

// stop ends all workers.
func (s *storm) stop() error {
	if s.busy == 0 {
		return s.Stop()
	}
	s.note("stop", nobody)
	return s.killAll()
}

func (s *storm) killAll() error {
	var errs []error
	for slot := range s.Hosts {
		errs = append(errs, s.Slot(slot).Kill())
	}
	return errors.Join(errs...)
}

// wipe has a worker come back without its disk. The others are whole.
func (s *storm) wipe(slot int) error {
	if slot < 0 {
		return nil
	}
	s.struck++
	s.note(wiped, slot)
	if err := s.Slot(slot).Kill(); err != nil {
		return err
	}
	if err := s.ReadDisk(slot); err != nil {
		return err
	}
	if err := s.Wipe(slot); err != nil {
		return err
	}
	if _, err := s.Start(slot, s.job); err != nil {
		return err
	}
	return s.unwell(s.AwaitComplete(healthyIn))
}

const wiped = "lose a disk"

// diskSize is the size of each worker's disk in bytes. It is enough for a log and its
// snapshots, and is filled soon.
const diskSize = 24 << 20

// fill leaves no room on disks until end is called, whatever their workers remove
// meanwhile.
func (s *storm) fill(slots ...int) (end func() error) {
	stop, over := make(chan struct{}), make(chan error, 1)
	go func() {
		var err error
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for ended := false; err == nil && !ended; {
			for _, slot := range slots {
				err = errors.Join(err, s.Fill(slot))
			}
			select {
			case <-tick.C:
			case <-stop:
				ended = true
			}
		}
		for _, slot := range slots {
			err = errors.Join(err, s.Free(slot))
		}
		over <- err
	}()
	return func() error {
		close(stop)
		return <-over
	}
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
	return s.broken()
}

// broken is the promise, where it is one: clocks that differ by more than
// bucket.Drift are not promised anything, and what comes of it is told.
func (s *storm) broken() error {
	if s.worst.Proved > 1e-6 && s.promised() {
		return fmt.Errorf("%.2f units over the bound, proved", s.worst.Proved)
	}
	return nil
}

func (s *storm) promised() bool { return float64(s.drift) <= 100*bucket.Drift }

// sumUp prints what the tables of docs/reliability.md need.
func (s *storm) sumUp() error {
	if err := s.CheckLogs(); err != nil {
		return err
	}
	rs, err := s.Records()
	if err != nil {
		return err
	}
	ledger, err := s.Audit()
	if err != nil {
		return fmt.Errorf("the books: %w", err)
	}
	if admitted := s.Limits.Limited(fleet.Total(rs)); ledger.From == 1 && !ledger.Granted.Covers(admitted) {
		return fmt.Errorf("the books: %v were admitted, and %v granted", admitted, ledger.Granted)
	}
	fmt.Fprintln(s.out, fleet.Columns)
	fmt.Fprintln(s.out, "|---|---|---|---|---|---|")
	for _, f := range append(faults[:], fault{name: wiped}) {
		row := s.row(rs, f)
		if row.Times > 0 {
			fmt.Fprintln(s.out, row)
		}
	}
	s.worst = history.Check(rs, s.allowed())
	fmt.Fprintln(s.out, fleet.Row{
		What: "all of it; calm: 20 calls for each worker", Times: s.struck, Admissions: len(rs), Worst: s.worst,
		Recovery: s.healed, Lost: ledger.Expired, Leased: ledger.Granted,
	})
	var leave time.Duration
	var failed int64
	var failure string
	for _, p := range s.All() {
		st := p.Status()
		leave, failed = max(leave, st.Leave), failed+st.Failed
		failure = cmp.Or(failure, st.Failure)
	}
	fmt.Fprintf(s.out, "the books: %v\nlongest time to leave: %v\n", ledger, leave.Round(time.Millisecond))
	if s.busy > 0 {
		fmt.Fprintf(s.out, "%d loops beside each worker, on one processor: only the bound and the books are judged\n", s.busy)
	}
	if !s.promised() {
		fmt.Fprintf(s.out, "clocks that differ by %d%% are more than is promised for: the excess is told, not judged\n", s.drift)
	}
	if failed > 0 {
		return errors.Join(s.broken(), fmt.Errorf("%d calls failed, and not for want of a quorum: %s", failed, failure))
	}
	return s.broken()
}

// row is what there is to tell of one fault. Of those that hit all, the time to
// recover begins when they are over.
func (s *storm) row(rs []history.Record, f fault) fleet.Row {
	row := fleet.Row{What: f.name, Worst: history.Nothing}
	admitted := func(r fleet.Recovery) {
		row.Admissions += len(r.Admitted)
		row.Worst = row.Worst.Max(history.Check(r.Admitted, s.allowed()))
	}
	for _, r := range s.Recoveries(rs, f.name, aloneIn) {
		row.Times++
		admitted(r)
		if !f.all {
			row.Recovery = append(row.Recovery, r.Gap)
		}
	}
	for _, r := range s.Recoveries(rs, over+f.name, aloneIn) {
		admitted(r)
		row.Recovery = append(row.Recovery, r.Gap)
	}
	return row
}
