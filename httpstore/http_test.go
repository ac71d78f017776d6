package httpstore

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/choked/choked"
	"github.com/choked/choked/bucket"
	"github.com/choked/choked/internal/httpapi"
	"github.com/choked/choked/internal/testkit/history"
	"github.com/choked/choked/internal/testkit/pipes"
	"github.com/choked/choked/server"
)

func ask(holder uint64, n int64, maxWait time.Duration) bucket.Ask {
	return bucket.Ask{
		Key: "k", ID: bucket.LeaseID{Holder: holder, Seq: 1}, Limits: choked.MustLimits("requests 10/s"), Defined: 1,
		Need: bucket.Cost{Requests: n}, Want: bucket.Cost{Requests: n}, MaxWait: maxWait,
	}
}

func TestBadConfigIsAnErrorWithoutSecrets(t *testing.T) {
	for _, url := range []string{"", "ftp://host", "host", "://x", "http://", "://", "http://user:SECRET@host", "http://SECRET@host", "user:SECRET@host",
		"http:SECRET@host", "http://host/?token=SECRET", "http://host/?", "http://host/#SECRET", "http://SECRET@ho st"} {
		_, err := Open(Config{URL: url})
		if assert.ErrorContains(t, err, "want \"https://host:port\"", url) {
			assert.NotContains(t, err.Error(), "SECRET")
		}
		assert.NotContains(t, Config{URL: url}.String(), "SECRET")
	}
	assert.Contains(t, Config{URL: "https://user@host:1/path?query"}.String(), `"https://***@host:1/path?***"`)
	for url, want := range map[string]string{
		"localhost:7980":       `"localhost:7980": want "http://localhost:7980" or "https://localhost:7980"`,
		"127.0.0.1:7980":       `"127.0.0.1:7980": want "http://127.0.0.1:7980" or "https://127.0.0.1:7980"`,
		"host:7980/x":          `"host:7980/x": want "http://host:7980/x" or "https://host:7980/x"`,
		"localhost":            `"localhost": want "http://localhost" or "https://localhost"`,
		"://x":                 `"://x": want "https://host:port"`,
		"http://host\n":        `"http://***": white space at its begin or end is refused: want "https://host:port"`,
		"http://user:pw@host":  `"http://***@host": user information is refused: want "https://host:port", and an access token in httpstore.Config.Token`,
		"http://host?x=y":      `"http://host?***": a query and a fragment are refused: want "https://host:port"`,
		"http://host:99999":    `"http://host:99999": want a port from 1 to 65535`,
		"http://host:0/x":      `"http://host:0/x": want a port from 1 to 65535`,
		"http://host:798O":     `"http://***": the port is no number: want "https://host:port"`,
		"http://host/v1":       `"http://host/v1": it ends in /v1, but the store appends the path of the API itself: want "https://host:port"`,
		"http://host/x/v2/":    `"http://host/x/v2/": it ends in /v2/, but the store appends the path of the API itself: want "https://host:port"`,
		"http://host/v2/lease": `"http://host/v2/lease": it ends in /v2/lease, but the store appends the path of the API itself: want "https://host:port"`,
	} {
		_, err := Open(Config{URL: url})
		assert.EqualError(t, err, "httpstore: URL "+want)
	}
	for _, url := range []string{"http://host/v1x", "http://host/v1/x", "https://host:65535/x/", "http://[::1]:1"} {
		s, err := Open(Config{URL: url})
		if assert.NoError(t, err, url) {
			s.Close()
		}
	}
	_, err := Open(Config{URL: "http://host", Token: "SECRET\r\nX: y"})
	require.ErrorContains(t, err, "httpstore: Token holds")
	assert.NotContains(t, err.Error(), "SECRET")
	_, err = Open(Config{URL: "http://host", Timeout: -1})
	require.ErrorContains(t, err, "httpstore: Timeout -1ns: want")
}

