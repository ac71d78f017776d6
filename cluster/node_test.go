package cluster

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/choked/choked/bucket"
)

func TestLoopback(t *testing.T) {
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	var nodes []*Node
	seeds := []string{"127.0.0.1:17946", "127.0.0.1:17947", "127.0.0.1:17948"}
	began := time.Now()
	for i := range 3 {
		n, err := Start(Config{Name: fmt.Sprintf("w%d", i), Bind: seeds[i], Join: seeds, Secret: "s", Logger: log})
		require.NoError(t, err)
		nodes = append(nodes, n)
	}
	limits, _ := bucket.ParseLimits("50/s", "")
	for i, n := range nodes {
		l, err := n.Lease(context.Background(), bucket.Ask{Key: "k", ID: bucket.LeaseID{Holder: uint64(i), Seq: 1}, Limits: limits, Need: bucket.Cost{Requests: 1}, Want: bucket.Cost{Requests: 3}})
		fmt.Println("LEASE", time.Since(began), l, err)
	}
	time.Sleep(3 * time.Second)
	fmt.Println("MEMBERS", nodes[0].Members())
	for _, n := range nodes {
		b := time.Now()
		fmt.Println("CLOSE", n.Close(), time.Since(b))
	}
}
