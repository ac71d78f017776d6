package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/choked/choked/internal/testkit/history"
)

const (
	readyTimeout = 30 * time.Second // until all workers are ready
	restartDelay = time.Second      // between the end of a worker and its restart
	exitTimeout  = 15 * time.Second // after which a worker that does not exit is killed
	killAfter    = 10 * time.Second // from the start, for runs without a duration
	maxCrashes   = 5                // crashes of workers after which the demo fails
)

// demo is one run of the demonstration. Only the goroutine of [show] uses it; the
// worker processes and the timers send events to that goroutine.
type demo struct {
	options
	fleet    *fleet
	provider *provider
	table    *table
	records  []history.Record

	start, end int64            // times of history.Now; 0: not yet
	timeUp     <-chan time.Time // ends the run; nil: not started, or no duration
	killTime   <-chan time.Time // nil: nothing to kill
	restart    chan int         // slots to start again; buffers all that can be sent
	timers     []*time.Timer    // that send to restart

	leader          *process // the last process that reported that it leads
	leaderChanges   int      // after the first leader
	exchanges       int64    // with the store, of processes that have ended
	longestUnserved time.Duration
	crashes         int
	killed          string // the process that killLeader killed
}

// show runs the demonstration until its duration has passed or ctx ends. It
// returns an error if no summary can be made.
func show(ctx context.Context, o options, out, logs io.Writer) (summary, error) {
	p, err := startProvider(o.limits, o.latency)
	if err != nil {
		return summary{}, err
	}
	defer p.close()
	svc, err := startService(o, logs)
	if err != nil {
		return summary{}, err
	}
	defer svc.close()
	f, err := newFleet(o, p.url(), svc.url, logs)
	if err != nil {
		return summary{}, err
	}
	d := &demo{options: o, fleet: f, provider: p, table: newTable(o, out), restart: make(chan int, maxCrashes+2)}
	err = d.run(ctx)
	d.shutdown()
	if err != nil {
		f.close()
		return summary{}, err
	}
	d.records, err = f.read(d.records)
	f.close()
	if err != nil {
		return summary{}, err
	}
	sum := d.summarize()
	if svc.calls != nil {
		if n, err := svc.calls(); err != nil { // the rest of the summary is still of use
			fmt.Fprintln(logs, "demo: the calls to Redis are not counted:", err)
		} else {
			sum.StoreCalls = n
		}
	}
	return sum, nil
}

