package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/choked/choked"
	"github.com/choked/choked/bucket"
	"github.com/choked/choked/httpstore"
	"github.com/choked/choked/internal/testkit/history"
)

// resolve makes name resolve to addrs in this process, and any other name to an error.
func resolve(t *testing.T, name string, addrs ...string) {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	var answering sync.WaitGroup
	answering.Go(func() {
		b := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFrom(b)
			if err != nil {
				return
			}
			conn.WriteTo(answerDNS(b[:n], name, addrs), from)
		}
	})
	before := net.DefaultResolver
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "udp", conn.LocalAddr().String())
	}}
	t.Cleanup(func() {
		net.DefaultResolver = before
		conn.Close()
		answering.Wait()
	})
}

// answerDNS returns the answer to a DNS query for the IPv4 addresses of name (RFC 1035,
// section 4).
func answerDNS(question []byte, name string, addrs []string) []byte {
	end, asked := 12, ""
	for question[end] != 0 {
		n := int(question[end])
		asked += string(question[end+1:end+1+n]) + "."
		end += 1 + n
	}
	kind := binary.BigEndian.Uint16(question[end+1:])
	end += 5
	b := append([]byte{}, question[:2]...)
	b = append(b, 0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0)
	b = append(b, question[12:end]...)
	if asked != name+"." {
		b[3] |= 3 // no such name
		return b
	}
	for _, addr := range addrs {
		if kind == 1 {
			b[7]++
			b = append(b, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4)
			b = append(b, net.ParseIP(addr).To4()...)
		}
	}
	return b
}

// freePort returns a port that is free on all addresses, for TCP and UDP.
func freePort(t *testing.T, addrs ...string) (port string) {
	t.Helper()
	require.Eventually(t, func() bool {
		l, err := net.Listen("tcp", addrs[0]+":0")
		require.NoError(t, err)
		defer l.Close()
		_, port, _ = net.SplitHostPort(l.Addr().String())
		for i, addr := range addrs {
			if i > 0 {
				l, err := net.Listen("tcp", addr+":"+port)
				if err != nil {
					return false
				}
				defer l.Close()
			}
			u, err := net.ListenPacket("udp", addr+":"+port)
			if err != nil {
				return false
			}
			defer u.Close()
		}
		return true
	}, 5*time.Second, time.Millisecond)
	return port
}

// Two of three nodes are behind one DNS name. All clients continue after the leader,
// which serves most of them, is killed.
func TestClientsSurviveTheDeathOfANodeBehindOneName(t *testing.T) {
	hosts := []string{"127.0.0.1", "127.0.0.2", "127.0.0.3"}
	if l, err := net.Listen("tcp", hosts[1]+":0"); err != nil {
		skip(t, "needs addresses 127.0.0.2 and 127.0.0.3: %v", err)
	} else {
		l.Close()
	}
	token, file := newToken(t, "team-a")
	api, port := freePort(t, hosts...), freePort(t, hosts...)
	join := fmt.Sprintf("%s:%s,%s:%s,%s:%s", hosts[0], port, hosts[1], port, hosts[2], port)
	var nodes []*process
	for i, host := range hosts {
		nodes = append(nodes, start(t, []string{"CHOKED_SECRET=of the nodes"}, "-listen", host+":"+api, "-tokens", file, "-name", fmt.Sprint("node-", i+1),
			"-bind", host+":"+port, "-join", join))
	}
	for _, n := range nodes {
		n.wait()
	}
	_, root, errs := runCommand(t, nil, "token", "-file", file, "*")
	require.Empty(t, errs)
	voters := func() (out string) {
		_, out, _ = runCommand(t, nil, "status", "-url", "http://"+nodes[2].addr, "-token", strings.TrimSpace(root))
		return out
	}
	require.Eventually(t, func() bool { return strings.Count(voters(), "voter") == 2 }, 20*time.Second, 50*time.Millisecond, "all three vote")
	require.Regexp(t, `node-1 .* leader`, voters())

	resolve(t, "choked.test", hosts[0], hosts[1])
	limits := choked.MustLimits("requests 100/s burst 30")
	ctx, stop := context.WithCancel(t.Context())
	began := time.Now()
	var mu sync.Mutex
	var admitted []history.Record
	last := make([]time.Duration, 12)
	var callers sync.WaitGroup
	for worker := range 4 {
		store, err := httpstore.Open(httpstore.Config{URL: "http://choked.test:" + api, Token: token})
		require.NoError(t, err)
		defer store.Close()
		choke := choked.New(store)
		defer choke.Close()
		limiter, err := choke.Limiter("openai_chat", limits, nil)
		require.NoError(t, err)
		for i := range 3 {
			callers.Go(func() {
				for {
					before := time.Since(began)
					err := limiter.Wait(ctx, choked.Cost{Requests: 1})
					if ctx.Err() != nil || !assert.NoError(t, err) {
						return
					}
					mu.Lock()
					last[3*worker+i] = time.Since(began)
					admitted = append(admitted, history.Record{Before: int64(before), After: int64(last[3*worker+i]), Cost: bucket.Cost{Requests: 1}})
					mu.Unlock()
				}
			})
		}
	}
	served := func(since time.Duration) bool {
		mu.Lock()
		defer mu.Unlock()
		for _, at := range last {
			if at <= since {
				return false
			}
		}
		return true
	}
	require.Eventually(t, func() bool { return served(time.Second) }, 10*time.Second, 10*time.Millisecond)
	killed := time.Since(began)
	require.NoError(t, nodes[0].cmd.Process.Kill())
	<-nodes[0].done
	require.Eventually(t, func() bool { return served(killed + 3*time.Second) }, 15*time.Second, 10*time.Millisecond, "every caller continues")
	stop()
	callers.Wait()
	for _, r := range limits.Of(bucket.Requests) {
		assert.LessOrEqual(t, history.CheckRate(admitted, bucket.Requests, r).Proved, 1e-6, "over the bound")
	}
	gap := time.Duration(0)
	for i := 1; i < len(admitted); i++ {
		gap = max(gap, time.Duration(admitted[i].After-admitted[i-1].After))
	}
	t.Logf("%d admitted, the longest gap %v", len(admitted), gap)
	assert.Less(t, gap, 5*time.Second)
}
