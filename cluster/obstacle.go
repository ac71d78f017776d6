package cluster

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
)

// obstacle is what keeps a node from founding a cluster.
type obstacle int

const (
	none               obstacle = iota
	addressShared               // two members advertise the same address
	tooFewMembers               // fewer members are known than Config.Expect
	noFirst                     // no member answers at the first entry of Config.Join
	otherFounder                // another member is to found the cluster
	noMajority                  // no more than half of the seeds are reached
	aloneBehindAddress          // the first entry leads to this node alone, by an address that is not its own
	aloneBehindNames            // several names lead to this node alone
)

const listMost = 5 // addresses and members that an error names

// explain returns why a node without a cluster has none, given what keeps it from
// founding one: which name leads where, who answers there, what members advertise, and
// what to do.
func (s *survey) explain(o obstacle, expect int) error {
	for _, m := range s.members {
		if m.cluster != "" && !m.Self {
			return fmt.Errorf("%s is of cluster %q, which has no leader: a majority of its voters must run, each with its Dir; if they are gone for good, restart the nodes of that cluster that are left", title(m), m.cluster)
		}
	}
	switch o {
	case addressShared:
		a, b, _ := s.sharedAddress()
		return fmt.Errorf("%s and %s both advertise %s: set Advertise of each to an address at which the others reach it", a.Name, b.Name, a.Addr)
	case tooFewMembers:
		return fmt.Errorf("%d of %d members that Expect asks for are known: %s%s", len(s.members), expect, s.known(), s.silent())
	case noFirst:
		return s.explainNoFirst()
	case otherFounder:
		m, ok := s.member(s.founder())
		if !ok {
			return fmt.Errorf("no member has reached itself at the first of Join, %s; known are %s%s", s.entries[0].name, s.known(), s.silent())
		}
		return fmt.Errorf("%s, which answers at the first of Join, %s, is to found the cluster and has not yet: its log and Health say why%s", title(m), s.entries[0].name, s.silent())
	case noMajority:
		return fmt.Errorf("only %d of the nodes in Join answer, and more than half must: known are %s%s", len(s.reached()), s.known(), s.silent())
	case aloneBehindAddress:
		first, _ := s.first(expect > 0)
		return fmt.Errorf("the first of Join, %s, leads to this node by %s, which is no address of this host, and no other member is known: set Expect to the number of nodes, or to 1 if there are no others", s.entries[0].name, first.addr)
	case aloneBehindNames:
		return fmt.Errorf("all names in Join lead to this node: %s; check what they resolve to, or set Expect to 1 if this node is to be alone", s.resolved())
	}
	return errors.New("about to found one")
}

func (s *survey) explainNoFirst() error {
	if len(s.entries) == 0 {
		return errors.New("join is empty")
	}
	const advice = "put a node that runs first in Join on all nodes, or set Expect to the number of nodes"
	e, others := s.entries[0], survey{entries: s.entries[1:]}
	if len(e.addrs) == 0 {
		return fmt.Errorf("the first of Join, %s, has no address: %w; known are %s%s: correct the name, %s", e.name, e.err, s.known(), others.silent(), advice)
	}
	return fmt.Errorf("no node of the cluster answers at the first of Join, %s: %w; known are %s: start the node there, %s", e.lead(), e.addrs[0].err, s.known(), advice)
}

// lead returns the name of an entry and the addresses that it leads to.
func (e entry) lead() string {
	if e.isIP() {
		return e.name
	}
	var addrs []string
	for _, p := range e.addrs {
		addrs = append(addrs, p.addr)
	}
	return e.name + " (" + list(addrs) + ")"
}

// resolved lists the entries and the addresses that they lead to.
func (s *survey) resolved() string {
	var all []string
	for _, e := range s.entries {
		all = append(all, e.lead())
	}
	return list(all)
}

// known lists the members and the addresses that they advertise.
func (s *survey) known() string {
	var all []string
	for _, m := range s.members {
		all = append(all, title(m))
	}
	return list(all)
}

// silent says which entries are not reached and why, if there are any.
func (s *survey) silent() string {
	var all []string
	for _, e := range s.entries {
		if len(e.addrs) == 0 {
			all = append(all, fmt.Sprintf("%s has no address: %v", e.name, e.err))
		}
		for _, p := range e.addrs {
			if p.node == "" && p.err != nil {
				all = append(all, fmt.Sprintf("%s: %v", e.lead(), p.err))
			}
		}
	}
	if len(all) == 0 {
		return ""
	}
	return "; not reached are " + list(slices.Compact(all))
}

// sharedAddress returns two members that advertise the same address.
func (s *survey) sharedAddress() (a, b Member, ok bool) {
	at := make(map[string]Member)
	for _, m := range s.members {
		if first, ok := at[m.Addr]; ok {
			return first, m, true
		}
		at[m.Addr] = m
	}
	return a, b, false
}

// title returns the name and the address of a member.
func title(m Member) string {
	if m.Self {
		return fmt.Sprintf("%s at %s (this node)", m.Name, m.Addr)
	}
	return fmt.Sprintf("%s at %s", m.Name, m.Addr)
}

// list joins words with commas. Beyond listMost it only counts them.
func list(words []string) string {
	if n := len(words) - listMost; n > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(words[:listMost], ", "), n)
	}
	return strings.Join(words, ", ")
}

// dialError returns err without the name of the operation and the addresses, which the
// explanation names already.
func dialError(err error) error {
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		return op.Err
	}
	return err
}
