package cluster

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"

	"github.com/choked/choked/bucket"
	"github.com/choked/choked/fsm"
	"github.com/choked/choked/internal/boottime"
	"github.com/choked/choked/internal/ledger"
	"github.com/choked/choked/internal/waitqueue"
)

// recorded is a stream with a fixed input.
type recorded struct{ io.Reader }

func (recorded) Write(b []byte) (int, error)      { return len(b), nil }
func (recorded) Close() error                     { return nil }
func (recorded) LocalAddr() net.Addr              { return nil }
func (recorded) RemoteAddr() net.Addr             { return nil }
func (recorded) SetDeadline(time.Time) error      { return nil }
func (recorded) SetReadDeadline(time.Time) error  { return nil }
func (recorded) SetWriteDeadline(time.Time) error { return nil }

// frames returns frames with the given bodies, each of which begins with its kind.
func frames(bodies ...string) []byte {
	var out bytes.Buffer
	w := bufio.NewWriter(&out)
	for _, b := range bodies {
		writeFrame(w, b[0], []byte(b[1:])) //nolint:errcheck // to memory
	}
	w.Flush()
	return out.Bytes()
}

// Whatever bytes a member sends, the leader goes on: malformed frames end the stream, and
// operations are decided and can be read back from the log. The same bytes, sent by a
// leader, end its client's stream at the latest at their end.
func FuzzFrames(f *testing.F) {
	op := func(seq byte, op ledger.Op) string { return string(ledger.AppendOp([]byte{seq}, op)) }
	one := oneRequest("k", 1)
	other := oneRequest("k", 2)
	other.MaxWait, other.Need.Requests = time.Hour, 10
	other.Done = []bucket.Settlement{{Key: "k", ID: one.ID, Spent: bucket.Cost{Requests: 5}}, {Key: "other"}}
	f.Add(frames("p", "s", "lsomebody"))
	f.Add(frames("o"+op(1, &one)+op(2, &other), "p", "c\x02", "o"+op(3, &bucket.Settlement{Key: "k", ID: one.ID})))
	f.Add(frames("o" + op(1, &bucket.Adjustment{Key: "k", Limits: one.Limits, Charge: one.Need, Empty: time.Second}) + op(1, &ledger.ColdStart{}) + op(9, &other)))
	f.Add(frames("R\x01", "A\x01\x00\x02"+string(ledger.AppendResult(nil, ledger.Result{Err: bucket.ErrClosed})), "P"))
	f.Add(frames("A\x01\x01\x02\x02\x03\x00\x00"+string(ledger.AppendResult(nil, ledger.Result{Grant: bucket.Grant{OK: true, Granted: one.Need, Drips: []bucket.Drip{{Ready: 1, N: 1, Per: 1}}}})), "R\x00"))
	f.Add([]byte("\x7f\xff\xff\xffo"))
	f.Fuzz(func(t *testing.T, b []byte) {
		feedLeader(t, b)
		l := newRPCClient(recorded{}, "leader")
		for n := range uint64(4) {
			l.pending[n] = make(chan waitqueue.Answer, 1)
		}
		require.Error(t, l.read(bufio.NewReader(bytes.NewReader(b))))
	})
}

// feedLeader sends b to a leader without followers, which decides the operations in b and
// gives up leadership.
func feedLeader(t *testing.T, b []byte) {
	replica := newReplica(boottime.New())
	a := newLeaderQueue(nil, replica)
	s := newRPCServerConn(recorded{bytes.NewReader(b)}, a, "member")
	s.serve(func(kind byte, _ []byte) (byte, []byte) {
		if kind != frameStatus && kind != frameLeave {
			return 0, nil
		}
		a.decideAll(t, 0) // as may happen at any time
		return frameState, nil
	})
	a.decideAll(t, 0)
	a.decideAll(t, 2*time.Hour)
	a.view(func() { a.queue.Fail(replica.now(), nil, errNotLeader) })
}

// decideAll does one pass of [leaderQueue.run], some time later, and applies entries
// without the log.
func (q *leaderQueue) decideAll(t *testing.T, later time.Duration) {
	now := q.accept() + int64(later)
	for range 1000 {
		var batch []*waitqueue.Entry
		q.view(func() { batch = q.queue.Take(now, maxBatch) })
		if len(batch) == 0 {
			return
		}
		entry := fsm.Entry{At: now}
		for _, e := range batch {
			entry.Ops = append(entry.Ops, e.Op)
		}
		results, ok := q.replica.Apply(&raft.Log{Term: 1, Data: entry.Encode()}).([]ledger.Result)
		require.True(t, ok, "an entry that this node wrote and cannot read")
		q.view(func() {
			for i, e := range batch {
				q.queue.Resolve(now, e, results[i])
			}
		})
	}
	require.Fail(t, "operations remain after 1000 entries")
}

// The metadata of a member is parsed exactly, or rejected as a whole.
func FuzzMeta(f *testing.F) {
	for _, m := range []meta{{}, {Name: "worker-1"}, {Cluster: "0123456789abcdef", Name: "a.b_c-d", Leader: true, Voter: true}, {Name: "x", DiskFailed: true, Leaving: true}} {
		b, err := json.Marshal(m)
		require.NoError(f, err)
		f.Add(b)
	}
	f.Add([]byte(`{"n":"a\nb"}`))
	f.Add([]byte(`{"n":"ok","c":"\u001b[2J"}`))
	f.Add([]byte(`{"c":"` + strings.Repeat("x", 65) + `","n":"x"}`))
	f.Add([]byte(`[[[[[[[[`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m := parseMeta(b)
		if m.Name == "?" {
			require.Equal(t, meta{Name: "?"}, m)
		} else {
			require.Regexp(t, nameForm, m.Name)
			require.LessOrEqual(t, len(m.Cluster), 64)
			again, err := json.Marshal(m)
			require.NoError(t, err)
			require.Equal(t, m, parseMeta(again))
		}
		g := &gossip{id: "self", self: meta{Cluster: "ours", Name: "self"}, changed: func() {}, alive: make(map[string]known)}
		node := &memberlist.Node{Name: "peer", Addr: net.IPv4(10, 0, 0, 1), Port: 7946, Meta: b}
		refused := g.NotifyAlive(node)
		require.Equal(t, m.Cluster != "" && m.Cluster != "ours", refused != nil)
		require.Equal(t, refused != nil, g.NotifyMerge([]*memberlist.Node{node}) != nil)
		g.NotifyJoin(node)
		require.NotRegexp(t, `[\x00-\x1f\x7f]`, fmt.Sprint(g.members(), refused))
		g.NotifyAlive(node) //nolint:errcheck // as above
		require.Equal(t, refused == nil, len(g.members()) == 1)
	})
}
