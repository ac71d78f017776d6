package server

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/choked/choked/bucket"
	"github.com/choked/choked/internal/httpapi"
	"github.com/choked/choked/internal/ledger"
	"github.com/choked/choked/internal/testkit/pipes"
)

// serve serves d on an in-memory network until end is called.
func (d *testServer) serve() (n *pipes.Network, end func()) {
	n = pipes.New()
	var serving sync.WaitGroup
	serving.Go(func() { d.Serve(n) })
	return n, func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		d.Shutdown(ctx)
		n.Close()
		serving.Wait()
		d.store.Close()
	}
}

// untilClosed reads conn until it is closed, and returns the bytes and the time taken.
func untilClosed(conn net.Conn) (string, time.Duration) {
	began := time.Now()
	b, _ := io.ReadAll(conn)
	return string(b), time.Since(began)
}

func TestSilentAndSlowClientsAreCutOff(t *testing.T) {
	const known = "Host: x\r\nAuthorization: Bearer t\r\n"
	const soon = bodyTimeout + time.Second
	for name, c := range map[string]struct {
		says    string
		trickle bool
		within  time.Duration
	}{
		"silent":                        {"", false, headerTimeout},
		"one byte":                      {"P", false, headerTimeout},
		"headers without an end":        {"GET /healthz HTTP/1.1\r\nHost: x\r\n", false, headerTimeout},
		"headers a byte at a time":      {"GET /healthz HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("x", 1000), true, headerTimeout},
		"an HTTP/2 preface and no more": {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", false, 10 * time.Second},
		"a body that does not come":     {"POST /v2/settle HTTP/1.1\r\n" + known + "Content-Length: 10\r\n\r\n", false, soon},
		"a body a byte at a time":       {"POST /v2/settle HTTP/1.1\r\n" + known + "Content-Length: 1000\r\n\r\n{\"done\":[" + strings.Repeat(" ", 900), true, soon},
		"chunks that do not come":       {"POST /v2/settle HTTP/1.1\r\n" + known + "Transfer-Encoding: chunked\r\n\r\n", false, soon},
		"one request and no other":      {"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", false, idleTimeout},

		// No handler reads these bodies, but package http reads them to the end.
		"without a token":                   {"POST /v2/settle HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n", false, soon},
		"without a token, a byte at a time": {"POST /v2/settle HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n" + strings.Repeat(" ", 900), true, soon},
		"for an unknown path":               {"POST /nope HTTP/1.1\r\n" + known + "Content-Length: 10\r\n\r\n", false, soon},
		"for an unknown path, in chunks":    {"POST /nope HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", false, soon},
		"by an unknown method":              {"PUT /v2/settle HTTP/1.1\r\n" + known + "Content-Length: 10\r\n\r\n", false, soon},
		"of a GET":                          {"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n", false, soon},
		"of a GET with a token":             {"GET /v2/status HTTP/1.1\r\n" + known + "Content-Length: 10\r\n\r\n", false, soon},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := open(t, nil, hashToken("t")+" a")
				n, end := d.serve()
				defer end()
				conn, err := n.Dial(t.Context(), "", "")
				require.NoError(t, err)
				var writing sync.WaitGroup
				writing.Go(func() {
					if !c.trickle {
						io.WriteString(conn, c.says)
						return
					}
					for i := range c.says {
						if _, err := io.WriteString(conn, c.says[i:i+1]); err != nil {
							return
						}
						time.Sleep(100 * time.Millisecond)
					}
				})
				_, took := untilClosed(conn)
				conn.Close()
				writing.Wait()
				assert.LessOrEqual(t, took, c.within)
			})
		})
	}
}

// Over HTTP/2 only the slow request ends: its connection has others.
func TestSlowBodyOverHTTP2IsCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := open(t, nil)
		n, end := d.serve()
		defer end()
		var protocols http.Protocols
		protocols.SetUnencryptedHTTP2(true)
		transport := &http.Transport{DialContext: n.Dial, Protocols: &protocols}
		defer transport.CloseIdleConnections()
		body, never := io.Pipe()
		defer never.Close()
		r, err := http.NewRequest("POST", "http://service.test/v2/settle", body)
		require.NoError(t, err)
		began := time.Now()
		response, err := transport.RoundTrip(r)
		if err == nil { // an error means that the stream was reset
			assert.Equal(t, 2, response.ProtoMajor)
			assert.Equal(t, 400, response.StatusCode)
			response.Body.Close()
		}
		assert.LessOrEqual(t, time.Since(began), bodyTimeout+time.Second)
	})
}

