// Package httpstore is a choked.Store at a service, such as `choked serve` or a
// handler of package server: for workers that cannot be a node of a cluster
// themselves.
//
//	store, err := httpstore.New("https://choked.internal", os.Getenv("CHOKED_TOKEN"))
//	choke := choked.New(store)
package httpstore

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/choked/choked/bucket"
	"github.com/choked/choked/internal/boottime"
	"github.com/choked/choked/internal/httpapi"
)

var (
	// ErrUnavailable means that the service could not be reached, or has not
	// answered, for [Config.Timeout]. What is leased already is still spent.
	ErrUnavailable = errors.New("choked: the service is unavailable")

	// ErrUnauthorized means that the service does not know the token.
	ErrUnauthorized = errors.New("choked: the service refuses the token")
)

// errHTTP1 means that operations cannot share a connection.
var errHTTP1 = errors.New("choked: the service, or what is before it, speaks HTTP/1.1 only: want httpstore.Config.HTTP1, or HTTP/2 there")

// Config says which service a store is at. URL is required.
type Config struct {
	// URL is where the service is, as in "https://choked.internal:7980". A name
	// may stand for several nodes: when one is gone the next is tried. What
	// balances requests between them, rather than connections, has to keep a
	// client on one node, for an ask that waits is asked for again every 5 s: at
	// another node it would begin anew, at the end of the line.
	URL string

	// Token admits to the service. Empty: none is sent.
	Token string

	// TLS says whom to trust, and how to be known, when URL begins with https.
	// Nil: whom the system trusts.
	TLS *tls.Config

	// Timeout is how long an operation tries to reach the service before it
	// fails with ErrUnavailable. An attempt that is under way then may take 8 s
	// more. Default: 5 s.
	Timeout time.Duration

	// HTTP1 speaks HTTP/1.1, with a connection for each operation under way,
	// for services behind something that knows no HTTP/2. Without it, such a
	// service is an error: a few connections would be taken by those who wait,
	// and nothing could be settled meanwhile.
	HTTP1 bool

	dial func(ctx context.Context, network, addr string) (net.Conn, error) // nil: the system's
}

// String shows cfg without its secrets.
func (cfg Config) String() string {
	return fmt.Sprintf("httpstore.Config{URL: %q, Timeout: %v, HTTP1: %v}", redacted(cfg.URL), cfg.Timeout, cfg.HTTP1)
}

// GoString is String, so that no verb of package fmt shows the secrets.
func (cfg Config) GoString() string { return cfg.String() }

// LogValue implements [slog.LogValuer], without the secrets.
func (cfg Config) LogValue() slog.Value { return slog.StringValue(cfg.String()) }

// MarshalText shows cfg without its secrets to encoding/json and the like.
func (cfg Config) MarshalText() ([]byte, error) { return []byte(cfg.String()), nil }

// redacted is what of a URL is no secret: a user's name, a query and a fragment
// may be as secret as a password.
func redacted(s string) string {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" { // then the rest of it may be anything
		return "(not a URL)"
	}
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
}

const (
	dialWithin = 2 * time.Second
	tryWithin  = httpapi.Poll + 3*time.Second // for one attempt: the service answers within Poll
	leastPause = 20 * time.Millisecond        // between attempts
	mostPause  = 500 * time.Millisecond
	giveBackIn = 2 * time.Second

	maxConns = 8 // each of which has a thousand requests under way
)

// Store is a choked.Store at a service. It owns a few connections, and no
// goroutines but for what is under way. Safe for concurrent use.
type Store struct {
	cfg   Config
	base  string
	http  *http.Client
	pool  *http.Transport
	clock *boottime.Clock

	ctx    context.Context // ends when the store closes
	cancel context.CancelCauseFunc
	work   sync.WaitGroup // what is under way, and what was given up is given back

	mu      sync.Mutex
	closed  bool
	aliases map[leaseOf]alias
}

// New returns a store at the service at url, to which token admits. It does not
// ask the service yet.
func New(url, token string) (*Store, error) { return Open(Config{URL: url, Token: token}) }

