package httpstore

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/choked/choked/internal/boottime"
	"github.com/choked/choked/internal/storeerr"
)

// Config configures a [Store]. URL is required.
type Config struct {
	// URL is the address of the service, as in "https://choked.internal:7980". Its
	// host may stand for several nodes: if one is gone, the next is tried. A load
	// balancer that distributes requests, rather than connections, must keep a
	// client on one node. A waiting ask is sent again every 5 s, and on another
	// node it would start again at the end of the queue.
	URL string

	// Token authenticates this client. Empty: the store sends none.
	Token string

	// TLS configures connections if URL begins with https. Nil: the default, with
	// the certificate authorities of the system.
	TLS *tls.Config

	// Timeout is how long an operation retries while the service cannot be reached
	// or does not answer, before it fails with [bucket.ErrUnavailable]. An attempt
	// that is under way then may take 8 s more. Default: 5 s.
	Timeout time.Duration

	// HTTP1 makes the store speak HTTP/1.1, with one connection for each operation
	// under way, for services behind a proxy without HTTP/2. Without HTTP1 such a
	// service is an error: waiting asks would occupy the few connections, and no
	// lease could be settled meanwhile.
	HTTP1 bool

	dial func(ctx context.Context, network, addr string) (net.Conn, error) // nil: the system's
}

// String returns cfg without its secrets.
func (cfg Config) String() string {
	return fmt.Sprintf("httpstore.Config{URL: %q, Timeout: %v, HTTP1: %v}", storeerr.URL(cfg.URL), cfg.Timeout, cfg.HTTP1)
}

// GoString is String, so that no verb of package fmt shows the secrets.
func (cfg Config) GoString() string { return cfg.String() }

// LogValue implements [slog.LogValuer], without the secrets.
func (cfg Config) LogValue() slog.Value { return slog.StringValue(cfg.String()) }

// MarshalText returns String, so that encoding/json and the like do not show the
// secrets.
func (cfg Config) MarshalText() ([]byte, error) { return []byte(cfg.String()), nil }

func (cfg Config) check() (*url.URL, error) {
	u, err := url.Parse(cfg.URL)
	if why := cfg.wrongURL(u, err); why != "" {
		return nil, fmt.Errorf("httpstore: URL %q: %s", storeerr.URL(cfg.URL), why)
	}
	if strings.ContainsFunc(cfg.Token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return nil, errors.New("httpstore: Token holds a space, a control character or a letter beyond ASCII: want the token as it was issued")
	}
	if cfg.Timeout < 0 {
		return nil, fmt.Errorf("httpstore: Timeout %v: want 0 for the default of %v, or more", cfg.Timeout, defaultTimeout)
	}
	return u, nil
}

const wantURL = `want "https://host:port"`

// ownPath is the end of a path that the store itself appends to URL.
var ownPath = regexp.MustCompile(`/v[0-9]+/?$|/v[0-9]+/(acquire|lease|settle|adjust|status)/?$`)

// noPort is a URL whose port is no number.
var noPort = regexp.MustCompile(`^https?://[\w.-]+:[^/?#@]*[^/?#@0-9][^/?#@]*(/[^?#@]*)?$`)

// wrongURL returns what is wrong with cfg.URL, which was parsed as u or err, and what
// is expected, or "". It quotes nothing that may be a secret.
func (cfg Config) wrongURL(u *url.URL, err error) string {
	shown := storeerr.URL(cfg.URL)
	switch {
	case cfg.URL != strings.TrimSpace(cfg.URL):
		return "white space at its begin or end is refused: " + wantURL
	case shown == cfg.URL && shown != "" && !strings.Contains(shown, "://"): // a host without a scheme
		return fmt.Sprintf("want %q or %q", "http://"+shown, "https://"+shown)
	case err != nil && noPort.MatchString(cfg.URL):
		return "the port is no number: " + wantURL
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		return wantURL
	case u.User != nil:
		return "user information is refused: " + wantURL + ", and an access token in httpstore.Config.Token"
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return "a query and a fragment are refused: " + wantURL
	case ownPath.MatchString(u.Path):
		return fmt.Sprintf("it ends in %s, but the store appends the path of the API itself: %s", ownPath.FindString(u.Path), wantURL)
	}
	if port := u.Port(); port != "" {
		if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
			return "want a port from 1 to 65535"
		}
	}
	return ""
}

const (
	defaultTimeout = 5 * time.Second
	dialTimeout    = 2 * time.Second
	maxConns       = 8 // over HTTP/2; each carries up to a thousand requests at a time
)

// Open returns a store at the service of cfg. It connects when it is first used,
// and Close closes its connections.
func Open(cfg Config) (*Store, error) {
	u, err := cfg.check()
	if err != nil {
		return nil, err
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = defaultTimeout
	}
	dial := cfg.dial
	if dial == nil {
		dial = (&net.Dialer{Timeout: dialTimeout, KeepAlive: 15 * time.Second}).DialContext
	}
	var protocols http.Protocols
	protocols.SetHTTP1(cfg.HTTP1 || u.Scheme == "https") // TLS negotiates the protocol
	protocols.SetHTTP2(!cfg.HTTP1)
	protocols.SetUnencryptedHTTP2(!cfg.HTTP1 && u.Scheme == "http")
	s := &Store{cfg: cfg, base: strings.TrimSuffix(u.String(), "/"), clock: boottime.New(), aliases: make(map[leaseName]alias)}
	s.pool = &http.Transport{
		DialContext: dial, Proxy: http.ProxyFromEnvironment, TLSClientConfig: cfg.TLS, Protocols: &protocols,
		TLSHandshakeTimeout: dialTimeout, MaxIdleConnsPerHost: 32, IdleConnTimeout: time.Minute,
		// Pings detect a silent peer while requests are under way.
		HTTP2: &http.HTTP2Config{SendPingTimeout: 2 * time.Second, PingTimeout: 2 * time.Second},
	}
	if !cfg.HTTP1 {
		s.pool.MaxConnsPerHost = maxConns // without it, each request would dial until the first connection is up
	}
	s.http = &http.Client{Transport: s.pool, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse // the token goes to no other host
	}}
	s.ctx, s.cancel = context.WithCancelCause(context.Background())
	return s, nil
}
