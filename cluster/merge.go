package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/raft"

	"github.com/choked/choked/bucket"
	"github.com/choked/choked/cluster/internal/wire"
)

// Two clusters under one secret each admit the full limits. They are founded if a name
// leads each node to itself alone at first, or while the network is split. When a node
// of one reaches a node of the other, the younger cluster gives way: its members
// without Dir forget it and join the older one, and its members with Dir stop deciding
// until their directories are emptied. The age of a cluster is the time in its log,
// which only its leader knows exactly, and no wall clock:
//
//  1. A node that meets another cluster announces that by gossip (meta.Foreign).
//  2. The leader announces the age of the cluster as long as a member does (meta.Age).
//  3. From then on hellos carry the age. Both sides of a stream compare the same two
//     hellos, so exactly one of them gives way.
//  4. The node that gives way announces that (meta.Gone), and so do all members of its
//     cluster that receive the announcement, also if they cannot reach the other one.
const (
	// foundedAlike is the difference in age below which the ids of two clusters decide:
	// more than gossip takes to tell the age. Otherwise two streams could have opposite
	// results, and both clusters would give way.
	foundedAlike = 10 * time.Second

	metFor = 10 * time.Second // how long a node announces that it met another cluster

	// holdFounding is how long a node that has given way founds no cluster, so that it
	// joins the older one.
	holdFounding = 10 * time.Second

	// avoidLost is how long a node keeps out of the cluster that it gave up because
	// most voters had lost the log.
	avoidLost = 30 * time.Second

	askVoterWithin = time.Second
)

// givesWay reports whether the cluster of self gives way to that of peer. Both ages are
// known.
func givesWay(self, peer wire.Hello) bool {
	if diff := self.Age - peer.Age; diff > foundedAlike || diff < -foundedAlike {
		return diff < 0
	}
	return self.Cluster > peer.Cluster
}

// departedCluster is a cluster that this node leaves, and why.
type departedCluster struct {
	id     string
	why    string
	merged bool   // it gives way to an older one; else most of its voters have lost the log
	toward string // host:port of a node of the older one; empty: unknown
}

// meet records that this node and a node of another cluster do not admit each other, and
// gives way if its cluster is the younger one.
func (n *Node) meet(peer wire.Hello) {
	self := n.hello()
	var fault error
	switch {
	case peer.SteppedOut:
	case self.Age > 0 && peer.Age > 0:
		if givesWay(self, peer) {
			why := fmt.Sprintf("it is younger than cluster %q, of which %s is", peer.Cluster, peer.Addr)
			n.rival.Store(&departedCluster{self.Cluster, why, true, peer.Addr})
		}
	default:
		remedy := "restart this node"
		if n.cfg.Dir != "" {
			remedy = fmt.Sprintf("empty the directory %q of this node and restart it", n.cfg.Dir)
		}
		fault = fmt.Errorf("two clusters do not merge: this node is of cluster %q, which has no leader, and %s is of %q: if that one has a leader, %s", self.Cluster, peer.Addr, peer.Cluster, remedy)
		n.events.Warn(n.log, "met "+peer.Cluster, "met a node of another cluster: if one of the two has no leader, empty the Dirs of its nodes and restart them",
			"cluster", self.Cluster, "peer", peer.Addr, "peer_id", peer.Node, "peer_cluster", peer.Cluster)
	}
	n.health.metForeignCluster(peer.Node, fault)
	n.clusterNews.set()
}

// age returns the age of this node's cluster by the time in its log; 0: the leader has
// not announced it.
func (n *Node) age() time.Duration {
	if n.queue.Load() != nil {
		return time.Duration(n.replica.now())
	}
	return n.gossip.age()
}

// reviewClusters decides whether this node stays in its cluster, until ctx ends.
func (n *Node) reviewClusters(ctx context.Context) {
	left := "" // the cluster that this node is about to leave
	for {
		select {
		case <-ctx.Done():
			return
		case <-n.clusterNews:
		case <-time.After(reviewEvery):
		}
		for _, m := range n.gossip.members() {
			n.health.foreignJoined(m.ID)
		}
		n.Quorum() // it notes since when voters are missing
		own := n.cluster()
		if own == "" {
			left = ""
		}
		if own == left || n.yielded.Load() != nil {
			continue
		}
		if d := n.mustLeave(ctx, own); d != nil {
			left = own
			select {
			case n.leaving <- *d:
			case <-ctx.Done():
			}
			continue
		}
		n.announceMeeting()
	}
}

// mustLeave returns why this node has to leave its cluster; nil: it stays.
func (n *Node) mustLeave(ctx context.Context, own string) *departedCluster {
	if d := n.rival.Load(); d != nil && d.id == own {
		return d
	}
	if n.gossip.isGone(own) {
		return &departedCluster{own, "another member has met an older one", true, ""}
	}
	if n.hasLostVoters(ctx) {
		return &departedCluster{own, "most of its voters were restarted without their log", false, ""}
	}
	return nil
}

// announceMeeting announces that this node has met another cluster and, if this node
// leads, the age of its own and its voters.
func (n *Node) announceMeeting() {
	foreign := n.health.metWithin(metFor)
	asked := foreign
	for _, m := range n.gossip.members() {
		asked = asked || m.foreign
	}
	age, voters := int64(0), ""
	if n.queue.Load() != nil {
		if asked {
			age = n.replica.now()
		}
		voters = strings.Join(n.voterIDs(), ",")
	}
	n.gossip.announce(func(m *meta) { m.Foreign, m.Age, m.VoterIDs = foreign, age, voters })
}

