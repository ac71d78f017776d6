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
	statusEvery    = 10 * time.Second
	healthyTimeout = time.Minute      // until all workers are served and the cluster is complete, after a round
	observeTimeout = 10 * time.Second // longest observation of a fault
)

// storm injects faults into a fleet and checks the result.
type storm struct {
	*fleet.Fleet
	options
	net         *fleet.Network // nil: the workers run on loopback
	out         io.Writer
	started     time.Time
	round       uint64
	faultCount  int             // injected so far
	lastEntry   uint64          // index of the last log entry read, as of the last call of readOn
	recoveries  []time.Duration // of the fleet, after each round
	checked     []history.Record
	worstExcess history.Excess
	nextStatus  time.Time // when the next status line is due
}

// runStorm runs a storm. It returns an error if the fleet broke a promise.
func runStorm(ctx context.Context, o options, out io.Writer) (err error) {
	s := &storm{options: o, out: out, worstExcess: history.Nothing}
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
			defer remove() //nolint:errcheck // only this storm uses the disk
		}
	}
	if err := s.StartAll(s.job); err != nil {
		return err
	}
	s.started = time.Now()
	s.nextStatus = s.started.Add(statusEvery)
	for ctx.Err() == nil && time.Since(s.started) < o.duration {
		if err := s.runRound(ctx, newRound(o.seed, s.round, o.workers, o.network, o.disks)); err != nil {
			return fmt.Errorf("round %d: %w", s.round, err)
		}
		s.round++
	}
	if err := s.stop(); err != nil {
		return err
	}
	return s.printSummary()
}

// runRound injects the faults of one round and checks that the fleet recovers.
func (s *storm) runRound(ctx context.Context, r round) error {
	for i, k := range r.injections {
		if ctx.Err() != nil {
			break
		}
		if i%3 == 0 {
			if err := s.readOn(); err != nil {
				return err
			}
		}
		if err := s.inject(ctx, k); err != nil {
			return fmt.Errorf("%s, slot %d: %w", k.name, k.slot, err)
		}
	}
	if err := s.heal(); err != nil {
		return err
	}
	if err := s.check(); err != nil {
		return err
	}
	return s.lose(r.loss)
}

// job modifies the job of a worker according to the options.
func (s *storm) job(j *fleet.Job) { j.BusyLoops = s.busy }

func (s *storm) note(what string, slot int) {
	s.Faults = append(s.Faults, fleet.Fault{At: history.Now(), What: what, Slot: slot})
}

// inject injects a fault, waits, ends the fault, and waits again.
func (s *storm) inject(ctx context.Context, k injection) error {
	if k.leader {
		k.slot = s.leader(k.slot)
	}
	s.faultCount++
	s.note(k.name, k.slot)
	end, err := k.do(s, k)
	if err != nil {
		return err
	}
	s.wait(ctx, k.duration)
	if k.all {
		s.note(endOf+k.name, noSlot)
	}
	if end != nil {
		if err := end(); err != nil {
			return fmt.Errorf("end of the fault: %w", err)
		}
	}
	// Some stopped workers stay stopped, but at most one: with two, one more failure
	// could leave the others without a majority.
	if stopped := len(s.Hosts) - len(s.Running()); k.restart || stopped > 1 {
		if err := s.restartStopped(); err != nil {
			return err
		}
	}
	s.wait(ctx, k.pauseAfter)
	return nil
}

// endOf prefixes the name of a fault that hit all workers, in the note of its end.
// That note has no slot.
const (
	endOf  = "after: "
	noSlot = -1
)

// wait waits for d or until ctx ends. It prints the status lines that are due
// meanwhile.
func (s *storm) wait(ctx context.Context, d time.Duration) {
	end := time.NewTimer(d)
	defer end.Stop()
	for {
		status := time.NewTimer(time.Until(s.nextStatus))
		select {
		case <-end.C:
			status.Stop()
			return
		case <-ctx.Done():
			status.Stop()
			return
		case <-status.C:
			s.printStatus()
		}
	}
}

func (s *storm) printStatus() {
	s.nextStatus = s.nextStatus.Add(statusEvery)
	var admitted, noQuorum, failed int64
	for _, p := range s.All() {
		st := p.Status()
		admitted, noQuorum, failed = admitted+st.Sent, noQuorum+st.NoQuorum, failed+st.Failed
	}
	fmt.Fprintf(s.out, "%8v  round %d  %d of %d run  %d admitted  %d without quorum  %d failed  %d faults  worst excess %.2f (suspected %.2f)\n",
		time.Since(s.started).Round(time.Second), s.round, len(s.Running()), len(s.Hosts), admitted, noQuorum, failed, s.faultCount, s.worstExcess.Proved, s.worstExcess.Suspect)
}

// leader returns the slot of the leader, or other if there is none.
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

