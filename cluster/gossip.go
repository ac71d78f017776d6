package cluster

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/choked/choked/cluster/internal/wire"
)

// Member is a node of the cluster, as gossip describes it.
type Member struct {
	ID         string // unique; a node without Dir has a new one each time it starts
	Name       string // Config.Name
	Addr       string // host:port
	Leader     bool
	Voter      bool
	DiskFailed bool // its disk has failed, and it is a client of the other members
	Self       bool // this node

	leaving bool
	cluster string // id of its cluster; empty: it has none yet
	first   string // id of the node that it has found at the first seed; see discovery.look
	foreign bool   // it has met another cluster
}

// meta is how a node describes itself by gossip.
type meta struct {
	Cluster    string `json:"c,omitempty"`
	First      string `json:"f,omitempty"` // empty: none, or the node has a cluster
	Name       string `json:"n"`
	Leader     bool   `json:"l,omitempty"`
	Voter      bool   `json:"v,omitempty"`
	DiskFailed bool   `json:"s,omitempty"`
	Leaving    bool   `json:"x,omitempty"`
	Voters     int    `json:"w,omitempty"` // of a leader: how many voters there are
	Missing    string `json:"g,omitempty"` // of a leader: ids of voters that are missing, with commas between
	Memory     bool   `json:"m,omitempty"` // it has no Dir
	Foreign    bool   `json:"o,omitempty"` // it has met another cluster
	Age        int64  `json:"a,omitempty"` // of the cluster, in nanoseconds, if a member has met another one; of the leader only
	Gone       string `json:"y,omitempty"` // id of the cluster that has given way to an older one
	VoterIDs   string `json:"i,omitempty"` // ids of the voters, with commas; of the leader only
}

// gossip finds the members and detects members that vanish. Its knowledge is a
// hint: the voters are those of the Raft log.
type gossip struct {
	list    *memberlist.Memberlist
	changed func() // called when members may have changed

	conflicts chan string // other addresses at which gossip reports this node
	abandoned atomic.Bool // memberlist has been shut down

	// announcing is a semaphore for announce: memberlist would mix up two calls at a
	// time. It is no mutex, because it is held while time passes.
	announcing chan struct{}

	mu     sync.Mutex
	id     string
	self   meta
	alive  map[string]known   // as reported by memberlist, whose own list is not safe to read
	former map[string]seen    // members that have vanished
	ips    map[netip.Addr]int // of members, and how many have each
	gone   string             // id of the last own cluster that gave way to an older one, as a member has announced
	votes  []string           // ids of the voters, as a leader has announced last
	of     string             // the cluster of votes
	past   map[string]known   // voters that are not alive
}

// known is what memberlist has reported of a member.
type known struct {
	addr string
	meta meta
	at   time.Time // when meta changed last
}

func startGossip(id string, self meta, port *wire.Port, logger *log.Logger, changed func()) (*gossip, error) {
	g := &gossip{id: id, self: self, changed: changed, announcing: make(chan struct{}, 1), alive: make(map[string]known), past: make(map[string]known), conflicts: make(chan string, 1)}
	c := memberlist.DefaultLANConfig()
	c.Name = id
	c.Transport = port.Gossip()
	c.UDPBufferSize -= wire.Overhead
	host, portNumber, err := net.SplitHostPort(port.Addr())
	if err != nil {
		return nil, err
	}
	c.AdvertiseAddr = host
	if c.AdvertisePort, err = strconv.Atoi(portNumber); err != nil {
		return nil, err
	}
	c.BindPort = c.AdvertisePort
	c.Delegate, c.Events, c.Merge, c.Alive, c.Conflict = g, g, g, g, g
	c.Logger = logger
	// A dead voter should be replaced soon, but a pause of a second is no failure.
	c.ProbeInterval, c.ProbeTimeout = 500*time.Millisecond, 300*time.Millisecond
	c.SuspicionMult = 4
	c.GossipInterval = 100 * time.Millisecond
	// Members miss news when packets are lost. So two members compare all they know
	// this often, or less often beyond 32 members.
	c.PushPullInterval = 5 * time.Second
	c.TCPTimeout = 2 * time.Second
	// A node that was killed may return at another address as soon as it is known to
	// be dead. By default memberlist would refuse its id for 30 s.
	c.DeadNodeReclaimTime = time.Nanosecond
	// Messages are short, and to compress one allocates some 100 KB, more than all
	// else that an idle member does.
	c.EnableCompression = false
	if g.list, err = memberlist.Create(c); err != nil {
		return nil, fmt.Errorf("gossip: %w", err)
	}
	return g, nil
}

