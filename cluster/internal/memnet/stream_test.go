package memnet

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// read calls Read once, for at most size bytes.
func read(c net.Conn, size int) (string, error) {
	b := make([]byte, size)
	n, err := c.Read(b)
	return string(b[:n]), err
}

func write(t *testing.T, c net.Conn, s string) {
	t.Helper()
	n, err := io.WriteString(c, s)
	require.NoError(t, err)
	require.Equal(t, len(s), n)
}

// A stream carries all data in order, in both directions at once, whatever the sizes of
// writes and reads.
func TestStreamCarriesAllInOrder(t *testing.T) {
	for _, delay := range []time.Duration{0, time.Millisecond} {
		inBubble(t, func(t *testing.T, n *Net) {
			here, there := connect(t, n)
			n.Faults(delay, 0, 0)
			var all sync.WaitGroup
			for i, way := range [][2]net.Conn{{here, there}, {there, here}} {
				rng := rand.New(rand.NewPCG(uint64(i), 0))
				data := make([]byte, 4*window)
				for i := range data {
					data[i] = byte(rng.Uint32())
				}
				all.Go(func() {
					for rest := data; len(rest) > 0; {
						size := min(len(rest), 1+rand.IntN(10_000))
						buf := bytes.Clone(rest[:size])
						written, err := way[0].Write(buf)
						if !assert.NoError(t, err) || !assert.Equal(t, size, written) {
							return
						}
						clear(buf) // the writer may reuse its buffer
						rest = rest[size:]
					}
				})
				all.Go(func() {
					var got []byte
					for len(got) < len(data) {
						part, err := read(way[1], 1+rand.IntN(10_000))
						if !assert.NoError(t, err) {
							return
						}
						got = append(got, part...)
					}
					assert.True(t, bytes.Equal(data, got))
				})
			}
			all.Wait()
		})
	}
}

func TestReadReturnsAvailableData(t *testing.T) {
	inBubble(t, func(t *testing.T, n *Net) {
		here, there := connect(t, n)
		write(t, here, "abcde")
		write(t, here, "")
		write(t, here, "f")
		for _, want := range []string{"ab", "cd", "e", "f"} {
			got, err := read(there, 2)
			assert.NoError(t, err)
			assert.Equal(t, want, got)
		}
	})
}

func TestReadDeadline(t *testing.T) {
	inBubble(t, func(t *testing.T, n *Net) {
		here, there := connect(t, n)
		readIn := func() (time.Duration, error) {
			return timed(func() error { _, err := read(there, 9); return err })
		}
		there.SetReadDeadline(time.Now().Add(time.Second))
		took, err := readIn()
		assert.ErrorIs(t, err, os.ErrDeadlineExceeded)
		var timeout net.Error
		require.ErrorAs(t, err, &timeout)
		assert.True(t, timeout.Timeout())
		assert.Equal(t, time.Second, took)

		write(t, here, "late")
		took, err = readIn()
		assert.ErrorIs(t, err, os.ErrDeadlineExceeded, "a past deadline holds until it is changed")
		assert.Zero(t, took)
		_, err = there.Write([]byte("x"))
		assert.NoError(t, err, "the deadline is for reads")
		there.SetReadDeadline(time.Now().Add(time.Second))
		got, err := read(there, 9)
		assert.NoError(t, err)
		assert.Equal(t, "late", got)

		// Changed during a read: to later, to earlier, to the past, to never.
		for _, tt := range []struct{ first, then, want time.Duration }{
			{time.Second, 3 * time.Second, 3 * time.Second},
			{time.Hour, 2 * time.Second, 2 * time.Second},
			{time.Hour, -time.Hour, time.Millisecond},
			{0, 2 * time.Second, 2 * time.Second},
		} {
			began := time.Now()
			there.SetReadDeadline(time.Time{})
			if tt.first > 0 {
				there.SetReadDeadline(began.Add(tt.first))
			}
			time.AfterFunc(time.Millisecond, func() { there.SetReadDeadline(began.Add(tt.then)) })
			took, err = readIn()
			assert.ErrorIs(t, err, os.ErrDeadlineExceeded)
			assert.Equal(t, tt.want, took)
		}
		there.SetReadDeadline(time.Now().Add(time.Second))
		time.AfterFunc(time.Millisecond, func() { there.SetReadDeadline(time.Time{}) })
		time.AfterFunc(time.Hour, func() { here.Write([]byte("x")) })
		took, err = readIn()
		assert.NoError(t, err)
		assert.Equal(t, time.Hour, took)
	})
}