// Open returns a store as cfg says.
func Open(cfg Config) (*Store, error) {
	u, err := url.Parse(cfg.URL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" {
		return nil, fmt.Errorf(`choked: httpstore: URL %.120q: want "https://host:port"`, redacted(cfg.URL))
	}
	if strings.ContainsFunc(cfg.Token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return nil, errors.New("choked: httpstore: the token holds what no token does: a space, a line end or the like")
	}
	switch {
	case cfg.Timeout == 0:
		cfg.Timeout = 5 * time.Second
	case cfg.Timeout < 0:
		return nil, fmt.Errorf("choked: httpstore: timeout %v: want more than 0", cfg.Timeout)
	}
	dial := cfg.dial
	if dial == nil {
		dial = (&net.Dialer{Timeout: dialWithin, KeepAlive: 15 * time.Second}).DialContext
	}
	var protocols http.Protocols
	protocols.SetHTTP1(cfg.HTTP1 || u.Scheme == "https") // TLS agrees on one
	protocols.SetHTTP2(!cfg.HTTP1)
	protocols.SetUnencryptedHTTP2(!cfg.HTTP1 && u.Scheme == "http")
	s := &Store{cfg: cfg, base: strings.TrimSuffix(u.String(), "/"), clock: boottime.New(), aliases: make(map[leaseOf]alias)}
	s.pool = &http.Transport{
		DialContext: dial, Proxy: http.ProxyFromEnvironment, TLSClientConfig: cfg.TLS, Protocols: &protocols,
		TLSHandshakeTimeout: dialWithin, MaxIdleConnsPerHost: 32, IdleConnTimeout: time.Minute,
		// A silent peer is noticed while something is under way.
		HTTP2: &http.HTTP2Config{SendPingTimeout: 2 * time.Second, PingTimeout: 2 * time.Second},
	}
	if !cfg.HTTP1 {
		s.pool.MaxConnsPerHost = maxConns // or each of those who ask before there is one would dial
	}
	s.http = &http.Client{Transport: s.pool, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse // nobody else gets to see the token
	}}
	s.ctx, s.cancel = context.WithCancelCause(context.Background())
	return s, nil
}

// Lease implements choked.Store.
//
// An attempt of which the answer is lost is withdrawn: the next one asks by an
// id of its own, and returns what the lost one may have been granted. The same
// id would not do, for the service takes back what a client that is gone does
// not fetch, and might do so just after the same lease was given out again.
func (s *Store) Lease(ctx context.Context, ask bucket.Ask) (bucket.Lease, error) {
	if err := ask.Check(); err != nil {
		return bucket.Lease{}, err
	}
	ctx, done, err := s.begin(ctx)
	if err != nil {
		return bucket.Lease{}, err
	}
	defer done()
	return s.lease(ctx, ask)
}

func (s *Store) lease(ctx context.Context, ask bucket.Ask) (bucket.Lease, error) {
	name := leaseOf{ask.Key, ask.ID}
	attempt := ask
	attempt.ID = s.wireID(name)
	attempt.Done = s.wireIDs(ask.Done)
	start := s.clock.Now()
	until := start + int64(min(max(ask.MaxWait, 0), 1<<60))
	tries := s.tries(ctx, until)
	resume := false
	for {
		if len(attempt.Done) > batch(attempt.Done) {
			if err := s.settle(ctx, attempt.Done); err != nil {
				s.giveBack(attempt)
				return bucket.Lease{}, err
			}
			attempt.Done = nil
		}
		sent := s.clock.Now()
		attempt.MaxWait = time.Duration(max(until-sent, 0))
		request := httpapi.LeaseRequestOf(attempt)
		if request.Resume = resume; resume {
			request.Limits, request.Done = httpapi.Limits{}, nil
		}
		var answer httpapi.Lease
		err := s.post(ctx, "/v1/lease", request, &answer)
		var lease bucket.Lease
		if err == nil && !answer.Pending {
			lease, err = answer.Value()
		}
		switch {
		case err == nil && answer.Pending:
			resume, tries = true, s.tries(ctx, until)
			continue
		case err == nil:
			if lease.ID, lease.ValidFor = ask.ID, lease.ValidFor+time.Duration(sent-start); lease.OK {
				s.granted(name, attempt.ID, lease.ValidFor)
			}
			return lease, nil
		case ctx.Err() != nil:
			s.giveBack(attempt)
			return bucket.Lease{}, context.Cause(ctx)
		case errors.Is(err, errHTTP1): // too late to have changed nothing
			s.giveBack(attempt)
			return bucket.Lease{}, err
		case isFinal(err):
			return bucket.Lease{}, err
		}
		if unclear(err) {
			attempt.Done = append(attempt.Done, bucket.Settlement{Key: ask.Key, ID: attempt.ID})
			attempt.ID.Seq = rand.Uint64() | 1<<63
			resume = false
		} // or else an ask that waits there still does
		if err := tries.next(err); err != nil {
			s.giveBack(attempt)
			return bucket.Lease{}, err
		}
	}
}

