// Package server makes a choked.Store a service over HTTP, for workers that
// cannot be a node of a cluster themselves. Package httpstore is its client in Go;
// for others there is a plain call that waits for quota and spends it. The
// service says at /openapi.json what it can do.
package server

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"log/slog"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"regexp"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/choked/choked"
	"github.com/choked/choked/bucket"
	"github.com/choked/choked/internal/boottime"
	"github.com/choked/choked/internal/httpapi"
)

// Config says what is served, and to whom.
type Config struct {
	// Store keeps the buckets. It stays open when the server ends.
	Store choked.Store

	// Tokens admits by bearer token. Nil: everyone may use every key.
	Tokens *Tokens

	// TLS, if set, is what [Server.Serve] speaks, and it needs certificates.
	TLS *tls.Config

	// ConnsPerSource bounds the connections from one address, or one network of
	// IPv6, that [Server.Serve] has open at a time. What is over it is closed at
	// once. Behind an ingress or a NAT all clients are one source. Default: 1,000;
	// there are 10,000 at most in all.
	ConnsPerSource int

	// Ready returns nil when the store can be asked, or what is missing for
	// that. Nil: it always can.
	Ready func() error

	// Cluster describes the nodes behind the store. Nil: there are none.
	Cluster func() (self, leader string, members []Member)

	// Logger is told of requests (at level Debug) and of trouble. It is never
	// told a token. Nil: nobody is told.
	Logger *slog.Logger
}

// Member is a node of the cluster behind the store.
type Member = httpapi.Member

// What a client may send, and how long it may take for that.
const (
	headerWithin = 5 * time.Second
	bodyWithin   = 5 * time.Second
	writeWithin  = 10 * time.Second // for one answer
	idleFor      = 2 * time.Minute
	maxHeader    = 16 << 10
	maxStreams   = 1000 // at a time on one HTTP/2 connection
	storeWithin  = 5 * time.Second
)

// Server serves a store. Safe for concurrent use.
type Server struct {
	cfg    Config
	log    *slog.Logger
	clock  *boottime.Clock
	mux    *http.ServeMux
	http   *http.Server
	guards *guards
	anyone *tenant // who needs no token
	asks   asks
	holder uint64 // of what is acquired
	seq    atomic.Uint64

	leaving atomic.Bool // it is not ready any more

	open   context.Context // ends when no request is begun any more
	drain  context.CancelFunc
	ctx    context.Context // of what the server has under way at the store
	cancel context.CancelFunc
	mu     sync.Mutex     // held to begin a request, and to drain
	work   sync.WaitGroup // requests, and what goes on after an answer
	cut    atomic.Bool    // a settlement was cut off
}

// New returns a server over cfg.Store. It is a handler; or see [Server.Serve].
func New(cfg Config) *Server {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	if cfg.ConnsPerSource <= 0 {
		cfg.ConnsPerSource = connsPerSource
	}
	s := &Server{
		cfg: cfg, log: cfg.Logger, clock: boottime.New(), mux: http.NewServeMux(), guards: newGuards(), anyone: &tenant{namespace: "*"},
		asks: asks{pending: make(map[askID]*pending)}, holder: mathrand.Uint64(),
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.open, s.drain = context.WithCancel(context.Background())
	for _, r := range routes {
		s.mux.HandleFunc(r.method+" "+r.path, func(w http.ResponseWriter, req *http.Request) {
			s.serve(r, w.(*answer), req)
		})
	}
	s.mux.HandleFunc("/", s.nothing)
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(cfg.TLS == nil)
	s.http = &http.Server{
		Handler: s, TLSConfig: cfg.TLS, Protocols: &protocols,
		// There is no ReadTimeout, for it would end the requests that wait:
		// ServeHTTP bounds the time that a body may take.
		ReadHeaderTimeout: headerWithin, IdleTimeout: idleFor, MaxHeaderBytes: maxHeader,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: maxStreams, SendPingTimeout: 15 * time.Second, PingTimeout: 5 * time.Second,
			WriteByteTimeout: writeWithin, MaxReadFrameSize: 64 << 10,
		},
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug), // what strangers send
	}
	return s
}

