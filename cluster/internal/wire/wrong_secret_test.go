package wire

import (
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/choked/choked/cluster/internal/memnet"
)

// A host that is down, a peer that is silent and one that speaks another protocol are
// no peers with a wrong secret.
func TestFaultsOfTheNetworkAreNoWrongSecrets(t *testing.T) {
	inMemory(t, func(t *testing.T, n *memnet.Net, at func(int) host) {
		p := open(t, at(1).config("a"))
		wrong, right := open(t, at(2).config("b")), open(t, at(3).config("a"))
		plain, err := at(4).Listen(at(4).ip + ":0")
		require.NoError(t, err)
		defer plain.Close()
		go func() {
			for {
				raw, err := plain.Accept()
				if err != nil {
					return
				}
				io.WriteString(raw, "HTTP/1.1 400 Bad Request\r\n\r\n")
				raw.Close()
			}
		}()
		silent, err := at(5).Listen(at(5).ip + ":0")
		require.NoError(t, err)
		defer silent.Close()
		for _, addr := range []string{right.Addr(), plain.Addr().String(), silent.Addr().String(), "10.0.0.6:7946"} {
			c, err := p.Dial(t.Context(), RPC, addr)
			if err == nil {
				c.Close()
			}
			assert.Empty(t, p.WrongSecrets(), addr)
		}
		_, err = p.Dial(t.Context(), RPC, wrong.Addr())
		require.Error(t, err)
		assert.Len(t, p.WrongSecrets(), 1)
		n.Crash(at(2).ip)
		_, err = p.Dial(t.Context(), RPC, wrong.Addr())
		require.Error(t, err)
		assert.Empty(t, p.WrongSecrets(), "the last dial failed for another reason")
	})
}

func TestWrongSecretsAreForgotten(t *testing.T) {
	inMemory(t, func(t *testing.T, _ *memnet.Net, _ func(int) host) {
		var w wrongSecrets
		began := time.Now()
		for range 3 {
			w.add("10.0.0.1:7946", true)
			w.add("10.0.0.9", false)
			time.Sleep(wrongSecretFor - 1)
		}
		assert.Equal(t, []WrongSecret{{"10.0.0.1:7946", true, began}, {"10.0.0.9", false, began}}, w.list())
		time.Sleep(1)
		assert.Empty(t, w.list())
		for i := range 10 * maxWrongSecrets {
			w.add(fmt.Sprint(i), false)
		}
		assert.Len(t, w.list(), maxWrongSecrets)
	})
}