// The body timeout ends with the body. After that a request may wait for quota for
// longer, and so may the next request on the same connection.
func TestBodyTimeoutEndsWithTheBody(t *testing.T) {
	for _, major := range []int{1, 2} {
		synctest.Test(t, func(t *testing.T) {
			d := open(t, nil)
			n, end := d.serve()
			defer end()
			var protocols http.Protocols
			protocols.SetHTTP1(major == 1)
			protocols.SetUnencryptedHTTP2(major == 2)
			dialled := 0
			transport := &http.Transport{Protocols: &protocols, DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
				dialled++
				return n.Dial(ctx, network, addr)
			}}
			defer transport.CloseIdleConnections()
			post := func(path, body string) (status int, took time.Duration) {
				began := time.Now()
				r, err := http.NewRequest("POST", "http://service.test"+path, strings.NewReader(body))
				require.NoError(t, err)
				r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
				response, err := transport.RoundTrip(r)
				require.NoError(t, err)
				defer response.Body.Close()
				io.Copy(io.Discard, response.Body)
				assert.Equal(t, major, response.ProtoMajor)
				return response.StatusCode, time.Since(began)
			}
			for i, want := range []time.Duration{0, time.Minute, time.Minute} {
				status, took := post("/v2/acquire", "key=k&request_limit=1/m&wait=90s")
				assert.Equal(t, 200, status)
				assert.InDelta(t, want, took, float64(time.Second), "acquire %d", i+1)
			}
			status, _ := post("/nope", "a body that no handler reads")
			assert.Equal(t, 404, status)
			time.Sleep(2 * bodyTimeout)
			status, _ = post("/v2/acquire", "key=l&request_limit=1/m")
			assert.Equal(t, 200, status)
			assert.Equal(t, 1, dialled)
		})
	}
}

// A client that does not read its answer occupies the server for writeTimeout only.
func TestClientThatDoesNotReadIsDisconnected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := open(t, nil)
		n, end := d.serve()
		defer end()
		conn, err := n.Dial(t.Context(), "", "")
		require.NoError(t, err)
		defer conn.Close()
		io.WriteString(conn, "GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n")
		time.Sleep(writeTimeout + time.Second)
		_, err = io.WriteString(conn, "GET /healthz HTTP/1.1\r\n")
		assert.Error(t, err)
	})
}

func TestSizesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := open(t, nil)
		n, end := d.serve()
		defer end()
		for says, status := range map[string]string{
			"GET /healthz HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("x", 100_000) + "\r\n\r\n":                                                                           "431",
			"GET /" + strings.Repeat("x", 100_000) + " HTTP/1.1\r\nHost: x\r\n\r\n":                                                                                         "431",
			"POST /v2/settle HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999999\r\n\r\n" + strings.Repeat(" ", httpapi.MaxBody+1):                                          "413",
			"POST /v2/settle HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + fmt.Sprintf("%x\r\n", httpapi.MaxBody+1) + strings.Repeat(" ", httpapi.MaxBody+1): "413",
			"POST /v2/settle HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n":                                                                                             "400",
			"nonsense\r\n\r\n": "400",
		} {
			conn, err := n.Dial(t.Context(), "", "")
			require.NoError(t, err)
			var writing sync.WaitGroup
			writing.Go(func() { io.WriteString(conn, says) })
			line, err := bufio.NewReader(conn).ReadString('\n')
			assert.NoError(t, err)
			assert.Contains(t, line, status, "%.80q", says)
			conn.Close()
			writing.Wait()
		}
	})
}

// The server allocates for the bytes of a body, not for its Content-Length.
func TestContentLengthIsNotAllocated(t *testing.T) {
	d := open(t, nil)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range 100 {
		r := post("/v2/settle", `{"done":[`)
		r.ContentLength = 1 << 40
		assert.Equal(t, 400, d.do(r).Code)
	}
	runtime.ReadMemStats(&after)
	assert.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(5<<20))
}

func TestConnectionsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := open(t, nil)
		require.Equal(t, 1000, d.cfg.ConnsPerSource)
		d.Server = New(Config{Store: d.store, ConnsPerSource: 20})
		n, end := d.serve()
		defer end()
		var conns []net.Conn
		for range 20 { // all pipes have the same source
			conn, err := n.Dial(t.Context(), "", "")
			require.NoError(t, err)
			conns = append(conns, conn)
		}
		synctest.Wait()
		extra, err := n.Dial(t.Context(), "", "")
		require.NoError(t, err)
		_, took := untilClosed(extra)
		assert.Zero(t, took, "closed at once")
		time.Sleep(headerTimeout)
		for _, conn := range conns {
			conn.Close()
		}
		synctest.Wait()
		conn, err := n.Dial(t.Context(), "", "")
		require.NoError(t, err)
		defer conn.Close()
		io.WriteString(conn, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
		line, _ := bufio.NewReader(conn).ReadString('\n')
		assert.Contains(t, line, "200", "the silent connections have been closed")
	})
	l := &listener{perSource: 1, from: make(map[netip.Addr]int)}
	for i := range maxConns {
		require.True(t, l.add(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})))
	}
	assert.False(t, l.add(netip.AddrFrom4([4]byte{192, 0, 2, 1})), "bound over all sources")
}

