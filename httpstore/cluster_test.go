package httpstore

import (
	"flag"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/choked/choked/cluster"
	"github.com/choked/choked/server"
	"github.com/choked/choked/storetest"
)

// The rules mostly wait, so that more of them than there are CPUs can run at a time.
func TestMain(m *testing.M) {
	flag.Set("test.parallel", "4") // unless the command line says otherwise
	os.Exit(m.Run())
}

// The service over a cluster node, as `choked serve` is.
func TestStoreOverAClusterNode(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	node, err := cluster.Start(cluster.Config{Bind: "127.0.0.1:0", Voters: 1})
	require.NoError(t, err)
	t.Cleanup(func() { node.Close() }) // runs after the service has stopped
	behind := &arrivals{Store: node}
	url := service{Server: server.New(server.Config{Store: behind})}.listen(t)
	t.Run("rules", func(t *testing.T) {
		storetest.Test(t, storetest.Harness{
			Open: func(t *testing.T) storetest.Store {
				store, err := Open(Config{URL: url})
				require.NoError(t, err)
				return store
			},
			Queued: behind.queued,
			Slack:  250 * time.Millisecond,
		})
	})
}
