package cluster

import (
	"cmp"
	"maps"
	"slices"

	"github.com/hashicorp/raft"
)

// view is the input of plan: the state of the cluster as the leader knows it.
type view struct {
	self     string            // id of the leader
	want     int               // Config.Voters: 1, 3 or 5
	servers  []raft.Server     // Raft's configuration: voters, and nonvoters that follow the log
	able     map[string]Member // members that can vote, by id
	laggards map[string]int64  // members that did not catch up with the log, and when that was
}

// action is a change of Raft's configuration.
type action struct {
	kind    actionKind
	server  string   // id of the server to remove
	promote []Member // members to make voters, in this order
}

type actionKind int

const (
	keepVoters     actionKind = iota // no change is due
	removeNonvoter                   // server follows the log and is not needed as a voter
	replaceVoter                     // server is a voter that has vanished: remove it to make room for another
	removeVoter                      // server is one voter too many
	promoteMembers                   // make voters of the members in promote
)

// plan returns the next change of the voters, by the first of these rules that
// applies:
//
//  1. A leader that is leaving, and so cannot vote, makes no change.
//  2. A nonvoter that cannot vote is removed.
//  3. A voter that has vanished is removed once another member can take its
//     place. Until then it stays a voter, because it may return with its log.
//  4. If there are too few voters, members are promoted: two if the number of
//     voters is odd, else one. So the number is even only for as long as it takes
//     to commit the second promotion, and not until another member has caught up.
//  5. If there are too many voters, and none has vanished, one is removed, but
//     never the leader.
//  6. A nonvoter that rule 4 did not promote is removed. An earlier leader may
//     have added it, or it was added together with a member that did not catch up.
//
// The number of voters wanted is v.want or, in a smaller cluster, the largest odd
// number of members that can vote: two voters tolerate no more failures than one,
// and are twice as likely to fail. Members are promoted in the order of their
// names, so that every leader chooses the same ones; laggards come last, as they
// may be out of the leader's reach and must not keep others from a vote.
//
// raft-autopilot has similar rules, but makes every stable member a voter and
// must be given all servers at once. Here most members are clients without a
// log, which the leader first adds as nonvoters.
func plan(v view) action {
	if _, ok := v.able[v.self]; !ok {
		return action{kind: keepVoters}
	}
	var voters, vanished, nonvoters []string
	for _, s := range v.servers {
		id := string(s.ID)
		_, able := v.able[id]
		switch {
		case s.Suffrage == raft.Voter && able:
			voters = append(voters, id)
		case s.Suffrage == raft.Voter:
			vanished = append(vanished, id)
		case able:
			nonvoters = append(nonvoters, id)
		default:
			return action{kind: removeNonvoter, server: id}
		}
	}
	spare := v.spare(voters)
	want, votes := v.wanted(), len(voters)+len(vanished)
	switch {
	case len(vanished) > 0 && len(spare) > 0:
		return action{kind: replaceVoter, server: vanished[0]}
	case votes < want && len(spare) > 0:
		return action{kind: promoteMembers, promote: spare[:1+votes%2]}
	case len(voters) > want && len(vanished) == 0:
		other := slices.IndexFunc(voters, func(id string) bool { return id != v.self })
		return action{kind: removeVoter, server: voters[other]}
	case len(nonvoters) > 0:
		return action{kind: removeNonvoter, server: nonvoters[0]}
	}
	return action{kind: keepVoters}
}

// wanted returns how many voters the cluster should have: an odd number.
func (v view) wanted() int {
	want := v.want
	for want > len(v.able) {
		want -= 2
	}
	return max(want, 1)
}

// spare returns the members that can vote and do not, in the order in which they
// are promoted.
func (v view) spare(voters []string) []Member {
	spare := slices.Collect(maps.Values(v.able))
	spare = slices.DeleteFunc(spare, func(m Member) bool { return slices.Contains(voters, m.ID) })
	slices.SortFunc(spare, func(a, b Member) int {
		return cmp.Or(cmp.Compare(v.laggards[a.ID], v.laggards[b.ID]), compareMembers(a, b))
	})
	return spare
}

// compareMembers orders members by name, then by id.
func compareMembers(a, b Member) int {
	return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID))
}
