package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/choked/choked"
	"github.com/choked/choked/bucket"
)

// The error names the field and what is expected.
func TestStartRefusesAnInvalidConfig(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	for _, tt := range []struct {
		cfg  Config
		want []string
	}{
		{Config{Name: "a b"}, []string{`"a b"`, "letters"}},
		{Config{Name: strings.Repeat("x", 65)}, []string{"xxx", "up to 64"}},
		{Config{Bind: "7946"}, []string{`"7946"`, "host:port"}},
		{Config{Bind: "127.0.0.1:seven"}, []string{`"seven"`, "1 to 65535"}},
		{Config{Bind: "127.0.0.1:70000"}, []string{`"70000"`, "1 to 65535"}},
		{Config{Bind: "127.0.0.1:0", Advertise: "10.0.0.1"}, []string{`"10.0.0.1"`, "host:port"}},
		{Config{Bind: "127.0.0.1:0", Join: []string{"workers.internal"}}, []string{`"workers.internal"`, "host:port"}},
		{Config{Bind: "127.0.0.1:0", Join: []string{":7946"}}, []string{`":7946"`, "no host"}},
		{Config{Bind: "127.0.0.1:0", Join: []string{"a:0"}}, []string{`"0"`, "1 to 65535"}},
		{Config{Bind: "127.0.0.1:0", Voters: 2}, []string{"2 voters", "1, 3 or 5"}},
		{Config{Bind: "127.0.0.1:0", ColdStart: 2}, []string{"cold start 2", "Full or Empty"}},
		{Config{Bind: "127.0.0.1:0", Expect: -1}, []string{"expect -1 members", "0 to 1000"}},
		{Config{Bind: "127.0.0.1:0", Advertise: "2001:db8::"}, []string{`"2001:db8::"`, `"[fd00::1]:7946"`}},
		{Config{Bind: "127.0.0.1:0", Timeout: -time.Second}, []string{"-1s", "more than 0"}},
		{Config{Bind: "0.0.0.0:0"}, []string{"0.0.0.0:0", "secret"}},
		{Config{Bind: "127.0.0.1:0", Advertise: "10.0.0.1:7946"}, []string{"without a secret"}},
		{Config{Bind: "127.0.0.1:0", Dir: file}, []string{file}},
		{Config{Bind: "127.0.0.1:0", Dir: filepath.Join(file, "below")}, []string{file}},
	} {
		n, err := Start(tt.cfg)
		if !assert.Error(t, err, "%v", tt.cfg) {
			n.Close()
			continue
		}
		for _, want := range append(tt.want, "cluster: ") {
			assert.ErrorContains(t, err, want)
		}
		assert.Equal(t, 1, strings.Count(err.Error(), "cluster: "), "the prefix comes once: %v", err)
	}
}

// "$(POD_IP):7946" has no brackets on a network of IPv6 alone.
func TestBracketsOfAnAdvertisedAddressMayBeMissing(t *testing.T) {
	for s, want := range map[string]string{
		"2600::1:7946":            "[2600::1]:7946",
		"2600:1:2:3:4:5:6:7:7946": "[2600:1:2:3:4:5:6:7]:7946",
		"::1:7946":                "[::1]:7946",
		"[2600::1]:7946":          "[2600::1]:7946",
		"10.0.0.1:7946":           "10.0.0.1:7946",
		"h1:7946":                 "h1:7946",
		"2001:db8::1":             "2001:db8::1",          // the port is missing
		"2001:db8:0:1:2:3:4:5":    "2001:db8:0:1:2:3:4:5", // seven groups before the last colon are no address
		"":                        "",
		"7946":                    "7946",
		":7946":                   ":7946",
		"fe80::1%eth0:7946":       "[fe80::1%eth0]:7946",
	} {
		assert.Equal(t, want, withBrackets(s))
	}
	inBubble(t, func(t *testing.T, c *fleet) {
		cfg := c.config(1)
		cfg.Advertise = "2600::1:7946"
		n := c.start(cfg)
		assert.Equal(t, "[2600::1]:7946", n.Addr())
	})
}

