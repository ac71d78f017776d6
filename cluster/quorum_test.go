package cluster

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestQuorumInWords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		time.Sleep(time.Hour)
		gone := func(n int) (missing []MissingVoter) {
			for i := range n {
				missing = append(missing, MissingVoter{ID: "a", Name: "secret", Since: began.Add(time.Duration(n-i) * 10 * time.Minute)})
			}
			return missing
		}
		for _, tt := range []struct {
			voters, gone int
			lost         bool
			want         string
		}{
			{0, 0, false, ""},
			{1, 0, false, ""},
			{3, 0, false, ""},
			{3, 1, false, "1 of 3 voters gone since 50m0s; one more and nothing is decided"},
			{3, 2, true, "2 of 3 voters gone since 40m0s; nothing is decided before one of them runs again with its Dir"},
			{5, 1, false, "1 of 5 voters gone since 50m0s; two more and nothing is decided"},
			{5, 2, false, "2 of 5 voters gone since 50m0s; one more and nothing is decided"},
			{5, 4, true, "4 of 5 voters gone since 30m0s; nothing is decided before two of them run again with their Dir"},
			{2, 1, true, "1 of 2 voters gone since 50m0s; nothing is decided before one of them runs again with its Dir"},
		} {
			q := Quorum{tt.voters, gone(tt.gone)}
			assert.Equal(t, tt.want, q.String())
			assert.Equal(t, tt.lost, q.Lost(), tt.want)
			if tt.gone > 0 {
				q.Missing[0].DiskFailed = true
				assert.Equal(t, tt.lost, strings.HasSuffix(q.String(), " Dir, on a disk that works"), q)
			}
		}
	})
}

// A voter and a member that has no vote know which voter is missing, and since when;
// Health is nil as long as there is a leader, and names the missing ones when there is
// none.
func TestMembersKnowWhichVoterIsMissing(t *testing.T) {
	dirs := []string{t.TempDir(), t.TempDir(), t.TempDir()}
	inBubble(t, func(t *testing.T, c *fleet) {
		nodes := c.startThreeIn(dirs)
		client := c.start(c.config(4))
		c.await("the client has joined", func() bool { return client.Health() == nil })
		client.gossip.announce(func(m *meta) { m.DiskFailed = true }) // so it replaces no voter
		time.Sleep(10 * time.Second)
		for _, n := range append(nodes, client) {
			assert.Equal(t, Quorum{Voters: 3}, n.Quorum())
			assert.Empty(t, n.Quorum().String())
		}

		i := 0
		for c.leader() == nodes[i] {
			i++
		}
		dead, rest := nodes[i], besides(nodes[i], nodes)
		c.crash(dead)
		crashed := time.Now()
		time.Sleep(2 * time.Minute)
		for _, n := range append(besides(nil, rest), client) {
			q := n.Quorum()
			require.Len(t, q.Missing, 1)
			assert.WithinDuration(t, crashed, q.Missing[0].Since, 10*time.Second)
			assert.Equal(t, MissingVoter{ID: dead.id, Name: dead.cfg.Name, Addr: dead.Addr(), Since: q.Missing[0].Since}, q.Missing[0])
			assert.Regexp(t, `^1 of 3 voters gone since (1m5\ds|2m0s); one more and nothing is decided$`, q)
			assert.NoError(t, n.Health(), "the others decide")
		}

		// A member that starts now has never seen the dead one.
		others := []string{ip(1), ip(2), ip(3), ip(4)}
		c.net.Split([]string{ip(5)}, others) // until it has announced that it cannot replace a voter
		late := c.start(c.config(5))
		late.gossip.announce(func(m *meta) { m.DiskFailed = true })
		c.net.Join([]string{ip(5)}, others)
		c.await("it knows", func() bool { return len(late.Quorum().Missing) == 1 })
		assert.Equal(t, dead.id, late.Quorum().Missing[0].ID)
		assert.Empty(t, late.Quorum().Missing[0].Name)
		assert.WithinDuration(t, time.Now(), late.Quorum().Missing[0].Since, 5*time.Second)

		other := c.leader()
		last := besides(other, rest)[0]
		c.crash(other)
		time.Sleep(time.Minute)
		assert.True(t, last.Quorum().Lost())
		for _, want := range []string{"no leader for", "2 of 3 voters gone", "before one of them runs again", dead.cfg.Name + " at " + dead.Addr(), other.cfg.Name + " at " + other.Addr()} {
			assert.ErrorContains(t, last.Health(), want)
		}
		for j, n := range nodes {
			if n != last {
				nodes[j] = c.startIn(1+j, dirs[j])
			}
		}
		c.await("all are there", func() bool {
			return len(client.Quorum().Missing) == 0 && client.Quorum().Voters == 3 && last.Health() == nil
		})
		assert.Equal(t, Quorum{Voters: 3}, last.Quorum())
		assert.Empty(t, last.absence.since)
	})
}