// announce changes how this node describes itself. memberlist drops an update that
// it is given while it refutes that this node is dead, so announce tries again until
// memberlist has it; after stop, memberlist takes no more updates.
func (g *gossip) announce(change func(*meta)) {
	g.announcing <- struct{}{}
	defer func() { <-g.announcing }()
	self := g.announced()
	change(&self)
	g.mu.Lock()
	g.self = self
	g.mu.Unlock()
	for try := 0; try < 3 && !g.isQueued(); try++ {
		g.list.UpdateNode(time.Millisecond) //nolint:errcheck // queued; it need not be sent by then
	}
}

// isQueued reports whether memberlist has what this node announced last.
func (g *gossip) isQueued() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.alive[g.id].meta == g.self
}

// announced returns how this node describes itself.
func (g *gossip) announced() meta {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.self
}

// members returns the members that are alive, this node included, ordered by id.
func (g *gossip) members() []Member {
	g.mu.Lock()
	defer g.mu.Unlock()
	all := make([]Member, 0, len(g.alive))
	for id, k := range g.alive {
		if g.isOurs(k.meta) {
			all = append(all, g.describe(id, k))
		}
	}
	slices.SortFunc(all, func(a, b Member) int { return cmp.Compare(a.ID, b.ID) })
	return all
}

// member returns the member with an id, if it is alive.
func (g *gossip) member(id string) (Member, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	k, ok := g.alive[id]
	return g.describe(id, k), ok && g.isOurs(k.meta)
}

// isOurs reports whether a member may be of the cluster of this node. This node may have
// left a cluster whose members gossip still knows. The lock is held.
func (g *gossip) isOurs(m meta) bool {
	return m.Cluster == "" || g.self.Cluster == "" || m.Cluster == g.self.Cluster
}

func (g *gossip) describe(id string, k known) Member {
	m := k.meta
	if id == g.id {
		m = g.self
	}
	return Member{ID: id, Name: m.Name, Addr: k.addr, Leader: m.Leader, Voter: m.Voter, DiskFailed: m.DiskFailed, Self: id == g.id, leaving: m.Leaving, cluster: m.Cluster, first: m.First, foreign: m.Foreign}
}

// label returns the name of m for logs and errors. If another member has the same
// name, as workers on one machine do by default, a part of the id follows.
func (g *gossip) label(m Member) string {
	for _, other := range g.members() {
		if other.Name == m.Name && other.ID != m.ID {
			return m.Name + "/" + m.ID[:min(len(m.ID), shortID)]
		}
	}
	return m.Name
}

// shortID is the number of characters of an id that tell members of one name apart.
const shortID = 6

// ping reports whether m answers a packet. Another node at its address would not.
func (g *gossip) ping(m Member) bool {
	at, err := net.ResolveUDPAddr("udp", m.Addr)
	if err == nil {
		_, err = g.list.Ping(m.ID, at)
	}
	return err == nil
}

// cluster returns the id of the cluster that other members belong to, and the one that
// leads it, which may have ended a few seconds ago; empty: there is none. A cluster that
// this node has left counts as one without a leader.
func (g *gossip) cluster(hasLeft func(id string) bool) (id string, leader Member) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for member, k := range g.alive {
		if member == g.id || k.meta.Cluster == "" {
			continue
		}
		if hasLeft(k.meta.Cluster) {
			id = cmp.Or(id, k.meta.Cluster)
			continue
		}
		if id = k.meta.Cluster; k.meta.Leader {
			return id, g.describe(member, k)
		}
	}
	return id, Member{}
}

