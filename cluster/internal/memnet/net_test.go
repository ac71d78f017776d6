package memnet

import (
	"context"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// inBubble runs f with a network without faults in a bubble, which fails the test if a
// goroutine is left at the end.
func inBubble(t *testing.T, f func(t *testing.T, n *Net)) {
	synctest.Test(t, func(t *testing.T) { f(t, New(1)) })
}

// The hosts of the tests.
const a, b, c = "10.0.0.1", "10.0.0.2", "10.0.0.3"

func listen(t *testing.T, n *Net, addr string) net.Listener {
	t.Helper()
	l, err := n.Host(netip.MustParseAddrPort(addr).Addr().String()).Listen(addr)
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	return l
}

// connect opens a stream from host a to host b.
func connect(t *testing.T, n *Net) (here, there net.Conn) {
	t.Helper()
	l, err := n.Host(b).Listen(b + ":0")
	require.NoError(t, err)
	defer l.Close()
	here, err = n.Host(a).Dial(t.Context(), l.Addr().String())
	require.NoError(t, err)
	there, err = l.Accept()
	require.NoError(t, err)
	t.Cleanup(func() {
		here.Close()
		there.Close()
	})
	return here, there
}

// timed calls f and returns how long it took and its error.
func timed(f func() error) (time.Duration, error) {
	began := time.Now()
	err := f()
	return time.Since(began), err
}

func TestDialReachesTheListener(t *testing.T) {
	inBubble(t, func(t *testing.T, n *Net) {
		l := listen(t, n, b+":7946")
		assert.Equal(t, b+":7946", l.Addr().String())
		assert.Equal(t, "tcp", l.Addr().Network())
		here, err := n.Host(a).Dial(t.Context(), b+":7946")
		require.NoError(t, err)
		there, err := l.Accept()
		require.NoError(t, err)
		assert.Equal(t, b+":7946", here.RemoteAddr().String())
		assert.Equal(t, b+":7946", there.LocalAddr().String())
		assert.Equal(t, here.LocalAddr(), there.RemoteAddr())
		assert.Equal(t, a, netip.MustParseAddrPort(here.LocalAddr().String()).Addr().String())
	})
}

func TestDialIsRefusedWithoutAListener(t *testing.T) {
	inBubble(t, func(t *testing.T, n *Net) {
		l := listen(t, n, b+":7946")
		for _, addr := range []string{b + ":7947", c + ":7946"} {
			_, err := n.Host(a).Dial(t.Context(), addr)
			assert.ErrorIs(t, err, syscall.ECONNREFUSED)
			assert.ErrorContains(t, err, addr)
		}
		for range cap(l.(*listener).conns) {
			_, err := n.Host(a).Dial(t.Context(), b+":7946")
			require.NoError(t, err)
		}
		_, err := n.Host(a).Dial(t.Context(), b+":7946")
		assert.ErrorIs(t, err, syscall.ECONNREFUSED, "too many wait to be accepted")
		l.Close()
		_, err = n.Host(a).Dial(t.Context(), b+":7946")
		assert.ErrorIs(t, err, syscall.ECONNREFUSED)
		_, err = n.Host(a).Dial(t.Context(), "workers.internal:7946")
		assert.Error(t, err, "Dial resolves no names")
	})
}

func TestDialTakesARoundTrip(t *testing.T) {
	inBubble(t, func(t *testing.T, n *Net) {
		listen(t, n, b+":7946")
		n.Faults(50*time.Millisecond, 0, 0)
		took, err := timed(func() error { _, err := n.Host(a).Dial(t.Context(), b+":7946"); return err })
		assert.NoError(t, err)
		assert.Equal(t, 100*time.Millisecond, took)
		took, err = timed(func() error { _, err := n.Host(a).Dial(t.Context(), b+":7947"); return err })
		assert.ErrorIs(t, err, syscall.ECONNREFUSED)
		assert.Equal(t, 100*time.Millisecond, took)
	})
}

func TestDialEndsWithItsContext(t *testing.T) {
	inBubble(t, func(t *testing.T, n *Net) {
		l := listen(t, n, b+":7946")
		for _, delay := range []time.Duration{0, time.Minute} {
			n.Faults(delay, 0, 0)
			for _, wait := range []time.Duration{0, time.Second} {
				if delay == 0 && wait > 0 {
					n.Cut(a, b)
				}
				ctx, cancel := context.WithTimeout(t.Context(), wait)
				took, err := timed(func() error { _, err := n.Host(a).Dial(ctx, b+":7946"); return err })
				cancel()
				assert.ErrorIs(t, err, context.DeadlineExceeded)
				assert.ErrorContains(t, err, b+":7946")
				assert.Equal(t, wait, took)
				n.Heal(a, b)
			}
		}
		assert.Empty(t, l.(*listener).conns)
	})
}

// A dial needs both directions.
func TestDialOverACutTimesOut(t *testing.T) {
	inBubble(t, func(t *testing.T, n *Net) {
		listen(t, n, b+":7946")
		dial := func(from string) error {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			_, err := n.Host(from).Dial(ctx, b+":7946")
			return err
		}
		for _, cut := range [][2]string{{a, b}, {b, a}} {
			n.Cut(cut[0], cut[1])
			assert.ErrorIs(t, dial(a), context.DeadlineExceeded)
			assert.NoError(t, dial(c))
			assert.NoError(t, dial(b), "itself")
			n.Heal(cut[0], cut[1])
			assert.NoError(t, dial(a))
		}
		n.Split([]string{a, c}, []string{b})
		assert.Error(t, dial(a))
		assert.Error(t, dial(c))
		n.Join([]string{a}, []string{b})
		assert.NoError(t, dial(a))
		assert.Error(t, dial(c))
	})
}

func TestListenIsRefused(t *testing.T) {
	inBubble(t, func(t *testing.T, n *Net) {
		l := listen(t, n, a+":7946")
		s, err := n.Host(a).ListenPacket(a + ":7946")
		require.NoError(t, err, "packets have their own port numbers")
		for _, listen := range []func(string) error{
			func(addr string) error { _, err := n.Host(a).Listen(addr); return err },
			func(addr string) error { _, err := n.Host(a).ListenPacket(addr); return err },
		} {
			assert.ErrorIs(t, listen(a+":7946"), syscall.EADDRINUSE)
			assert.ErrorIs(t, listen(":7946"), syscall.EADDRINUSE)
			assert.ErrorIs(t, listen(b+":7946"), syscall.EADDRNOTAVAIL)
			assert.ErrorContains(t, listen("7946"), "missing port")
			assert.Error(t, listen(a+":port"))
			assert.Error(t, listen(a+":65536"))
		}
		l.Close()
		s.Close()
		l, err = n.Host(a).Listen(":7946")
		require.NoError(t, err)
		assert.Equal(t, a+":7946", l.Addr().String())
		s, err = n.Host(a).ListenPacket(":7946")
		require.NoError(t, err)
		assert.Equal(t, a+":7946", s.LocalAddr().String())
	})
}

// After the last port number the search starts again from the first, and skips numbers
// in use.
func TestPortZeroIsAnyFreePort(t *testing.T) {
	inBubble(t, func(t *testing.T, n *Net) {
		seen := make(map[string]bool)
		open := func() {
			l := listen(t, n, a+":0")
			s, err := n.Host(a).ListenPacket(a + ":0")
			require.NoError(t, err)
			for _, addr := range []string{l.Addr().String(), s.LocalAddr().String()} {
				assert.GreaterOrEqual(t, netip.MustParseAddrPort(addr).Port(), uint16(30000))
				assert.False(t, seen[addr], addr)
				seen[addr] = true
			}
		}
		open()
		n.lastPort = 65530
		for range 10 {
			open()
		}
	})
}

func TestLookup(t *testing.T) {
	inBubble(t, func(t *testing.T, n *Net) {
		n.Name("workers.internal", a, b)
		ips, err := n.Host(c).LookupHost(t.Context(), "workers.internal")
		require.NoError(t, err)
		assert.Equal(t, []string{a, b}, ips)
		ips, err = n.Host(c).LookupHost(t.Context(), a)
		require.NoError(t, err)
		assert.Equal(t, []string{a}, ips)
		_, err = n.Host(c).LookupHost(t.Context(), "nobody.internal")
		var unknown *net.DNSError
		require.ErrorAs(t, err, &unknown)
		assert.True(t, unknown.IsNotFound)
		n.Name("workers.internal")
		_, err = n.Host(c).LookupHost(t.Context(), "workers.internal")
		assert.ErrorAs(t, err, &unknown)
	})
}

func TestClosingAListener(t *testing.T) {
	inBubble(t, func(t *testing.T, n *Net) {
		l := listen(t, n, b+":7946")
		accepted := make(chan error)
		accept := func() { _, err := l.Accept(); accepted <- err }
		go accept()
		go accept()
		synctest.Wait()
		assert.NoError(t, l.Close())
		assert.ErrorIs(t, <-accepted, net.ErrClosed)
		assert.ErrorIs(t, <-accepted, net.ErrClosed)
		assert.NoError(t, l.Close())
		_, err := l.Accept()
		assert.ErrorIs(t, err, net.ErrClosed)
	})
}

// Closing a listener resets the streams that are not accepted yet, and no others.
func TestClosingAListenerResetsWaitingStreams(t *testing.T) {
	inBubble(t, func(t *testing.T, n *Net) {
		l := listen(t, n, b+":7946")
		in, err := n.Host(a).Dial(t.Context(), b+":7946")
		require.NoError(t, err)
		there, err := l.Accept()
		require.NoError(t, err)
		waits, err := n.Host(a).Dial(t.Context(), b+":7946")
		require.NoError(t, err)
		read := make(chan error)
		go func() { _, err := waits.Read(make([]byte, 1)); read <- err }()
		synctest.Wait()
		l.Close()
		assert.ErrorIs(t, <-read, syscall.ECONNRESET)
		_, err = waits.Write([]byte("x"))
		assert.ErrorIs(t, err, syscall.ECONNRESET)
		for range 100 {
			_, err = l.Accept()
			assert.ErrorIs(t, err, net.ErrClosed)
		}
		_, err = in.Write([]byte("x"))
		assert.NoError(t, err)
		_, err = there.Read(make([]byte, 1))
		assert.NoError(t, err)
	})
}

// A crash closes all sockets of a host. Code that still runs on it cannot use the
// network.
func TestCrash(t *testing.T) {
	inBubble(t, func(t *testing.T, n *Net) {
		old := n.Host(b)
		l, err := old.Listen(b + ":7946")
		require.NoError(t, err)
		s, err := old.ListenPacket(b + ":7946")
		require.NoError(t, err)
		elsewhere := listen(t, n, a+":7946")
		here, err := n.Host(a).Dial(t.Context(), b+":7946")
		require.NoError(t, err)
		there, err := l.Accept()
		require.NoError(t, err)
		waits, err := n.Host(a).Dial(t.Context(), b+":7946")
		require.NoError(t, err)
		out, err := old.Dial(t.Context(), a+":7946")
		require.NoError(t, err)
		in, err := elsewhere.Accept()
		require.NoError(t, err)
		other, err := n.Host(c).Dial(t.Context(), a+":7946")
		require.NoError(t, err)
		_, err = there.Write([]byte("on its way"))
		require.NoError(t, err)

		n.Crash(b)
		for _, end := range []net.Conn{here, there, waits, out, in} {
			_, err := end.Read(make([]byte, 1))
			assert.ErrorIs(t, err, syscall.ECONNRESET)
			_, err = end.Write([]byte("x"))
			assert.ErrorIs(t, err, syscall.ECONNRESET)
			assert.NoError(t, end.Close())
			_, err = end.Read(make([]byte, 1))
			assert.ErrorIs(t, err, net.ErrClosed)
		}
		_, err = l.Accept()
		assert.ErrorIs(t, err, net.ErrClosed)
		_, _, err = s.ReadFrom(make([]byte, 1))
		assert.ErrorIs(t, err, net.ErrClosed)
		_, err = s.WriteTo([]byte("x"), tcp(netip.MustParseAddrPort(a+":7946")))
		assert.ErrorIs(t, err, net.ErrClosed)

		_, err = old.Dial(t.Context(), a+":7946")
		assert.ErrorIs(t, err, syscall.ENETDOWN)
		_, err = old.Listen(b + ":7946")
		assert.ErrorIs(t, err, syscall.ENETDOWN)
		_, err = old.ListenPacket(b + ":7946")
		assert.ErrorIs(t, err, syscall.ENETDOWN)

		l = listen(t, n, b+":7946") // after a restart
		_, err = n.Host(a).Dial(t.Context(), b+":7946")
		assert.NoError(t, err)
		_, err = l.Accept()
		assert.NoError(t, err)
		_, err = other.Write([]byte("x"))
		assert.NoError(t, err, "other hosts are not affected")
	})
}

// A dial fails if its host crashes before the connection is established.
func TestCrashWhileDialling(t *testing.T) {
	inBubble(t, func(t *testing.T, n *Net) {
		l := listen(t, n, b+":7946")
		n.Faults(time.Second, 0, 0)
		time.AfterFunc(time.Second, func() { n.Crash(a) })
		_, err := n.Host(a).Dial(t.Context(), b+":7946")
		assert.ErrorIs(t, err, syscall.ENETDOWN)
		assert.Empty(t, l.(*listener).conns)
	})
}

// The news of a crash is subject to delays and cuts, as other data is.
func TestNewsOfACrashIsDelayedAndCut(t *testing.T) {
	inBubble(t, func(t *testing.T, n *Net) {
		here, there := connect(t, n)
		n.Faults(time.Second, 0, 0)
		n.Cut(b, a)
		n.Crash(b)
		_, err := there.Read(make([]byte, 1))
		assert.ErrorIs(t, err, syscall.ECONNRESET, "it is dead at once")
		time.Sleep(time.Minute)
		_, err = here.Write([]byte("are you there?"))
		assert.NoError(t, err)
		here.SetReadDeadline(time.Now().Add(time.Second))
		_, err = here.Read(make([]byte, 1))
		assert.ErrorContains(t, err, "timeout")
		here.SetReadDeadline(time.Time{})
		n.Heal(b, a)
		_, err = here.Read(make([]byte, 1))
		assert.ErrorIs(t, err, syscall.ECONNRESET)
		_, err = here.Write([]byte("x"))
		assert.ErrorIs(t, err, syscall.ECONNRESET)
	})
}

// All blocking on the network is durable, or time in the bubble would stand still.
func TestAllWaitingIsDurable(t *testing.T) {
	inBubble(t, func(t *testing.T, n *Net) {
		here, there := connect(t, n)
		l := listen(t, n, b+":7946")
		s, err := n.Host(a).ListenPacket(a + ":7946")
		require.NoError(t, err)
		n.Cut(a, c)
		n.Cut(b, a) // here reads nothing of what there writes
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		for _, wait := range []func() error{
			func() error { _, err := here.Read(make([]byte, 1)); return err },
			func() error { _, err := io.Copy(there, endless{}); return err },
			func() error { _, err := l.Accept(); return err },
			func() error { _, _, err := s.ReadFrom(make([]byte, 1)); return err },
			func() error { _, err := n.Host(a).Dial(ctx, c+":7946"); return err },
		} {
			go func() { ended <- wait() }()
		}
		took, _ := timed(func() error { time.Sleep(time.Hour); return nil })
		assert.Equal(t, time.Hour, took)
		select {
		case err := <-ended:
			assert.Fail(t, "a call has returned", "%v", err)
		default:
		}
		cancel()
		for _, closed := range []io.Closer{here, there, l, s} {
			closed.Close()
		}
		for range 5 {
			assert.Error(t, <-ended)
		}
	})
}

// endless is an infinite input.
type endless struct{}

func (endless) Read(b []byte) (int, error) { return len(b), nil }
