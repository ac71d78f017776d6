package cluster

import (
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// consensus is a [raft.Raft] that answers all callers. When it is shut down, Raft
// itself (v1.8.0) answers callers that wait for an entry that is not committed, but
// never those whose entry is committed and on its way to the state machine: those
// in fsmMutateCh when runFSM ends. So Raft is shut down after all callers have
// their answers.
type consensus struct {
	*raft.Raft

	mu      sync.Mutex
	closing bool
	callers sync.WaitGroup // that wait for an answer; none is added while closing
}

// answerTimeout bounds how long a shutdown waits for answers. A leader that is cut
// off gives up within a second. A leader with a disk that hangs may never answer,
// and has to end nevertheless.
const answerTimeout = 2 * time.Second

// await returns the outcome of the proposal that propose makes.
func (c *consensus) await(propose func() raft.Future) error {
	c.mu.Lock()
	if c.closing {
		c.mu.Unlock()
		return raft.ErrRaftShutdown
	}
	c.callers.Add(1)
	c.mu.Unlock()
	defer c.callers.Done()
	return propose().Error()
}

// Apply commits an entry and returns the answer of the state machine.
func (c *consensus) Apply(entry []byte) (response any, err error) {
	var future raft.ApplyFuture
	err = c.await(func() raft.Future { future = c.Raft.Apply(entry, 0); return future })
	if err != nil {
		return nil, err
	}
	return future.Response(), nil
}

// Barrier returns when all entries that were proposed before are applied.
func (c *consensus) Barrier() error {
	return c.await(func() raft.Future { return c.Raft.Barrier(0) })
}

// AddNonvoter makes a node follow the log, without a vote.
func (c *consensus) AddNonvoter(id raft.ServerID) error {
	return c.await(func() raft.Future { return c.Raft.AddNonvoter(id, raftAddress(id), 0, changeWithin) })
}

// AddVoter gives a node a vote.
func (c *consensus) AddVoter(id raft.ServerID) error {
	return c.await(func() raft.Future { return c.Raft.AddVoter(id, raftAddress(id), 0, changeWithin) })
}

// RemoveServer removes a node from the configuration: it has no vote and no longer
// follows the log.
func (c *consensus) RemoveServer(id raft.ServerID) error {
	return c.await(func() raft.Future { return c.Raft.RemoveServer(id, 0, changeWithin) })
}

// raftAddress returns the address of a node in Raft's configuration: its id. The
// transport asks gossip for the actual address each time it dials. An actual address
// in the configuration would be wrong once the node moves, and Raft would admit no
// other node at that address.
func raftAddress(id raft.ServerID) raft.ServerAddress { return raft.ServerAddress(id) }

// Shutdown refuses new proposals, waits for the answers to earlier ones, and shuts
// Raft down.
func (c *consensus) Shutdown() raft.Future {
	c.mu.Lock()
	c.closing = true
	c.mu.Unlock()
	withTimeout(answerTimeout, "an answer", func() error { c.callers.Wait(); return nil }) //nolint:errcheck // after a timeout it is shut down as well
	return c.Raft.Shutdown()
}
