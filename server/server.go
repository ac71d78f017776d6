// Package server serves a choked.Store over HTTP, to workers that cannot be nodes
// of a cluster themselves. Package httpstore is the client in Go; clients in other
// languages use /v2/acquire, which waits for quota and spends it. The service
// describes its API at /openapi.json.
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
	"github.com/choked/choked/internal/fold"
	"github.com/choked/choked/internal/httpapi"
)

// Config configures a [Server]. Store is required.
type Config struct {
	// Store keeps the buckets. The server does not close it.
	Store choked.Store

	// Tokens lists the bearer tokens that admit a client. Nil admits every client
	// to every key.
	Tokens *Tokens

	// TLS, if set, makes [Server.Serve] serve TLS. It needs certificates.
	TLS *tls.Config

	// ConnsPerSource bounds the open connections that [Server.Serve] accepts from
	// one source: an IPv4 address, or an IPv6 network of 64 bits. A connection over
	// the bound is closed at once. All clients behind an ingress or a NAT are one
	// source. Default: 1,000. The bound over all sources is 10,000.
	ConnsPerSource int

	// Ready returns nil when the store can decide, or the reason why it cannot.
	// Nil: the store is always ready.
	Ready func() error

	// Healthy returns nil, or why this process has to be started again to be of use.
	// Then /healthz fails. Nil: it never has to.
	Healthy func() error

	// Cluster describes the nodes behind the store. Nil: the store has no nodes.
	Cluster func() Cluster

	// Logger receives requests at level Debug and failures at levels above. Tokens
	// are never logged. Nil discards.
	Logger *slog.Logger
}

// Cluster describes the nodes behind the store.
type Cluster = httpapi.Cluster

// Member is a node of the cluster behind the store.
type Member = httpapi.Member

// Gone is a voter of the cluster that is missing.
type Gone = httpapi.Gone

// Bounds of a client's connection.
const (
	headerTimeout = 5 * time.Second  // to send the header of a request
	bodyTimeout   = 5 * time.Second  // to send the body of a request
	writeTimeout  = 10 * time.Second // to read one answer
	idleTimeout   = 2 * time.Minute  // between two requests
	maxHeader     = 16 << 10         // bytes
	maxStreams    = 1000             // at a time on one HTTP/2 connection
)

// settleTimeout bounds a settlement that the server makes for a client.
const settleTimeout = 5 * time.Second

// Server serves a store. Safe for concurrent use.
type Server struct {
	cfg    Config
	log    *slog.Logger
	events fold.Events // of log lines
	clock  *boottime.Clock
	mux    *http.ServeMux
	http   *http.Server
	guards *guards
	anyone *tenant // of every request when Config.Tokens is nil
	asks   asks
	holder uint64        // of the leases that acquires spend
	seq    atomic.Uint64 // of the last such lease

	notReady atomic.Bool // set by MarkNotReady

	open   context.Context // ends when the server drains
	drain  context.CancelFunc
	ctx    context.Context // of the server's calls to the store; ends when Shutdown cuts them off
	cancel context.CancelFunc
	mu     sync.Mutex     // held to begin a request, and to drain
	work   sync.WaitGroup // requests, calls to the store, and settlements after an answer
	cut    atomic.Bool    // Shutdown has cut off a settlement
}

// New returns a server over cfg.Store. It is an [http.Handler] for a server of the
// caller's, or serves by itself: see [Server.Serve].
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
	s.mux.HandleFunc("/", s.notFound)
	s.mux.HandleFunc("/{version}/{call}", s.otherVersion)
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(cfg.TLS == nil)
	s.http = &http.Server{
		Handler: s, TLSConfig: cfg.TLS, Protocols: &protocols,
		// A ReadTimeout would end the requests that wait for quota. ServeHTTP bounds
		// the time that a body may take instead.
		ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: maxStreams, SendPingTimeout: 15 * time.Second, PingTimeout: 5 * time.Second,
			WriteByteTimeout: writeTimeout, MaxReadFrameSize: 64 << 10,
		},
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug), // any client can cause these errors
	}
	return s
}

// Serve serves the connections that l accepts until [Server.Shutdown], and then
// returns nil. It bounds connections, headers, bodies and times, so that l may be
// open to clients that are not trusted.
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

// MarkNotReady makes /readyz fail while requests are still served, so that load
// balancers can notice before the server drains.
func (s *Server) MarkNotReady() { s.notReady.Store(true) }

// Drain refuses all further requests, ends the requests that wait for quota, and
// makes /readyz fail.
func (s *Server) Drain() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drain()
}

// begin reports whether a request may be served. If so, s.work counts it, and the
// caller has to call s.work.Done at its end.
func (s *Server) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open.Err() != nil {
		return false
	}
	s.work.Add(1)
	return true
}