// voterIDs returns the ids of the voters by this node's log, in order.
func (n *Node) voterIDs() (ids []string) {
	servers, err := n.raft.servers()
	if err != nil {
		return nil
	}
	for _, s := range servers {
		if s.Suffrage == raft.Voter {
			ids = append(ids, string(s.ID))
		}
	}
	slices.Sort(ids)
	return ids
}

// hasLostVoters reports whether so many voters have lost the log that no majority of
// them can return, and this node has no log on a disk either. A voter is known to have
// lost it if it kept it in memory and another node answers at its address: the process
// that had the log is gone. A voter that is only silent may return.
func (n *Node) hasLostVoters(ctx context.Context) bool {
	if n.cfg.Dir != "" || n.queue.Load() != nil {
		return false
	}
	voters := n.gossip.voters()
	if own := n.voterIDs(); slices.Contains(own, n.id) {
		voters = own
	}
	if len(voters) == 0 {
		return n.knowsNoVoter()
	}
	quorum := len(voters)/2 + 1
	suspects := n.gossip.replaced(voters)
	if len(voters)-len(suspects) >= quorum {
		return false
	}
	lost := make(map[string]bool)
	for id, addr := range suspects {
		ctx, cancel := context.WithTimeout(ctx, askVoterWithin)
		hello, err := n.port.Probe(ctx, addr)
		cancel()
		var refused *wire.RefusedError
		if errors.As(err, &refused) {
			hello = refused.Peer
		}
		if hello.Node != "" && hello.Node != id {
			lost[id] = true
		}
	}
	for _, m := range n.gossip.members() {
		if m.Leader && !lost[m.ID] {
			return false
		}
	}
	return len(voters)-len(lost) < quorum
}

// forgetAfter is how long a node stays in a cluster of which it has nothing.
const forgetAfter = 4 * time.Second

// knowsNoVoter reports whether this node has neither the log of its cluster nor a leader
// of it, and so knows no voter. The founder has died then before it sent its log. A node
// that stayed would keep the others from founding another cluster. If the cluster still
// has a leader that cannot be reached now, this node joins it again later.
func (n *Node) knowsNoVoter() bool {
	return len(n.voterIDs()) == 0 && n.health.leaderless() > forgetAfter
}

// beginLeaving announces that this node leaves its cluster and has it decide nothing
// more.
func (n *Node) beginLeaving(run *raftRun, d departedCluster) {
	n.log.Warn("left cluster", "cluster", d.id, "reason", d.why)
	if n.cfg.Dir != "" {
		err := fmt.Errorf("two clusters do not merge: this node has left its own, %q, since %s: empty its directory %q and restart it, so that it joins the other one", d.id, d.why, n.cfg.Dir)
		n.yielded.Store(&err)
		n.joined.stop()
	}
	run.stop()
	if d.merged {
		n.gossip.announce(func(m *meta) { m.Gone = d.id })
	}
}

// leaveCluster ends a run of Raft in a cluster that this node leaves, and begins another
// run with an empty log in memory. With a Dir it returns nil when the node closes: the
// node waits for a human to empty the directory.
func (n *Node) leaveCluster(run *raftRun, d departedCluster) *raftRun {
	inMemory := n.cfg.Dir == ""
	n.gossip.announce(func(m *meta) {
		m.Voter, m.Leader, m.Foreign, m.Age, m.VoterIDs = false, false, false, 0, ""
		m.DiskFailed, m.Cluster = !inMemory, n.joined.announced()
	})
	withTimeout(endWithin, "raft", func() error { return run.Shutdown().Error() }) //nolint:errcheck // it decides nothing any more
	n.router.reroute()
	if !inMemory {
		<-n.ctx.Done()
		return nil
	}
	return n.restartEmpty(run, d)
}

// restartEmpty begins a run of Raft with an empty log in memory, as a restart of the
// node would, but for the node's id: Raft streams are between nodes of one cluster, so
// its former votes do not matter.
func (n *Node) restartEmpty(run *raftRun, d departedCluster) *raftRun {
	n.reopening <- struct{}{} // Close waits for it, and ends the run that it finds
	defer func() { <-n.reopening }()
	if n.ctx.Err() != nil {
		return nil
	}
	disk, _, err := openDisk(n.cfg.disk())
	if err != nil { // not in memory
		n.log.Error("failed to restart Raft", "error", err)
		return nil
	}
	next := newRaftRun(disk)
	n.replica.reset()
	if d.toward != "" {
		n.discovery.invited.Store(&d.toward)
	}
	if d.merged {
		n.joined.leave(d.id, 0, n.clock.Now()+int64(holdFounding))
	} else {
		n.joined.leave(d.id, n.clock.Now()+int64(avoidLost), 0)
	}
	n.health.metForeignCluster("", nil)
	n.port.Reopen(wire.Raft)
	if err := n.startRaft(next); err != nil {
		n.log.Error("failed to restart Raft", "error", err)
		return nil
	}
	n.raft.run.Store(next)
	n.gossip.announce(func(m *meta) { m.Cluster = "" })
	n.membersChanged.set()
	return next
}

// yieldedErr returns why operations fail on a node with a Dir whose cluster gave way
// to another one; nil: it did not.
func (n *Node) yieldedErr() error {
	if err := n.yielded.Load(); err != nil {
		return *err
	}
	return nil
}

// unavailable returns why no operation can succeed any more on this node, or nil.
func (n *Node) unavailable() error {
	if err := n.duplicate.err(); err != nil {
		return fmt.Errorf("%w: %w", bucket.ErrUnavailable, err)
	}
	if err := n.yieldedErr(); err != nil {
		return fmt.Errorf("%w: %w", bucket.ErrUnavailable, err)
	}
	return nil
}
