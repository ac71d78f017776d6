package cluster

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/choked/choked/internal/boottime"
)

const (
	// leaderlessFor is how long there may be no leader before a node reports it. An
	// election takes a second.
	leaderlessFor = 5 * time.Second

	// foreignClusterFor is how long a node reports that it met another cluster.
	foreignClusterFor = time.Minute

	maxReasons = 3 // peers that an error names
)

// health holds the faults of a node.
type health struct {
	clock *boottime.Clock

	mu             sync.Mutex
	diskFailure    error  // nil: the disk works
	reopens        bool   // the node opens the failed disk again by itself
	foreignCluster error  // of the last contact with another cluster; nil: there was none, or it is no fault of this node
	foreignNode    string // id of the node of that contact
	met            bool   // there was such a contact
	foreignAt      int64  // when that was
	leaderAt       int64  // when a leader was known last
	noCluster      error  // why the node has no cluster; nil: it is not known yet
}

// diskFailed records that the disk has failed, and whether the node will open it again
// by itself.
func (h *health) diskFailed(err error, reopens bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.reopens = reopens
	if reopens {
		h.diskFailure = fmt.Errorf("disk failed, this node takes no part in Raft until the disk works again: %w", err)
	} else {
		h.diskFailure = fmt.Errorf("disk failed, this node takes no more part in Raft: %w", err)
	}
}

// diskWorks records that the disk works again.
func (h *health) diskWorks() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.diskFailure, h.leaderAt = nil, h.clock.Now()
}

// hasDisk reports whether the disk works.
func (h *health) hasDisk() bool { return h.diskFault() == nil }

// diskFault returns why the disk does not work, or nil.
func (h *health) diskFault() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.diskFailure
}

// finalDiskFault returns why the disk does not work, or nil if it works or the node
// opens it again by itself.
func (h *health) finalDiskFault() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.reopens {
		return nil
	}
	return h.diskFailure
}

// leaderKnown records that there is a leader.
func (h *health) leaderKnown() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.leaderAt = h.clock.Now()
}

// metForeignCluster records that a node of another cluster refused this one, or was
// refused by it. The error is nil if that is no fault of this node.
func (h *health) metForeignCluster(node string, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.foreignCluster, h.foreignNode, h.met, h.foreignAt = err, node, true, h.clock.Now()
}

// foreignJoined records that a node is a member, whatever its cluster was before.
func (h *health) foreignJoined(node string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if node == h.foreignNode {
		h.foreignCluster = nil
	}
}

// check returns what keeps a node of the given cluster from its full part in it;
// the cluster is empty if the node has none yet.
func (h *health) check(cluster string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.diskFailure != nil {
		return h.diskFailure
	}
	if cluster == "" {
		return errNoCluster
	}
	if leaderless := h.clock.Since(h.leaderAt); leaderless > leaderlessFor {
		return fmt.Errorf("no leader for %v: a majority of the voters must run, each with its Dir", leaderless.Round(time.Second))
	}
	return nil
}

// leaderless returns how long no leader has been known.
func (h *health) leaderless() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.clock.Since(h.leaderAt)
}

// explainNoCluster records why the node has no cluster, as far as discovery knows. Without
// a cluster there is no leader to miss.
func (h *health) explainNoCluster(why error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.noCluster, h.leaderAt = why, h.clock.Now()
}

// reason returns why the node has no cluster; nil: it is not known.
func (h *health) reason() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.noCluster
}

// metWithin reports whether the node met another cluster within d.
func (h *health) metWithin(d time.Duration) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.met && h.clock.Since(h.foreignAt) < d
}

// recentForeignCluster returns an error if the node met another cluster within
// foreignClusterFor.
func (h *health) recentForeignCluster() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.foreignCluster == nil || h.clock.Since(h.foreignAt) >= foreignClusterFor {
		return nil
	}
	return h.foreignCluster
}

// errNoCluster is why a node has no leader before it joins or founds a cluster.
var errNoCluster = errors.New("no cluster found yet")

// noCluster returns errNoCluster with the reason, as far as it is known.
func (n *Node) noCluster() error {
	if why := n.whyNoCluster(); why != nil {
		return fmt.Errorf("%w: %w", errNoCluster, why)
	}
	return errNoCluster
}

// whyNoCluster returns why this node has no cluster: a node that keeps a cluster without
// a leader, or the peers whose secret is another one, and what discovery has found,
// unless this node has dialled one of these peers; nil: it is not known yet.
func (n *Node) whyNoCluster() error {
	if k, ok := n.gossip.keeper(n.joined.hasLeft); ok {
		return k.explain()
	}
	why := n.health.reason()
	wrong := n.port.WrongSecrets()
	if len(wrong) == 0 {
		return why
	}
	var peers []string
	for _, w := range wrong[:min(len(wrong), maxReasons)] {
		peers = append(peers, w.String())
	}
	if more := len(wrong) - maxReasons; more > 0 {
		peers = append(peers, fmt.Sprintf("and %d more", more))
	}
	secrets := fmt.Errorf("%s: want the same secret on all nodes", strings.Join(peers, ", "))
	if wrong[0].Dialled || why == nil {
		return secrets
	}
	return fmt.Errorf("%w; %w", secrets, why)
}

// clusterID is the id of the cluster that a node belongs to. It is set when the node
// founds or joins a cluster. Only a node without Dir may leave it, see merge.go.
type clusterID struct {
	save func(id string) error // to the disk

	clock *boottime.Clock

	mu   sync.Mutex
	id   string           // empty: of no cluster yet
	left map[string]int64 // clusters that the node has left, and until when it keeps out; 0: for good
	hold int64            // until when the node founds no cluster
	idle bool             // the node takes no part in its cluster any more
}

// get returns the id; empty: the node has no cluster yet.
func (c *clusterID) get() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.id
}

// leave makes the node one of no cluster. It does not join the one that it leaves before
// a time of the clock, 0 for never, and founds none before another time.
func (c *clusterID) leave(id string, until, hold int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.left == nil {
		c.left = make(map[string]int64)
	}
	c.id, c.left[id], c.hold = "", until, hold
}

// stop has the node announce by gossip that it has no cluster. Its streams go on to be
// those of a node of its cluster, which others refuse.
func (c *clusterID) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.idle = true
}

// announced returns the id that the node announces by gossip.
func (c *clusterID) announced() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.idle {
		return ""
	}
	return c.id
}

// hasLeft reports whether the node keeps out of a cluster that it has left.
func (c *clusterID) hasLeft(id string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.keepsOut(id)
}

func (c *clusterID) keepsOut(id string) bool {
	until, left := c.left[id]
	return left && (until == 0 || c.clock.Now() < until)
}

// mayFound reports whether the node may found a cluster: it has not just left one.
func (c *clusterID) mayFound() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.hold == 0 || c.clock.Now() >= c.hold
}

// adopt saves and sets the id. It fails if the node belongs to another cluster, or keeps
// out of this one.
func (c *clusterID) adopt(id string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.id == id {
		return nil
	}
	if c.id != "" {
		return fmt.Errorf("join cluster %q: this node is of cluster %q", id, c.id)
	}
	if c.keepsOut(id) {
		return fmt.Errorf("join cluster %q: this node has left it", id)
	}
	if err := c.save(id); err != nil {
		return err
	}
	c.id = id
	return nil
}
