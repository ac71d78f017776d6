package cluster

import (
	"fmt"
	"strings"
	"testing"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/assert"
)

// parseView reads a view of the leader "a": its servers, of which those in
// parentheses do not vote, the members that can vote, and the laggards in the
// order in which they failed to catch up. A member's id is its name.
func parseView(want int, servers, able, laggards string) view {
	v := view{self: "a", want: want, able: make(map[string]Member), laggards: make(map[string]int64)}
	for _, s := range strings.Fields(servers) {
		suffrage := raft.Voter
		if strings.HasPrefix(s, "(") {
			suffrage = raft.Nonvoter
		}
		v.servers = append(v.servers, raft.Server{ID: raft.ServerID(strings.Trim(s, "()")), Suffrage: suffrage})
	}
	for _, id := range strings.Fields(able) {
		v.able[id] = Member{ID: id, Name: id}
	}
	for i, id := range strings.Fields(laggards) {
		v.laggards[id] = int64(1 + i)
	}
	return v
}

func describeAction(a action) string {
	what := []string{"keep", "remove nonvoter", "replace", "remove voter", "promote"}[a.kind]
	for _, m := range a.promote {
		what = fmt.Sprint(what, " ", m.ID)
	}
	return strings.TrimSpace(what + " " + a.server)
}

func TestPlanVoters(t *testing.T) {
	for _, tt := range []struct {
		rule     string
		want     int
		servers  string
		able     string
		laggards string
		action   string
	}{
		{"1: a leader that is leaving changes nothing, whatever is due", 3, "a b (c)", "b d e", "", "keep"},

		{"2: a nonvoter that cannot vote is removed", 3, "a b c (d)", "a b c", "", "remove nonvoter d"},
		{"2: before anything else is done", 3, "a b (d)", "a e f", "", "remove nonvoter d"},

		{"3: a vanished voter is replaced by another member", 3, "a b c", "a c d", "", "replace b"},
		{"3: also by one that follows the log already", 3, "a b c (d)", "a c d", "", "replace b"},
		{"3: also if the cluster has become smaller", 3, "a b c", "a d", "", "replace b"},
		{"3: without another member it stays, because it may return", 3, "a b c", "a c", "", "keep"},
		{"3: however many have vanished", 3, "a b c", "a", "", "keep"},
		{"3: only one is replaced at a time", 5, "a b c d e", "a d e f g", "", "replace b"},

		{"4: from one voter two members are promoted", 3, "a", "a b c", "", "promote b c"},
		{"4: from three also", 5, "a b c", "a b c d e", "", "promote d e"},
		{"4: from two voters one is", 3, "a b", "a b c", "", "promote c"},
		{"4: from four one is", 5, "a b c d", "a b c d e f", "", "promote e"},
		{"4: one that follows the log is promoted like any other", 3, "a (c)", "a b c", "", "promote b c"},
		{"4: not as many as there are, but as many as are wanted", 3, "a b c", "a b c d e", "", "keep"},

		{"5: a voter too many is removed", 3, "a b c d", "a b c d", "", "remove voter b"},
		{"5: but never the leader", 1, "b a", "a b", "", "remove voter b"},
		{"5: also one that can vote, as a member has left", 3, "a b", "a b", "", "remove voter b"},
		{"5: not while a voter has vanished, as it would be one vote less", 3, "a b c d e", "a b c d", "", "keep"},

		{"6: a nonvoter that is not needed is removed", 3, "a b c (d)", "a b c d", "", "remove nonvoter d"},
		{"6: also one that was added together with a member that has left", 3, "a (b)", "a b", "", "remove nonvoter b"},
		{"6: but not before a voter too many", 1, "a b (c)", "a b c", "", "remove voter b"},

		{"wanted: as many as configured", 1, "a", "a b c", "", "keep"},
		{"wanted: the largest odd number of members", 5, "a", "a b c d", "", "promote b c"},
		{"wanted: two members have one voter", 3, "a", "a b", "", "keep"},
		{"wanted: a single member has one", 5, "a", "a", "", "keep"},

		{"order: of names", 3, "a", "d c b a", "", "promote b c"},
		{"order: laggards come last", 3, "a", "a b c d", "b", "promote c d"},
		{"order: of these the one comes first that failed first", 3, "a", "a b c d", "d b", "promote c d"},
		{"order: laggards are promoted if there are no others", 3, "a", "a b c", "b", "promote c b"},
	} {
		v := parseView(tt.want, tt.servers, tt.able, tt.laggards)
		assert.Equal(t, tt.action, describeAction(plan(v)), "%s\nservers %s, able %s, laggards %q, want %d voters", tt.rule, tt.servers, tt.able, tt.laggards, tt.want)
	}
}

// Whatever a plan starts from, it comes to rest, with the voters wanted, and on
// the way the leader keeps its vote and a vanished voter its own until it has a
// replacement.
func TestPlanConverges(t *testing.T) {
	names := strings.Fields("a b c d e f")
	for state := range 1 << (2 * 5) { // for b to f: voter or not, able or not
		servers, able := "a", "a"
		for i, name := range names[1:] {
			voter, isAble := state>>(2*i)&1 == 1, state>>(2*i+1)&1 == 1
			if voter {
				servers += " " + name
			}
			if isAble {
				able += " " + name
			}
		}
		for _, want := range []int{1, 3, 5} {
			v := parseView(want, servers, able, "")
			for step := 0; ; step++ {
				a := plan(v)
				if a.kind == keepVoters {
					break
				}
				if !assert.Less(t, step, 20, "servers %s, able %s, want %d", servers, able, want) {
					return
				}
				v.servers = applied(t, v, a)
			}
			voters, vanished := 0, 0
			for _, s := range v.servers {
				voters++
				if _, ok := v.able[string(s.ID)]; !ok {
					vanished++
				}
			}
			if vanished == 0 {
				assert.Equal(t, v.wanted(), voters, "servers %s, able %s, want %d", servers, able, want)
			} else {
				assert.Empty(t, v.spare(ids(v.servers)), "a vanished voter could be replaced")
			}
		}
	}
}

// applied returns the servers after an action, and asserts what holds for each.
func applied(t *testing.T, v view, a action) (servers []raft.Server) {
	t.Helper()
	assert := assert.New(t)
	assert.NotEqual(v.self, a.server, "the leader is removed")
	_, able := v.able[a.server]
	assert.Equal(a.kind == removeVoter, a.server != "" && able, "a voter is removed: %s", describeAction(a))
	for _, s := range v.servers {
		if string(s.ID) != a.server {
			servers = append(servers, s)
		}
	}
	for _, m := range a.promote {
		servers = append(servers, raft.Server{ID: raft.ServerID(m.ID), Suffrage: raft.Voter})
	}
	return servers
}

func ids(servers []raft.Server) (all []string) {
	for _, s := range servers {
		all = append(all, string(s.ID))
	}
	return all
}
