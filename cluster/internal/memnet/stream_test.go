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

// read reads once, at most size bytes.
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

// What goes in at one end comes out at the other, both ways at once, whatever
// the sizes of writes and reads.
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
						clear(buf) // it is the writer's again
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

func TestReadTakesWhatThereIs(t *testing.T) {
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
			return within(func() error { _, err := read(there, 9); return err })
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
		assert.ErrorIs(t, err, os.ErrDeadlineExceeded, "it is over until it is set anew")
		assert.Zero(t, took)
		_, err = there.Write([]byte("x"))
		assert.NoError(t, err, "it is for reading")
		there.SetReadDeadline(time.Now().Add(time.Second))
		got, err := read(there, 9)
		assert.NoError(t, err)
		assert.Equal(t, "late", got)

		// Set while one waits: later, earlier, at once, never.
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
		took, err := within(func() error { _, err := io.Copy(here, endless{}); return err })
		assert.ErrorIs(t, err, os.ErrDeadlineExceeded)
		assert.Equal(t, time.Second, took)
		go io.Copy(io.Discard, there)
		synctest.Wait()
		_, err = here.Write([]byte("x"))
		assert.ErrorIs(t, err, os.ErrDeadlineExceeded, "it is over until it is set anew")
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
		assert.ErrorIs(t, err, net.ErrClosed, "that it is closed comes first")
	})
}

// Closing ends both directions for who closes; the other end reads what was
// sent before.
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

func TestCloseWakesWhoWaits(t *testing.T) {
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

// A writer waits once so much is under way, until some of it is read.
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
		assert.NoError(t, err, "the other direction is free")

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

// Everything takes its time one way, all at once, the end as well.
func TestStreamTakesItsTime(t *testing.T) {
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
		assert.NoError(t, err, "it is not known yet")
		_, err = read(there, 9)
		assert.Equal(t, io.EOF, err)
		assert.Equal(t, 70*time.Millisecond, time.Since(began))
		_, err = there.Write([]byte("x"))
		assert.ErrorIs(t, err, syscall.EPIPE)
	})
}

// What was sent when the network was slow is not overtaken.
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

// A cut is one way, and silent: who writes notices nothing until there is no
// room, who reads hears nothing. Healed, all of it arrives.
func TestCutHoldsAStreamUp(t *testing.T) {
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
		n.Cut(a, b) // again, for nothing
		n.Heal(b, a)
		time.Sleep(time.Hour)
		n.Heal(a, b)
		write(t, here, "after")
		here.Close()
		assert.Equal(t, "before, during, after", <-heard)
	})
}

// That the other end is closed is not known over a cut, neither to who reads
// nor to who writes.
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
