package proxy

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/choked/choked"
	"github.com/choked/choked/internal/pipes"
	"github.com/choked/choked/server"
	"github.com/choked/choked/storetest"
)

// service is one that runs as long as a test.
type service struct {
	*server.Server
	token string
}

// newService returns a server over a store of its own, to which a token admits.
func newService(t *testing.T) service {
	token, hash := server.NewToken()
	file := filepath.Join(t.TempDir(), "tokens")
	require.NoError(t, os.WriteFile(file, []byte(hash+" team-a\n"), 0o600))
	tokens, err := server.OpenTokens(file, nil)
	require.NoError(t, err)
	return service{server.New(server.Config{Store: choked.NewLocal(), Tokens: tokens}), token}
}

// listen serves on a loopback address until the test is over.
func (s service) listen(t *testing.T) (url string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var serving sync.WaitGroup
	serving.Go(func() { s.Serve(l) })
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		s.Shutdown(ctx)
		serving.Wait()
	})
	return "http://" + l.Addr().String()
}

func TestStore(t *testing.T) {
	for name, http1 := range map[string]bool{"over HTTP 2": false, "over HTTP 1": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newService(t)
			url := s.listen(t)
			t.Run("law", func(t *testing.T) { // ends before the service does
				storetest.Test(t, storetest.Harness{
					Open: func(t *testing.T) storetest.Store {
						store, err := Open(Config{URL: url, Token: s.token, HTTP1: http1})
						require.NoError(t, err)
						return store
					},
					Slack: 200 * time.Millisecond,
				})
			})
		})
	}
}

// bubbled is a store and the service that it is at, in one bubble. Closing it
// ends both.
type bubbled struct {
	*Store
	service service
	net     *pipes.Network
	serving sync.WaitGroup
}

func (b *bubbled) Close() error {
	err := b.Store.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	b.service.Shutdown(ctx)
	b.net.Close()
	b.serving.Wait()
	return err
}

func bubble(t *testing.T) *bubbled {
	b := &bubbled{service: newService(t), net: pipes.New()}
	b.serving.Go(func() { b.service.Serve(b.net) })
	var err error
	b.Store, err = Open(Config{URL: "http://service.test", Token: b.service.token, HTTP1: true, dial: b.net.Dial})
	require.NoError(t, err)
	return b
}

func TestStoreToTheNanosecond(t *testing.T) {
	storetest.Test(t, storetest.Harness{
		Open: func(t *testing.T) storetest.Store { return bubble(t) },
		In:   synctest.Test,
	})
}
