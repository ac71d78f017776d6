package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/choked/choked/cluster/internal/wire"
)

// A node id belongs to one process. Two processes have the same one if a directory was
// copied, as with the image of a machine, a restored snapshot or a backup. Both would
// vote with one vote, and each might grant the whole limit. As soon as one of them can
// reach the other, the later one steps out for good.
//
// They learn of each other by the hellos of a stream, on which each compares the same
// two hellos. They open that stream because one is a seed of the other, or because
// gossip reports the address of the other one.

// startedAlike is how far apart two processes may have started for their order to be
// left to their numbers. Both sides must decide alike on all streams between them, and
// on each stream one of the hellos is older by the time that the other one took: up to
// the 2 s of a handshake.
const startedAlike = 2 * time.Second

// staysOver reports whether self remains the node and peer steps out, if they are two
// processes with one node id.
func staysOver(self, peer wire.Hello) bool {
	switch diff := self.Up - peer.Up; {
	case self.SteppedOut != peer.SteppedOut:
		return peer.SteppedOut
	case diff > startedAlike || diff < -startedAlike:
		return diff > 0
	}
	return self.Run < peer.Run
}

// errSteppedOut is why a node that has stepped out refuses streams.
var errSteppedOut = errors.New("this node has stepped out of its cluster, as another process has its id")

// duplicate is the fault of a node that has stepped out, as another process has its
// node id.
type duplicate struct {
	found atomic.Pointer[error] // nil: there is none
	due   chan struct{}         // closed when it is found
}

// err returns nil as long as no duplicate is found.
func (d *duplicate) err() error {
	if err := d.found.Load(); err != nil {
		return *err
	}
	return nil
}

// set records the fault, which is final. Only the first one counts.
func (d *duplicate) set(err error) {
	if d.found.CompareAndSwap(nil, &err) {
		close(d.due)
	}
}

// copied decides which of two processes with the id of this node steps out. It returns
// the reason for which there is no stream between them.
func (n *Node) copied(self, peer wire.Hello) error {
	if staysOver(self, peer) {
		n.events.Warn(n.log, "copy at "+peer.Addr, "refused a copy of this node: its directory was copied, give the copy an empty one",
			"copy", peer.Addr, "up", peer.Up.Round(time.Second))
		return fmt.Errorf("node %s runs at %s, for %v: %s has a copy of its directory and needs an empty one",
			n.id, self.Addr, self.Up.Round(time.Second), peer.Addr)
	}
	err := fmt.Errorf("stepped out: node %s also runs at %s, for %v, and this process at %s for %v: the directory%s was copied, start this node with an empty one",
		n.id, peer.Addr, peer.Up.Round(time.Second), self.Addr, self.Up.Round(time.Second), quotedDir(n.cfg.Dir))
	n.duplicate.set(err)
	return err
}

func quotedDir(dir string) string {
	if dir == "" {
		return ""
	}
	return fmt.Sprintf(" %q", dir)
}

// awaitDuplicate steps out when another process turns out to be this node.
func (n *Node) awaitDuplicate() {
	select {
	case <-n.duplicate.due:
		n.stepOut()
	case <-n.ctx.Done():
	}
}

// stepOut ends this node's part in the cluster: it stops Raft, gossip and all streams,
// and announces none of it, since the members would take that for an announcement of
// the other process. From now on operations fail at once.
func (n *Node) stepOut() {
	n.log.Error("stepped out of the cluster", "error", n.duplicate.err())
	n.leaveActive()
	run := n.raft.current()
	run.transport.CloseStreams()
	run.transport.Close()
	n.port.CloseKind(wire.RPC)
	n.gossip.abandon()
	n.tasks.spawn(func() { run.Shutdown() })
	n.router.reroute()
}

// meetCopies dials the addresses at which gossip reports this node's id, other than
// its own, until the node closes. If another process answers with this id, the hellos
// decide. If a node has moved, no process answers at its former address.
func (n *Node) meetCopies() {
	for {
		select {
		case <-n.active.Done():
			return
		case addr := <-n.gossip.conflicts:
			ctx, cancel := context.WithTimeout(n.active, dialWithin)
			if c, err := n.port.Dial(ctx, wire.RPC, addr); err == nil {
				c.Close()
			}
			cancel()
		}
		select {
		case <-n.active.Done():
		case <-time.After(pollEvery):
		}
	}
}

// NotifyConflict implements [memberlist.ConflictDelegate]: gossip reports a member at
// two addresses.
func (g *gossip) NotifyConflict(existing, other *memberlist.Node) {
	if existing.Name != g.id {
		return
	}
	select {
	case g.conflicts <- other.Address():
	default: // one is being dialled, and gossip reports it again
	}
}

// isElsewhere reports whether gossip knows that the node which sent a hello runs at an
// address other than the one in the hello, and it answers there. Then the hello is
// that of a copy which has not met its original yet.
func (g *gossip) isElsewhere(peer wire.Hello) (addr string, elsewhere bool) {
	m, ok := g.member(peer.Node)
	if !ok || m.Self || peer.Addr == "" || sameAddr(m.Addr, peer.Addr) {
		return "", false
	}
	return m.Addr, g.ping(m)
}

// sameAddr reports whether two canonical addresses are the same but for the zone of an
// IPv6 address, which gossip does not carry.
func sameAddr(a, b string) bool { return withoutZone(a) == withoutZone(b) }

func withoutZone(addr string) string {
	at, err := netip.ParseAddrPort(addr)
	if err != nil {
		return addr
	}
	return netip.AddrPortFrom(at.Addr().WithZone(""), at.Port()).String()
}