// age returns the age of the cluster, as its leader has announced it; 0: it has not.
func (g *gossip) age() time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, k := range g.alive {
		if k.meta.Leader && k.meta.Age > 0 && k.meta.Cluster == g.self.Cluster {
			return time.Duration(k.meta.Age) + time.Since(k.at)
		}
	}
	return 0
}

// isGone reports whether a member has announced that the cluster of this node gives way
// to another one.
func (g *gossip) isGone(cluster string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.gone == cluster
}

// voters returns the ids of the voters, as a leader has announced them last.
func (g *gossip) voters() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.of != g.self.Cluster {
		return nil
	}
	return g.votes
}

// replaced returns the addresses of the voters that kept the log in memory and whose
// place another node may have taken: they are not alive, or another member advertises
// their address.
func (g *gossip) replaced(voters []string) map[string]string {
	g.mu.Lock()
	defer g.mu.Unlock()
	replaced := make(map[string]string)
	for _, id := range voters {
		k, alive := g.alive[id]
		if !alive {
			k = g.past[id]
		}
		for other, x := range g.alive {
			alive = alive && (other == id || x.addr != k.addr)
		}
		if !alive && id != g.id && k.meta.Memory {
			replaced[id] = k.addr
		}
	}
	return replaced
}

// note keeps what a member has announced about the cluster of this node. The lock is
// held.
func (g *gossip) note(m meta) {
	if m.Gone != "" && m.Gone == g.self.Cluster {
		g.gone = m.Gone
	}
	if m.Leader && m.VoterIDs != "" && m.Cluster == g.self.Cluster {
		g.votes, g.of = strings.Split(m.VoterIDs, ","), m.Cluster
		for id := range g.past {
			if !slices.Contains(g.votes, id) {
				delete(g.past, id)
			}
		}
	}
}

// parseMeta parses a node's description of itself, whose size memberlist bounds. If
// it is not valid, only its Name is set, to "?".
func parseMeta(b []byte) meta {
	var m meta
	valid := func(id string) bool { return id == "" || nameForm.MatchString(id) }
	if json.Unmarshal(b, &m) != nil || !nameForm.MatchString(m.Name) || !valid(m.Cluster) || !valid(m.First) || !valid(m.Gone) || m.Age < 0 {
		return meta{Name: "?"}
	}
	if m.Voters < 0 || m.Voters > maxVoters || !missingForm.MatchString(m.Missing) {
		m.Voters, m.Missing = 0, ""
	}
	return m
}

// maxVoters is the largest number of voters that there can be, one more than
// Config.Voters while one is replaced.
const maxVoters = 6

var missingForm = regexp.MustCompile(`^[0-9a-f,]{0,128}$`)

// stop tells the other members that this node leaves, and ends gossiping.
func (g *gossip) stop() error {
	if !g.abandoned.Load() && g.list.NumMembers() > 1 && g.list.Leave(500*time.Millisecond) != nil {
		g.leaveByStream()
	}
	return g.list.Shutdown()
}

// abandon ends gossiping without a word to the other members, and forgets them.
func (g *gossip) abandon() {
	g.abandoned.Store(true)
	g.list.Shutdown() //nolint:errcheck // it never fails
	g.mu.Lock()
	maps.DeleteFunc(g.alive, func(id string, _ known) bool { return id != g.id })
	g.mu.Unlock()
	g.changed()
}

