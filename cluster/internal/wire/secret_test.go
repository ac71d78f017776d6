package wire

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/choked/choked/cluster/internal/memnet"
)

// Members of different releases have to derive the same keys. The expected values were
// computed separately: HKDF-SHA256 without salt, with "choked/1 " and the purpose.
func TestKeysOfASecretDoNotChange(t *testing.T) {
	for range 2 {
		packets, err := Secret("open sesame").gossipKey()
		require.NoError(t, err)
		assert.Equal(t, "3c121fdf520d867aa49a32b18ff2304fb5547f59aeb4aa31ccf7f2a91c9de692", hex.EncodeToString(packets))
		_, key, err := Secret("open sesame").authority()
		require.NoError(t, err)
		assert.Equal(t, "99e2d54509acffa26ca3ef71f8aa26461aa8c6dd583c2b5071982205837e6eee", hex.EncodeToString(key.Seed()))
	}
}

func TestEachSecretAndPurposeHasItsOwnKey(t *testing.T) {
	seen := make(map[string]string)
	for _, s := range []Secret{"", "a", "b", "a ", "open sesame"} {
		packets, err := s.gossipKey()
		require.NoError(t, err)
		_, key, err := s.authority()
		require.NoError(t, err)
		for use, k := range map[string][]byte{"packets": packets, "streams": key.Seed()} {
			assert.Len(t, k, 32)
			name := fmt.Sprintf("%s of %q", use, string(s))
			assert.Empty(t, seen[string(k)], name)
			seen[string(k)] = name
		}
	}
}

// Holders of a secret share the authority, but each has its own key.
func TestEachMemberHasItsOwnKey(t *testing.T) {
	one, err := credentials("a", nil)
	require.NoError(t, err)
	two, err := credentials("a", nil)
	require.NoError(t, err)
	key := one.Certificates[0].PrivateKey.(ed25519.PrivateKey)
	assert.False(t, key.Equal(two.Certificates[0].PrivateKey))
	_, authority, err := Secret("a").authority()
	require.NoError(t, err)
	assert.False(t, key.Equal(authority), "the authority's key is in no handshake")
}

func TestSecretIsNeverShown(t *testing.T) {
	const secret = Secret("hush-hush")
	type holder struct {
		Secret   Secret
		Previous []Secret
		ByName   map[string]Secret
		At       *Secret
	}
	at := secret
	whole := Config{Bind: "127.0.0.1:0", Secret: secret, Previous: []Secret{secret}}
	held := holder{secret, []Secret{secret}, map[string]Secret{"x": secret}, &at}
	for name, v := range map[string]any{
		"secret": secret, "pointer": &at, "list": []Secret{secret}, "holder": held, "pointer to holder": &held,
		"config": whole, "pointer to config": &whole,
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%#q", "%x", "%X", "%d", "%30s", "%.3s", "x%%"} {
				fmt.Fprintf(&out, verb+"\n", v)
			}
			fmt.Fprintln(&out, v, fmt.Errorf("open: %v", v))
			for _, h := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
				log := slog.New(h)
				log.Info("start", "with", v, slog.Group("in", "a group", v))
				log.With("with", v).Info(fmt.Sprint(v))
			}
			json.NewEncoder(&out).Encode(v) // a Config holds functions, which cannot be encoded
			assert.Contains(t, out.String(), redacted)
			assert.NotContains(t, out.String(), "hush")
			assert.NotContains(t, out.String(), hex.EncodeToString([]byte("hush")))
			assert.NotContains(t, out.String(), fmt.Sprintf("%X", "hush"))
		})
	}
}

// Any log handler receives only the redacted text.
func TestLogHandlersGetNoSecret(t *testing.T) {
	assert.Equal(t, redacted, slog.AnyValue(Secret("hush-hush")).Resolve().Any())
}

func TestSecretIsNeverEncoded(t *testing.T) {
	v := struct {
		Secret   Secret
		Previous []Secret
	}{"hush-hush", []Secret{"hush-before"}}
	b, err := json.Marshal(v)
	require.NoError(t, err)
	assert.Equal(t, `{"Secret":"[secret]","Previous":["[secret]"]}`, string(b))
	b, err = xml.Marshal(v.Previous)
	require.NoError(t, err)
	assert.Equal(t, `<Secret>[secret]</Secret>`, string(b))
}

// Package fmt calls no methods of unexported fields, so a Port must hold no secret.
func TestPortDoesNotShowItsSecrets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := open(t, Config{Network: memnet.New(1).Host("10.0.0.1"), Bind: "10.0.0.1:7946", Secret: "hush-hush", Previous: []Secret{"hush-before"}})
		synctest.Wait() // its goroutines have started, and change nothing while it is printed
		assert.NotContains(t, fmt.Sprintf("%v %+v %#v", p, p, p), "hush")
	})
}

// The secret of a running cluster is changed one member at a time: members that hold
// one of the two secrets can connect to members that hold both.
func TestSecretRotates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := memnet.New(1)
		member := func(ip string, secret Secret, previous ...Secret) *Port {
			return open(t, Config{Network: net.Host(ip), Bind: ip + ":7946", Secret: secret, Previous: previous})
		}
		old, next := member("10.0.0.1", "a"), member("10.0.0.2", "b")
		both, other := member("10.0.0.3", "b", "a"), member("10.0.0.4", "b", "a")
		ahead := member("10.0.0.5", "a", "b") // already accepts the next secret
		third := member("10.0.0.6", "c", "b", "a")
		for _, pair := range [][2]*Port{
			{both, old}, {both, next}, {both, other}, {both, ahead}, {ahead, old}, {third, old}, {third, next}, {third, both},
		} {
			assert.NoError(t, exchange(pair[0], pair[1]), "%s dials %s", pair[0].Addr(), pair[1].Addr())
			assert.NoError(t, exchange(pair[1], pair[0]), "%s dials %s", pair[1].Addr(), pair[0].Addr())
		}
		for _, pair := range [][2]*Port{{next, old}, {old, next}} {
			assert.ErrorContains(t, exchange(pair[0], pair[1]), "handshake with "+pair[1].Addr())
		}
	})
}

// An empty previous secret would admit any peer, since its keys are public.
func TestPreviousSecretMustNotBeEmpty(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := Config{Network: memnet.New(1).Host("10.0.0.1"), Bind: "10.0.0.1:7946", Secret: "b", Previous: []Secret{"a", ""}}
		p, err := Open(cfg)
		if !assert.ErrorContains(t, err, "previous secret 2 of 2 is empty") {
			p.Close()
		}
	})
}
