package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/choked/choked/bucket"
)

// A search is a dialogue: "ask" has the search choose whom to ask next, the other
// events are replies. After each event stands the search's answer.
func TestSearchPolicy(t *testing.T) {
	for _, tt := range []struct {
		name       string
		first      string
		candidates string
		script     string // one event a line, and the answer
	}{
		{"one member after the other, the most likely leader first", "", "a b c", `
			ask    -> a, next after 100ms
			ask    -> b, next after 100ms
			ask    -> c, next after 100ms
			ask    -> nobody`},
		{"the successor that the last leader named comes first, and has more time", "c", "a b c", `
			ask    -> c, next after 250ms
			ask    -> a, next after 100ms
			ask    -> b, next after 100ms
			ask    -> nobody`},
		{"a member that waits for a leader itself delays the next one", "", "a b", `
			ask    -> a, next after 100ms
			held   -> next after 250ms
			ask    -> b, next after 100ms`},
		{"a hint is followed at once", "", "a b", `
			ask    -> a, next after 100ms
			hint z -> next after 0s
			ask    -> z, next after 100ms
			ask    -> b, next after 100ms`},
		{"a hint to a member that was asked leads nowhere new", "", "a b", `
			ask    -> a, next after 100ms
			ask    -> b, next after 100ms
			hint a -> next after 0s
			ask    -> nobody
			none   -> next after 0s, failed: no member knows a leader`},
		{"a hint to the node itself also", "", "a", `
			ask    -> a, next after 100ms
			hint self -> next after 0s, failed: no member knows a leader`},
		{"while others may still answer, a reply without a hint changes nothing", "", "a b c", `
			ask    -> a, next after 100ms
			ask    -> b, next after 100ms
			none   -> as before
			error  -> next after 0s
			ask    -> c, next after 100ms`},
		{"errors are the reason for a failure", "", "a b", `
			ask    -> a, next after 100ms
			error  -> next after 0s
			ask    -> b, next after 100ms
			none   -> next after 0s, failed: refused`},
		{"the node does not ask itself", "", "self a", `
			ask    -> a, next after 100ms
			ask    -> nobody`},
		{"without members it fails", "", "", `
			ask    -> nobody, failed: no member knows a leader`},
		{"it asks at most 8 members", "", "a b c d e f g h i", `
			ask    -> a, next after 100ms
			ask    -> b, next after 100ms
			ask    -> c, next after 100ms
			ask    -> d, next after 100ms
			ask    -> e, next after 100ms
			ask    -> f, next after 100ms
			ask    -> g, next after 100ms
			ask    -> h, next after 100ms
			ask    -> nobody`},
	} {
		s := newSearch("self", tt.first, strings.Fields(tt.candidates))
		for line := range strings.Lines(strings.TrimSpace(tt.script)) {
			event, want, _ := strings.Cut(strings.TrimSpace(line), "->")
			got := play(s, strings.Fields(event)...)
			if err := s.failed(); err != nil {
				got += ", failed: " + err.Error()
			}
			if !assert.Equal(t, strings.TrimSpace(want), got, "%s: %s", tt.name, event) {
				break
			}
		}
	}
}

// play has s handle an event, and describes its answer.
func play(s *search, event ...string) string {
	var r reply
	switch event[0] {
	case "ask":
		if !s.hasNext() {
			return "nobody"
		}
		addr, wait := s.next()
		return fmt.Sprintf("%s, next after %v", addr, wait)
	case "held":
		r.held = true
	case "hint":
		r.peer = &peer{leader: event[1]}
	case "none":
		r.peer = new(peer)
	case "error":
		r.err = errors.New("refused")
	}
	if wait, reset := s.onReply(r); reset {
		return fmt.Sprintf("next after %v", wait)
	}
	return "as before"
}

// askable are members that answer after some time.
type askable map[string]struct {
	after time.Duration
	leads bool
	err   error
}

// ask implements askFunc; open counts the streams that are open.
func (m askable) ask(open *atomic.Int64) askFunc {
	return func(ctx context.Context, addr string, _ func()) (*peer, error) {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(m[addr].after):
		}
		if m[addr].err != nil {
			return nil, m[addr].err
		}
		open.Add(1)
		conn, _ := net.Pipe()
		return &peer{addr: addr, leads: m[addr].leads, conn: closing{conn, func() { open.Add(-1) }}}, nil
	}
}

// closing is a stream that calls closed when it is closed.
type closing struct {
	net.Conn
	closed func()
}

func (c closing) Close() error { c.closed(); return c.Conn.Close() }

func TestSearchClosesAllStreamsButTheLeaders(t *testing.T) {
	refused := errors.New("refused")
	for _, tt := range []struct {
		name    string
		members askable
		leader  string
		took    time.Duration
	}{
		{"the first one leads", askable{"a": {after: 10 * time.Millisecond, leads: true}}, "a", 10 * time.Millisecond},
		{"the first one is frozen", askable{"a": {after: time.Hour}, "b": {leads: true}}, "b", 100 * time.Millisecond},
		{"the first one refuses", askable{"a": {err: refused}, "b": {leads: true}}, "b", 0},
		{"two believe that they lead", askable{"a": {after: 150 * time.Millisecond, leads: true}, "b": {after: 50 * time.Millisecond, leads: true}, "c": {}}, "", 150 * time.Millisecond},
		{"none leads", askable{"a": {}, "b": {err: refused}, "c": {}}, "none", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var running tasks
				var open atomic.Int64
				began := time.Now()
				p, err := newSearch("self", "", []string{"a", "b", "c"}).run(t.Context(), running.spawn, tt.members.ask(&open))
				assert.Equal(t, tt.took, time.Since(began))
				running.wait()
				if tt.leader == "none" {
					require.ErrorIs(t, err, refused)
					assert.Zero(t, open.Load(), "streams")
					return
				}
				require.NoError(t, err)
				assert.True(t, p.leads)
				if tt.leader != "" {
					assert.Equal(t, tt.leader, p.addr)
				}
				assert.Equal(t, int64(1), open.Load(), "streams")
			})
		})
	}
}

func TestSearchEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var running tasks
		var open atomic.Int64
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		began := time.Now()
		_, err := newSearch("self", "", []string{"a"}).run(ctx, running.spawn, askable{"a": {after: time.Hour}}.ask(&open))
		assert.ErrorIs(t, err, bucket.ErrClosed)
		assert.Equal(t, 50*time.Millisecond, time.Since(began))
		running.wait()
		assert.Zero(t, open.Load(), "streams")
	})
}