func TestStartFailsIfTheTCPPortIsTaken(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	_, err = Start(Config{Bind: l.Addr().String()})
	assert.ErrorContains(t, err, l.Addr().String())
	assert.ErrorContains(t, err, "address already in use")
}

func TestStartFailsIfTheUDPPortIsTaken(t *testing.T) {
	l, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	_, err = Start(Config{Bind: l.LocalAddr().String()})
	assert.ErrorContains(t, err, "address already in use")
}

// A directory that is damaged, incomplete or in use is refused: a voter without its
// whole log could vote twice in a term.
func TestStartRefusesADamagedDir(t *testing.T) {
	whole := func(t *testing.T) string {
		dir := t.TempDir()
		n, err := Start(Config{Bind: "127.0.0.1:0", Dir: dir})
		require.NoError(t, err)
		_, err = n.Lease(t.Context(), oneRequest("the key", 1))
		require.NoError(t, err)
		require.NoError(t, n.Close())
		return dir
	}
	// flip changes one bit of the log's file, behind bytes after each occurrence of text.
	flip := func(text string, behind int) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			b, err := os.ReadFile(filepath.Join(dir, logFile))
			require.NoError(t, err)
			require.True(t, bytes.Contains(b, []byte(text)))
			for i := range len(b) - len(text) - behind {
				if bytes.HasPrefix(b[i:], []byte(text)) {
					b[i+len(text)+behind] ^= 1
				}
			}
			require.NoError(t, os.WriteFile(filepath.Join(dir, logFile), b, 0o600))
		}
	}
	// forget changes the number of the last write in one of the first two pages.
	forget := func(page int) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			b, err := os.ReadFile(filepath.Join(dir, logFile))
			require.NoError(t, err)
			b[page*os.Getpagesize()+64] ^= 64
			require.NoError(t, os.WriteFile(filepath.Join(dir, logFile), b, 0o600))
		}
	}
	for _, tt := range []struct {
		name  string
		spoil func(t *testing.T, dir string)
		want  string
	}{
		{"the identity is missing", func(t *testing.T, dir string) {
			require.NoError(t, os.Remove(filepath.Join(dir, identityFile)))
		}, "without identity.json"},
		{"the log is missing", func(t *testing.T, dir string) {
			require.NoError(t, os.Remove(filepath.Join(dir, logFile)))
		}, "raft.db is gone"},
		{"the identity is damaged", func(t *testing.T, dir string) {
			require.NoError(t, os.WriteFile(filepath.Join(dir, identityFile), []byte("{"), 0o600))
		}, "identity.json is damaged"},
		{"a bit of the identity is flipped", func(t *testing.T, dir string) {
			b, err := os.ReadFile(filepath.Join(dir, identityFile))
			require.NoError(t, err)
			b[bytes.Index(b, []byte(`"node":"`))+len(`"node":"`)] ^= 1
			require.NoError(t, os.WriteFile(filepath.Join(dir, identityFile), b, 0o600))
		}, "identity.json is damaged"},
		{"the log is truncated", func(t *testing.T, dir string) {
			require.NoError(t, os.Truncate(filepath.Join(dir, logFile), 5000))
		}, "raft.db"},
		{"the log is truncated at a page, and reads behind it are faults", func(t *testing.T, dir string) {
			require.NoError(t, os.Truncate(filepath.Join(dir, logFile), 16384))
		}, "raft.db"},
		{"the log is empty", func(t *testing.T, dir string) {
			require.NoError(t, os.Truncate(filepath.Join(dir, logFile), 0))
		}, "raft.db is gone"},
		{"the log is another kind of file", func(t *testing.T, dir string) {
			require.NoError(t, os.WriteFile(filepath.Join(dir, logFile), bytes.Repeat([]byte("no log "), 10000), 0o600))
		}, "raft.db"},
		{"a bit of an entry is flipped", flip("the key", 0), "is damaged: its checksum does not match"},
		{"a bit of the first entry is flipped", func(t *testing.T, dir string) {
			flip("Servers", 4)(t, dir) // in the configuration entry
		}, "entry 1 is damaged: its checksum does not match"},
		{"a bit of the term is flipped", flip("CurrentTerm", 7), "CurrentTerm is damaged"},
		{"a bit of the number in page 0 is flipped", forget(0), "page 0 is damaged"},
		{"a bit of the number in page 1 is flipped", forget(1), "page 1 is damaged"},
		{"another process uses it", func(t *testing.T, dir string) {
			n, err := Start(Config{Bind: "127.0.0.1:0", Dir: dir})
			require.NoError(t, err)
			t.Cleanup(func() { n.Close() })
		}, "in use by another process"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := whole(t)
			tt.spoil(t, dir)
			n, err := Start(Config{Bind: "127.0.0.1:0", Dir: dir})
			if !assert.ErrorContains(t, err, tt.want) {
				n.Close()
			}
			assert.ErrorContains(t, err, dir)
		})
	}
}

