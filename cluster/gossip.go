package cluster

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/choked/choked/cluster/internal/wire"
)

// Member is one worker of the cluster, as gossip tells of it.
type Member struct {
	ID     string // unique; a node without Dir has another one each time it starts
	Name   string // Config.Name
	Addr   string // host:port
	Leader bool
	Voter  bool
	Sick   bool // its disk has failed: it is a client of the others
	Self   bool

	leaving bool
}

// meta is what a node says of itself by gossip.
type meta struct {
	Cluster string `json:"c,omitempty"`
	Name    string `json:"n"`
	Leader  bool   `json:"l,omitempty"`
	Voter   bool   `json:"v,omitempty"`
	Sick    bool   `json:"s,omitempty"`
	Leaving bool   `json:"x,omitempty"`
}

// gossip finds the members and notices those that vanish. It only suggests:
// who votes is decided in the log.
type gossip struct {
	list *memberlist.Memberlist
	poke func() // something has changed

	// saying holds one while something is announced: memberlist would mix up
	// two at a time. It is no mutex, for it is held while time passes.
	saying chan struct{}

	mu    sync.Mutex
	id    string
	self  meta
	alive map[string]known // what memberlist told: its own list is not safe to read
}

type known struct {
	addr string
	meta meta
}

func startGossip(id string, self meta, port *wire.Port, cfg Config, poke func()) (*gossip, error) {
	g := &gossip{id: id, self: self, poke: poke, saying: make(chan struct{}, 1), alive: make(map[string]known)}
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
	c.Delegate, c.Events, c.Merge, c.Alive = g, g, g, g
	c.Logger = stdlogTo(cfg.Logger)
	// A dead voter is to be replaced soon, and a pause of a second is no death.
	c.ProbeInterval, c.ProbeTimeout = 500*time.Millisecond, 300*time.Millisecond
	c.SuspicionMult = 4
	c.GossipInterval = 100 * time.Millisecond
	// A packet lost here and there leaves some without the news; all is
	// compared this often (less so beyond 32 members).
	c.PushPullInterval = 5 * time.Second
	c.TCPTimeout = 2 * time.Second
	// Who was killed may come back at another address as soon as it is known to be
	// dead. By default its name is kept from it for half a minute.
	c.DeadNodeReclaimTime = time.Nanosecond
	// What is said is short. To compress it costs some 100 KB of garbage a packet,
	// more than all else that a member without work does.
	c.EnableCompression = false
	if g.list, err = memberlist.Create(c); err != nil {
		return nil, fmt.Errorf("gossip: %w", err)
	}
	return g, nil
}

// say changes what this node says of itself. memberlist drops what it is told just
// when it refutes that this node is dead, so it is told again until it has it; if
// it has left the others, it takes nothing any more.
func (g *gossip) say(change func(*meta)) {
	g.saying <- struct{}{}
	defer func() { <-g.saying }()
	self := g.said()
	change(&self)
	g.mu.Lock()
	g.self = self
	g.mu.Unlock()
	for try := 0; try < 3 && !g.isTold(); try++ {
		g.list.UpdateNode(time.Millisecond) //nolint:errcheck // queued; whether it is sent by then does not matter
	}
}

// isTold reports whether memberlist has what this node says of itself.
func (g *gossip) isTold() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.alive[g.id].meta == g.self
}

func (g *gossip) said() meta {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.self
}

// members returns the members alive, this node among them, ordered by id.
func (g *gossip) members() []Member {
	g.mu.Lock()
	defer g.mu.Unlock()
	all := make([]Member, 0, len(g.alive))
	for id, k := range g.alive {
		all = append(all, g.describe(id, k))
	}
	slices.SortFunc(all, func(a, b Member) int { return cmp.Compare(a.ID, b.ID) })
	return all
}

func (g *gossip) member(id string) (Member, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	k, ok := g.alive[id]
	return g.describe(id, k), ok
}

func (g *gossip) describe(id string, k known) Member {
	m := k.meta
	if id == g.id {
		m = g.self
	}
	return Member{ID: id, Name: m.Name, Addr: k.addr, Leader: m.Leader, Voter: m.Voter, Sick: m.Sick, Self: id == g.id, leaving: m.Leaving}
}

