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
	startWithin  = 30 * time.Second // until all workers are ready
	restartAfter = time.Second      // as one who watches over processes would
	endWithin    = 15 * time.Second // after which a worker that does not end is killed
	killAnyway   = 10 * time.Second // after the start, when there is no half of the time
	maxCrashes   = 5                // by themselves; then something is wrong, and the demonstration over
)

// demo is one demonstration. All of it happens on the goroutine of [show]: the
// workers' processes and the timers only send events.
type demo struct {
	options
	fleet    *fleet
	provider *provider
	table    *table
	records  []history.Record

	start, end int64    // of history.Now; 0: not yet
	restart    chan int // slots; has room for all there can be
	timers     []*time.Timer
	leader     *process // the last that said it leads
	changes    int      // of leader, after the first
	exchanges  int64    // of processes that are no more
	unmet      time.Duration
	crashes    int
	killed     string // what was killed on purpose
}

// show runs a demonstration until its time is over or ctx ends. Its error says
// why there is nothing to sum up.
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
	sum := d.sum()
	if svc.calls != nil {
		if n, err := svc.calls(); err != nil { // no reason to say nothing of the rest
			fmt.Fprintln(logs, "demo: the calls to Redis are not counted:", err)
		} else {
			sum.StoreCalls = n
		}
	}
	return sum, nil
}

// run starts the workers and watches them until it is time to stop.
func (d *demo) run(ctx context.Context) error {
	for slot := range d.workers {
		if err := d.fleet.start(slot); err != nil {
			return err
		}
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var kill, over <-chan time.Time
	began, late := time.Now(), time.After(startWithin)
	d.table.waiting(0)
	for {
		select {
		case <-ctx.Done():
			if d.start == 0 {
				return fmt.Errorf("interrupted: %w", d.notReady(time.Since(began)))
			}
			d.end = history.Now()
			return nil
		case <-over:
			d.end = history.Now()
			return nil
		case <-late:
			return d.notReady(startWithin)
		case e := <-d.fleet.events:
			if err := d.take(e); err != nil {
				return err
			}
			if d.start > 0 || d.ready() < d.workers || !d.complete() {
				continue
			}
			late = nil
			d.table.waiting(d.workers)
			d.begin()
			tick.Reset(time.Second)
			half := killAnyway
			if d.duration > 0 {
				over, half = time.After(d.duration), d.duration/2
			}
			if d.kill {
				kill = time.After(half)
			}
		case <-kill:
			kill = nil
			if done, err := d.killLeader(); err != nil {
				return err
			} else if !done {
				kill = time.After(tellEvery) // nobody leads at the moment
			}
		case slot := <-d.restart:
			if err := d.fleet.start(slot); err != nil {
				return err
			}
			d.fleet.begin(d.fleet.slots[slot])
		case <-tick.C:
			if d.start == 0 {
				d.table.waiting(d.ready())
				continue
			}
			seen := len(d.records)
			var err error
			if d.records, err = d.fleet.read(d.records); err != nil {
				return err
			}
			d.table.row(d.elapsed(), d.records[seen:], d.waiting(), d.provider.refused.Load(), d.leads())
		}
	}
}

// begin lets all callers go.
func (d *demo) begin() {
	d.table.head()
	d.start = history.Now()
	for _, p := range d.fleet.slots {
		d.fleet.begin(p)
	}
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

// complete reports whether the store can do without any one worker.
func (d *demo) complete() bool {
	return slices.ContainsFunc(d.fleet.slots, func(p *process) bool { return p.status.Complete })
}

// notReady says why it does not begin.
func (d *demo) notReady(after time.Duration) error {
	err := fmt.Errorf("%d of %d workers are ready after %v", d.ready(), d.workers, after.Round(time.Millisecond))
	if !d.complete() {
		err = fmt.Errorf("%w; the store is not complete", err)
	}
	for _, p := range d.fleet.slots {
		if !p.status.Ready {
			err = fmt.Errorf("%w; %s: %s", err, p.name, p.status.Missing)
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

// leads names the worker that leads.
func (d *demo) leads() string {
	if d.leader == nil || d.leader.ended || !d.leader.status.Leads {
		return "-"
	}
	return d.leader.name
}

// take takes in what a process says.
func (d *demo) take(e event) error {
	p := e.of
	if e.ended {
		p.ended = true
		d.exchanges += p.status.Exchanges
		d.unmet = max(d.unmet, p.status.Unmet)
		switch {
		case p.killed || d.end > 0:
		case d.start == 0:
			return fmt.Errorf("%s ended: %w", p.name, orSilently(e.err))
		default:
			d.crashes++
			d.say("%s has ended by itself: %v", p.name, orSilently(e.err))
			if d.crashes > maxCrashes {
				return errors.New("the workers keep ending by themselves")
			}
		}
		if d.end == 0 {
			d.timers = append(d.timers, time.AfterFunc(restartAfter, func() { d.restart <- p.slot }))
		}
		return nil
	}
	before := p.status
	p.status = *e.status
	if d.end > 0 {
		return nil // who leads while all leave is of no interest
	}
	if p.status.Sent > 0 && before.Sent == 0 && p.incarnation > 1 {
		d.say("%s is back, and served", p.name)
	}
	if p.status.Error != before.Error {
		d.say("%s: %.160s", p.name, p.status.Error)
	}
	if p.status.Leads && !before.Leads && d.leader != p {
		if d.leader != nil {
			d.changes++
			d.say("the leader is now %s", p.name)
		}
		d.leader = p
	}
	return nil
}

// killLeader kills the process that leads. It reports false if there should be
// one and is not.
func (d *demo) killLeader() (bool, error) {
	for _, p := range d.fleet.slots {
		if p.ended || p.killed || d.leader != nil && !p.status.Leads {
			continue
		}
		if d.leader == nil {
			d.killed = p.name
		} else {
			d.killed = p.name + ", the leader"
		}
		d.say("kill -9 %s", d.killed)
		if err := d.fleet.kill(p); err != nil {
			return false, fmt.Errorf("kill %s: %w", p.name, err)
		}
		return true, nil
	}
	return false, nil
}

func (d *demo) say(format string, args ...any) {
	var at time.Duration
	if d.start > 0 {
		at = d.elapsed()
	}
	d.table.event(at, fmt.Sprintf(format, args...))
}

// shutdown ends all processes and waits for them.
func (d *demo) shutdown() {
	if d.end == 0 {
		d.end = history.Now()
	}
	d.fleet.stop()
	hurry := time.After(endWithin)
	for d.fleet.running() > 0 {
		select {
		case e := <-d.fleet.events:
			d.take(e)
		case <-hurry:
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

func orSilently(err error) error {
	if err == nil {
		return errors.New("without an error")
	}
	return err
}
