package bucket

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Two workers disagree for the length of a rolling update: one of them still
// has 600 a minute, the other has 10 a second, which is the later definition.
// Whichever of the two one holds the fleet to, in one minute it may admit 1,200
// at the most.
func TestAnOldDefinitionDoesNotComeBackWhileTheNewOneIsInUse(t *testing.T) {
	older, err := ParseLimits("600/m", "")
	require.NoError(t, err)
	newer, err := ParseLimits("10/s", "")
	require.NoError(t, err)
	table := NewTable()
	var admitted int64
	seq := uint64(0)
	ask := func(now time.Duration, limits Limits, defined, n int64) {
		seq++
		id := LeaseID{Holder: 1, Seq: seq}
		g := table.Apply(int64(now), &Ask{Key: "k", ID: id, Limits: limits, Defined: defined, Want: Cost{Requests: n}}).Grant
		admitted += g.Granted.Requests
		table.Apply(int64(now), &Settlement{Key: "k", ID: id, Spent: g.Granted})
	}
	for now := time.Duration(0); now < time.Minute; now += 3 * time.Second {
		ask(now, older, 1, 600)
		ask(now, newer, 2, 1)
	}
	assert.LessOrEqual(t, admitted, int64(1200))
}