func (s *storm) restartStopped() error {
	for slot := range s.Hosts {
		if s.Slot(slot).Running() {
			continue
		}
		if err := s.Slot(slot).AwaitEnd(0); errors.Is(err, fleet.ErrRunning) {
			return err
		} else if err != nil {
			return fmt.Errorf("%s ended unexpectedly: %w", s.Slot(slot).Job.Name, err)
		}
		if err := s.ReadDisk(slot); err != nil { // before Raft truncates the log
			return err
		}
		if _, err := s.Start(slot, s.job); err != nil {
			return err
		}
	}
	return nil
}

// readOn restarts voters other than the leader, so that their logs can be read, until
// one has entries that follow those read before. It does nothing if a log was read since
// the last call. Raft truncates the logs after a minute or two, and the audit needs all
// entries.
func (s *storm) readOn() error {
	last := s.LastEntry()
	if last > s.lastEntry {
		s.lastEntry = last
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
		if err := s.restartStopped(); err != nil {
			return err
		}
		if s.LastEntry() > last {
			break
		}
	}
	s.lastEntry = s.LastEntry()
	return nil
}

// heal ends all faults. All workers must be served within healthyTimeout, and the
// cluster must be complete within healthyTimeout after that.
func (s *storm) heal() error {
	if s.net != nil {
		if err := s.net.Heal(); err != nil {
			return err
		}
	}
	if err := s.restartStopped(); err != nil {
		return err
	}
	started := time.Now()
	s.note("heal", noSlot)
	err := s.AwaitServed(healthyTimeout, 20)
	if err == nil {
		s.recoveries = append(s.recoveries, time.Since(started))
		err = s.AwaitComplete(healthyTimeout)
	}
	return errors.Join(s.tolerateIfBusy(err), s.CheckLogs())
}

// tolerateIfBusy returns the error of a fleet that does not recover or leave in
// time. With -busy the workers have too little processor time for that: the error
// is printed and dropped, and only the bound is checked.
func (s *storm) tolerateIfBusy(err error) error {
	if err == nil {
		return nil
	}
	if s.busy > 0 {
		fmt.Fprintln(s.out, "no recovery in time: not a failure with -busy")
		return nil
	}
	return fmt.Errorf("no recovery: %w", err)
}

// stop stops all workers.
func (s *storm) stop() error {
	if s.busy == 0 {
		return s.Stop()
	}
	s.note("stop", noSlot)
	return s.killAll()
}

func (s *storm) killAll() error {
	var errs []error
	for slot := range s.Hosts {
		errs = append(errs, s.Slot(slot).Kill())
	}
	return errors.Join(errs...)
}

// lose removes the state of a worker, or puts a copy of another one's in its place. All
// workers run before and afterwards.
func (s *storm) lose(l loss) error {
	if l.name == "" {
		return nil
	}
	s.faultCount++
	s.note(l.name, l.slot)
	if err := s.empty(l.slot); err != nil {
		return err
	}
	if l.name == dirCopy {
		if err := s.copyDir(l); err != nil {
			return fmt.Errorf("%s of slot %d to slot %d: %w", l.name, l.copied, l.slot, err)
		}
	} else if _, err := s.Start(l.slot, s.job); err != nil {
		return err
	}
	return s.tolerateIfBusy(s.AwaitComplete(healthyTimeout))
}

const (
	diskLoss = "lose a disk"
	dirCopy  = "copy a directory"
)

// killAndRead kills a worker and reads its disk, which is about to change.
func (s *storm) killAndRead(slot int) error {
	if err := s.Slot(slot).Kill(); err != nil {
		return err
	}
	return s.ReadDisk(slot)
}

// empty kills a worker and removes its state, unless that cannot be read: it is the
// evidence then.
func (s *storm) empty(slot int) error {
	if err := s.killAndRead(slot); err != nil {
		return err
	}
	return s.Wipe(slot)
}

// copyDir gives a worker, which does not run, a copy of another one's directory, and
// starts both. One of the two has to step out: it begins anew with an empty directory,
// as it asks for.
func (s *storm) copyDir(l loss) error {
	if err := s.killAndRead(l.copied); err != nil {
		return err
	}
	if err := s.CopyDir(l.copied, l.slot); err != nil {
		return err
	}
	both := []int{l.copied, l.slot}
	if l.copyFirst {
		slices.Reverse(both)
	}
	for i, slot := range both {
		if i > 0 {
			time.Sleep(l.betweenStart)
		}
		if _, err := s.Start(slot, s.job); err != nil {
			return err
		}
	}
	slot, err := s.AwaitStepOut(healthyTimeout, both...)
	if err != nil {
		return s.tolerateIfBusy(err)
	}
	if err := s.empty(slot); err != nil {
		return err
	}
	_, err = s.Start(slot, s.job)
	return err
}