func TestWriteDeadline(t *testing.T) {
	inBubble(t, func(t *testing.T, n *Net) {
		here, there := connect(t, n)
		here.SetWriteDeadline(time.Now().Add(time.Second))
		took, err := timed(func() error { _, err := io.Copy(here, endless{}); return err })
		assert.ErrorIs(t, err, os.ErrDeadlineExceeded)
		assert.Equal(t, time.Second, took)
		go io.Copy(io.Discard, there)
		synctest.Wait()
		_, err = here.Write([]byte("x"))
		assert.ErrorIs(t, err, os.ErrDeadlineExceeded, "a past deadline holds until it is changed")
		here.SetWriteDeadline(time.Time{})
		_, err = here.Write([]byte("x"))
		assert.NoError(t, err)
	})
}

func TestDeadlineIsForBoth(t *testing.T) {
	inBubble(t, func(t *testing.T, n *Net) {
		here, there := connect(t, n)
		assert.NoError(t, here.SetDeadline(time.Now()))
		_, err := read(here, 1)
		assert.ErrorIs(t, err, os.ErrDeadlineExceeded)
		_, err = here.Write([]byte("x"))
		assert.ErrorIs(t, err, os.ErrDeadlineExceeded)
		write(t, there, "the other end has deadlines of its own")
		here.Close()
		_, err = read(here, 1)
		assert.ErrorIs(t, err, net.ErrClosed, "being closed takes precedence")
	})
}

// Closing one end ends both directions there. The other end still reads the data that
// was sent before.
func TestHalfOfAStreamIsClosed(t *testing.T) {
	inBubble(t, func(t *testing.T, n *Net) {
		here, there := connect(t, n)
		write(t, here, "farewell")
		write(t, there, "never read")
		assert.NoError(t, here.Close())
		_, err := read(here, 1)
		assert.ErrorIs(t, err, net.ErrClosed)
		_, err = here.Write([]byte("x"))
		assert.ErrorIs(t, err, net.ErrClosed)
		_, err = there.Write([]byte("x"))
		assert.ErrorIs(t, err, syscall.EPIPE)
		b, err := io.ReadAll(there)
		assert.NoError(t, err)
		assert.Equal(t, "farewell", string(b))
		_, err = read(there, 1)
		assert.Equal(t, io.EOF, err)

		assert.NoError(t, there.Close())
		for _, end := range []net.Conn{here, there} {
			assert.NoError(t, end.Close(), "again")
			_, err = read(end, 1)
			assert.ErrorIs(t, err, net.ErrClosed)
			_, err = end.Write([]byte("x"))
			assert.ErrorIs(t, err, net.ErrClosed)
		}
		assert.Empty(t, n.conns)
	})
}

func TestCloseWakesReadersAndWriters(t *testing.T) {
	for name, tt := range map[string]struct {
		close       func(n *Net, here, there net.Conn)
		read, write error
	}{
		"this end":       {func(_ *Net, here, _ net.Conn) { here.Close() }, net.ErrClosed, net.ErrClosed},
		"the other end":  {func(_ *Net, _, there net.Conn) { there.Close() }, io.EOF, syscall.EPIPE},
		"this host":      {func(n *Net, _, _ net.Conn) { n.Crash(a) }, syscall.ECONNRESET, syscall.ECONNRESET},
		"the other host": {func(n *Net, _, _ net.Conn) { n.Crash(b) }, syscall.ECONNRESET, syscall.ECONNRESET},
		"this end, cut off": {func(n *Net, here, _ net.Conn) {
			n.Split([]string{a}, []string{b})
			here.Close()
		}, net.ErrClosed, net.ErrClosed},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, n *Net) {
				here, there := connect(t, n)
				reads, writes := make(chan error), make(chan error)
				for range 2 {
					go func() { _, err := read(here, 1); reads <- err }()
					go func() { _, err := io.Copy(here, endless{}); writes <- err }()
				}
				synctest.Wait()
				tt.close(n, here, there)
				for range 2 {
					assert.ErrorIs(t, <-reads, tt.read)
					assert.ErrorIs(t, <-writes, tt.write)
				}
			})
		})
	}
}

// A writer blocks while window bytes are unread.
func TestWriterWaitsForTheReader(t *testing.T) {
	inBubble(t, func(t *testing.T, n *Net) {
		here, there := connect(t, n)
		const size = 10_000
		written := make(chan int, 1000)
		go func() {
			for range 100 {
				n, err := here.Write(make([]byte, size))
				assert.NoError(t, err)
				written <- n
			}
		}()
		synctest.Wait()
		assert.Equal(t, window/size+1, len(written))
		there.Write([]byte("x"))
		_, err := read(here, 1)
		assert.NoError(t, err, "the other direction does not block")

		first := len(written)
		_, err = io.ReadFull(there, make([]byte, 3*size))
		require.NoError(t, err)
		synctest.Wait()
		assert.Equal(t, first+3, len(written))
		_, err = io.ReadFull(there, make([]byte, 97*size))
		require.NoError(t, err)
		synctest.Wait()
		assert.Equal(t, 100, len(written))
	})
}

