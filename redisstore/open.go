package redisstore

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/choked/choked/internal/storeerr"
)

// Config configures a [Store]. The zero value is ready to use.
type Config struct {
	// Prefix begins the names of the store's keys in Redis. The bucket's key
	// follows unchanged, hash tags included. Stores with the same prefix share
	// their buckets. Default: "choked:".
	Prefix string

	// Timeout is how long an operation retries while Redis cannot be reached or
	// is not ready, before it fails with [bucket.ErrUnavailable]. Default: 5 s.
	Timeout time.Duration
}

func (c Config) withDefaults() Config {
	if c.Prefix == "" {
		c.Prefix = "choked:"
	}
	if c.Timeout <= 0 {
		c.Timeout = 5 * time.Second
	}
	return c
}

// New returns a store in the Redis that client is connected to: a single server,
// a failover client, or a cluster. The client stays the caller's: Close leaves it
// open, and what go-redis logs about it, such as failed dials, goes to the logger
// of [redis.SetLogger], which by default is standard error.
//
// A MaxRetries of -1 suits the client best, since the store retries by itself.
func New(client redis.UniversalClient, cfg Config) *Store {
	return newStore(client, cfg, func(wait func()) error {
		wait()
		return nil
	})
}

// Open returns a store in the Redis server at url, such as
// "redis://user:password@host:6379/0", "rediss://host:6380" for TLS, or
// "unix:///run/redis.sock". It connects when it is first used, and Close closes
// its connections. Open logs nothing when the server is away: the operation that
// failed returns the cause.
//
// Options of the client library may follow the URL, as in "?pool_size=20"; see
// [redis.ParseURL]. Their defaults here: a read or a write may take cfg.Timeout, a
// dial a third of that and at least a second, but not longer than cfg.Timeout. The
// client library does not retry, since the store does.
func Open(url string, cfg Config) (*Store, error) {
	opt, err := redis.ParseURL(url)
	if err != nil {
		return nil, urlError(url)
	}
	cfg = cfg.withDefaults()
	opt.MaxRetries = cmp.Or(opt.MaxRetries, -1)
	opt.ReadTimeout = cmp.Or(opt.ReadTimeout, cfg.Timeout)
	opt.WriteTimeout = cmp.Or(opt.WriteTimeout, cfg.Timeout)
	// go-redis dials twice for a pipeline. Both dials end before the operation does, so
	// that its error has a cause.
	opt.DialTimeout = cmp.Or(opt.DialTimeout, max(cfg.Timeout/3, min(cfg.Timeout, time.Second)))
	ctx, cut := context.WithCancel(context.Background())
	opt.Dialer = dialer(ctx, opt)
	client := redis.NewClient(opt)
	return newStore(client, cfg, func(wait func()) error {
		cut()
		wait()             // go-redis would log that it closes a connection in use
		_ = client.Close() // can only report that the connections are closed already
		return nil
	}), nil
}

// urlError returns an error that shows url without its password. It names the
// option that is wrong, if the text is surely an option.
func urlError(s string) error {
	shown := storeerr.URL(s)
	u, err := url.Parse(s)
	if err == nil && !strings.ContainsAny(u.RawQuery, "@:/") {
		for name, values := range u.Query() {
			option := url.Values{name: values}
			if _, err := redis.ParseURL("rediss://host?" + option.Encode()); err != nil {
				return fmt.Errorf("redisstore: URL %q: option %.40q: want one that redis.ParseURL knows, and a value of its type", shown, name)
			}
		}
	}
	return fmt.Errorf(`redisstore: URL %q: want "redis://user:password@host:6379/0"`, shown)
}

// dialer returns a dialer for opt that never fails. go-redis writes each failed
// dial to a logger that all clients of the process share, and then answers with an
// old error for up to a second. A connection whose first use fails avoids both:
// the operation gets the error of the dial, and the next one dials again. The
// connections are closed when life ends.
func dialer(life context.Context, opt *redis.Options) func(ctx context.Context, network, addr string) (net.Conn, error) {
	dial := redis.NewDialer(&redis.Options{DialTimeout: opt.DialTimeout})
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		raw, err := dial(ctx, network, addr)
		if err != nil {
			return failedConn{&dialError{err}}, nil
		}
		conn := &ownConn{raw, context.AfterFunc(life, func() { raw.Close() })}
		if opt.TLSConfig == nil {
			return conn, nil
		}
		sealed, err := handshake(ctx, conn, addr, opt.TLSConfig)
		if err != nil {
			return failedConn{&dialError{err}}, nil
		}
		return sealed, nil
	}
}

// ownConn is a connection that is closed when its store is.
type ownConn struct {
	net.Conn
	forget func() bool
}

func (c *ownConn) Close() error {
	c.forget()
	return c.Conn.Close()
}

// SyscallConn lets go-redis check whether an idle connection is still open.
func (c *ownConn) SyscallConn() (syscall.RawConn, error) {
	conn, ok := c.Conn.(syscall.Conn)
	if !ok {
		return nil, errors.ErrUnsupported
	}
	return conn.SyscallConn()
}

// handshake returns conn under TLS, or closes it. A server that does not speak TLS
// waits for the end of a line, so that most often the handshake times out.
func handshake(ctx context.Context, conn net.Conn, addr string, cfg *tls.Config) (net.Conn, error) {
	sealed := tls.Client(conn, cfg)
	err := sealed.HandshakeContext(ctx)
	if err == nil {
		return sealed, nil
	}
	conn.Close()
	var noTLS tls.RecordHeaderError
	if errors.As(err, &noTLS) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("TLS handshake with %s: %w (a server without TLS wants redis://, not rediss://)", addr, err)
	}
	return nil, fmt.Errorf("TLS handshake with %s: %w", addr, err)
}

// dialError wraps the error of a dial once more, since go-redis unwraps the error
// of a new connection and would return only "connection refused".
type dialError struct{ err error }

func (e *dialError) Error() string { return e.err.Error() }
func (e *dialError) Unwrap() error { return e.err }

// failedConn is the connection that a failed dial returns.
type failedConn struct{ err error }

func (c failedConn) Read([]byte) (int, error)         { return 0, c.err }
func (c failedConn) Write([]byte) (int, error)        { return 0, c.err }
func (c failedConn) Close() error                     { return nil }
func (c failedConn) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (c failedConn) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (c failedConn) SetDeadline(time.Time) error      { return nil }
func (c failedConn) SetReadDeadline(time.Time) error  { return nil }
func (c failedConn) SetWriteDeadline(time.Time) error { return nil }