// FuzzBodies decodes any bytes as each kind of request. An accepted request is valid
// and survives encoding.
func FuzzBodies(f *testing.F) {
	for _, seed := range []string{
		``, `{}`, `null`, `{"key":"k","id":"1-1","limits":"requests 5/s","need":{"requests":1}}`,
		`{"key_base64":"/w==","id":"ffffffffffffffff-1","limits":"tokens 1/ms","want":{"tokens":1},"max_wait_ns":-1}`,
		`{"done":[{"key":"k","id":"1-1","spent":{"requests":1}}]}`,
		`{"key":"k","limits":"requests 5/s","return":{"requests":1},"since_ns":1,"charge":{"tokens":2},"empty_ns":1}`,
		`{"key":"k","limits":"requests 5/s","cost":{"requests":1},"wait_ns":0}`,
		`{"key":"k","id":"1-1","limits":"requests 500/m,10000/d; input 4/m burst 5; output 7/1000001ns; spend $0.000001/h","want":{"input":1,"output":2,"spend_microdollars":1}}`,
		`{"key":"k","limits":"tokens 9/s","cost":{"input":9223372036854775807,"output":9223372036854775807}}`,
		`{"key":"k","limits":"input 5/s; tokens 9/s","cost":{"output":5}}`, `{"key":"k","limits":{"requests":"5/s"},"cost":{"tokens":-1}}`,
		"key=k&limits=requests+500/m%3B+input+40000/m%3B+spend+$50/d&cost=input+9%3B+spend+$0.05", "key=k&limits=input+5/s&cost=tokens+9",
		"key=k&limits=requests+5/s&requests=2&token_limit=5/s", "key=k&request_limit=5/s&cost=output+1e3%3B%3B",
		"key=k&request_limit=5/s&requests=1&wait=0", "key=k&request_limit=5/s&token_limit=1/m%",
		`{"key":"k","id":"1-1","resume":true}`, strings.Repeat("[", 20_000),
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var lease httpapi.LeaseRequest
		if httpapi.Decode(body, &lease) == nil {
			if a, err := lease.Ask(); err == nil && !lease.Resume {
				require.NoError(t, a.Check())
				encoded, err := json.Marshal(httpapi.LeaseRequestOf(a))
				require.NoError(t, err)
				var again httpapi.LeaseRequest
				require.NoError(t, httpapi.Decode(encoded, &again))
				b, err := again.Ask()
				require.NoError(t, err)
				require.Equal(t, ledger.AppendOp(nil, &a), ledger.AppendOp(nil, &b), "encoding changes the ask")
			}
		}
		var settle httpapi.SettleRequest
		if httpapi.Decode(body, &settle) == nil {
			if done, err := httpapi.Settlements(settle.Done); err == nil {
				for i := range done {
					require.NoError(t, done[i].Check())
				}
			}
		}
		var adjust httpapi.AdjustRequest
		if httpapi.Decode(body, &adjust) == nil {
			if a, err := adjust.Adjustment(); err == nil {
				require.NoError(t, a.Check())
			}
		}
		if a, err := decodeAcquire(body); err == nil {
			requireAdmissible(t, a)
		}
		if a, err := parseAcquire(string(body)); err == nil {
			requireAdmissible(t, a)
		}
	})
}

func FuzzChokedQuery(f *testing.F) {
	f.Add("key=k&request_capacity=50&request_refill_rate=50.0&token_capacity=100000&token_refill_rate=1666.6666666666667&requests_needed=1&tokens_needed=7")
	f.Add("key=k&request_capacity=0&request_refill_rate=0.0&token_capacity=1e3&token_refill_rate=1e-9")
	f.Fuzz(func(t *testing.T, query string) {
		a, err := parseChoked(query)
		if err != nil {
			return
		}
		if a.limits.Len() == 0 {
			require.True(t, a.cost.IsZero(), "without a limit, a call is charged %v", a.cost)
		} else {
			requireAdmissible(t, a)
		}
	})
}

// requireAdmissible requires that the store can admit a.
func requireAdmissible(t *testing.T, a acquisition) {
	ask := bucket.Ask{Key: a.key, Limits: a.limits, Need: a.cost, Want: a.cost}
	require.NoError(t, ask.Check())
	require.NoError(t, a.limits.Fits(a.cost))
}

func FuzzTokens(f *testing.F) {
	f.Add([]byte(hashToken("t") + " a asks=1 rate=5/s\n# x\n\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := parseTokens(b)
		if err != nil {
			return
		}
		require.LessOrEqual(t, len(list), maxTokens)
		for _, n := range list {
			require.NoError(t, checkNamespace(n.namespace))
		}
	})
}

// FuzzRequest sends any bytes that parse as a request.
func FuzzRequest(f *testing.F) {
	f.Add([]byte("GET /v2/acquire?key=k&request_limit=5/s&wait=0 HTTP/1.1\r\nHost: x\r\n\r\n"))
	f.Add([]byte("GET /v2/acquire?key=k&limits=requests+5/s%3Bspend+$1/m&cost=spend+$2&wait=0 HTTP/1.1\r\nHost: x\r\n\r\n"))
	f.Add([]byte("POST /v1/lease HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"))
	f.Add([]byte("POST /v2/lease HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(b)))
		if err != nil {
			return
		}
		d := open(t, nil)
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		a := d.do(r.WithContext(ctx))
		require.NotZero(t, a.Code)
		d.close()
		require.NotContains(t, a.Body.String(), "internal error")
		require.NotContains(t, d.logs.String(), "panic")
	})
}