// answers reports whether m answers a packet. No other node at its address does.
func (g *gossip) answers(m Member) bool {
	at, err := net.ResolveUDPAddr("udp", m.Addr)
	if err == nil {
		_, err = g.list.Ping(m.ID, at)
	}
	return err == nil
}

// cluster returns the id of the cluster that a member says it is of, and whether
// one of them leads it.
func (g *gossip) cluster() (id string, led bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for member, k := range g.alive {
		if member == g.id || k.meta.Cluster == "" {
			continue
		}
		if id = k.meta.Cluster; k.meta.Leader {
			return id, true
		}
	}
	return id, false
}

// readMeta returns what b says, or nothing: memberlist bounds its size.
func readMeta(b []byte) meta {
	var m meta
	if json.Unmarshal(b, &m) != nil || !nameForm.MatchString(m.Name) || m.Cluster != "" && !nameForm.MatchString(m.Cluster) {
		return meta{Name: "?"}
	}
	return m
}

// stop says good-bye and ends gossiping.
func (g *gossip) stop(leave bool) error {
	if leave && g.list.NumMembers() > 1 && g.list.Leave(500*time.Millisecond) != nil {
		g.leaveByStream()
	}
	return g.list.Shutdown()
}

// leaveByStream says a good-bye that has not gone out: memberlist loses a broadcast
// when it is queued in place of the only one, and the second one after it is as long
// (hashicorp/memberlist#263). Who is joined hears all that this node knows, and that
// is that it has left. Those who do not hear will notice.
func (g *gossip) leaveByStream() {
	others := g.members()
	rand.Shuffle(len(others), func(i, j int) { others[i], others[j] = others[j], others[i] })
	others = slices.DeleteFunc(others, func(m Member) bool { return m.Self || m.leaving })
	beside(min(len(others), 3), func(i int) {
		g.list.Join([]string{others[i].Addr}) //nolint:errcheck // any one of them is enough
	})
}

// stranger reports why the node that says m must not be a member here. It would
// have been refused as a stream; packets of it may come by others.
func (g *gossip) stranger(name, addr string, m meta) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if name == g.id || m.Cluster == "" || g.self.Cluster == "" || m.Cluster == g.self.Cluster {
		return nil
	}
	return fmt.Errorf("member %q at %s is of cluster %.64q, and this node of %.64q", m.Name, addr, m.Cluster, g.self.Cluster)
}

// NotifyAlive implements [memberlist.AliveDelegate]. A member that was of no
// cluster when it came may turn out to be of another one.
func (g *gossip) NotifyAlive(n *memberlist.Node) error {
	err := g.stranger(n.Name, n.Address(), readMeta(n.Meta))
	if err != nil {
		g.NotifyLeave(n)
	}
	return err
}

// NotifyMerge implements [memberlist.MergeDelegate].
func (g *gossip) NotifyMerge(peers []*memberlist.Node) error {
	var errs []error
	for _, n := range peers {
		if n.State == memberlist.StateAlive {
			errs = append(errs, g.stranger(n.Name, n.Address(), readMeta(n.Meta)))
		}
	}
	return errors.Join(errs...)
}

// NotifyJoin implements [memberlist.EventDelegate], as do the next two.
func (g *gossip) NotifyJoin(n *memberlist.Node) {
	g.mu.Lock()
	g.alive[n.Name] = known{n.Address(), readMeta(n.Meta)}
	g.mu.Unlock()
	g.poke()
}

func (g *gossip) NotifyUpdate(n *memberlist.Node) { g.NotifyJoin(n) }

func (g *gossip) NotifyLeave(n *memberlist.Node) {
	g.mu.Lock()
	delete(g.alive, n.Name)
	g.mu.Unlock()
	g.poke()
}

// NodeMeta implements [memberlist.Delegate], as do the following, which have
// nothing to add.
func (g *gossip) NodeMeta(int) []byte {
	b, err := json.Marshal(g.said())
	if err != nil {
		return nil
	}
	return b
}

func (g *gossip) NotifyMsg([]byte)                {}
func (g *gossip) GetBroadcasts(_, _ int) [][]byte { return nil }
func (g *gossip) LocalState(bool) []byte          { return nil }
func (g *gossip) MergeRemoteState([]byte, bool)   {}