// Serve serves the connections that l accepts until [Server.Shutdown], and
// returns nil then. It keeps to bounds on connections, headers, bodies and
// times, so that it may face strangers.
func (s *Server) Serve(l net.Listener) error {
	l = bounded(l, s.cfg.ConnsPerSource)
	serve := func() error { return s.http.Serve(l) }
	if s.cfg.TLS != nil {
		serve = func() error { return s.http.ServeTLS(l, "", "") }
	}
	if err := serve(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// SayNotReady makes /readyz answer that it is not, while requests are still
// served: whoever balances load gets time to notice.
func (s *Server) SayNotReady() { s.leaving.Store(true) }

// Drain turns away requests from now on, those that wait for quota included,
// and is not ready any more.
func (s *Server) Drain() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drain()
}

// begin reports whether a request may be served, whose end is to be told to
// s.work.
func (s *Server) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open.Err() != nil {
		return false
	}
	s.work.Add(1)
	return true
}

// Shutdown drains, and returns when what was under way has ended, the store
// included. If that is not before ctx ends, it cuts it off and returns the
// error of ctx. It may be called twice.
func (s *Server) Shutdown(ctx context.Context) error {
	s.Drain()
	err := s.http.Shutdown(ctx) // it does not wait for requests whose connection is gone
	if err != nil {
		err = errors.Join(err, s.http.Close())
	}
	s.withdrawAll()
	stop := context.AfterFunc(ctx, s.cancel)
	defer stop()
	defer s.cancel()
	s.work.Wait()
	if s.cut.Load() && err == nil {
		err = ctx.Err()
	}
	return err
}

// route is one thing that the service can do.
type route struct {
	method, path string
	to           access
	handle       func(s *Server, c *call) (any, *httpapi.Error)
}

// access is whom a route answers.
type access int

const (
	anyone   access = iota
	admitted        // who bears a token
	capped          // the same, within the token's caps
)

var routes = []route{
	{"POST", "/v1/lease", capped, (*Server).lease},
	{"POST", "/v1/settle", admitted, (*Server).handleSettle},
	{"POST", "/v1/adjust", admitted, (*Server).adjust},
	{"GET", "/v1/acquire", capped, (*Server).acquire},
	{"POST", "/v1/acquire", capped, (*Server).acquire},
	{"GET", "/v1/status", capped, (*Server).status},
	{"GET", "/choked/acquire", capped, (*Server).acquireAsChoked},
	{"GET", "/healthz", anyone, (*Server).healthy},
	{"GET", "/readyz", anyone, (*Server).ready},
	{"GET", "/openapi.json", anyone, (*Server).describe},
}

// nothing answers what is for no route.
func (s *Server) nothing(w http.ResponseWriter, r *http.Request) {
	var methods []string
	for _, route := range routes {
		if route.path == r.URL.Path {
			methods = append(methods, route.method)
		}
	}
	e := &httpapi.Error{Code: httpapi.NotFound, Message: fmt.Sprintf("%.20s %.80q: see /openapi.json for what there is", r.Method, r.URL.Path)}
	if len(methods) > 0 {
		w.Header().Set("Allow", strings.Join(methods, ", "))
		s.failWith(w.(*answer), http.StatusMethodNotAllowed, e)
		return
	}
	s.fail(w.(*answer), e)
}

// call is a request under way.
type call struct {
	*http.Request
	w      *answer
	tenant *tenant
}

// answer is a response that knows its status.
type answer struct {
	http.ResponseWriter
	id     string // of the request
	status int
}

func (a *answer) WriteHeader(status int) {
	a.status = status
	a.ResponseWriter.WriteHeader(status)
}

