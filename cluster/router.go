package cluster

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/choked/choked/bucket"
	"github.com/choked/choked/cluster/internal/wire"
)

const (
	// dialWithin is for all until one is told who leads, or that one is to wait:
	// three round trips. The wait is heldFor longer.
	dialWithin = time.Second

	// heldFor is how long a voter that knows no leader keeps who asks waiting for
	// one. Without that, all members would ask all voters again and again as long
	// as there is none, and what handshakes cost could keep the voters from
	// electing one.
	heldFor = time.Second

	// askNextAfter is how long one that says nothing holds up a search, and
	// askNextHeld one that says that it waits for a leader: it may be the one that
	// is cut off from the others.
	askNextAfter = 100 * time.Millisecond
	askNextHeld  = 250 * time.Millisecond

	// Between searches in vain one waits, each time longer.
	searchAgain     = 50 * time.Millisecond
	searchAgainMost = 400 * time.Millisecond

	searchMost    = 8 // members asked in one search
	strangersMost = 2 // of those that are not known to vote
)

// router knows the way to the leader. It looks for one only when somebody needs
// it.
type router struct {
	mu        sync.Mutex
	link      *rpcClient
	searching bool
	changed   chan struct{} // closed, and replaced, when there may be a leader
	why       error         // of the last search
	pause     time.Duration // after the next search, if that is in vain
}

// leader returns who decides, waiting for one until the instant given.
func (n *Node) leader(ctx context.Context, until int64) (leader, error) {
	r := &n.router
	for {
		if n.ctx.Err() != nil {
			return nil, bucket.ErrClosed
		}
		r.mu.Lock()
		if a := n.authority.Load(); a != nil { // or else rerouted closes changed, once there is one
			r.mu.Unlock()
			return a, nil
		}
		if r.link != nil && r.link.alive() {
			defer r.mu.Unlock()
			return r.link, nil
		}
		if !r.searching {
			r.searching = true
			n.spawn(n.search)
		}
		changed, why := r.changed, r.why
		r.mu.Unlock()
		left := time.Duration(until - n.clock.Now())
		if left <= 0 {
			if why != nil {
				return nil, fmt.Errorf("%w: %w", bucket.ErrNoQuorum, why)
			}
			return nil, bucket.ErrNoQuorum
		}
		timer := time.NewTimer(left)
		select {
		case <-changed:
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, context.Cause(ctx)
		case <-n.ctx.Done():
		}
		timer.Stop()
	}
}

// rerouted wakes those who wait for a leader.
func (r *router) rerouted() {
	r.mu.Lock()
	defer r.mu.Unlock()
	close(r.changed)
	r.changed = make(chan struct{})
}

// search asks members for the leader, once round, and keeps the link to it.
func (n *Node) search() {
	r := &n.router
	r.mu.Lock()
	pause, changed, before := r.pause, r.changed, r.link
	r.mu.Unlock()
	link, reader, err := n.findLeader(n.successor(before))
	next := searchAgain
	if err != nil {
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
			next = min(2*pause, searchAgainMost)
		case <-changed: // this node leads, or its Raft knows who does
		case <-n.ctx.Done():
		}
		timer.Stop()
	}
	r.mu.Lock()
	r.link, r.why, r.searching, r.pause = link, err, false, next
	r.mu.Unlock()
	if link != nil {
		n.spawn(func() {
			defer context.AfterFunc(n.ctx, func() { link.end(bucket.ErrClosed) })()
			link.run(reader)
		})
	}
	r.rerouted()
}

// successor returns where the leader at the other end of a link sends its clients
// now that it leads no more; empty: it does not say. When leadership is handed
// over, nobody has to search for who has it.
func (n *Node) successor(l *rpcClient) string {
	if l == nil {
		return ""
	}
	timer := time.NewTimer(askNextHeld)
	defer timer.Stop()
	select {
	case addr := <-l.next:
		return addr
	case <-timer.C:
	case <-n.ctx.Done():
	}
	return ""
}

// reply is what a member says when it is asked who leads.
type reply struct {
	addr  string
	conn  *wire.Conn // to the leader
	r     *bufio.Reader
	held  bool // it says more when it knows a leader
	leads bool
	hint  string // where the leader is, if another is known
	err   error
}

