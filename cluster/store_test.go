package cluster_test

import (
	"flag"
	"fmt"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/choked/choked/cluster"
	"github.com/choked/choked/storetest"
)

// The rules of storetest spend most of their time waiting, so that more of them than
// there are CPUs can run at a time.
func TestMain(m *testing.M) {
	flag.Set("test.parallel", "4") // unless the command line says otherwise
	os.Exit(m.Run())
}

// Each store is its own member, on loopback, in addition to three voters.
func TestStoreOnThreeNodes(t *testing.T) {
	var names atomic.Int64
	start := func(t *testing.T, join []string) *cluster.Node {
		n, err := cluster.Start(cluster.Config{
			Name: fmt.Sprint("node-", names.Add(1)), Bind: "127.0.0.1:0", Join: join, Secret: "open sesame",
		})
		require.NoError(t, err)
		return n
	}
	addr := func(n *cluster.Node) string {
		for _, m := range n.Members() {
			if m.Self {
				return m.Addr
			}
		}
		return ""
	}
	first := start(t, nil)
	defer first.Close()
	for range 2 {
		defer start(t, []string{addr(first)}).Close()
	}
	require.Eventually(t, func() bool {
		voters := 0
		for _, m := range first.Members() {
			if m.Voter {
				voters++
			}
		}
		return voters == 3
	}, 30*time.Second, 10*time.Millisecond)
	t.Run("law", func(t *testing.T) { // a subtest, so that it ends before the nodes are closed
		storetest.Test(t, storetest.Harness{
			Open: func(t *testing.T) storetest.Store {
				n := start(t, []string{addr(first)})
				require.Eventually(t, func() bool { return n.Health() == nil }, 30*time.Second, 5*time.Millisecond)
				return n
			},
			Unavailable: func(t *testing.T) (storetest.Store, string) {
				n, err := cluster.Start(cluster.Config{
					Name: "alone", Bind: "127.0.0.1:0", Join: []string{"127.0.0.1:1"}, Secret: "open sesame", Timeout: 100 * time.Millisecond,
				})
				require.NoError(t, err)
				return n, "no quorum"
			},
			Slack: 250 * time.Millisecond,
		})
	})
}