// Unwrap is for [http.ResponseController].
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

var idForm = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// ServeHTTP implements [http.Handler].
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	began := time.Now()
	a := &answer{ResponseWriter: w, id: r.Header.Get("X-Request-Id")}
	if !idForm.MatchString(a.id) {
		a.id = rand.Text()[:16]
	}
	w.Header().Set("X-Request-Id", a.id)
	if r.ContentLength != 0 { // of a body that no handler reads, package http awaits the end
		http.NewResponseController(w).SetReadDeadline(began.Add(bodyWithin))
	}
	defer func() {
		if p := recover(); p != nil {
			if p == http.ErrAbortHandler {
				panic(p)
			}
			s.log.Error("a request has failed", "request", a.id, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			if a.status == 0 {
				s.fail(a, &httpapi.Error{Code: httpapi.Failed, Message: "this is a bug of the service; its log says more"})
			}
		}
		s.log.Debug("request", "method", r.Method, "path", fmt.Sprintf("%.80q", r.URL.Path), "status", a.status,
			"from", r.RemoteAddr, "request", a.id, "took", time.Since(began))
	}()
	s.mux.ServeHTTP(a, r)
}

// serve answers a request for a route.
func (s *Server) serve(route route, w *answer, r *http.Request) {
	if r.Method == "HEAD" && route.to != anyone { // it goes the way of GET, and nobody expects it to spend
		s.nothing(w, r)
		return
	}
	c := &call{Request: r, w: w}
	if route.to != anyone {
		if !s.begin() {
			s.fail(w, closing)
			return
		}
		defer s.work.Done()
		var err *httpapi.Error
		if c.tenant, err = s.admit(r); err != nil {
			switch err.Code {
			case httpapi.Unauthorized:
				w.Header().Set("WWW-Authenticate", `Bearer realm="choked"`)
			case httpapi.Guessing:
				setRetryAfter(w.Header(), guessRate.Span(1))
			}
			s.fail(w, err)
			return
		}
	}
	if route.to == capped {
		retry, done := c.tenant.begin(time.Now())
		if done == nil {
			setRetryAfter(w.Header(), retry)
			s.fail(w, &httpapi.Error{Code: httpapi.Busy, Message: "over the caps of this token, nothing was done"})
			return
		}
		defer done()
	}
	body, err := route.handle(s, c)
	switch body := body.(type) {
	case nil:
		s.fail(w, err)
	case []byte:
		s.write(w, http.StatusOK, body)
	case refused:
		s.writeJSON(w, http.StatusTooManyRequests, body.Acquired)
	default:
		s.writeJSON(w, http.StatusOK, body)
	}
}

var closing = &httpapi.Error{Code: httpapi.Closing, Message: "this node of the service stops, ask another"}

// read reads a request's JSON body into v.
func (c *call) read(v any) *httpapi.Error {
	body, e := c.body()
	if e != nil {
		return e
	}
	if err := httpapi.Decode(body, v); err != nil {
		return badRequest(err)
	}
	return nil
}

// body reads the whole of the body, which also lets the server notice when the
// client goes. What is read has no deadline any more: the request may wait.
func (c *call) body() ([]byte, *httpapi.Error) {
	body, err := io.ReadAll(http.MaxBytesReader(c.w, c.Request.Body, httpapi.MaxBody))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return nil, &httpapi.Error{Code: httpapi.TooLarge, Message: fmt.Sprintf("the body is too large: want at most %d bytes", large.Limit)}
	case err != nil:
		return nil, badRequest(fmt.Errorf("the body ends early: %w", err))
	}
	http.NewResponseController(c.w).SetReadDeadline(time.Time{})
	return body, nil
}

func badRequest(err error) *httpapi.Error {
	return &httpapi.Error{Code: httpapi.BadRequest, Message: err.Error()}
}