// run starts the workers, waits until they are ready, starts their callers and
// handles events until the duration has passed or ctx ends.
func (d *demo) run(ctx context.Context) error {
	for slot := range d.workers {
		if err := d.fleet.start(slot); err != nil {
			return err
		}
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	started, tooLate := time.Now(), time.After(readyTimeout)
	d.table.waiting(0)
	for {
		var err error
		select {
		case <-ctx.Done():
			if d.start == 0 {
				err = fmt.Errorf("interrupted: %w", d.notReady(time.Since(started)))
			}
			return err
		case <-d.timeUp:
			return nil
		case <-tooLate:
			return d.notReady(readyTimeout)
		case e := <-d.fleet.events:
			err = d.handleEvent(e)
			if err == nil && d.start == 0 && d.ready() == d.workers && d.complete() {
				tooLate = nil
				d.begin()
				tick.Reset(time.Second)
			}
		case <-d.killTime:
			err = d.killLeader()
		case slot := <-d.restart:
			if err = d.fleet.start(slot); err == nil {
				d.fleet.begin(d.fleet.slots[slot])
			}
		case <-tick.C:
			err = d.printRow()
		}
		if err != nil {
			return err
		}
	}
}

// begin starts all callers, and the timers that count from then on.
func (d *demo) begin() {
	d.table.waiting(d.workers)
	d.table.head()
	d.start = history.Now()
	for _, p := range d.fleet.slots {
		d.fleet.begin(p)
	}
	half := killAfter
	if d.duration > 0 {
		d.timeUp, half = time.After(d.duration), d.duration/2
	}
	if d.kill {
		d.killTime = time.After(half)
	}
}

// printRow prints the admissions of the last second, or before the start, how
// many workers are ready.
func (d *demo) printRow() (err error) {
	if d.start == 0 {
		d.table.waiting(d.ready())
		return nil
	}
	seen := len(d.records)
	if d.records, err = d.fleet.read(d.records); err != nil {
		return err
	}
	d.table.row(d.elapsed(), d.records[seen:], d.waiting(), d.provider.refused.Load(), d.leaderName())
	return nil
}

func (d *demo) elapsed() time.Duration { return time.Duration(history.Now() - d.start) }

func (d *demo) ready() (n int) {
	for _, p := range d.fleet.slots {
		if p != nil && p.status.Ready && !p.ended {
			n++
		}
	}
	return n
}

// complete reports whether the store would survive the loss of any one worker.
func (d *demo) complete() bool {
	return slices.ContainsFunc(d.fleet.slots, func(p *process) bool { return p.status.Complete })
}

// notReady returns an error that names the workers that are not ready.
func (d *demo) notReady(after time.Duration) error {
	err := fmt.Errorf("%d of %d workers are ready after %v", d.ready(), d.workers, after.Round(time.Millisecond))
	if !d.complete() {
		err = fmt.Errorf("%w; the store is not complete", err)
	}
	for _, p := range d.fleet.slots {
		if !p.status.Ready {
			err = fmt.Errorf("%w; %s: %s", err, p.name, p.status.NotReady)
		}
	}
	return err
}

func (d *demo) waiting() (n int) {
	for _, p := range d.fleet.slots {
		if !p.ended {
			n += p.status.Waiting
		}
	}
	return n
}

// leaderName returns the name of the worker that leads, or "-" if none does.
func (d *demo) leaderName() string {
	if d.leader == nil || d.leader.ended || !d.leader.status.Leads {
		return "-"
	}
	return d.leader.name
}

// handleEvent processes an event of a worker process. Its error ends the run.
func (d *demo) handleEvent(e event) error {
	if e.ended {
		return d.handleEnd(e.process, e.err)
	}
	d.handleStatus(e.process, *e.status)
	return nil
}

// handleEnd notes the end of p, which err caused, and schedules its restart.
func (d *demo) handleEnd(p *process, err error) error {
	p.ended = true
	d.exchanges += p.status.Exchanges
	d.longestUnserved = max(d.longestUnserved, p.status.LongestUnserved)
	if d.end > 0 {
		return nil
	}
	if !p.killed {
		if d.start == 0 {
			return fmt.Errorf("%s ended before the start: %w", p.name, orNoError(err))
		}
		d.crashes++
		d.printEvent("%s crashed: %v", p.name, orNoError(err))
		if d.crashes > maxCrashes {
			return fmt.Errorf("workers crashed %d times: want at most %d", d.crashes, maxCrashes)
		}
	}
	d.timers = append(d.timers, time.AfterFunc(restartDelay, func() { d.restart <- p.slot }))
	return nil
}

// handleStatus stores the status of p and prints the changes of interest.
func (d *demo) handleStatus(p *process, now status) {
	before := p.status
	p.status = now
	if d.end > 0 {
		return // leadership moves as the workers leave
	}
	if now.Sent > 0 && before.Sent == 0 && p.incarnation > 1 {
		d.printEvent("%s was restarted and served", p.name)
	}
	if now.Error != before.Error {
		d.printEvent("%s: %.160s", p.name, now.Error)
	}
	if now.Leads && !before.Leads && d.leader != p {
		if d.leader != nil {
			d.leaderChanges++
			d.printEvent("%s became leader", p.name)
		}
		d.leader = p
	}
}

// killLeader kills the process that leads, or the first one if the store has no
// leader. If there is no leader at the moment, it tries again later.
func (d *demo) killLeader() error {
	d.killTime = nil
	for _, p := range d.fleet.slots {
		if p.ended || p.killed || d.leader != nil && !p.status.Leads {
			continue
		}
		d.killed = p.name
		if d.leader != nil {
			d.killed += ", the leader"
		}
		d.printEvent("kill -9 %s", d.killed)
		if err := d.fleet.kill(p); err != nil {
			return fmt.Errorf("kill %s: %w", p.name, err)
		}
		return nil
	}
	d.killTime = time.After(statusEvery)
	return nil
}

func (d *demo) printEvent(format string, args ...any) {
	var at time.Duration
	if d.start > 0 {
		at = d.elapsed()
	}
	d.table.event(at, fmt.Sprintf(format, args...))
}

// shutdown stops all processes and waits until they have ended.
func (d *demo) shutdown() {
	if d.end == 0 {
		d.end = history.Now()
	}
	d.fleet.stop()
	timeout := time.After(exitTimeout)
	for d.fleet.running() > 0 {
		select {
		case e := <-d.fleet.events:
			d.handleEvent(e) // no error once d.end is set
		case <-timeout:
			for _, p := range d.fleet.slots {
				if p != nil && !p.ended {
					d.fleet.kill(p)
				}
			}
		}
	}
	for _, t := range d.timers {
		t.Stop()
	}
}

func orNoError(err error) error {
	if err == nil {
		return errors.New("exit status 0")
	}
	return err
}