// diskSize is the size of the disk of each worker in bytes. A log and its snapshots
// fit, and a fault fills the rest quickly.
const diskSize = 24 << 20

// fill fills the disks of the given slots every 20 ms, so that they stay full even if
// their workers remove files. end frees the disks.
func (s *storm) fill(slots ...int) (end func() error) {
	stop, done := make(chan struct{}), make(chan error, 1)
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
		done <- err
	}()
	return func() error {
		close(stop)
		return <-done
	}
}

// recent is how many earlier admissions are checked together with the new ones
// after a round, which covers windows of some minutes. At the end all admissions
// are checked together.
const recent = 30_000

// limitsWithDrift returns the limits of the key as a clock that is fast by -drift
// percent applies them.
func (s *storm) limitsWithDrift() bucket.Limits {
	l := s.Limits
	for u := range bucket.NumUnits {
		rates := slices.Clone(l.Of(u))
		for i := range rates {
			rates[i].Per = rates[i].Per * 100 / time.Duration(100+s.drift)
		}
		l.Set(u, rates)
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
		s.worstExcess = s.worstExcess.Max(history.Check(all[min(from, len(all)):], s.limitsWithDrift()))
	} else {
		s.worstExcess = s.worstExcess.Max(history.Check(all, s.limitsWithDrift()))
	}
	s.checked = all
	return s.checkBound()
}

// checkBound returns an error if the bound was exceeded. If clocks differ by more
// than bucket.Drift, no bound is promised, and the excess is only printed.
func (s *storm) checkBound() error {
	if s.worstExcess.Proved > 1e-6 && s.boundApplies() {
		return fmt.Errorf("%.2f units over the bound, proved", s.worstExcess.Proved)
	}
	return nil
}

func (s *storm) boundApplies() bool { return float64(s.drift) <= 100*bucket.Drift }

// printSummary prints the table of docs/reliability.md and checks the ledger and
// the bound of the whole run.
func (s *storm) printSummary() error {
	if err := s.CheckLogs(); err != nil {
		return err
	}
	rs, err := s.Records()
	if err != nil {
		return err
	}
	ledger, err := s.Audit()
	if err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	if admitted := s.Limits.Limited(fleet.Total(rs)); ledger.From == 1 && !ledger.Granted.Covers(admitted) {
		return fmt.Errorf("audit: %v were admitted, but only %v granted", admitted, ledger.Granted)
	}
	fmt.Fprintln(s.out, fleet.Columns)
	fmt.Fprintln(s.out, "|---|---|---|---|---|---|")
	for _, f := range append(faults[:], fault{name: diskLoss}, fault{name: dirCopy}) {
		row := s.row(rs, f)
		if row.Times > 0 {
			fmt.Fprintln(s.out, row)
		}
	}
	s.worstExcess = history.Check(rs, s.limitsWithDrift())
	fmt.Fprintln(s.out, fleet.Row{
		What: "all of it; calm: 20 calls for each worker", Times: s.faultCount, Admissions: len(rs), Worst: s.worstExcess,
		Recovery: s.recoveries, Lost: ledger.Expired, Leased: ledger.Granted,
	})
	var leave time.Duration
	var failed int64
	var failure string
	for _, p := range s.All() {
		st := p.Status()
		leave, failed = max(leave, st.Leave), failed+st.Failed
		failure = cmp.Or(failure, st.Failure)
	}
	fmt.Fprintf(s.out, "ledger: %v\nlongest time to leave: %v\n", ledger, leave.Round(time.Millisecond))
	if s.busy > 0 {
		fmt.Fprintf(s.out, "%d busy loops beside each worker, on one processor: only the bound and the ledger are checked\n", s.busy)
	}
	if !s.boundApplies() {
		fmt.Fprintf(s.out, "clocks differ by %d%%, more than the promise covers: the excess is printed, not checked\n", s.drift)
	}
	if failed > 0 {
		return errors.Join(s.checkBound(), fmt.Errorf("%d calls failed for another reason than a missing quorum: %s", failed, failure))
	}
	return s.checkBound()
}

// row returns the row of one kind of fault. For faults that hit all workers, the
// recovery begins at the end of the fault.
func (s *storm) row(rs []history.Record, f fault) fleet.Row {
	row := fleet.Row{What: f.name, Worst: history.Nothing}
	admitted := func(r fleet.Recovery) {
		row.Admissions += len(r.Admitted)
		row.Worst = row.Worst.Max(history.Check(r.Admitted, s.limitsWithDrift()))
	}
	for _, r := range s.Recoveries(rs, f.name, observeTimeout) {
		row.Times++
		admitted(r)
		if !f.all {
			row.Recovery = append(row.Recovery, r.Gap)
		}
	}
	for _, r := range s.Recoveries(rs, endOf+f.name, observeTimeout) {
		admitted(r)
		row.Recovery = append(row.Recovery, r.Gap)
	}
	return row
}