// Shutdown drains, and returns when all requests have ended, and all calls to the
// store with them. When ctx ends first, Shutdown cuts them off and returns the error
// of ctx. It may be called twice.
func (s *Server) Shutdown(ctx context.Context) error {
	s.Drain()
	err := s.http.Shutdown(ctx) // does not wait for requests whose connection is closed
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

// route is one operation of the API.
type route struct {
	method, path string
	to           access
	handle       func(s *Server, c *call) (any, *httpapi.Error)
}

// access is the right that a route asks of a request.
type access int

const (
	anyone   access = iota // no token
	admitted               // a token
	capped                 // a token that is within its caps
)

var routes = []route{
	{"POST", httpapi.Version + "/lease", capped, (*Server).lease},
	{"POST", httpapi.Version + "/settle", admitted, (*Server).handleSettle},
	{"POST", httpapi.Version + "/adjust", admitted, (*Server).adjust},
	{"GET", httpapi.Version + "/acquire", capped, (*Server).acquire},
	{"POST", httpapi.Version + "/acquire", capped, (*Server).acquire},
	{"GET", httpapi.Version + "/status", capped, (*Server).status},
	{"GET", "/choked/acquire", capped, (*Server).acquireAsChoked},
	{"GET", "/healthz", anyone, (*Server).healthy},
	{"GET", "/readyz", anyone, (*Server).ready},
	{"GET", "/openapi.json", anyone, (*Server).describe},
}

// notFound answers a request for which no route exists.
func (s *Server) notFound(w http.ResponseWriter, r *http.Request) {
	var methods []string
	for _, route := range routes {
		if route.path == r.URL.Path {
			methods = append(methods, route.method)
		}
	}
	e := &httpapi.Error{Code: httpapi.NotFound, Message: fmt.Sprintf("path %.80q: no such route, see /openapi.json", r.URL.Path)}
	if len(methods) > 0 {
		e.Message = fmt.Sprintf("method %.20q of %s: want %s", r.Method, r.URL.Path, strings.Join(methods, " or "))
		w.Header().Set("Allow", strings.Join(methods, ", "))
		s.failWith(w.(*answer), http.StatusMethodNotAllowed, e)
		return
	}
	s.fail(w.(*answer), e)
}

var versionForm = regexp.MustCompile(`^v[0-9]+$`)

// otherVersion answers a request for a call of the API in another version than this
// service has.
func (s *Server) otherVersion(w http.ResponseWriter, r *http.Request) {
	version := r.PathValue("version")
	if ours := httpapi.Version[1:]; !versionForm.MatchString(version) || version == ours {
		s.notFound(w, r)
		return
	}
	s.fail(w.(*answer), &httpapi.Error{Code: httpapi.OtherVersion, Message: fmt.Sprintf(
		"path %.80q: this service has %s of the API only: use a client of the service's version, or %s as /openapi.json describes it", r.URL.Path, httpapi.Version, httpapi.Version)})
}

// call is a request for a route that needs a token, or may.
type call struct {
	*http.Request
	w      *answer
	tenant *tenant
}

// answer is a response that remembers its status.
type answer struct {
	http.ResponseWriter
	id     string // of the request
	status int    // 0 until the header is written
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
	if r.ContentLength != 0 { // package http reads to the end a body that no handler reads
		http.NewResponseController(w).SetReadDeadline(began.Add(bodyTimeout))
	}
	defer func() {
		if p := recover(); p != nil {
			if p == http.ErrAbortHandler {
				panic(p)
			}
			s.log.Error("request panicked", "request", a.id, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			if a.status == 0 {
				s.fail(a, &httpapi.Error{Code: httpapi.Failed, Message: "internal error: the service has logged the cause"})
			}
		}
		s.log.Debug("request", "method", r.Method, "path", fmt.Sprintf("%.80q", r.URL.Path), "status", a.status,
			"from", r.RemoteAddr, "request", a.id, "took", time.Since(began))
	}()
	s.mux.ServeHTTP(a, r)
}

// serve answers a request for a route.
func (s *Server) serve(route route, w *answer, r *http.Request) {
	if r.Method == "HEAD" && route.to != anyone { // the mux routes it as GET, and a client does not expect HEAD to spend
		s.notFound(w, r)
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
			s.fail(w, &httpapi.Error{Code: httpapi.Busy, Message: "token is over its caps: nothing was done, retry later"})
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

var closing = &httpapi.Error{Code: httpapi.Closing, Message: "this node is shutting down: retry at another node"}

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

// body reads the whole body. After that the server notices when the client closes
// the connection, and the read deadline is lifted, since the request may wait.
func (c *call) body() ([]byte, *httpapi.Error) {
	body, err := io.ReadAll(http.MaxBytesReader(c.w, c.Request.Body, httpapi.MaxBody))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return nil, &httpapi.Error{Code: httpapi.TooLarge, Message: fmt.Sprintf("read body: too large, want at most %d bytes", large.Limit)}
	case err != nil:
		return nil, badRequest(fmt.Errorf("read body: %w", err))
	}
	http.NewResponseController(c.w).SetReadDeadline(time.Time{})
	return body, nil
}

func badRequest(err error) *httpapi.Error {
	return &httpapi.Error{Code: httpapi.BadRequest, Message: err.Error()}
}

// storeError returns the answer to a client for an error of the store, and logs the
// error itself, which may name addresses and disks: once a minute while it repeats.
// The log line is cut, since each of a thousand settlements may have failed.
func (s *Server) storeError(c *call, err error) *httpapi.Error {
	e := httpapi.ErrorOf(err)
	if e.Code == httpapi.Failed || e.Code == httpapi.NoQuorum || e.Code == httpapi.Unavailable {
		s.events.Warn(s.log, "store failed "+string(e.Code), "store failed", "error", fmt.Sprintf("%.1000s", err.Error()), "request", c.w.id)
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

// settle settles a lease within settleTimeout. If that fails, the lease expires.
func (s *Server) settle(done bucket.Settlement) {
	ctx, cancel := context.WithTimeout(s.ctx, settleTimeout)
	defer cancel()
	if err := s.cfg.Store.Settle(ctx, []bucket.Settlement{done}); err != nil {
		s.log.Warn("settlement failed, the lease will expire", "error", err)
		if s.ctx.Err() != nil {
			s.cut.Store(true)
		}
	}
}

// healthy answers a supervisor, which starts a process again that fails.
func (s *Server) healthy(*call) (any, *httpapi.Error) {
	if s.cfg.Healthy != nil && s.cfg.Healthy() != nil {
		return nil, &httpapi.Error{Code: httpapi.Unavailable, Message: "this node has stepped out: it has to be started again"} // /v2/status gives the reason
	}
	return struct{}{}, nil
}

// readiness is the body of /readyz.
type readiness struct {
	Degraded string `json:"degraded,omitempty"` // names no node, since anyone can read it
}

func (s *Server) ready(c *call) (any, *httpapi.Error) {
	degraded := s.nodes().Degraded
	switch {
	case s.isClosing():
		return nil, closing
	case s.unreadyReason() == nil:
		return readiness{degraded}, nil
	case degraded != "":
		return nil, &httpapi.Error{Code: httpapi.Unavailable, Message: "not ready: " + degraded}
	}
	return nil, &httpapi.Error{Code: httpapi.Unavailable, Message: "not ready"} // /v2/status gives the reason, to clients with a token
}

// nodes describes the cluster; the zero value if there is none.
func (s *Server) nodes() Cluster {
	if s.cfg.Cluster == nil {
		return Cluster{}
	}
	return s.cfg.Cluster()
}

// isClosing reports whether the server is about to shut down.
func (s *Server) isClosing() bool { return s.notReady.Load() || s.open.Err() != nil }

// unreadyReason returns nil if the server is ready, or why it is not.
func (s *Server) unreadyReason() error {
	if s.isClosing() {
		return errors.New("shutting down")
	}
	if s.cfg.Ready == nil {
		return nil
	}
	return s.cfg.Ready()
}

//go:embed openapi.json
var openapi []byte

func (s *Server) describe(*call) (any, *httpapi.Error) { return openapi, nil }

// status reports the tenant's keys, and the nodes to a tenant that may use all keys.
func (s *Server) status(c *call) (any, *httpapi.Error) {
	st := httpapi.Status{Ready: true, Keys: []httpapi.KeyInfo{}}
	if err := s.unreadyReason(); err != nil {
		st.Ready, st.Missing = false, err.Error()
	}
	st.Cluster = s.nodes()
	if s.cfg.Cluster != nil && !c.tenant.allKeys() {
		st.Cluster = Cluster{
			Voters: st.Voters, Degraded: st.Degraded, NoQuorum: st.NoQuorum,
			Hidden: "nodes are listed for tokens of the namespace * only",
		}
	}
	if store, ok := s.cfg.Store.(interface{ Buckets() []bucket.Info }); ok {
		for _, b := range store.Buckets() {
			if key, ok := c.tenant.own(b.Key); ok {
				st.Keys = append(st.Keys, httpapi.KeyInfo{
					Key: httpapi.KeyOf(key), Limits: b.Limits.String(), Level: httpapi.Level(b.Level), Leased: b.Leased, Leases: b.Leases, Full: b.Full,
				})
			}
		}
	}
	return st, nil
}
