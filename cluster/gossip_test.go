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

// memberlist draws the number of what it is told before it looks whether a higher
// one was used meanwhile, to refute that this node is dead, and drops it then.
func TestAnnouncementDuringARefutationArrives(t *testing.T) {
	inBubble(t, func(t *testing.T, c *fleet) {
		nodes := c.startThree()
		other := besides(c.leader(), nodes)[0]
		speaker := c.start(c.config(4))
		c.await("it is a member", func() bool { return len(other.Members()) == 4 && speaker.cluster() != "" })
		sick := func() bool { m, _ := other.gossip.member(speaker.id); return m.DiskFailed }

		// The number is behind the node in memberlist's own state of it.
		state := (*struct {
			memberlist.Node
			Incarnation uint32
		})(unsafe.Pointer(speaker.gossip.list.LocalNode()))
		synctest.Wait() // memberlist holds still
		state.Incarnation += 2
		speaker.gossip.announce(func(m *meta) { m.DiskFailed = true })
		c.await("it is heard", sick)

		synctest.Wait()
		state.Incarnation += 10 // again and again
		speaker.gossip.announce(func(m *meta) { m.DiskFailed = false })
		c.await("it is heard when it is said the next time", func() bool { return !sick() })
	})
}

// memberlist queues a good-bye in place of what was said just before, and would lose
// it to the second news that comes then, if that is as long: here another good-bye.
func TestDepartureThatMemberlistLosesArrives(t *testing.T) {
	inBubble(t, func(t *testing.T, c *fleet) {
		// All gossip at the same instants, at tenths of a second from here on, and probe
		// at halves of one. It happens between them.
		nodes := c.startThree()
		const half = 500 * time.Millisecond
		between := func() {
			time.Sleep(time.Until(time.Now().Truncate(half).Add(half + 50*time.Millisecond)))
		}
		time.Sleep(time.Until(time.Now().Truncate(half).Add(half)))
		a, b, last, herald := c.start(c.config(4)), c.start(c.config(5)), c.start(c.config(6)), c.start(c.config(7))
		time.Sleep(10 * time.Second) // until there is no news
		require.Len(t, last.Members(), 7)
		between()

		here, there := []string{host(last)}, []string{ip(1), ip(2), ip(3), ip(4), ip(5), ip(7)}
		c.net.Split(here, there)
		c.leave(a)
		c.leave(b)
		c.await("the herald knows", func() bool { return len(herald.Members()) == 5 })
		between()
		c.net.Join(here, there)
		require.Len(t, last.Members(), 7, "it does not know")

		began := time.Now()
		delete(c.nodes, last.Addr())
		closed := make(chan error, 1)
		go func() { closed <- last.Close() }()
		c.await("its good-bye is queued", func() bool { return last.gossip.list.NumMembers() < 7 })
		_, err := herald.gossip.list.Join([]string{last.Addr()}) // now it hears who has left
		require.NoError(t, err)
		c.crash(herald) // it tells nobody of last
		require.NoError(t, <-closed)
		for _, n := range nodes {
			c.await("they hear it", func() bool { _, there := n.gossip.member(last.id); return !there })
		}
		assert.Less(t, time.Since(began), time.Second, "rather than notice it")
	})
}