func TestSecretsAreNotShown(t *testing.T) {
	cfg := Config{URL: "https://user:SECRET@host", Token: "SECRET"}
	var out bytes.Buffer
	slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "cfg", cfg)
	fmt.Fprintf(&out, "%v %+v %#v %s", cfg, cfg, cfg, cfg)
	b, err := json.Marshal(cfg)
	require.NoError(t, err)
	out.Write(b)
	assert.NotContains(t, out.String(), "SECRET")

	s, err := Open(Config{URL: "http://127.0.0.1:1", Token: "SECRET"})
	require.NoError(t, err)
	defer s.Close()
	s.cfg.Timeout = time.Millisecond
	_, err = s.Lease(t.Context(), ask(1, 1, 0))
	assert.NotContains(t, fmt.Sprintf("%v %+v %#v", err, err, err), "SECRET")
}

func TestServiceThatIsAwayIsABoundedWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := bubble(t)
		defer b.Close()
		require.NoError(t, b.net.Close())
		for name, do := range map[string]func(context.Context) error{
			"Lease":  func(ctx context.Context) error { _, err := b.Lease(ctx, ask(1, 1, time.Hour)); return err },
			"Settle": func(ctx context.Context) error { return b.Settle(ctx, []bucket.Settlement{{Key: "k"}}) },
			"Adjust": func(ctx context.Context) error {
				return b.Adjust(ctx, bucket.Adjustment{Key: "k", Limits: ask(1, 1, 0).Limits})
			},
		} {
			began := time.Now()
			err := do(t.Context())
			assert.ErrorIs(t, err, bucket.ErrUnavailable, name)
			assert.ErrorIs(t, err, net.ErrClosed, "the cause")
			assert.ErrorContains(t, err, "store unavailable: httpstore: no answer within 5s: Post \"http://service.test/v2/")
			assert.NotErrorIs(t, err, context.DeadlineExceeded, "that is the caller's")
			assert.InDelta(t, 5*time.Second, time.Since(began), float64(time.Second), name)

			began = time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			assert.ErrorIs(t, do(ctx), context.DeadlineExceeded)
			assert.Equal(t, time.Second, time.Since(began))
			cancel()
		}
	})
}

// A service that accepts connections and does not answer, such as a paused process.
func TestSilentServiceIsABoundedWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := bubble(t)
		defer b.Close()
		b.http.Transport = roundTrip(func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		})
		began := time.Now()
		_, err := b.Lease(t.Context(), ask(1, 1, 0))
		assert.ErrorIs(t, err, bucket.ErrUnavailable)
		assert.LessOrEqual(t, time.Since(began), 5*time.Second+attemptTimeout)
	})
}

func TestRefusedTokenFailsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := bubble(t)
		defer b.Close()
		b.Store.cfg.Token = "another"
		began := time.Now()
		for range 30 { // until the service blocks this address
			_, err := b.Lease(t.Context(), ask(1, 1, time.Hour))
			assert.ErrorIs(t, err, ErrUnauthorized)
			assert.NotErrorIs(t, err, bucket.ErrUnavailable)
		}
		assert.Zero(t, time.Since(began), "a retry cannot help")
	})
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

type answer = func(*http.Request) (*http.Response, error)

// answers replaces the first answers of the service. Nil stands for its own answer.
func answers(b *bubbled, list ...answer) *atomic.Int64 {
	next, n := b.http.Transport, new(atomic.Int64)
	b.http.Transport = roundTrip(func(r *http.Request) (*http.Response, error) {
		if i := int(n.Add(1)) - 1; i < len(list) && list[i] != nil {
			return list[i](r)
		}
		return next.RoundTrip(r)
	})
	return n
}

func status(code int, body string, header ...string) answer {
	return func(*http.Request) (*http.Response, error) {
		h := http.Header{}
		for i := 0; i < len(header); i += 2 {
			h.Set(header[i], header[i+1])
		}
		return &http.Response{StatusCode: code, Header: h, Body: io.NopCloser(strings.NewReader(body))}, nil
	}
}

