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
	diskFailure    error // nil: the disk works
	foreignCluster error // of the last contact with another cluster; nil: there was none
	foreignAt      int64 // when that was
	leaderAt       int64 // when a leader was known last
}

// diskFailed records that the disk has failed, which is final.
func (h *health) diskFailed(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.diskFailure = fmt.Errorf("disk failed, this node takes no more part in Raft: %w", err)
}

// hasDisk reports whether the disk works.
func (h *health) hasDisk() bool { return h.diskFault() == nil }

// diskFault returns why the disk does not work, or nil.
func (h *health) diskFault() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.diskFailure
}

// leaderKnown records that there is a leader.
func (h *health) leaderKnown() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.leaderAt = h.clock.Now()
}

// metForeignCluster records that a node of another cluster refused this one, or was
// refused by it.
func (h *health) metForeignCluster(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.foreignCluster = fmt.Errorf("two clusters do not merge, empty Dir on the nodes of one of them: %w", err)
	h.foreignAt = h.clock.Now()
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

// noCluster returns errNoCluster with the peers whose secret is another one.
func (n *Node) noCluster() error {
	wrong := n.port.WrongSecrets()
	if len(wrong) == 0 {
		return errNoCluster
	}
	var peers []string
	for _, w := range wrong[:min(len(wrong), maxReasons)] {
		peers = append(peers, w.String())
	}
	if more := len(wrong) - maxReasons; more > 0 {
		peers = append(peers, fmt.Sprintf("and %d more", more))
	}
	return fmt.Errorf("%w: %s: want the same secret on all nodes", errNoCluster, strings.Join(peers, ", "))
}

// clusterID is the id of the cluster that a node belongs to. It is set once, when
// the node founds or joins a cluster, and never changes.
type clusterID struct {
	save func(id string) error // to the disk

	mu sync.Mutex
	id string // empty: of no cluster yet
}

// get returns the id; empty: the node has no cluster yet.
func (c *clusterID) get() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.id
}

// adopt saves and sets the id. It fails if the node belongs to another cluster.
func (c *clusterID) adopt(id string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.id == id {
		return nil
	}
	if c.id != "" {
		return fmt.Errorf("join cluster %q: this node is of cluster %q", id, c.id)
	}
	if err := c.save(id); err != nil {
		return err
	}
	c.id = id
	return nil
}