// giveBack returns what an ask that was given up may have been granted, and
// settles what it had to settle.
func (s *Store) giveBack(ask bucket.Ask) {
	s.spawn(func() {
		ctx, cancel := context.WithTimeout(s.ctx, giveBackIn)
		defer cancel()
		// If this fails the lease expires, and the rest is settled again by
		// whose it is.
		_ = s.settle(ctx, append(ask.Done, bucket.Settlement{Key: ask.Key, ID: ask.ID}))
	})
}

// Settle implements choked.Store.
func (s *Store) Settle(ctx context.Context, done []bucket.Settlement) error {
	for i := range done {
		if err := done[i].Check(); err != nil {
			return err
		}
	}
	ctx, end, err := s.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	if err := s.settle(ctx, s.wireIDs(done)); err != nil {
		return fmt.Errorf("settle %d leases: %w", len(done), err)
	}
	return nil
}

func (s *Store) settle(ctx context.Context, done []bucket.Settlement) error {
	for len(done) > 0 {
		n := batch(done)
		request := httpapi.SettleRequest{Done: httpapi.SettlementsOf(done[:n])}
		if err := s.retry(ctx, "/v1/settle", request, func(error) bool { return true }); err != nil {
			return err
		}
		done = done[n:]
	}
	return nil
}

// batch is how many of done fit into one request, beside an ask.
func batch(done []bucket.Settlement) (n int) {
	const (
		ask     = 16 << 10 // bytes of a key and its rates
		numbers = 256      // of a settlement without its key
		escaped = 6        // of one byte of a key at most, as in \u001f
	)
	size := ask
	for ; n < min(len(done), httpapi.MaxSettlements); n++ {
		if size += numbers + escaped*len(done[n].Key); size > httpapi.MaxBody {
			break
		}
	}
	return n
}

// Adjust implements choked.Store.
func (s *Store) Adjust(ctx context.Context, a bucket.Adjustment) error {
	if err := a.Check(); err != nil {
		return err
	}
	ctx, end, err := s.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	again := func(err error) bool { return !unclear(err) }
	if err := s.retry(ctx, "/v1/adjust", httpapi.AdjustRequestOf(a), again); err != nil {
		return fmt.Errorf("adjust %.64q: %w", a.Key, err)
	}
	return nil
}

// Close implements choked.Store. It waits for what is under way, which ends
// with ErrClosed.
func (s *Store) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.cancel(bucket.ErrClosed)
	s.work.Wait()
	s.pool.CloseIdleConnections()
	return nil
}

// begin begins an operation, which ends with the store.
func (s *Store) begin(ctx context.Context) (context.Context, func(), error) {
	if err := context.Cause(ctx); err != nil {
		return nil, nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, nil, bucket.ErrClosed
	}
	s.work.Add(1)
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(s.ctx, func() { cancel(bucket.ErrClosed) })
	return ctx, func() {
		stop()
		cancel(nil)
		s.work.Done()
	}, nil
}

// spawn runs f on a goroutine that Close waits for.
func (s *Store) spawn(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.work.Go(f)
	}
}

// retry posts until there is an answer. again says whether that is allowed
// after an error.
func (s *Store) retry(ctx context.Context, path string, request any, again func(error) bool) error {
	tries := s.tries(ctx, 0)
	for {
		err := s.post(ctx, path, request, &struct{}{})
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case isFinal(err) || !again(err):
			return err
		}
		if err := tries.next(err); err != nil {
			return err
		}
	}
}