func failure(code int, why string) answer {
	b, _ := json.Marshal(httpapi.Failure{Error: httpapi.Error{Code: why, Message: "because"}})
	return status(code, string(b))
}

// dropped loses the answer of next.
func dropped(next http.RoundTripper) answer {
	return func(r *http.Request) (*http.Response, error) {
		response, err := next.RoundTrip(r)
		if err != nil {
			return nil, err
		}
		io.Copy(io.Discard, response.Body)
		response.Body.Close()
		return nil, errors.New("the answer is lost")
	}
}

func TestWhichErrorsAreRetried(t *testing.T) {
	refused := func(*http.Request) (*http.Response, error) {
		return nil, &net.OpError{Op: "dial", Err: errors.New("refused")}
	}
	cut := func(*http.Request) (*http.Response, error) { return nil, io.ErrUnexpectedEOF }
	for _, c := range []struct {
		name                  string
		answer                answer
		lease, settle, adjust bool // is retried
	}{
		{"connection refused", refused, true, true, true},
		{"node stops", failure(503, httpapi.Closing), true, true, true},
		{"over the caps", failure(429, httpapi.Busy), true, true, true},
		{"ask is lost", failure(410, httpapi.Lost), true, true, false},
		{"connection is cut", cut, true, true, false},
		{"store is closed", failure(503, httpapi.Closed), true, true, false},
		{"a proxy has no service", status(502, "<html>"), true, true, false},
		{"a proxy answers", status(200, "<html>"), true, true, false},
		{"no quorum", failure(503, httpapi.NoQuorum), false, false, false},
		{"store unavailable", failure(503, httpapi.Unavailable), false, false, false},
		{"store fails", failure(500, httpapi.Failed), false, false, false},
		{"a proxy refuses", status(403, "<html>"), false, false, false},
		{"a server cannot post", status(501, "<html>"), false, false, false},
		{"redirect", status(307, "", "Location", "http://elsewhere.test/"), false, false, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			b := bubble(t)
			defer b.Close()
			next := b.http.Transport
			again := func(name string, do func() error) bool {
				b.http.Transport = next
				n := answers(b, c.answer)
				err := do()
				if n.Load() == 1 {
					assert.Error(t, err, "%s: %s", c.name, name)
				} else {
					assert.NoError(t, err, "%s: %s", c.name, name)
				}
				return n.Load() > 1
			}
			assert.Equal(t, c.lease, again("Lease", func() error { _, err := b.Lease(t.Context(), ask(1, 1, 0)); return err }), "%s: Lease", c.name)
			assert.Equal(t, c.settle, again("Settle", func() error { return b.Settle(t.Context(), []bucket.Settlement{{Key: "k"}}) }), "%s: Settle", c.name)
			assert.Equal(t, c.adjust, again("Adjust", func() error {
				return b.Adjust(t.Context(), bucket.Adjustment{Key: "k", Limits: ask(1, 1, 0).Limits})
			}), "%s: Adjust", c.name)
		})
	}
}

