package cluster

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/choked/choked/bucket"
	"github.com/choked/choked/internal/ledger"
)

// Four nodes that do not belong to the cluster try to join it: without a secret, with a
// wrong one, with one that was dropped, and with the right one from another cluster.
// None is admitted, by streams or by packets, and the members go on undisturbed.
func TestForeignNodesAreNotAdmitted(t *testing.T) {
	inBubble(t, func(t *testing.T, c *fleet) {
		nodes := c.startThree()
		for i, tt := range []struct {
			name   string
			spoil  func(*Config)
			health string
			sealed bool // its packets are sealed with the secret of the cluster
		}{
			{"without a secret", func(cfg *Config) {
				cfg.Secret, cfg.Bind, cfg.network = "", "127.0.0.4:7946", c.net.Host("127.0.0.4")
			}, "no cluster found yet", false},
			{"with a wrong secret", func(cfg *Config) { cfg.Secret = "open barley" }, "no cluster found yet", false},
			{"with a secret that was dropped", func(cfg *Config) {
				cfg.Secret, cfg.PreviousSecrets = "open barley", []string{"closed sesame"}
			}, "no cluster found yet", false},
			{"from another cluster", func(cfg *Config) { cfg.Join = nil }, "two clusters do not merge", true},
		} {
			cfg := c.config(4 + i)
			tt.spoil(&cfg)
			stranger := c.start(cfg)
			for range 10 {
				for _, n := range nodes { // also those that are not among its seeds
					_, err := stranger.gossip.list.Join([]string{n.Addr()})
					assert.Error(t, err, tt.name)
					_, err = stranger.gossip.list.Ping(n.id, udp{n.Addr()})
					assert.Equal(t, tt.sealed, err == nil, "%s: a packet was answered", tt.name)
				}
				_, err := dialer{stranger.port}.dial(t.Context(), nodes[0].Addr(), func() {})
				assert.Error(t, err, tt.name)
			}
			assert.ErrorContains(t, stranger.Health(), tt.health, tt.name)
			assert.Len(t, stranger.Members(), 1, tt.name)
			for _, n := range nodes {
				assert.Len(t, n.Members(), 3, tt.name)
				assert.NotEqual(t, n.cluster(), stranger.cluster(), tt.name)
			}
			assert.Equal(t, 3, c.voters(), tt.name)
			l, err := nodes[0].Lease(t.Context(), oneRequest("k", uint64(i)))
			assert.NoError(t, err)
			assert.True(t, l.OK)
			delete(c.nodes, stranger.Addr())
			assert.NoError(t, stranger.Close())
		}
	})
}

// udp is a [net.Addr] for packets.
type udp struct{ addr string }

func (udp) Network() string  { return "udp" }
func (u udp) String() string { return u.addr }

// No output of a node contains a secret: its log at the lowest level, its errors, and all
// ways to print the node or its Config.
func TestNoOutputContainsASecret(t *testing.T) {
	const secret, before, wrong = "hush-7f3a-now", "hush-7f3a-before", "hush-7f3a-wrong"
	var out lockedBuffer
	show := func(v any) {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		slog.New(slog.NewTextHandler(&out, nil)).Info("look", "at", v, slog.Group("in", "a group", v))
		slog.New(slog.NewJSONHandler(&out, nil)).Info("look", "at", v)
		b, err := json.Marshal(v)
		fmt.Fprintf(&out, "%s %v\n", b, err)
	}
	inBubble(t, func(t *testing.T, c *fleet) {
		c.log = slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))
		c.seeds = []string{ip(1) + ":7946", ip(2) + ":7946", ip(3) + ":7946"}
		for i := 1; i <= 5; i++ {
			cfg := c.config(i)
			cfg.Secret, cfg.PreviousSecrets = secret, []string{before}
			if i == 5 {
				cfg.Secret, cfg.PreviousSecrets = wrong, nil
			}
			show(cfg)
			show(&cfg)
			show(struct{ Of Config }{cfg})
			show([]Config{cfg})
			c.start(cfg)
		}
		c.await("three voters", func() bool { return c.voters() == 3 })
		c.crash(c.leader())
		for _, n := range c.nodes {
			_, err := n.Lease(t.Context(), oneRequest("k", 1))
			fmt.Fprintln(&out, err, n.Health(), n.Members(), n.Buckets())
		}
		for _, cfg := range []Config{
			{Secret: secret, Name: "not a name"}, {Secret: secret, Bind: "nowhere"}, {Secret: secret, PreviousSecrets: []string{before, ""}, Bind: ip(9) + ":1"},
			{Secret: secret, Bind: ip(9) + ":1", Dir: "/dev/null"},
		} {
			cfg.network = c.net.Host(ip(9))
			_, err := Start(cfg)
			assert.Error(t, err)
			fmt.Fprintln(&out, err)
		}
		ended := slices.Collect(maps.Values(c.nodes))
		for _, n := range ended {
			delete(c.nodes, n.Addr())
			n.Close() //nolint:errcheck // there is no majority
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		for _, n := range ended { // only now, when no goroutine changes it any longer
			show(n)
		}
	})
	shown := out.String()
	for _, s := range []string{secret, before, wrong, "hush-7f3a"} {
		for _, form := range []string{s, hex.EncodeToString([]byte(s)), fmt.Sprintf("%X", s), base64.StdEncoding.EncodeToString([]byte(s))[:8]} {
			if i := strings.Index(shown, form); i >= 0 {
				t.Errorf("%q is shown: …%s…", form, shown[max(0, i-200):i+20])
			}
		}
	}
	assert.Contains(t, shown, "worker-5")
	assert.Contains(t, shown, "stream refused")
	assert.Contains(t, shown, "founded cluster")
}

