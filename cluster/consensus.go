package cluster

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// consensus is this node's part in Raft: one run of Raft at a time. When the disk was
// full and has room again, another run replaces the one that ended: see [Node.reopen].
type consensus struct{ run atomic.Pointer[raftRun] }

// current returns the present run. After a failure of the disk it is one that has
// ended, until another run replaces it.
func (c *consensus) current() *raftRun { return c.run.Load() }

// Apply commits an entry and returns the answer of the state machine.
func (c *consensus) Apply(entry []byte) (response any, err error) { return c.current().Apply(entry) }

// Barrier returns when all entries that were proposed before are applied.
func (c *consensus) Barrier() error { return c.current().Barrier() }

// AddNonvoter makes a node follow the log, without a vote.
func (c *consensus) AddNonvoter(id raft.ServerID) error {
	run := c.current()
	return run.await(func() raft.Future { return run.Raft.AddNonvoter(id, raftAddress(id), 0, changeWithin) })
}

// AddVoter gives a node a vote.
func (c *consensus) AddVoter(id raft.ServerID) error {
	run := c.current()
	return run.await(func() raft.Future { return run.Raft.AddVoter(id, raftAddress(id), 0, changeWithin) })
}

// RemoveServer removes a node from the configuration: it has no vote and no longer
// follows the log.
func (c *consensus) RemoveServer(id raft.ServerID) error {
	run := c.current()
	return run.await(func() raft.Future { return run.Raft.RemoveServer(id, 0, changeWithin) })
}

// The other methods are those of [raft.Raft].

func (c *consensus) State() raft.RaftState { return c.current().State() }
func (c *consensus) CurrentTerm() uint64   { return c.current().CurrentTerm() }
func (c *consensus) LastIndex() uint64     { return c.current().LastIndex() }
func (c *consensus) CommitIndex() uint64   { return c.current().CommitIndex() }
func (c *consensus) AppliedIndex() uint64  { return c.current().AppliedIndex() }
func (c *consensus) LeaderWithID() (raft.ServerAddress, raft.ServerID) {
	return c.current().LeaderWithID()
}
func (c *consensus) GetConfiguration() raft.ConfigurationFuture {
	return c.current().GetConfiguration()
}
func (c *consensus) BootstrapCluster(first raft.Configuration) raft.Future {
	return c.current().BootstrapCluster(first)
}
func (c *consensus) LeadershipTransferToServer(id raft.ServerID, addr raft.ServerAddress) raft.Future {
	return c.current().LeadershipTransferToServer(id, addr)
}

// raftRun is one run of Raft, over one opening of the disk: a [raft.Raft] that answers
// all callers. When it is shut down, Raft itself (v1.8.0) answers callers that wait
// for an entry that is not committed, but never those whose entry is committed and on
// its way to the state machine: those in fsmMutateCh when runFSM ends. So Raft is
// shut down after all callers have their answers.
type raftRun struct {
	*raft.Raft // nil until the run begins
	transport  *raft.NetworkTransport
	disk       *disk
	failed     chan struct{} // closed when the disk has failed
	ended      chan struct{} // closed when all goroutines of a run that failed have ended

	mu      sync.Mutex
	closing bool
	callers sync.WaitGroup // that wait for an answer; none is added while closing
}

func newRaftRun(d *disk) *raftRun {
	return &raftRun{disk: d, failed: make(chan struct{}), ended: make(chan struct{})}
}

// stop ends the part of the run in Raft, and does not wait for the end.
func (r *raftRun) stop() {
	r.transport.CloseStreams()
	r.transport.Close()
	r.mu.Lock()
	r.closing = true
	r.mu.Unlock()
}

// answerTimeout bounds how long a shutdown waits for answers. A leader that is cut
// off gives up within a second. A leader with a disk that hangs may never answer,
// and has to end nevertheless.
const answerTimeout = 2 * time.Second

// await returns the outcome of the proposal that propose makes.
func (r *raftRun) await(propose func() raft.Future) error {
	r.mu.Lock()
	if r.closing {
		r.mu.Unlock()
		return raft.ErrRaftShutdown
	}
	r.callers.Add(1)
	r.mu.Unlock()
	defer r.callers.Done()
	return propose().Error()
}

// Apply commits an entry and returns the answer of the state machine.
func (r *raftRun) Apply(entry []byte) (response any, err error) {
	var future raft.ApplyFuture
	err = r.await(func() raft.Future { future = r.Raft.Apply(entry, 0); return future })
	if err != nil {
		return nil, err
	}
	return future.Response(), nil
}

// Barrier returns when all entries that were proposed before are applied.
func (r *raftRun) Barrier() error {
	return r.await(func() raft.Future { return r.Raft.Barrier(0) })
}

// raftAddress returns the address of a node in Raft's configuration: its id. The
// transport asks gossip for the actual address each time it dials. An actual address
// in the configuration would be wrong once the node moves, and Raft would admit no
// other node at that address.
func raftAddress(id raft.ServerID) raft.ServerAddress { return raft.ServerAddress(id) }

// Shutdown refuses new proposals, waits for the answers to earlier ones, and shuts
// Raft down.
func (r *raftRun) Shutdown() raft.Future {
	r.mu.Lock()
	r.closing = true
	r.mu.Unlock()
	withTimeout(answerTimeout, "an answer", func() error { r.callers.Wait(); return nil }) //nolint:errcheck // after a timeout it is shut down as well
	return r.Raft.Shutdown()
}