// A server that is no choked service, or a wrong scheme, is named by the error.
func TestErrorsAskWhetherTheServiceIsChoked(t *testing.T) {
	t.Parallel()
	html := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "<html>", http.StatusBadGateway) })
	plain := httptest.NewServer(html)
	defer plain.Close()
	secure := httptest.NewUnstartedServer(html)
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	secure.EnableHTTP2 = true
	secure.StartTLS()
	defer secure.Close()
	other := banner(t, "SSH-2.0-OpenSSH_9.6\r\n")
	choked := newService(t).listen(t)
	for name, c := range map[string]struct {
		url   string
		http1 bool
		want  string
		final bool // a retry cannot help
	}{
		"https to a choked service without TLS": {strings.Replace(choked, "http:", "https:", 1), false, `speaks no TLS: want "http://"`, true},
		"https to a server without TLS":         {strings.Replace(plain.URL, "http:", "https:", 1), true, `speaks no TLS: want "http://"`, true},
		"HTTP/2 to a TLS server":                {strings.Replace(secure.URL, "https:", "http:", 1), false, "", false}, // the connection may just be reset
		"HTTP/1.1 to a TLS server":              {strings.Replace(secure.URL, "https:", "http:", 1), true, `speaks TLS: want "https://"`, true},
		"HTTP/2 to another protocol":            {"http://" + other, false, "is this a choked service, and without TLS?", false},
		"HTTP/1.1 to another protocol":          {"http://" + other, true, "is this a choked service?", false},
		"TLS to another protocol":               {"https://" + other, false, "is this a choked service?", false},
		"status of a proxy":                     {plain.URL, true, "status 502 without an error of choked: is this a choked service, or did a proxy answer?", false},
	} {
		s, err := Open(Config{URL: c.url, HTTP1: c.http1, Timeout: 50 * time.Millisecond})
		require.NoError(t, err)
		_, err = s.Lease(t.Context(), ask(1, 1, 0))
		assert.ErrorContains(t, err, c.want, name)
		assert.Equal(t, c.final, !errors.Is(err, bucket.ErrUnavailable), "%s: %v", name, err)
		require.NoError(t, s.Close())
	}
}

// banner is a server that writes text on each connection and closes it. It returns its
// address.
func banner(t *testing.T, text string) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				io.WriteString(conn, text)
				io.Copy(io.Discard, conn) // until the client closes
				conn.Close()
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		serving.Wait()
	})
	return l.Addr().String()
}

func TestErrorsOfTheStoreComeThrough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := bubble(t)
		defer b.Close()
		answers(b, failure(503, httpapi.NoQuorum))
		_, err := b.Lease(t.Context(), ask(1, 1, 0))
		assert.ErrorIs(t, err, choked.ErrNoQuorum)
		assert.ErrorIs(t, err, bucket.ErrUnavailable)
		answers(b, failure(503, httpapi.Unavailable))
		_, err = b.Lease(t.Context(), ask(1, 1, 0))
		assert.ErrorIs(t, err, bucket.ErrUnavailable)
		assert.NotErrorIs(t, err, choked.ErrNoQuorum)
		_, err = b.Lease(t.Context(), ask(1, 11, 0))
		assert.ErrorIs(t, err, choked.ErrCostExceedsBurst)
	})
}

// Any number of settlements reach the store unchanged, whatever bytes their keys hold.
func TestManySettlementsArriveUnchanged(t *testing.T) {
	for name, key := range map[string]string{
		"short": "k", "escaped in HTML": strings.Repeat("<", bucket.MaxKey), "escaped in JSON": strings.Repeat("\x1f", bucket.MaxKey),
		"quotes": strings.Repeat(`"`, bucket.MaxKey), "not UTF-8": strings.Repeat("\xff", bucket.MaxKey),
		"UTF-8 cut short": strings.Repeat("\u2028", bucket.MaxKey/3) + "\xe2\x80",
	} {
		synctest.Test(t, func(t *testing.T) {
			store := &ledger{Store: choked.NewLocal()}
			b := &bubbled{service: service{Server: server.New(server.Config{Store: store})}, net: pipes.New()}
			b.serving.Go(func() { b.service.Serve(b.net) })
			var err error
			b.Store, err = Open(Config{URL: "http://service.test", HTTP1: true, dial: b.net.Dial})
			require.NoError(t, err)
			defer b.Close()
			var most bucket.Cost
			for u := range bucket.NumUnits {
				most = most.With(u, bucket.MaxUnits)
			}
			var done []bucket.Settlement
			for i := range uint64(httpapi.MaxSettlements + 1) {
				done = append(done, bucket.Settlement{Key: key, ID: bucket.LeaseID{Holder: 1<<64 - 1, Seq: 1<<64 - 1 - i}, Spent: most})
			}
			require.NoError(t, b.Settle(t.Context(), done), name)
			assert.Equal(t, done, store.done, name)

			store.done = nil
			a := ask(1, 1, time.Hour)
			a.Key, a.Done = key, done[1:] // the most that an ask may carry
			answers(b, dropped(b.pool))
			l, err := b.Lease(t.Context(), a)
			require.NoError(t, err, name)
			assert.True(t, l.OK, name)
			settled := make(map[bucket.LeaseID]bucket.Settlement)
			for _, d := range store.done { // some arrive twice, since an answer was lost
				settled[d.ID] = d
			}
			for _, d := range a.Done {
				require.Equal(t, d, settled[d.ID], name)
			}
		})
	}
}

