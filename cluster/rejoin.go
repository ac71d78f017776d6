package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/choked/choked/cluster/internal/wire"
)

// reopenEvery is the time between two attempts to open a disk again that was full. An
// attempt takes some milliseconds, and an election a second.
const reopenEvery = 3 * time.Second

// reserveEvery is the time between two attempts to make the reserve again.
const reserveEvery = time.Minute

// keepRaft keeps this node in Raft until the node closes. When a run of Raft ends,
// because the disk was full, the next run begins once the disk has room again, and when
// a node without Dir leaves its cluster, at once.
func (n *Node) keepRaft() {
	for run := n.raft.current(); run != nil; {
		stop := startUntil(n.ctx, func(ctx context.Context) { n.follow(ctx, run) })
		next := n.reopen
		select {
		case <-n.ctx.Done():
		case <-run.failed:
			n.gossip.announce(func(m *meta) { m.DiskFailed, m.Voter, m.Leader = true, false, false })
		case d := <-n.leaving:
			n.beginLeaving(run, d)
			next = func(run *raftRun) *raftRun { return n.leaveCluster(run, d) }
		}
		stop()
		run = next(run)
	}
}

// follow acts on the events of a run of Raft until ctx ends.
func (n *Node) follow(ctx context.Context, run *raftRun) {
	var parts sync.WaitGroup
	parts.Go(func() { n.followLeadership(ctx, run) })
	parts.Go(func() { n.followRaft(ctx, run) })
	parts.Go(func() { n.boundLog(ctx, run) })
	parts.Go(func() { run.keepReserve(ctx) })
	parts.Wait()
}

// keepReserve makes the reserve of the disk again after it was given up, once the disk
// has room, until ctx ends.
func (r *raftRun) keepReserve(ctx context.Context) {
	if r.disk.reserve == nil {
		return
	}
	tick := time.NewTicker(reserveEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			r.disk.reserve.take() //nolint:errcheck // the disk is still full
		}
	}
}

// stopRaft ends a run of Raft because its disk has failed: an entry or a vote that was
// not saved must not be acknowledged. The node continues as a client of the other
// members. The caller is a goroutine of Raft.
func (n *Node) stopRaft(run *raftRun, err error) {
	run.transport.CloseStreams()
	run.transport.Close()
	reopens := isFull(err)
	n.health.diskFailed(err, reopens)
	n.log.Error("disk failed, stopped Raft", "dir", n.cfg.Dir, "reopens", reopens, "error", err)
	go func() { // no task of the node: Close does not wait for a disk that hangs
		run.Shutdown().Error() //nolint:errcheck // it has none
		close(run.ended)
	}()
	close(run.failed)
}

// hasFailed reports whether the disk has failed during this run.
func (r *raftRun) hasFailed() bool { return r.disk.guard != nil && r.disk.guard.failed.Load() }

// reopen opens the disk again after a run of Raft that ended because the disk was
// full, as often as it takes, and begins the next run. It returns nil when the node
// closes. After another failure it waits for that: a disk that lost or changed what
// was written may have lost what this node acknowledged, so a human has to decide.
func (n *Node) reopen(run *raftRun) *raftRun {
	if run.hasFailed() && !isFull(run.disk.guard.failure()) {
		<-n.ctx.Done()
	}
	reported := ""
	for {
		select {
		case <-n.ctx.Done():
			return nil
		case <-time.After(reopenEvery):
		}
		next, err := n.tryReopen(run)
		if err == nil {
			return next
		}
		n.health.diskFailed(err, true)
		if n.ctx.Err() == nil && err.Error() != reported {
			reported = err.Error()
			n.log.Debug("failed to open the disk again, retrying", "error", err)
		}
	}
}

// tryReopen begins another run of Raft in place of one that has failed, as a restart
// of the node would: it reads everything from the disk again. It first writes the log
// to a new file, so that all of it is on the disk, whatever became of the write that
// failed.
func (n *Node) tryReopen(failed *raftRun) (run *raftRun, err error) {
	select {
	case n.reopening <- struct{}{}: // Close waits for it, and ends the run that it finds
	case <-n.ctx.Done():
		return nil, n.ctx.Err()
	}
	defer func() { <-n.reopening }()
	if n.ctx.Err() != nil {
		return nil, n.ctx.Err()
	}
	select {
	case <-failed.ended:
	default:
		return nil, errors.New("an operation on the disk that failed has not returned yet")
	}
	if err := failed.disk.close(); err != nil {
		return nil, err
	}
	known, exists, err := readIdentity(n.cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("dir %q: %w", n.cfg.Dir, err)
	}
	if !exists || known.Node != n.id || known.Cluster != n.cluster() {
		return nil, fmt.Errorf("dir %q is not this node's any more: restart the node", n.cfg.Dir)
	}
	cfg := n.cfg.disk()
	cfg.rewrite = true
	d, _, err := openDisk(cfg)
	if err != nil {
		return nil, err
	}
	run = newRaftRun(d)
	n.replica.reset()
	n.port.Reopen(wire.Raft)
	n.health.diskWorks() // before Raft may fail again
	if err := n.startRaft(run); err != nil {
		return nil, errors.Join(err, run.transport.Close(), d.close())
	}
	n.raft.run.Store(run)
	n.gossip.announce(func(m *meta) { m.DiskFailed = false })
	n.log.Info("disk has room again, rejoined Raft", "dir", n.cfg.Dir)
	return run, nil
}