// hostileKeys are keys that would do harm if they were printed unquoted.
var hostileKeys = []string{
	"\nlevel=ERROR msg=forged", "\r\x1b[2J\x1b]0;owned\x07", "\x00", "<script>alert(1)</script>", "\xff\xfe", "%s%d%!v", `"; drop`, "../../etc",
	strings.Repeat("\n", bucket.MaxKey),
}

// A key may hold any bytes. It is stored unchanged, and errors and log lines contain only
// a printable, bounded part of it.
func TestHostileKeysAreHarmlessInErrorsAndLogs(t *testing.T) {
	inBubble(t, func(t *testing.T, c *fleet) {
		var log lockedBuffer
		c.log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		nodes := c.startThree()
		client := nodes[0]
		if client == c.leader() {
			client = nodes[1]
		}
		for i, key := range hostileKeys {
			var errs []error
			ask := oneRequest(key, uint64(i))
			l, err := client.Lease(t.Context(), ask)
			require.NoError(t, err)
			require.True(t, l.OK)
			require.NoError(t, client.Settle(t.Context(), []bucket.Settlement{{Key: key, ID: l.ID, Spent: l.Granted}}))

			ask.ID.Seq, ask.Need.Requests = 100+uint64(i), 11
			_, err = client.Lease(t.Context(), ask)
			errs = append(errs, err)
			ended, cancel := context.WithCancel(t.Context())
			cancel()
			_, err = client.Lease(ended, ask)
			errs = append(errs, err)
			errs = append(errs, client.Settle(ended, []bucket.Settlement{{Key: key, ID: l.ID}}))
			errs = append(errs, client.Adjust(ended, bucket.Adjustment{Key: key, Limits: ask.Limits}))
			_, err = client.Lease(t.Context(), oneRequest(key+strings.Repeat("x", bucket.MaxKey), 1))
			errs = append(errs, err)
			for _, err := range errs {
				require.Error(t, err)
				assert.NotRegexp(t, "[\x00-\x09\x0b-\x1f\x7f]|^\n", err.Error(), "key %q", key)
				assert.Less(t, len(err.Error()), 600)
				assert.NotContains(t, err.Error(), "\nlevel=")
			}
		}
		found := make(map[string]bool)
		for _, b := range c.leader().Buckets() {
			found[b.Key] = true
		}
		for _, key := range hostileKeys {
			assert.True(t, found[key], "%q is stored unchanged", key)
		}
		assert.NotRegexp(t, "[\x00-\x09\x0b-\x1f\x7f]", log.String())
		for line := range strings.Lines(log.String()) {
			assert.True(t, strings.HasPrefix(line, "time="), line)
		}
	})
}

// allocated returns how many bytes the process allocates while f runs.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// A length is checked before anything is allocated for it, also if a member sent it.
func TestLengthsAreCheckedBeforeAllocating(t *testing.T) {
	n, err := Start(Config{Bind: "127.0.0.1:0"})
	require.NoError(t, err)
	defer n.Close()
	m, err := Start(Config{Bind: "127.0.0.1:0", Join: []string{n.Addr()}})
	require.NoError(t, err)
	defer m.Close()
	_, err = m.Lease(t.Context(), oneRequest("k", 1)) // after that both are connected
	require.NoError(t, err)
	ask := oneRequest("k", 2)
	op := ledger.AppendOp([]byte{1}, &ask) // its last byte is the number of its settlements
	front := string(op[:len(op)-1])
	frame := func(kind byte, body string) string {
		return string(binary.BigEndian.AppendUint32(nil, uint32(len(body)+1))) + string([]byte{kind}) + body
	}
	for name, sent := range map[string]string{
		"a frame of 2 GiB":            "\x7f\xff\xff\xffo",
		"a frame of 4 GiB":            "\xff\xff\xff\xffo",
		"an empty frame":              "\x00\x00\x00\x00?",
		"an unknown frame":            frame('?', ""),
		"a key of 32 GiB":             frame(frameOps, "\x01\x02\xff\xff\xff\xff\x7f"),
		"2^35 settlements":            frame(frameOps, front+"\xff\xff\xff\xff\x7f"),
		"65,536 settlements, missing": frame(frameOps, front+"\x80\x80\x04"),
		"an operation cut off":        frame(frameOps, front),
		"an operation without number": frame(frameOps, "\xff"),
		"a cancel without number":     frame(frameCancel, ""),
	} {
		p, err := dialer{m.port}.dial(t.Context(), n.Addr(), func() {})
		require.NoError(t, err)
		require.True(t, p.leads)
		conn, r := p.conn, p.r
		assert.Less(t, allocated(func() {
			_, err := conn.Write([]byte(sent))
			require.NoError(t, err)
			conn.SetReadDeadline(time.Now().Add(10 * time.Second))
			var buf []byte
			_, _, err = readFrame(r, &buf)
			assert.ErrorIs(t, err, io.EOF, "%s: the other side closes the stream", name)
		}), uint64(5<<20), name)
		conn.Close()
	}
}
