//go:build linux

package integration

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/choked/choked"
	"github.com/choked/choked/bucket"
	"github.com/choked/choked/cluster"
)

// hostile are key names of an attacker.
var hostile = []string{
	"a\nlevel=ERROR msg=forged", "\x00", "\x1b[2J\x1b[31m", `"><script>alert(1)</script>`, "\xff\xfe\xfd", "%s%n%d",
	"../../etc/passwd", "\u202egnp.exe", "{tag}", "'; DROP TABLE buckets; --", "\u2028\r\n\r\n", "key",
}

// An attacker uses many keys with hostile names. Each takes the memory of its bucket
// and its name until the bucket is full again. CHOKED_KEYS sets the number of keys.
func TestKeyFlood(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	keys := 20_000
	if s := os.Getenv("CHOKED_KEYS"); s != "" {
		var err error
		keys, err = strconv.Atoi(s)
		require.NoError(t, err)
	}
	// Not parallel with other tests, whose memory would be counted.
	var logs safeBuffer
	n, err := cluster.Start(cluster.Config{Name: "flooded", Bind: "127.0.0.1:0", Dir: t.TempDir(), Logger: slog.New(slog.NewTextHandler(&logs, nil))})
	require.NoError(t, err)
	defer n.Close()
	limits, charge := choked.MustLimits("requests 1/m burst 100; tokens 1000/m burst 100000"), bucket.Cost{Requests: 50, Tokens: 5000}
	name := func(i int) string { return fmt.Sprint(hostile[i%len(hostile)], i) }
	all := func(change func(a *bucket.Adjustment)) {
		t.Helper()
		var next atomic.Int64
		var callers sync.WaitGroup
		for range 256 {
			callers.Go(func() {
				for i := int(next.Add(1)) - 1; i < keys; i = int(next.Add(1)) - 1 {
					a := bucket.Adjustment{Key: name(i), Limits: limits}
					change(&a)
					if err := n.Adjust(context.Background(), a); err != nil {
						t.Errorf("adjust %q: %v", a.Key, err)
						return
					}
				}
			})
		}
		callers.Wait()
		require.False(t, t.Failed())
	}
	names := 0
	for i := range keys {
		names += len(name(i))
	}
	const constant = 2 << 20
	before := heap()
	began := time.Now()
	all(func(a *bucket.Adjustment) { a.Charge = charge })
	took := time.Since(began)
	live := heap() - before
	assert.Equal(t, keys, len(n.Buckets()), "buckets that are not full")
	t.Logf("figures: %d keys in %v: %d bytes each, of which %d are the name", keys, took.Round(time.Millisecond), live/keys, names/keys)
	assert.LessOrEqual(t, live, 300*keys+names+constant, "bytes for %d keys, which have %d bytes of names", keys, names)

	// The whole charge is returned. Each operation checks a few buckets and forgets
	// the full ones.
	one := bucket.Ask{Key: "one", ID: bucket.LeaseID{Holder: 1}, Limits: limits, Need: bucket.Cost{Requests: 1}, Want: bucket.Cost{Requests: 1}}
	lease, err := n.Lease(context.Background(), one)
	require.NoError(t, err)
	require.NoError(t, n.Settle(context.Background(), []bucket.Settlement{{Key: one.Key, ID: one.ID}}))
	all(func(a *bucket.Adjustment) { a.Return, a.Since = charge, lease.At })
	all(func(a *bucket.Adjustment) { a.Key = one.Key })
	assert.Zero(t, len(n.Buckets()), "buckets that are not full")
	left := heap() - before
	t.Logf("figures: %d bytes left for each former key", left/keys)
	assert.LessOrEqual(t, left, 64*keys+constant, "bytes left, when all buckets are full again")

	assert.NotContains(t, logs.String(), "\x1b")
	assert.NotContains(t, logs.String(), "\nlevel=ERROR msg=forged")
}

// heap returns the bytes of the heap that are in use.
func heap() int {
	var m runtime.MemStats
	for range 2 { // objects with finalizers are freed by the second collection
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

// safeBuffer is a buffer that is safe for concurrent use.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
