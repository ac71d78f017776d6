package cluster

import (
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// slowMachine applies one entry for each value on let.
type slowMachine struct {
	raft.FSM
	let chan struct{}
}

func (m slowMachine) Apply(l *raft.Log) any {
	<-m.let
	return l.Index
}

// alone returns Raft with one voter, which leads, over a state machine.
func alone(t *testing.T, machine raft.FSM) *raftRun {
	c := raft.DefaultConfig()
	c.LocalID = "a"
	c.Logger = hclog.New(&hclog.LoggerOptions{Output: io.Discard})
	logs := raft.NewInmemStore()
	_, transport := raft.NewInmemTransport("a")
	r, err := raft.NewRaft(c, machine, logs, logs, new(memorySnapshots), transport)
	require.NoError(t, err)
	require.NoError(t, r.BootstrapCluster(raft.Configuration{Servers: []raft.Server{{ID: "a", Address: "a"}}}).Error())
	require.True(t, <-r.LeaderCh())
	return &raftRun{Raft: r}
}

// Five entries are committed and not applied when Raft is shut down. Their callers get
// answers, and later callers are refused.
func TestShutdownAnswersWaitingCallers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		machine := slowMachine{let: make(chan struct{})}
		c := alone(t, machine)
		answers := make(chan error, 5)
		for range cap(answers) {
			go func() { _, err := c.Apply(nil); answers <- err }()
			synctest.Wait()
		}
		over := make(chan error)
		go func() { over <- c.Shutdown().Error() }()
		synctest.Wait()
		assert.ErrorIs(t, c.Barrier(), raft.ErrRaftShutdown)
		assert.Empty(t, answers)
		close(machine.let)
		require.NoError(t, <-over)
		for range cap(answers) {
			assert.NoError(t, <-answers)
		}
	})
}

// A state machine that hangs does not block a shutdown.
func TestShutdownEndsWithoutAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		machine := slowMachine{let: make(chan struct{})}
		c := alone(t, machine)
		go c.Apply(nil) //nolint:errcheck // it hangs
		synctest.Wait()
		began := time.Now()
		future := c.Shutdown()
		assert.Equal(t, answerTimeout, time.Since(began))
		close(machine.let)
		assert.NoError(t, future.Error())
	})
}