// storeError is what a client is told of err, of which the log has more: as much
// as it takes to see what is wrong, for of many settlements each may have failed.
func (s *Server) storeError(c *call, err error) *httpapi.Error {
	e := httpapi.ErrorOf(err)
	if e.Code == httpapi.Failed || e.Code == httpapi.NoQuorum || e.Code == httpapi.Unavailable {
		s.log.Warn("the store has failed", "error", fmt.Sprintf("%.1000s", err.Error()), "request", c.w.id)
	}
	return e
}

func (s *Server) handleSettle(c *call) (any, *httpapi.Error) {
	var r httpapi.SettleRequest
	if e := c.read(&r); e != nil {
		return nil, e
	}
	done, err := httpapi.Settlements(r.Done)
	if err != nil {
		return nil, badRequest(err)
	}
	c.tenant.claim(done)
	s.withdrawSettled(done)
	if err := s.cfg.Store.Settle(c.Context(), done); err != nil {
		return nil, s.storeError(c, err)
	}
	return struct{}{}, nil
}

func (s *Server) adjust(c *call) (any, *httpapi.Error) {
	var r httpapi.AdjustRequest
	if e := c.read(&r); e != nil {
		return nil, e
	}
	a, err := r.Adjustment()
	if err != nil {
		return nil, badRequest(err)
	}
	a.Key = c.tenant.key(a.Key)
	if err := s.cfg.Store.Adjust(c.Context(), a); err != nil {
		return nil, s.storeError(c, err)
	}
	return struct{}{}, nil
}

// settleLater settles a lease without delaying the answer.
func (s *Server) settleLater(done bucket.Settlement) {
	s.work.Go(func() { s.settle(done) })
}

// settle settles a lease within storeWithin. If that fails, the lease expires.
func (s *Server) settle(done bucket.Settlement) {
	ctx, cancel := context.WithTimeout(s.ctx, storeWithin)
	defer cancel()
	if err := s.cfg.Store.Settle(ctx, []bucket.Settlement{done}); err != nil {
		s.log.Warn("settlement failed, the lease will expire", "error", err)
		if s.ctx.Err() != nil {
			s.cut.Store(true)
		}
	}
}

func (s *Server) healthy(*call) (any, *httpapi.Error) { return struct{}{}, nil }

func (s *Server) ready(c *call) (any, *httpapi.Error) {
	if err := s.missing(); err != nil {
		return nil, &httpapi.Error{Code: httpapi.Closing, Message: "not ready"} // why is for those with a token
	}
	return struct{}{}, nil
}

// missing is what keeps the server from being ready.
func (s *Server) missing() error {
	if s.leaving.Load() || s.open.Err() != nil {
		return errors.New("it stops")
	}
	if s.cfg.Ready == nil {
		return nil
	}
	return s.cfg.Ready()
}

//go:embed openapi.json
var openapi []byte

func (s *Server) describe(*call) (any, *httpapi.Error) { return openapi, nil }

// status tells of the keys of the tenant, and of the nodes if it may use all keys.
func (s *Server) status(c *call) (any, *httpapi.Error) {
	st := httpapi.Status{Ready: true, Keys: []httpapi.KeyInfo{}}
	if err := s.missing(); err != nil {
		st.Ready, st.Missing = false, err.Error()
	}
	if s.cfg.Cluster != nil && c.tenant.everything() {
		st.Node, st.Leader, st.Members = s.cfg.Cluster()
	}
	if store, ok := s.cfg.Store.(interface{ Buckets() []bucket.Info }); ok {
		for _, b := range store.Buckets() {
			if key, ok := c.tenant.own(b.Key); ok {
				st.Keys = append(st.Keys, httpapi.KeyInfo{
					Key: httpapi.KeyOf(key), Limits: b.Limits.String(), Level: httpapi.LevelOf(b.Level), Leased: b.Leased, Leases: b.Leases, Full: b.Full,
				})
			}
		}
	}
	return st, nil
}