// leaveByStream tells some members over a stream that this node leaves, after a
// broadcast of it was not sent: memberlist loses a broadcast that was queued in place
// of the only other one if the second one queued after it has the same length
// (hashicorp/memberlist#263). A join sends all that this node knows, its own
// departure included. Members that it does not reach notice by themselves.
func (g *gossip) leaveByStream() {
	others := g.members()
	rand.Shuffle(len(others), func(i, j int) { others[i], others[j] = others[j], others[i] })
	others = slices.DeleteFunc(others, func(m Member) bool { return m.Self || m.leaving })
	inParallel(min(len(others), 3), func(i int) {
		g.list.Join([]string{others[i].Addr}) //nolint:errcheck // one of them suffices
	})
}

// checkCluster returns an error if the node that describes itself as m belongs to
// another cluster. Its streams are refused, but packets about it may arrive from
// other nodes.
func (g *gossip) checkCluster(id, addr string, m meta) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if id == g.id || m.Cluster == "" || g.self.Cluster == "" || m.Cluster == g.self.Cluster {
		return nil
	}
	return fmt.Errorf("member %q at %s is of cluster %.64q, and this node of %.64q", m.Name, addr, m.Cluster, g.self.Cluster)
}

// NotifyAlive implements [memberlist.AliveDelegate]. It removes a member that had no
// cluster when it joined and now belongs to another one.
func (g *gossip) NotifyAlive(n *memberlist.Node) error {
	m := parseMeta(n.Meta)
	g.mu.Lock()
	g.note(m)
	g.mu.Unlock()
	err := g.checkCluster(n.Name, n.Address(), m)
	if err != nil {
		g.NotifyLeave(n)
	}
	return err
}

// NotifyMerge implements [memberlist.MergeDelegate]. It refuses nodes of another
// cluster.
func (g *gossip) NotifyMerge(peers []*memberlist.Node) error {
	var errs []error
	for _, n := range peers {
		if n.State == memberlist.StateAlive {
			errs = append(errs, g.checkCluster(n.Name, n.Address(), parseMeta(n.Meta)))
		}
	}
	return errors.Join(errs...)
}

// NotifyJoin implements [memberlist.EventDelegate], as do the next two.
func (g *gossip) NotifyJoin(n *memberlist.Node) {
	g.mu.Lock()
	k := known{n.Address(), parseMeta(n.Meta), time.Now()}
	g.countIPLocked(n.Name, -1)
	g.alive[n.Name] = k
	g.countIPLocked(n.Name, +1)
	delete(g.former, n.Name)
	g.note(k.meta)
	g.mu.Unlock()
	g.changed()
}

func (g *gossip) NotifyUpdate(n *memberlist.Node) { g.NotifyJoin(n) }

func (g *gossip) NotifyLeave(n *memberlist.Node) {
	g.mu.Lock()
	g.rememberLocked(n.Name)
	g.countIPLocked(n.Name, -1)
	if k, ok := g.alive[n.Name]; ok && slices.Contains(g.votes, n.Name) {
		g.past[n.Name] = k
	}
	delete(g.alive, n.Name)
	g.mu.Unlock()
	g.changed()
}

// countIPLocked adds to the number of members that have the IP address of a member.
func (g *gossip) countIPLocked(id string, by int) {
	at, err := netip.ParseAddrPort(g.alive[id].addr)
	if err != nil {
		return
	}
	if g.ips == nil {
		g.ips = make(map[netip.Addr]int)
	}
	if g.ips[at.Addr()] += by; g.ips[at.Addr()] <= 0 {
		delete(g.ips, at.Addr())
	}
}

// hasIP reports whether a member has an IP address.
func (g *gossip) hasIP(ip netip.Addr) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.ips[ip] > 0
}

// NodeMeta implements [memberlist.Delegate], as do the following methods, which are
// empty: this node sends no messages of its own by gossip.
func (g *gossip) NodeMeta(int) []byte {
	b, err := json.Marshal(g.announced())
	if err != nil {
		return nil
	}
	return b
}

func (g *gossip) NotifyMsg([]byte)                {}
func (g *gossip) GetBroadcasts(_, _ int) [][]byte { return nil }
func (g *gossip) LocalState(bool) []byte          { return nil }
func (g *gossip) MergeRemoteState([]byte, bool)   {}
