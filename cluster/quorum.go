package cluster

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// Quorum describes how many voters the cluster has, and which of them are missing.
type Quorum struct {
	Voters  int            // that the configuration of Raft lists; 0: not known yet
	Missing []MissingVoter // of these the ones that cannot vote now, ordered by name and id
}

// MissingVoter is a voter that is not alive, or whose disk has failed.
type MissingVoter struct {
	ID         string
	Name       string    // empty: this node has not seen it yet
	Addr       string    // where it was last; empty as above
	DiskFailed bool      // it is alive, but takes no part in Raft
	Since      time.Time // since when, as far as this node knows
}

// Majority is the number of voters without which no operation is decided.
func (q Quorum) Majority() int { return q.Voters/2 + 1 }

// Lost reports whether too few voters are left to decide anything.
func (q Quorum) Lost() bool { return q.Voters > 0 && q.Voters-len(q.Missing) < q.Majority() }

// String describes the missing voters, as in "1 of 3 voters gone since 2m0s; one more
// and nothing is decided". It is empty if no voter is missing. It contains no name,
// so that anyone may see it.
func (q Quorum) String() string {
	if len(q.Missing) == 0 {
		return ""
	}
	s := fmt.Sprintf("%d of %d voters gone since %v", len(q.Missing), q.Voters, time.Since(q.since()).Round(time.Second))
	var with string
	if needed := q.Majority() - (q.Voters - len(q.Missing)); needed > 1 {
		with = fmt.Sprintf("%s of them run again with their Dir", inWords(needed))
	} else if needed == 1 {
		with = "one of them runs again with its Dir"
	} else {
		return s + fmt.Sprintf("; %s more and nothing is decided", inWords(1-needed))
	}
	if slices.ContainsFunc(q.Missing, func(m MissingVoter) bool { return m.DiskFailed }) {
		with += ", on a disk that works"
	}
	return s + "; nothing is decided before " + with
}

// since returns when the quorum was lost or, if it was not, when the first of the missing
// voters was.
func (q Quorum) since() time.Time {
	var times []time.Time
	for _, m := range q.Missing {
		times = append(times, m.Since)
	}
	slices.SortFunc(times, time.Time.Compare)
	if q.Lost() {
		return times[q.Voters-q.Majority()]
	}
	return times[0]
}

func inWords(n int) string {
	if words := []string{"none", "one", "two", "three"}; n < len(words) {
		return words[n]
	}
	return fmt.Sprint(n)
}

// names lists the missing voters with their last addresses.
func (q Quorum) names() string {
	var names []string
	for _, m := range q.Missing {
		name := cmp.Or(m.Name, "node "+m.ID)
		if m.Addr != "" {
			name += " at " + m.Addr
		}
		if m.DiskFailed {
			name += ", disk failed"
		}
		names = append(names, name)
	}
	return strings.Join(names, "; ")
}

// Quorum returns how many voters the cluster has, and which are missing, as far as
// this node knows: voters know it by Raft, the other members by the leader's gossip. A
// voter that is missing takes some seconds to be noticed. It does not show in
// [Node.Health] as long as there is a leader. A node that takes no part in its cluster any
// more does not know its voters.
func (n *Node) Quorum() Quorum {
	voters, gone, known := n.configuredVoters()
	if !known || n.unavailable() != nil {
		return Quorum{}
	}
	q := Quorum{Voters: voters}
	for _, id := range gone {
		q.Missing = append(q.Missing, n.absence.describe(n.gossip, id))
	}
	n.absence.keep(gone)
	slices.SortFunc(q.Missing, func(a, b MissingVoter) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID))
	})
	return q
}

// configuredVoters returns the number of voters and the ids of the ones that are
// missing. A node that Raft's leader does not contact may have an old configuration: it
// goes by the gossip of the leader, if it knows one.
func (n *Node) configuredVoters() (voters int, gone []string, known bool) {
	if _, leader := n.raft.LeaderWithID(); leader == "" || !n.voters.isVoter() {
		if voters, gone, ok := n.gossip.leaderQuorum(); ok {
			return voters, gone, true
		}
	}
	servers, err := n.raft.servers()
	if err != nil || !n.voters.isVoter() {
		return 0, nil, false
	}
	for _, s := range servers {
		if s.Suffrage != raft.Voter {
			continue
		}
		voters++
		if _, ok := n.voters.responsive(s.ID); !ok {
			gone = append(gone, string(s.ID))
		}
	}
	return voters, gone, true
}

// announceQuorum has gossip tell the members that are no voters which voters are
// missing. Only a leader tells it.
func (n *Node) announceQuorum(m *meta) {
	m.Voters, m.Missing = 0, ""
	if n.queue.Load() == nil {
		return
	}
	if voters, gone, ok := n.configuredVoters(); ok {
		slices.Sort(gone)
		m.Voters, m.Missing = voters, strings.Join(gone, ",")
	}
}

// leaderQuorum returns the voters as the leader gossips them.
func (g *gossip) leaderQuorum() (voters int, gone []string, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, k := range g.alive {
		if k.meta.Leader && k.meta.Voters > 0 {
			gone = strings.FieldsFunc(k.meta.Missing, func(r rune) bool { return r == ',' })
			return k.meta.Voters, gone, true
		}
	}
	return 0, nil, false
}

// absence remembers since when voters are missing. The zero value is ready for use.
type absence struct {
	mu    sync.Mutex
	since map[string]time.Time
}

// describe returns the name, the address and the time of a missing voter.
func (a *absence) describe(g *gossip, id string) MissingVoter {
	m := MissingVoter{ID: id}
	if x, ok := g.member(id); ok {
		m.Name, m.Addr, m.DiskFailed = x.Name, x.Addr, x.DiskFailed
	} else if k, at, ok := g.lastSeen(id); ok {
		m.Name, m.Addr, m.Since = k.meta.Name, k.addr, at
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.since == nil {
		a.since = make(map[string]time.Time)
	}
	if _, known := a.since[id]; !known {
		a.since[id] = time.Now()
	}
	if m.Since.IsZero() || a.since[id].Before(m.Since) {
		m.Since = a.since[id]
	}
	return m
}

// keep forgets all voters but the ones that are missing.
func (a *absence) keep(missing []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for id := range a.since {
		if !slices.Contains(missing, id) {
			delete(a.since, id)
		}
	}
}

// maxSeen bounds the former members that gossip remembers.
const maxSeen = 64

// seen is a former member, and when it vanished.
type seen struct {
	known
	at time.Time
}

// lastSeen returns the last state of a member that has vanished, and when it did.
func (g *gossip) lastSeen(id string) (known, time.Time, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	s, ok := g.former[id]
	return s.known, s.at, ok
}

// rememberLocked remembers a member that vanishes. Above maxSeen, it forgets the member
// that vanished first, and any other member before a voter. A member may have become a
// voter without having said so.
func (g *gossip) rememberLocked(id string) {
	k, ok := g.alive[id]
	if !ok {
		return
	}
	if g.former == nil {
		g.former = make(map[string]seen)
	}
	g.former[id] = seen{k, time.Now()}
	if len(g.former) <= maxSeen {
		return
	}
	first := id
	for other, s := range g.former {
		f := g.former[first]
		if s.meta.Voter == f.meta.Voter && s.at.Before(f.at) || !s.meta.Voter && f.meta.Voter {
			first = other
		}
	}
	delete(g.former, first)
}