// ledger is a store that records settlements.
type ledger struct {
	choked.Store
	done []bucket.Settlement
}

func (l *ledger) Lease(ctx context.Context, a bucket.Ask) (bucket.Lease, error) {
	l.done = append(l.done, a.Done...)
	return l.Store.Lease(ctx, a)
}

func (l *ledger) Settle(ctx context.Context, done []bucket.Settlement) error {
	l.done = append(l.done, done...)
	return l.Store.Settle(ctx, done)
}

// After a lost answer, the ask is retried under a new id and the lease that was lost is
// returned: no quota is missing and none is granted twice. The caller uses its own id.
func TestLostAnswerIsWithdrawnAndRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := bubble(t)
		defer b.Close()
		answers(b, dropped(b.pool), dropped(b.pool))
		a := ask(1, 8, time.Hour)
		l, err := b.Lease(t.Context(), a)
		require.NoError(t, err)
		assert.True(t, l.OK)
		assert.Equal(t, a.ID, l.ID)
		assert.Empty(t, l.Drips, "it did not wait for the quota of the lost lease")

		again, err := b.Lease(t.Context(), a)
		require.NoError(t, err)
		assert.Equal(t, l.Granted, again.Granted, "asked again by the caller, it is the same lease")
		other := ask(2, 3, 0)
		refusal, err := b.Lease(t.Context(), other)
		require.NoError(t, err)
		assert.False(t, refusal.OK, "2 are left")

		other.Done = []bucket.Settlement{{Key: "k", ID: a.ID}}
		granted, err := b.Lease(t.Context(), other)
		require.NoError(t, err)
		assert.True(t, granted.OK, "settled by the caller's id")
	})
}

func TestAliasesExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := bubble(t)
		defer b.Close()
		next := b.http.Transport
		for n := range uint64(10) {
			b.http.Transport = next
			answers(b, dropped(b.pool))
			a := ask(n, 1, time.Hour)
			_, err := b.Lease(t.Context(), a)
			require.NoError(t, err)
			time.Sleep(2 * keepAlias)
		}
		assert.Len(t, b.aliases, 1)
	})
}

// ValidFor counts from the first attempt, even if a later one was answered.
func TestValidityCountsFromTheFirstAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := bubble(t)
		defer b.Close()
		direct, err := b.Lease(t.Context(), ask(1, 1, 0))
		require.NoError(t, err)
		answers(b, func(*http.Request) (*http.Response, error) {
			time.Sleep(time.Second)
			return nil, io.ErrUnexpectedEOF
		})
		began := time.Now()
		l, err := b.Lease(t.Context(), ask(2, 1, 0))
		require.NoError(t, err)
		assert.Equal(t, direct.ValidFor+time.Since(began), l.ValidFor)
	})
}

// empty keeps the bucket empty for 22 seconds, which is several polls.
func (b *bubbled) empty(t *testing.T) {
	t.Helper()
	require.NoError(t, b.Adjust(t.Context(), bucket.Adjustment{Key: "k", Limits: ask(1, 1, 0).Limits, Empty: 22 * time.Second}))
}