func oneRequest(key string, seq uint64) bucket.Ask {
	one := bucket.Cost{Requests: 1}
	return bucket.Ask{Key: key, ID: bucket.LeaseID{Holder: 9, Seq: seq}, Limits: choked.MustLimits("requests 10/h"), Need: one, Want: one}
}

// A node keeps its id, its cluster and the buckets in its directory. While no node runs,
// buckets do not refill.
func TestRestartFromDir(t *testing.T) {
	dir := t.TempDir()
	cfg := Config{Bind: "127.0.0.1:0", Dir: dir}
	first, err := Start(cfg)
	require.NoError(t, err)
	for i := range 10 {
		l, err := first.Lease(t.Context(), oneRequest("k", uint64(i)))
		require.NoError(t, err)
		require.True(t, l.OK)
	}
	id, of := first.ID(), first.cluster()
	require.NoError(t, first.Close())

	second, err := Start(cfg) // on another port, too
	require.NoError(t, err)
	defer second.Close()
	l, err := second.Lease(t.Context(), oneRequest("k", 100))
	require.NoError(t, err)
	assert.False(t, l.OK, "the burst was spent before the restart")
	assert.Equal(t, id, second.ID())
	assert.Equal(t, of, second.cluster())
}

// A node with another secret does not become a member, and its operations fail with
// ErrNoQuorum.
func TestNodeWithAWrongSecretCannotJoin(t *testing.T) {
	inBubble(t, func(t *testing.T, c *fleet) {
		var log, outside lockedBuffer
		c.log = slog.New(slog.NewTextHandler(&log, nil))
		c.startThree()
		cfg := c.config(4)
		cfg.Secret = "open barley"
		cfg.Logger = slog.New(slog.NewTextHandler(&outside, nil))
		outsider := c.start(cfg)
		began := time.Now()
		_, err := outsider.Lease(t.Context(), oneRequest("k", 1))
		assert.ErrorIs(t, err, choked.ErrNoQuorum)
		assert.Equal(t, 5*time.Second, time.Since(began))
		choke := choked.New(outsider)
		limiter, err := choke.Limiter("k", choked.MustLimits("requests 1/s"), nil)
		require.NoError(t, err)
		cause := "no cluster found yet: "
		for i := range 3 {
			cause += fmt.Sprintf("%s:7946 answers, but not to our secret%s", ip(1+i), []string{", ", ", ", ""}[i])
		}
		cause += ": want the same secret on all nodes"
		assert.EqualError(t, limiter.Wait(t.Context(), choked.Cost{Requests: 1}), `choked: key "k": lease: store unavailable: no quorum: `+cause)
		require.NoError(t, choke.Close())
		assert.EqualError(t, outsider.Health(), cause)
		assert.Len(t, outsider.Members(), 1)
		assert.Len(t, c.leader().Members(), 3)

		// Both sides log it once a minute.
		time.Sleep(90*time.Second - time.Since(began))
		lines := func(log *lockedBuffer, parts ...string) (n int) {
			for line := range strings.Lines(log.String()) {
				if strings.Contains(line, "level=WARN") && !slices.ContainsFunc(parts, func(p string) bool { return !strings.Contains(line, p) }) {
					n++
				}
			}
			return n
		}
		for i := range 3 {
			assert.Equal(t, 2, lines(&outside, "answers, but not to our secret", "addr="+ip(1+i)+":7946"))
			assert.Equal(t, 2, lines(&log, fmt.Sprintf("node=worker-%d", 1+i), "peer has another secret", "from="+ip(4)+":"))
		}
		assert.Equal(t, 1, lines(&outside, "found no cluster", "answers, but not to our secret", "want the same secret on all nodes"))
		for _, n := range c.nodes {
			assert.Equal(t, n == outsider, n.Health() != nil, "peers do not harm a node that has a cluster")
		}

		// With the right secret the node is a member, and the error ends.
		require.NoError(t, outsider.Close())
		delete(c.nodes, outsider.Addr())
		again := c.start(c.config(4))
		c.await("it joins", func() bool { return again.Health() == nil })
		assert.Empty(t, again.port.WrongSecrets())
	})
}