// findLeader asks one after the other, and does not wait for long for one before
// it asks the next as well: that one may be frozen, or may not know. It begins
// with the member at first, if that is not empty.
func (n *Node) findLeader(first string) (*rpcClient, *bufio.Reader, error) {
	if there, _ := n.gossip.cluster(); there == "" && n.cluster() == "" {
		return nil, nil, errors.New("no cluster found yet") // and so nobody leads
	}
	ctx, stop := context.WithCancel(n.ctx)
	defer stop()
	replies := make(chan reply)
	next := n.whereToAsk()
	if first != "" {
		next = slices.Insert(next, 0, first)
	}
	asked := map[string]bool{n.port.Addr(): true}
	waiting := 0
	patience := time.NewTimer(0)
	defer patience.Stop()
	var why error
	for {
		next = slices.DeleteFunc(next, func(addr string) bool { return asked[addr] })
		more := patience.C
		if len(next) == 0 || len(asked) > searchMost {
			more = nil
		}
		if more == nil && waiting == 0 {
			return nil, nil, cmp.Or(why, errors.New("no member knows a leader"))
		}
		select {
		case <-ctx.Done():
			return nil, nil, bucket.ErrClosed
		case <-more:
			addr := next[0]
			asked[addr] = true
			waiting++
			n.spawn(func() { n.askWhoLeads(ctx, addr, replies) })
			if addr == first { // the last leader should know
				patience.Reset(askNextHeld)
			} else {
				patience.Reset(askNextAfter)
			}
		case a := <-replies:
			if a.held {
				patience.Reset(askNextHeld)
				continue
			}
			waiting--
			if a.leads {
				return newRPCClient(a.conn, a.addr), a.r, nil
			}
			why = errors.Join(why, a.err)
			if a.hint != "" {
				next = slices.Insert(next, 0, a.hint)
			}
			if a.hint != "" || waiting == 0 {
				patience.Reset(0)
			}
		}
	}
}

// askWhoLeads sends what the member at addr says, unless ctx ends before.
func (n *Node) askWhoLeads(ctx context.Context, addr string, replies chan<- reply) {
	say := func(a reply) {
		select {
		case replies <- a:
		case <-ctx.Done():
			if a.leads {
				a.conn.Close()
			}
		}
	}
	a := reply{addr: addr}
	a.conn, a.r, a.leads, a.hint, a.err = n.dialRPC(ctx, addr, func() { say(reply{addr: addr, held: true}) })
	if a.err == nil && !a.leads {
		a.conn.Close()
	}
	say(a)
}

// whereToAsk lists addresses, the most likely leader first. Only those that vote
// can know it; a few others are asked while gossip tells of none besides.
func (n *Node) whereToAsk() []string {
	var leaders, voters, others []string
	if _, id := n.raft.LeaderWithID(); id != "" {
		if m, ok := n.gossip.member(string(id)); ok {
			leaders = append(leaders, m.Addr)
		}
	}
	for _, m := range n.gossip.members() {
		switch {
		case m.Leader:
			leaders = append(leaders, m.Addr)
		case m.Voter:
			voters = append(voters, m.Addr)
		default:
			others = append(others, m.Addr)
		}
	}
	// When all look for a leader, not all begin with the same member.
	shuffle(voters)
	if len(voters) == 0 {
		shuffle(others)
		voters = others[:min(len(others), strangersMost)]
	}
	return append(leaders, voters...)
}

// awaitLeader returns the authority, if this node leads. A voter that knows no
// leader, or is about to lead, waits for that, but not for long; it calls wait
// before.
func (n *Node) awaitLeader(wait func()) *leaderQueue {
	var over <-chan time.Time
	for {
		n.router.mu.Lock()
		changed := n.router.changed
		n.router.mu.Unlock()
		a := n.authority.Load()
		_, leader := n.raft.LeaderWithID()
		if elsewhere := leader != "" && leader != raft.ServerID(n.id); a != nil || elsewhere || !n.gossip.said().Voter {
			return a
		}
		if over == nil {
			timer := time.NewTimer(heldFor)
			defer timer.Stop()
			over = timer.C
			wait()
		}
		select {
		case <-changed:
		case <-over:
			return nil
		case <-n.ctx.Done():
			return nil
		}
	}
}

func shuffle(addrs []string) {
	rand.Shuffle(len(addrs), func(i, j int) { addrs[i], addrs[j] = addrs[j], addrs[i] })
}

// dialRPC opens a stream to the member at addr, which says first whether it
// leads, and if not, who does. If it waits for a leader itself, wait is called.
func (n *Node) dialRPC(ctx context.Context, addr string, wait func()) (_ *wire.Conn, r *bufio.Reader, leads bool, hint string, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	late := time.AfterFunc(dialWithin, func() { cancel(context.DeadlineExceeded) })
	defer late.Stop()
	conn, err := n.port.Dial(ctx, wire.RPC, addr)
	if err != nil {
		return nil, nil, false, "", err
	}
	stays := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	r = bufio.NewReaderSize(conn, 32<<10)
	var buf []byte
	kind, body, err := readFrame(r, &buf)
	if err == nil && kind == frameWait {
		wait()
		late.Reset(heldFor + dialWithin)
		kind, body, err = readFrame(r, &buf)
	}
	if !stays() {
		err = context.Cause(ctx)
	}
	if err == nil && kind != frameRole {
		err = fmt.Errorf("frame of kind %q where a role is expected", kind)
	}
	if err == nil {
		leads, hint, err = parseRole(body)
	}
	if err != nil {
		conn.Close()
		return nil, nil, false, "", fmt.Errorf("ask %s: %w", addr, err)
	}
	return conn, r, leads, hint, nil
}