// A wait is resumed as long as the service reports that it goes on, and its end does
// not move.
func TestLongWaitIsResumed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := bubble(t)
		defer b.Close()
		b.empty(t)
		began := time.Now()
		l, err := b.Lease(t.Context(), ask(1, 5, time.Hour))
		require.NoError(t, err)
		took := time.Since(began)
		require.True(t, l.OK)
		assert.Greater(t, took, 21*time.Second)
		left := l.ValidFor - took
		assert.Greater(t, left, 1500*time.Millisecond, "a long wait does not use up the lease")
		assert.Less(t, left, bucket.TTL+bucket.TTL/4)

		_, err = b.Lease(t.Context(), ask(2, 5, 0))
		require.NoError(t, err)
		began = time.Now()
		l, err = b.Lease(t.Context(), ask(3, 10, 700*time.Millisecond))
		require.NoError(t, err)
		assert.False(t, l.OK)
		assert.LessOrEqual(t, time.Since(began), 700*time.Millisecond)
	})
}

// The same while the waiting request is lost again and again.
func TestLongWaitSurvivesLostRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := bubble(t)
		defer b.Close()
		b.empty(t)
		next := b.http.Transport
		b.http.Transport = roundTrip(func(r *http.Request) (*http.Response, error) {
			ctx, cancel := context.WithTimeout(r.Context(), 3*time.Second)
			defer cancel()
			return next.RoundTrip(r.WithContext(ctx))
		})
		b.Store.cfg.Timeout = time.Hour
		l, err := b.Lease(t.Context(), ask(1, 5, time.Hour))
		require.NoError(t, err)
		assert.True(t, l.OK)
	})
}

// If the lost answer reported that the ask waits, the retry does not queue behind the
// lost ask.
func TestRetryDoesNotQueueBehindTheLostAsk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := bubble(t)
		defer b.Close()
		require.NoError(t, b.Adjust(t.Context(), bucket.Adjustment{Key: "k", Limits: ask(1, 1, 0).Limits, Empty: 5500 * time.Millisecond}))
		b.Store.cfg.Timeout = time.Hour
		answers(b, dropped(b.pool))
		began := time.Now()
		l, err := b.Lease(t.Context(), ask(1, 10, time.Hour))
		require.NoError(t, err)
		assert.True(t, l.OK)
		assert.LessOrEqual(t, time.Since(began), 6500*time.Millisecond, "10 units are available then")
	})
}

// An ask that waits at the service keeps its position if requests to resume it fail.
// Only if they fail for too long does it start again.
func TestLongWaitKeepsItsPositionThroughRefusals(t *testing.T) {
	refused := func(*http.Request) (*http.Response, error) {
		return nil, &net.OpError{Op: "dial", Err: errors.New("refused")}
	}
	for _, c := range []struct {
		name          string
		answer        answer
		times         int
		keepsPosition bool
	}{
		{"over the caps", failure(429, httpapi.Busy), 2, true},
		{"connection refused", refused, 2, true},
		{"connection refused for long", refused, 20, false}, // 4 s at least
	} {
		synctest.Test(t, func(t *testing.T) {
			b := bubble(t)
			defer b.Close()
			b.Store.cfg.Timeout = time.Hour
			b.empty(t)
			calls := answers(b, append(make([]answer, 1), slices.Repeat([]answer{c.answer}, c.times)...)...)
			other, err := Open(b.Store.cfg)
			require.NoError(t, err)
			defer other.Close()
			order := make(chan uint64, 2)
			wait := func(s *Store, holder uint64) func() {
				return func() {
					l, err := s.Lease(t.Context(), ask(holder, 10, time.Hour))
					assert.NoError(t, err, c.name)
					assert.True(t, l.OK, c.name)
					order <- holder
				}
			}
			var both sync.WaitGroup
			both.Go(wait(b.Store, 1))
			time.Sleep(time.Second)
			both.Go(wait(other, 2))
			both.Wait()
			assert.Greater(t, calls.Load(), int64(1+c.times), c.name)
			assert.Equal(t, c.keepsPosition, <-order == 1, c.name)
		})
	}
}

