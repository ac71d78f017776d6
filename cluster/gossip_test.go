package cluster

import (
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/hashicorp/memberlist"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// memberlist drops an update of this node whose incarnation number is lower than that of
// a refutation: it takes the number of the update before it checks whether it has
// refuted meanwhile that this node is dead.
func TestAnnouncementDuringARefutationArrives(t *testing.T) {
	inBubble(t, func(t *testing.T, c *fleet) {
		nodes := c.startThree()
		other := besides(c.leader(), nodes)[0]
		speaker := c.start(c.config(4))
		c.await("the speaker is a member", func() bool { return len(other.Members()) == 4 && speaker.cluster() != "" })
		diskFailed := func() bool { m, _ := other.gossip.member(speaker.id); return m.DiskFailed }

		// The number follows the node in memberlist's internal state.
		state := (*struct {
			memberlist.Node
			Incarnation uint32
		})(unsafe.Pointer(speaker.gossip.list.LocalNode()))
		synctest.Wait() // memberlist is idle
		state.Incarnation += 2
		speaker.gossip.announce(func(m *meta) { m.DiskFailed = true })
		c.await("the announcement arrives", diskFailed)

		synctest.Wait()
		state.Incarnation += 10 // for all tries of the announcement
		speaker.gossip.announce(func(m *meta) { m.DiskFailed = false })
		c.await("it arrives with the next announcement", func() bool { return !diskFailed() })
	})
}

// memberlist replaces a queued broadcast with the departure of this node, and would lose
// that to the second broadcast queued after it, if that has the same length: here
// another departure.
func TestDepartureThatMemberlistLosesArrives(t *testing.T) {
	inBubble(t, func(t *testing.T, c *fleet) {
		// From here on all nodes gossip at multiples of 100 ms, and probe at multiples of
		// 500 ms. The test acts between these times.
		nodes := c.startThree()
		const half = 500 * time.Millisecond
		between := func() {
			time.Sleep(time.Until(time.Now().Truncate(half).Add(half + 50*time.Millisecond)))
		}
		time.Sleep(time.Until(time.Now().Truncate(half).Add(half)))
		a, b, last, herald := c.start(c.config(4)), c.start(c.config(5)), c.start(c.config(6)), c.start(c.config(7))
		time.Sleep(10 * time.Second) // until all news has spread
		require.Len(t, last.Members(), 7)
		between()

		here, there := []string{host(last)}, []string{ip(1), ip(2), ip(3), ip(4), ip(5), ip(7)}
		c.net.Split(here, there)
		c.leave(a)
		c.leave(b)
		c.await("the herald knows of both departures", func() bool { return len(herald.Members()) == 5 })
		between()
		c.net.Join(here, there)
		require.Len(t, last.Members(), 7, "the last node does not know of them")

		began := time.Now()
		delete(c.nodes, last.Addr())
		closed := make(chan error, 1)
		go func() { closed <- last.Close() }()
		c.await("its departure is queued", func() bool { return last.gossip.list.NumMembers() < 7 })
		_, err := herald.gossip.list.Join([]string{last.Addr()}) // it receives the two departures
		require.NoError(t, err)
		c.crash(herald) // before it passes on the departure of last
		require.NoError(t, <-closed)
		for _, n := range nodes {
			c.await("the others receive it", func() bool { _, there := n.gossip.member(last.id); return !there })
		}
		assert.Less(t, time.Since(began), time.Second, "before they could notice it by themselves")
	})
}