// A voter whose disk has failed is alive, and cannot vote.
func TestVoterWithAFailedDiskIsMissing(t *testing.T) {
	inBubble(t, func(t *testing.T, c *fleet) {
		nodes := c.startThree()
		i := 0
		for c.leader() == nodes[i] {
			i++
		}
		require.NoError(t, nodes[i].SteppedOut())
		nodes[i].stopRaft(nodes[i].raft.current(), fmt.Errorf("input/output error"))
		assert.ErrorContains(t, nodes[i].SteppedOut(), "input/output error")
		c.await("the leader knows", func() bool { return len(c.leader().Quorum().Missing) == 1 })
		assert.True(t, c.leader().Quorum().Missing[0].DiskFailed)
		assert.Equal(t, nodes[i].cfg.Name, c.leader().Quorum().Missing[0].Name)
		assert.NoError(t, c.leader().SteppedOut())
		nodes[i].health.diskFailed(fmt.Errorf("no space left on device"), true)
		assert.NoError(t, nodes[i].SteppedOut(), "it rejoins by itself")
		assert.ErrorContains(t, nodes[i].Health(), "no space left on device")
	})
}

// Gossip remembers the members that vanished last, voters longer than others.
func TestFormerMembersAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gossip{alive: make(map[string]known)}
		vanish := func(id string, voter bool) {
			g.alive[id] = known{addr: "10.0.0.1:7946", meta: meta{Name: "n", Voter: voter}}
			g.rememberLocked(id)
			time.Sleep(time.Second)
		}
		remembers := func(id string) bool {
			_, _, ok := g.lastSeen(id)
			return ok
		}
		for i := range 3 {
			vanish(fmt.Sprint("voter ", i), true)
		}
		for i := range 3 * maxSeen {
			vanish(fmt.Sprint(i), false)
		}
		assert.Len(t, g.former, maxSeen)
		assert.True(t, remembers(fmt.Sprint(3*maxSeen-1)))
		assert.False(t, remembers("0"))
		assert.True(t, remembers("voter 0"))
		for i := range maxSeen {
			vanish(fmt.Sprint("later voter ", i), true)
		}
		assert.Len(t, g.former, maxSeen)
		assert.False(t, remembers("voter 0"))
		assert.True(t, remembers("later voter 0"))
	})
}

// What a leader gossips of its voters is checked, as it is shown to people.
func TestForgedQuorumIsIgnored(t *testing.T) {
	for _, b := range []string{`{"n":"a","w":3,"g":"\u001b[2J"}`, `{"n":"a","w":-1}`, `{"n":"a","w":1000000}`} {
		m := parseMeta([]byte(b))
		assert.Equal(t, meta{Name: "a"}, m)
	}
	assert.Equal(t, meta{Name: "a", Voters: 3, Missing: "1f,2a"}, parseMeta([]byte(`{"n":"a","w":3,"g":"1f,2a"}`)))
}