// tries are attempts one after the other while the service does not answer.
type tries struct {
	s     *Store
	ctx   context.Context
	since int64
	waits time.Duration // for which a service that is well may say nothing
	pause time.Duration
}

// tries begins attempts at what may wait at the service until an instant; zero: at
// nothing that does.
func (s *Store) tries(ctx context.Context, until int64) *tries {
	now := s.clock.Now()
	waits := min(time.Duration(max(until-now, 0)), httpapi.Poll)
	return &tries{s: s, ctx: ctx, since: now, waits: waits, pause: leastPause}
}

// next returns when it is time for another attempt after one that failed with
// why, or the error with which to give up.
func (t *tries) next(why error) error {
	t.since += int64(min(t.waits, t.s.clock.Since(t.since)))
	t.waits = 0
	left := t.s.cfg.Timeout - t.s.clock.Since(t.since)
	if left <= 0 {
		return fmt.Errorf("%w: %v", ErrUnavailable, why)
	}
	pause := t.pause/2 + rand.N(t.pause)
	t.pause = min(2*t.pause, mostPause)
	var busy *answerError
	if errors.As(why, &busy) {
		pause = max(pause, min(busy.retryAfter, time.Second))
	}
	timer := time.NewTimer(min(pause, left))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-t.ctx.Done():
		return context.Cause(t.ctx)
	}
}

// answerError is an answer of the service that says why there is no other.
type answerError struct {
	why        httpapi.Error // empty if it comes from something before the service
	status     int
	retryAfter time.Duration
}

func (e *answerError) Error() string {
	if e.why.Code == "" {
		return fmt.Sprintf("status %d", e.status)
	}
	return e.why.Message
}

func (e *answerError) Unwrap() error { return e.why.Unwrap() }

// isFinal reports whether it is no use to ask again.
func isFinal(err error) bool {
	if errors.Is(err, errHTTP1) {
		return true
	}
	var e *answerError
	if !errors.As(err, &e) {
		return false
	}
	switch e.why.Code {
	case httpapi.Busy, httpapi.Closing, httpapi.Lost, httpapi.Closed:
		return false
	case "":
		return e.status < 500
	}
	return true
}

// unclear reports whether what failed with err may have been done nonetheless.
func unclear(err error) bool {
	var e *answerError
	if errors.As(err, &e) {
		return e.why.Code != httpapi.Busy && e.why.Code != httpapi.Closing
	}
	var dial *net.OpError
	return !(errors.As(err, &dial) && dial.Op == "dial")
}

// post makes one attempt.
func (s *Store) post(ctx context.Context, path string, request, answer any) error {
	body, err := json.Marshal(request)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, tryWithin)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, "POST", s.base+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/json")
	if s.cfg.Token != "" {
		r.Header.Set("Authorization", "Bearer "+s.cfg.Token)
	}
	response, err := s.http.Do(r)
	if err != nil {
		if strings.Contains(err.Error(), "looked like an HTTP/1.1 header") { // so package http says
			return errHTTP1
		}
		return err
	}
	defer response.Body.Close()
	if response.ProtoMajor == 1 && !s.cfg.HTTP1 {
		return errHTTP1
	}
	b, err := io.ReadAll(io.LimitReader(response.Body, httpapi.MaxBody))
	if err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	if response.StatusCode == http.StatusOK {
		if err := json.Unmarshal(b, answer); err != nil {
			return fmt.Errorf("read the answer: %w", err)
		}
		return nil
	}
	e := &answerError{status: response.StatusCode}
	if seconds, err := strconv.Atoi(response.Header.Get("Retry-After")); err == nil && seconds > 0 {
		e.retryAfter = time.Duration(min(seconds, 3600)) * time.Second
	}
	var failure httpapi.Failure
	if json.Unmarshal(b, &failure) == nil {
		e.why = failure.Error
	}
	if e.status == http.StatusUnauthorized || e.why.Code == httpapi.Guessing {
		return fmt.Errorf("%w: %w", ErrUnauthorized, e)
	}
	return e
}
