package cluster_test

import (
	"context"
	"fmt"
	"log"

	"github.com/choked/choked"
	"github.com/choked/choked/cluster"
)

// A single node founds a cluster of its own. More nodes join it by its address,
// with the same Secret.
func ExampleStart() {
	node, err := cluster.Start(cluster.Config{Name: "worker-1", Bind: "127.0.0.1:0"})
	if err != nil {
		log.Fatal(err)
	}
	defer node.Close()
	choke := choked.New(node)
	defer choke.Close() // before the node: it returns the leases

	chat, err := choke.Limiter("chat", choked.MustLimits("requests 2/h"), nil)
	if err != nil {
		log.Fatal(err)
	}
	for range 2 {
		if err := chat.Wait(context.Background(), choked.Cost{Requests: 1}); err != nil {
			log.Fatal(err)
		}
		fmt.Println("admitted")
	}
	for _, m := range node.Members() {
		fmt.Println(m.Name, "leads:", m.Leader)
	}
	// Output:
	// admitted
	// admitted
	// worker-1 leads: true
}