// A founder that waits for other nodes reports that they dial with another secret.
func TestFounderNamesPeersWithAWrongSecret(t *testing.T) {
	inBubble(t, func(t *testing.T, c *fleet) {
		c.seeds = []string{ip(1) + ":7946"}
		first := c.config(1)
		first.Join = append(first.Join, ip(9)+":7946", ip(8)+":7946") // not there
		founder := c.start(first)
		cfg := c.config(2)
		cfg.Secret = "open barley"
		c.start(cfg)
		time.Sleep(5 * time.Second)
		assert.ErrorContains(t, founder.Health(), "no cluster found yet: "+ip(2)+" dials us, but with another secret: want the same secret on all nodes; only 1 of the nodes in Join answer")
	})
}

func TestShortSecretIsLoggedOnce(t *testing.T) {
	for _, tt := range []struct {
		secret   string
		previous []string
		warnings int
	}{
		{"", nil, 0},
		{"fifteen bytes..", nil, 1},
		{"sixteen bytes...", nil, 0},
		{"sixteen bytes...", []string{"x"}, 1},
		{"x", []string{"y"}, 1},
	} {
		var log lockedBuffer
		n, err := Start(Config{Bind: "127.0.0.1:0", Secret: tt.secret, PreviousSecrets: tt.previous, Logger: slog.New(slog.NewTextHandler(&log, nil))})
		require.NoError(t, err)
		require.NoError(t, n.Close())
		assert.Equal(t, tt.warnings, strings.Count(log.String(), "secret is short"), "%q %q", tt.secret, tt.previous)
		if tt.secret != "" {
			assert.NotContains(t, log.String(), tt.secret+" ")
		}
	}
}

// Seeds that cannot be reached are retried until they can, and that is logged once.
func TestUnreachableSeedsAreRetried(t *testing.T) {
	inBubble(t, func(t *testing.T, c *fleet) {
		c.seeds = []string{ip(1) + ":7946"}
		var log lockedBuffer
		cfg := c.config(2)
		cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
		node := c.start(cfg)
		time.Sleep(30 * time.Second)
		assert.ErrorContains(t, node.Health(), "no cluster found yet")
		assert.Contains(t, log.String(), "failed to reach seeds, retrying")
		assert.Contains(t, log.String(), ip(1)+":7946")
		assert.Equal(t, 1, strings.Count(log.String(), "failed to reach seeds"), "logged once, not for each probe")
		c.start(c.config(1))
		c.await("the node has joined the cluster", func() bool { return node.Health() == nil })
	})
}

// The nodes of two clusters refuse each other. The one that gives way reports it in
// Health. It keeps its cluster if it has a Dir, and else joins the other one, also if
// its own Join is empty.
func TestTwoClustersDoNotMerge(t *testing.T) {
	for _, inMemory := range []bool{false, true} {
		dirs := []string{t.TempDir(), t.TempDir()}
		inBubble(t, func(t *testing.T, c *fleet) {
			var ones []*Node
			for i := 1; i <= 2; i++ {
				cfg := c.config(i)
				cfg.Join = nil // each founds a cluster
				if !inMemory {
					cfg.Dir = dirs[i-1]
				}
				ones = append(ones, c.start(cfg))
				time.Sleep(20 * time.Second)
			}
			older, younger := ones[0].cluster(), ones[1].cluster()
			_, err := ones[0].gossip.list.Join([]string{ip(2) + ":7946"})
			assert.ErrorContains(t, err, fmt.Sprintf("refuses: this node is of cluster %q", younger))
			if inMemory {
				c.within(10*time.Second, "one cluster", func() bool { return c.isOneCluster(2) })
				assert.Equal(t, older, ones[1].cluster())
				return
			}
			for range 2 {
				time.Sleep(2 * time.Minute)
				assert.ErrorContains(t, ones[1].Health(), "two clusters do not merge")
				assert.NoError(t, ones[0].Health(), "the older one is well")
				assert.NotEqual(t, ones[0].cluster(), ones[1].cluster())
				for _, n := range ones {
					assert.Len(t, n.Members(), 1)
				}
			}
		})
	}
}

