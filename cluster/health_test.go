package cluster

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/choked/choked/internal/boottime"
)

func TestHealthNamesTheFirstFault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := health{clock: boottime.New()}
		assert.ErrorIs(t, h.check(""), errNoCluster)
		assert.NoError(t, h.check("ours"), "no leader yet, but the node has just started")
		time.Sleep(leaderlessFor)
		assert.NoError(t, h.check("ours"))
		time.Sleep(time.Second)
		assert.ErrorContains(t, h.check("ours"), "no leader for 6s")
		assert.ErrorIs(t, h.check(""), errNoCluster, "without a cluster there is no leader to miss")
		h.leaderKnown()
		assert.NoError(t, h.check("ours"))
		time.Sleep(time.Minute)
		h.explainNoCluster(nil)
		time.Sleep(leaderlessFor)
		assert.NoError(t, h.check("ours"), "it has just joined a cluster")
		h.leaderKnown()

		assert.True(t, h.hasDisk())
		failure := errors.New("input/output error")
		h.diskFailed(failure, false)
		assert.False(t, h.hasDisk())
		assert.ErrorIs(t, h.check("ours"), failure)
		assert.ErrorContains(t, h.check(""), "disk failed")
	})
}

func TestHealthForgetsAForeignCluster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := health{clock: boottime.New()}
		assert.NoError(t, h.recentForeignCluster())
		refused := errors.New("this node is of cluster a, not of b")
		h.metForeignCluster("theirs", refused)
		assert.NoError(t, h.check("ours"), "the members of a cluster do not mind another one")
		time.Sleep(foreignClusterFor - time.Nanosecond)
		assert.ErrorIs(t, h.recentForeignCluster(), refused)
		time.Sleep(time.Nanosecond)
		assert.NoError(t, h.recentForeignCluster())

		h.metForeignCluster("theirs", refused)
		h.foreignJoined("another")
		assert.ErrorIs(t, h.recentForeignCluster(), refused)
		h.foreignJoined("theirs")
		assert.NoError(t, h.recentForeignCluster(), "it has joined")
		assert.True(t, h.metWithin(time.Second))
		h.metForeignCluster("theirs", nil)
		assert.NoError(t, h.recentForeignCluster(), "it gives way")
	})
}

func TestClusterIDIsSetOnce(t *testing.T) {
	var saved []string
	full := errors.New("no space left on device")
	var failure error
	c := clusterID{save: func(id string) error { saved = append(saved, id); return failure }}
	assert.Empty(t, c.get())
	failure = full
	require.ErrorIs(t, c.adopt("a"), full)
	assert.Empty(t, c.get(), "the id is not saved")
	failure = nil
	require.NoError(t, c.adopt("a"))
	require.NoError(t, c.adopt("a"), "the same again")
	assert.EqualError(t, c.adopt("b"), `join cluster "b": this node is of cluster "a"`)
	assert.Equal(t, "a", c.get())
	assert.Equal(t, []string{"a", "a"}, saved, "what is known is not saved again")
}

func TestRosterForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoster(boottime.New())
		r.markDeparted("a")
		assert.True(t, r.hasDeparted("a"))
		assert.False(t, r.hasDeparted("b"))
		time.Sleep(departedFor - time.Nanosecond)
		assert.True(t, r.hasDeparted("a"))
		time.Sleep(time.Nanosecond)
		assert.False(t, r.hasDeparted("a"), "it may have returned")
		assert.Empty(t, r.departed)

		r.markLaggard("a")
		time.Sleep(time.Hour)
		r.markLaggard("b")
		laggards := r.laggardsAmong(map[string]Member{"a": {}, "b": {}, "c": {}})
		assert.Len(t, laggards, 2)
		assert.Less(t, laggards["a"], laggards["b"])
		assert.Len(t, r.laggardsAmong(map[string]Member{"b": {}, "c": {}}), 1)
		assert.Len(t, r.laggardsAmong(map[string]Member{"a": {}, "b": {}}), 1, "it vanished in between")
	})
}

func TestTasksRefuseAfterClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var all tasks
		ended := false
		require.True(t, all.spawn(func() { time.Sleep(time.Second); ended = true }))
		all.close()
		assert.False(t, all.spawn(func() { assert.Fail(t, "it runs") }))
		all.wait()
		assert.True(t, ended)
	})
}
