package cluster

import (
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// consensus is Raft that answers everybody. When [raft.Raft] is shut down, it
// answers those who wait for an entry that is not committed, but never those whose
// entry is, and was on its way to the state machine (in v1.8.0: those that are in
// fsmMutateCh when runFSM ends). So here nobody may wait any more when it is.
type consensus struct {
	*raft.Raft

	mu      sync.Mutex
	ending  bool
	waiting sync.WaitGroup // not begun when ending
}

// answerWithin is how long answers may take. A leader that is cut off gives up within
// a second; one whose disk hangs may never answer, and must end all the same.
const answerWithin = 2 * time.Second

// await returns what becomes of what propose proposes.
func (c *consensus) await(propose func() raft.Future) error {
	c.mu.Lock()
	if c.ending {
		c.mu.Unlock()
		return raft.ErrRaftShutdown
	}
	c.waiting.Add(1)
	c.mu.Unlock()
	defer c.waiting.Done()
	return propose().Error()
}

// Apply commits an entry and returns what the state machine answers.
func (c *consensus) Apply(entry []byte) (response any, err error) {
	var future raft.ApplyFuture
	err = c.await(func() raft.Future { future = c.Raft.Apply(entry, 0); return future })
	if err != nil {
		return nil, err
	}
	return future.Response(), nil
}

// Barrier returns when all that was proposed before is applied.
func (c *consensus) Barrier() error {
	return c.await(func() raft.Future { return c.Raft.Barrier(0) })
}

// AddNonvoter has a node follow the log.
func (c *consensus) AddNonvoter(id raft.ServerID) error {
	return c.await(func() raft.Future { return c.Raft.AddNonvoter(id, raftAddress(id), 0, changeWithin) })
}

// AddVoter gives a node a vote.
func (c *consensus) AddVoter(id raft.ServerID) error {
	return c.await(func() raft.Future { return c.Raft.AddVoter(id, raftAddress(id), 0, changeWithin) })
}

// RemoveServer takes a node's vote, or has it follow the log no longer.
func (c *consensus) RemoveServer(id raft.ServerID) error {
	return c.await(func() raft.Future { return c.Raft.RemoveServer(id, 0, changeWithin) })
}

// raftAddress is what Raft's configuration says of where a node is: its id, which
// is dialled wherever gossip says that it is. A true address would go out of date
// when the node moves, and Raft would let nobody in who has it then.
func raftAddress(id raft.ServerID) raft.ServerAddress { return raft.ServerAddress(id) }

// Shutdown ends it when all are answered. What is proposed from now on is refused.
func (c *consensus) Shutdown() raft.Future {
	c.mu.Lock()
	c.ending = true
	c.mu.Unlock()
	within(answerWithin, "an answer", func() error { c.waiting.Wait(); return nil }) //nolint:errcheck // it ends then, too
	return c.Raft.Shutdown()
}