// The order in which the seeds start does not matter.
func TestSeedsStartedAtOnceFoundOneCluster(t *testing.T) {
	inBubble(t, func(t *testing.T, c *fleet) {
		nodes := c.startThree()
		for _, n := range nodes {
			assert.Equal(t, nodes[0].cluster(), n.cluster())
		}
	})
}

// A founder that has lost its state joins the cluster of the other seeds.
func TestFounderWithoutItsLogJoins(t *testing.T) {
	inBubble(t, func(t *testing.T, c *fleet) {
		nodes := c.startThree()
		of := nodes[0].cluster()
		c.crash(nodes[0])
		c.await("another node leads", func() bool { return c.leader() != nil })
		again := c.start(c.config(1))
		c.await("it is a voter again", func() bool { return c.voters() == 3 && again.cluster() != "" })
		assert.Equal(t, of, again.cluster())
	})
}

// A founder that has lost its state and cannot reach the other seeds founds no second
// cluster.
func TestIsolatedFounderFoundsNoCluster(t *testing.T) {
	inBubble(t, func(t *testing.T, c *fleet) {
		nodes := c.startThree()
		c.crash(nodes[0])
		c.net.Split([]string{ip(1)}, []string{ip(2), ip(3)})
		again := c.start(c.config(1))
		time.Sleep(time.Minute)
		assert.Empty(t, again.cluster())
		c.net.Join([]string{ip(1)}, []string{ip(2), ip(3)})
		c.await("it has joined the old cluster", func() bool { return again.cluster() == nodes[1].cluster() })
	})
}

// A DNS name stands for all its addresses.
func TestJoinByDNSName(t *testing.T) {
	inBubble(t, func(t *testing.T, c *fleet) {
		c.net.Name("workers.internal", ip(3), ip(1), ip(2))
		c.seeds = []string{"workers.internal:7946"}
		for i := 1; i <= 3; i++ {
			c.start(c.config(i))
		}
		c.await("three voters", func() bool { return c.voters() == 3 })
	})
}

func TestConfigPrintsNoSecrets(t *testing.T) {
	cfg := Config{Secret: "hush-hush", PreviousSecrets: []string{"hush-before"}}
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
		fmt.Fprintf(&out, verb+verb, cfg, &cfg)
	}
	slog.New(slog.NewJSONHandler(&out, nil)).Info("start", "config", cfg)
	require.NoError(t, json.NewEncoder(&out).Encode(cfg))
	assert.NotContains(t, out.String(), "hush")
}

// Operations that are not valid, or cannot be granted ever, fail at once.
func TestInvalidOperationsFail(t *testing.T) {
	n, err := Start(Config{Bind: "127.0.0.1:0"})
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err = n.Lease(ctx, bucket.Ask{})
	assert.ErrorContains(t, err, "key is empty")
	big := oneRequest("k", 1)
	big.Need = bucket.Cost{Requests: 11}
	_, err = n.Lease(ctx, big)
	assert.ErrorIs(t, err, choked.ErrCostExceedsBurst)
	assert.ErrorContains(t, err, "11 requests asked, at most 10 fit")
	assert.ErrorContains(t, n.Settle(ctx, []bucket.Settlement{{Key: "k", Spent: bucket.Cost{Tokens: -1}}}), "-1 tokens")
	assert.ErrorContains(t, n.Adjust(ctx, bucket.Adjustment{Key: strings.Repeat("k", 513), Limits: big.Limits}), "513 bytes")
	require.NoError(t, n.Close())
	require.NoError(t, n.Close())
	_, err = n.Lease(ctx, oneRequest("k", 2))
	assert.ErrorIs(t, err, choked.ErrClosed)
}
