package cluster

import (
	"net"
	"net/netip"
	"slices"
)

// survey is what one probe has found at the addresses of Config.Join.
type survey struct {
	entries []entry
	self    string   // id of this node
	members []Member // as gossip knew them at the end of the probe
}

// entry is one entry of Config.Join.
type entry struct {
	name  string  // host:port
	addrs []place // in the order of their addresses; empty: the name is unresolved
	err   error   // why it is unresolved
}

// place is an address of an entry and the node that answers there.
type place struct {
	addr  string // host:port
	node  string // id of the node that answers; empty: no member does
	err   error  // why no member answers
	local bool   // the address is this node's own
}

// member returns the member with an id, if gossip knows it.
func (s *survey) member(id string) (Member, bool) {
	i := slices.IndexFunc(s.members, func(m Member) bool { return m.ID == id })
	if i < 0 {
		return Member{}, false
	}
	return s.members[i], true
}

// reached returns the ids of the members that answer at the seeds, this node
// included, without repetitions.
func (s *survey) reached() (ids []string) {
	for _, e := range s.entries {
		for _, p := range e.addrs {
			if p.node != "" && !slices.Contains(ids, p.node) {
				ids = append(ids, p.node)
			}
		}
	}
	return ids
}

// missing returns the addresses at which no member answers, and the names without an
// address, without repetitions. If the name of a host stands for addresses of both
// IP versions, and the host answers at one of them, the other is not missing.
func (s *survey) missing() (addrs, names []string) {
	seen := make(map[string]bool)
	for _, e := range s.entries {
		if len(e.addrs) == 0 {
			names = append(names, e.name)
		}
		var silent []string
		var nodes []string
		versions := make(map[bool]int)
		for _, p := range e.addrs {
			at, err := netip.ParseAddrPort(p.addr)
			versions[err == nil && at.Addr().Is4()]++
			if p.node == "" {
				silent = append(silent, p.addr)
			} else if !slices.Contains(nodes, p.node) {
				nodes = append(nodes, p.node)
			}
		}
		if versions[true] > 0 && versions[false] > 0 { // a host has one of each
			silent = silent[:min(len(silent), max(0, max(versions[true], versions[false])-len(nodes)))]
		}
		for _, addr := range silent {
			if !seen[addr] {
				seen[addr] = true
				addrs = append(addrs, addr)
			}
		}
	}
	return addrs, names
}

// first returns the address at which this node looks for the founder: the smallest one
// of the first entry at which a member answers. If later is set, and no member answers
// at the first entry, the next entries count as well.
func (s *survey) first(later bool) (place, bool) {
	for _, e := range s.entries {
		for _, p := range e.addrs {
			if p.node != "" {
				return p, true
			}
		}
		if !later {
			break
		}
	}
	return place{}, false
}

// isOwnAddress reports whether a member advertises the address itself. A node may also
// be reached at an address that it does not know, as behind a load balancer.
func (s *survey) isOwnAddress(p place) bool {
	m, ok := s.member(p.node)
	return ok && m.Addr == p.addr
}

// founder returns the id of the member that is to found the cluster, by the members
// that all of them have found at the first seed; empty: none of them has found one.
// If they have found different ones, it is the one with the smallest id: so is the
// choice of all members the same, also behind a virtual address that leads to another
// member each time.
func (s *survey) founder() (id string) {
	var self Member
	for _, m := range s.members {
		if m.Self {
			self = m
		}
	}
	for _, m := range s.members {
		first, ok := s.member(m.first)
		replaced := first.Addr == self.Addr && !first.Self // this node has its address now
		if ok && !replaced && (id == "" || first.ID < id) {
			id = first.ID
		}
	}
	return id
}

// mayFound returns what keeps this node from founding a cluster, or none. It must be the
// founder and reach more than half of the seeds. All of these are without a cluster,
// or this node would have joined it. So no second cluster is founded while one runs
// on a majority of the seeds, even by a founder that has lost its disk. A cluster may
// also run without any of the seeds, if they have left or have lost their logs; its
// voters probe the seeds, and foundAfter gives them the time.
//
// A node that reaches itself alone through an address that is not its own cannot know
// how many others there are behind that address. Several names that all lead to this
// node alone are not trusted either: they were probably meant for several hosts. Members
// that advertise the same address cannot reach each other.
func (s *survey) mayFound(expect int) obstacle {
	reached := s.reached()
	addrs, names := s.missing()
	alone := len(reached) == 1 && len(s.members) == 1
	first, found := s.first(expect > 0)
	_, _, shared := s.sharedAddress()
	switch {
	case shared:
		return addressShared
	case len(s.members) < expect:
		return tooFewMembers
	case !found:
		return noFirst
	case s.founder() != s.self:
		return otherFounder
	case len(reached) <= len(addrs)+len(names):
		return noMajority
	case alone && expect == 0 && !first.local:
		return aloneBehindAddress
	case alone && expect == 0 && s.hosts() > 1:
		return aloneBehindNames
	}
	return none
}

// hosts returns the number of hosts that Config.Join seems to name: an entry that is
// an IP address can repeat one that is a name.
func (s *survey) hosts() int {
	hosts, named := make(map[string]bool), make(map[string]bool)
	for _, e := range s.entries {
		if !e.isIP() {
			hosts[e.name] = true
			for _, p := range e.addrs {
				named[p.addr] = true
			}
		}
	}
	for _, e := range s.entries {
		if e.isIP() && !named[e.addrs[0].addr] {
			hosts[e.addrs[0].addr] = true
		}
	}
	return len(hosts)
}

// isIP reports whether the entry is an IP address and not a name.
func (e entry) isIP() bool {
	host, _, _ := net.SplitHostPort(e.name)
	_, err := netip.ParseAddr(host)
	return err == nil && len(e.addrs) == 1
}

// isLocal reports whether an address, host:port, is one of this host.
func isLocal(addr string, host []netip.Addr) bool {
	at, err := netip.ParseAddrPort(addr)
	return err == nil && (at.Addr().IsLoopback() || slices.Contains(host, at.Addr()))
}
