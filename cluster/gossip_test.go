package cluster

import (
	"testing"
	"testing/synctest"
	"unsafe"

	"github.com/hashicorp/memberlist"
)

// memberlist draws the number of what it is told before it looks whether a higher
// one was used meanwhile, to refute that this node is dead, and drops it then.
func TestWhatIsSaidDuringARefutationIsHeard(t *testing.T) {
	inBubble(t, func(t *testing.T, c *fleet) {
		nodes := c.startThree()
		other := besides(c.leader(), nodes)[0]
		speaker := c.start(c.config(4))
		c.await("it is a member", func() bool { return len(other.Members()) == 4 && speaker.cluster() != "" })
		sick := func() bool { m, _ := other.gossip.member(speaker.id); return m.Sick }

		// The number is behind the node in memberlist's own state of it.
		state := (*struct {
			memberlist.Node
			Incarnation uint32
		})(unsafe.Pointer(speaker.gossip.list.LocalNode()))
		synctest.Wait() // memberlist holds still
		state.Incarnation += 2
		speaker.gossip.say(func(m *meta) { m.Sick = true })
		c.await("it is heard", sick)

		synctest.Wait()
		state.Incarnation += 10 // again and again
		speaker.gossip.say(func(m *meta) { m.Sick = false })
		c.await("it is heard when it is said the next time", func() bool { return !sick() })
	})
}