// Data and the end of a stream are delayed, each from when it is sent.
func TestStreamIsDelayed(t *testing.T) {
	inBubble(t, func(t *testing.T, n *Net) {
		here, there := connect(t, n)
		n.Faults(50*time.Millisecond, 0, 0)
		began := time.Now()
		go func() {
			for _, s := range []string{"a", "b"} {
				write(t, here, s)
			}
			time.Sleep(10 * time.Millisecond)
			write(t, here, "c")
			time.Sleep(10 * time.Millisecond)
			here.Close()
		}()
		for _, tt := range []struct {
			want string
			at   time.Duration
		}{{"a", 50 * time.Millisecond}, {"b", 50 * time.Millisecond}, {"c", 60 * time.Millisecond}} {
			got, err := read(there, 9)
			assert.NoError(t, err)
			assert.Equal(t, tt.want, got)
			assert.Equal(t, tt.at, time.Since(began))
		}
		_, err := there.Write([]byte("nobody there"))
		assert.NoError(t, err, "the news has not arrived yet")
		_, err = read(there, 9)
		assert.Equal(t, io.EOF, err)
		assert.Equal(t, 70*time.Millisecond, time.Since(began))
		_, err = there.Write([]byte("x"))
		assert.ErrorIs(t, err, syscall.EPIPE)
	})
}

// Data that was sent while the delay was long is not overtaken.
func TestStreamKeepsItsOrderWhenDelaysShrink(t *testing.T) {
	inBubble(t, func(t *testing.T, n *Net) {
		here, there := connect(t, n)
		began := time.Now()
		for i, delay := range []time.Duration{100, 10, 0, 50} {
			n.Faults(delay*time.Millisecond, 0, 0)
			write(t, here, strings.Repeat(string(rune('a'+i)), 3))
		}
		n.Faults(0, 0, 0)
		here.Close()
		b, err := io.ReadAll(there)
		assert.NoError(t, err)
		assert.Equal(t, "aaabbbcccddd", string(b))
		assert.Equal(t, 100*time.Millisecond, time.Since(began))
	})
}

// A cut affects one direction, without an error: the writer notices only that its window
// is full, and no data reaches the reader. After the cut is healed all data arrives.
func TestCutBlocksAStream(t *testing.T) {
	inBubble(t, func(t *testing.T, n *Net) {
		here, there := connect(t, n)
		write(t, here, "before, ")
		n.Cut(a, b)
		write(t, here, "during, ")
		there.SetReadDeadline(time.Now().Add(time.Second))
		_, err := read(there, 9)
		assert.ErrorIs(t, err, os.ErrDeadlineExceeded)
		there.SetReadDeadline(time.Time{})
		write(t, there, "the other way")
		got, err := read(here, 99)
		assert.NoError(t, err)
		assert.Equal(t, "the other way", got)

		heard := make(chan string)
		go func() {
			b, err := io.ReadAll(there)
			assert.NoError(t, err)
			heard <- string(b)
		}()
		time.Sleep(time.Hour)
		select {
		case s := <-heard:
			assert.Fail(t, "heard over the cut", s)
		default:
		}
		n.Cut(a, b) // a second time, without effect
		n.Heal(b, a)
		time.Sleep(time.Hour)
		n.Heal(a, b)
		write(t, here, "after")
		here.Close()
		assert.Equal(t, "before, during, after", <-heard)
	})
}

// The news that the other end was closed does not pass a cut, neither to the reader nor
// to the writer.
func TestCutHidesTheEnd(t *testing.T) {
	inBubble(t, func(t *testing.T, n *Net) {
		here, there := connect(t, n)
		n.Cut(b, a)
		there.Close()
		write(t, here, "are you there?")
		here.SetReadDeadline(time.Now().Add(time.Second))
		_, err := read(here, 1)
		assert.ErrorIs(t, err, os.ErrDeadlineExceeded)
		here.SetReadDeadline(time.Time{})

		reads, writes := make(chan error), make(chan error)
		go func() { _, err := read(here, 1); reads <- err }()
		go func() { _, err := io.Copy(here, endless{}); writes <- err }()
		time.Sleep(time.Hour)
		n.Heal(b, a)
		assert.Equal(t, io.EOF, <-reads)
		assert.ErrorIs(t, <-writes, syscall.EPIPE)
	})
}
