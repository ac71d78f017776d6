package cluster_test

import (
	"context"
	"fmt"
	"os"
	"sort"
	"sync"
	"testing"
	"time"

	"github.com/choked/choked"
	"github.com/choked/choked/cluster"
)

func TestTry(t *testing.T) {
	if os.Getenv("TRY") == "" { t.Skip() }
	seeds := []string{"127.0.0.1:17956", "127.0.0.1:17957", "127.0.0.1:17958"}
	var nodes []*cluster.Node
	for i := range 3 {
		n, err := cluster.Start(cluster.Config{Name: fmt.Sprintf("w%d", i), Bind: seeds[i], Join: seeds, Secret: "s"})
		if err != nil { t.Fatal(err) }
		nodes = append(nodes, n)
	}
	time.Sleep(2*time.Second)
	type adm struct { at time.Duration; w int; wait time.Duration }
	var mu sync.Mutex
	var adms []adm
	lim := os.Getenv("LIM")
	if lim == "" { lim = "50/s" }
	start := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	var ls []*choked.Limiter
	for w, n := range nodes {
		c := choked.New(n)
		l, _ := c.Limiter("k", choked.MustLimits(lim, ""), nil)
		ls = append(ls, l)
		for range 8 {
			wg.Go(func() {
				for ctx.Err() == nil {
					b := time.Now()
					if err := l.Wait(ctx, choked.Cost{Requests: 1}); err != nil { if ctx.Err() == nil {return}; return }
					e := time.Now()
					mu.Lock(); adms = append(adms, adm{e.Sub(start), w, e.Sub(b)}); mu.Unlock()
					time.Sleep(30*time.Millisecond)
				}
			})
		}
	}
	wg.Wait()
	sort.Slice(adms, func(i, j int) bool { return adms[i].at < adms[j].at })
	r := choked.MustLimits(lim, "").Requests[0]
	lvl, worst, last := 0.0, -1e9, time.Duration(0)
	var per [3]int
	maxgap := time.Duration(0)
	for _, a := range adms {
		lvl = max(0, lvl-float64(a.at-last)*float64(r.N)/float64(r.Per)) + 1
		maxgap = max(maxgap, a.at-last)
		last = a.at
		worst = max(worst, lvl-float64(r.Burst))
		per[a.w]++
	}
	bound := float64(r.Burst) + 15*float64(r.N)/r.Per.Seconds()
	fmt.Println("admitted", len(adms), "use", float64(len(adms))/bound, "worst", worst, "per", per, "maxgap", maxgap)
	for _, l := range ls { fmt.Printf("%+v\n", l.Stats()) }
	for _, n := range nodes { n.Close() }
}
