package cluster

import (
	"io"
	"testing"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Raft sends the newest snapshot to a member that is behind, also while it takes
// another one.
func TestMemorySnapshotsShowCompleteOnesOnly(t *testing.T) {
	s := new(memorySnapshots)
	begin := func(index uint64, state string) raft.SnapshotSink {
		sink, err := s.Create(raft.SnapshotVersionMax, index, 3, raft.Configuration{}, 1, nil)
		require.NoError(t, err)
		_, err = io.WriteString(sink, state)
		require.NoError(t, err)
		return sink
	}
	newest := func() (string, *raft.SnapshotMeta) {
		list, err := s.List()
		require.NoError(t, err)
		require.Len(t, list, 1)
		meta, r, err := s.Open(list[0].ID)
		require.NoError(t, err)
		state, err := io.ReadAll(r)
		require.NoError(t, err)
		assert.Equal(t, list[0], meta)
		assert.EqualValues(t, len(state), meta.Size)
		return string(state), meta
	}
	first := begin(7, "first")
	list, err := s.List()
	require.NoError(t, err)
	assert.Empty(t, list, "it is being written")
	require.NoError(t, first.Close())
	state, meta := newest()
	assert.Equal(t, "first", state)
	assert.EqualValues(t, 7, meta.Index)
	assert.EqualValues(t, 3, meta.Term)

	require.NoError(t, begin(8, "failed half").Cancel())
	second := begin(9, "second")
	state, _ = newest()
	assert.Equal(t, "first", state)
	require.NoError(t, second.Close())
	state, _ = newest()
	assert.Equal(t, "second", state)
	_, _, err = s.Open(first.ID())
	assert.ErrorContains(t, err, "snapshot 3-7 is not there")
}