// The connection of a waiting ask breaks: the time that the ask waited does not count
// as time without an answer.
func TestLongWaitSurvivesItsConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := bubble(t)
		defer b.Close()
		b.empty(t)
		lose := dropped(b.pool)
		n := answers(b, lose, nil, lose)
		l, err := b.Lease(t.Context(), ask(1, 5, time.Hour))
		require.NoError(t, err)
		assert.True(t, l.OK)
		assert.Greater(t, n.Load(), int64(3))
	})
}

// A lease whose caller is canceled while the answer is under way is returned at once.
func TestCanceledWhileTheAnswerIsUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := bubble(t)
		defer b.Close()
		ctx, cancel := context.WithCancel(t.Context())
		lose := dropped(b.pool)
		answers(b, func(r *http.Request) (*http.Response, error) {
			lose(r)
			cancel()
			return nil, r.Context().Err()
		})
		_, err := b.Lease(ctx, ask(1, 10, time.Hour))
		require.ErrorIs(t, err, context.Canceled)
		synctest.Wait()
		l, err := b.Lease(t.Context(), ask(2, 10, 0))
		require.NoError(t, err)
		assert.True(t, l.OK)
	})
}

// Over a network that loses requests and answers and cuts connections, the bound holds
// and most of the limit is used.
func TestBoundHoldsOverABadNetwork(t *testing.T) {
	for seed := range uint64(8) {
		synctest.Test(t, func(t *testing.T) {
			b := bubble(t)
			defer b.Close()
			limits := choked.MustLimits("requests 100/s burst 40; tokens 3000/s")
			const took = 20 * time.Second
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(took, cancel)
			var mu sync.Mutex
			var admitted []history.Record
			var all sync.WaitGroup
			began := time.Now()
			for worker := range uint64(4) {
				store, err := Open(b.Store.cfg)
				require.NoError(t, err)
				store.http.Transport = bad(store.pool, seed<<8|worker)
				choke := choked.New(store)
				limiter, err := choke.Limiter("k", limits, nil)
				require.NoError(t, err)
				for range 3 {
					all.Go(func() {
						for {
							cost := choked.Cost{Requests: 1, Tokens: 20 + rand.Int64N(20)}
							before := time.Since(began)
							err := limiter.Wait(ctx, cost)
							if ctx.Err() != nil {
								return
							}
							if !assert.NoError(t, err) {
								return
							}
							mu.Lock()
							admitted = append(admitted, history.Record{Before: int64(before), After: int64(time.Since(began)), Cost: cost})
							mu.Unlock()
						}
					})
				}
				defer store.Close()
				defer choke.Close()
			}
			all.Wait()
			for u := range bucket.NumUnits {
				for _, r := range limits.Of(u) {
					assert.LessOrEqual(t, history.CheckRate(admitted, u, r).Suspect, 1e-6, "seed %d: %v over %v", seed, u, r)
				}
			}
			assert.Greater(t, float64(len(admitted)), 0.97*(40+100*took.Seconds()), "seed %d", seed)
		})
	}
}

// bad returns the network next with random failures.
func bad(next http.RoundTripper, seed uint64) http.RoundTripper {
	var mu sync.Mutex
	dice := rand.New(rand.NewPCG(seed, 7))
	roll := func(n int) int {
		mu.Lock()
		defer mu.Unlock()
		return dice.IntN(n)
	}
	lose := dropped(next)
	return roundTrip(func(r *http.Request) (*http.Response, error) {
		time.Sleep(time.Duration(roll(20)) * time.Millisecond)
		switch roll(10) {
		case 0:
			return nil, &net.OpError{Op: "dial", Err: errors.New("request lost")}
		case 1:
			return lose(r)
		case 2: // the request is cut after a short time
			ctx, cancel := context.WithTimeout(r.Context(), time.Duration(roll(100))*time.Millisecond)
			defer cancel()
			response, err := next.RoundTrip(r.WithContext(ctx))
			if err == nil {
				err = io.ErrUnexpectedEOF
				response.Body.Close()
			}
			return nil, err
		}
		response, err := next.RoundTrip(r)
		time.Sleep(time.Duration(roll(20)) * time.Millisecond)
		return response, err
	})
}
