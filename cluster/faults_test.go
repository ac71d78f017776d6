package cluster

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/choked/choked"
	"github.com/choked/choked/internal/boottime"
)

// life is a worker's, until it crashes or is closed.
type life struct {
	node *Node
	end  context.CancelFunc
	stop func()
}

// TestNothingGoesOverTheBoundWhateverHappens runs five workers, three of them
// seeds, over minutes in which they crash, restart, leave and are cut off from
// each other, with clocks that drift apart. More of them: CHOKED_SEEDS=20, from CHOKED_FIRST.
func TestNothingGoesOverTheBoundWhateverHappens(t *testing.T) {
	if testing.Short() {
		t.Skip("it waits for the disk")
	}
	seeds := 1
	if s := os.Getenv("CHOKED_SEEDS"); s != "" {
		seeds, _ = strconv.Atoi(s)
	}
	first := 1
	if s := os.Getenv("CHOKED_FIRST"); s != "" {
		first, _ = strconv.Atoi(s)
	}
	for seed := first; seed < first+seeds; seed++ {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			dirs := make([]string, 6)
			for i := range dirs {
				dirs[i] = t.TempDir()
			}
			inBubble(t, func(t *testing.T, c *fleet) { misadventures(t, c, dirs, rand.New(rand.NewPCG(uint64(seed), 5))) })
		})
	}
}

func misadventures(t *testing.T, c *fleet, dirs []string, rnd *rand.Rand) {
	const workers = 5
	limits := choked.MustLimits([]string{"50/s", "20/s burst 5", "600/m burst 60", "5/s burst 50"}[rnd.IntN(4)], "")
	c.seeds = []string{ip(1) + ":7946", ip(2) + ":7946", ip(3) + ":7946"}
	drift := make([]int64, workers+1)
	for i := range drift {
		drift[i] = rnd.Int64N(99) - 49 // tenths of a thousandth: any two differ by less than 1%
	}
	var adm admissions
	lives := make([]*life, workers+1)
	begin := func(i int) {
		cfg := c.config(i)
		cfg.Dir = dirs[i]
		d := drift[i]
		cfg.clock = boottime.Distorted(func(ns int64) int64 { return ns + ns*d/10000 })
		ctx, cancel := context.WithCancel(t.Context())
		n := c.start(cfg)
		lives[i] = &life{n, cancel, adm.spend(ctx, t, n, limits, 3)}
	}
	end := func(i int, crash bool) {
		l := lives[i]
		lives[i] = nil
		if crash {
			addr := l.node.port.Addr()
			c.net.Crash(addr[:len(addr)-len(":7946")])
		}
		l.end()
		if crash {
			delete(c.nodes, l.node.port.Addr())
			l.node.Close()
			l.stop()
			return
		}
		l.stop()
		delete(c.nodes, l.node.port.Addr())
		l.node.Close()
	}
	for _, i := range rnd.Perm(workers) {
		begin(i + 1)
		time.Sleep(time.Duration(rnd.Int64N(int64(3 * time.Second))))
	}
	c.await("three voters", func() bool { return c.voters() == 3 })
	for range 12 {
		switch i := 1 + rnd.IntN(workers); rnd.IntN(6) {
		case 0, 1:
			up := 0
			for _, l := range lives {
				if l != nil {
					up++
				}
			}
			if lives[i] == nil {
				begin(i)
			} else if up > 3 {
				end(i, rnd.IntN(2) == 0)
			}
		case 2:
			if n := c.leader(); n != nil {
				for i, l := range lives {
					if l != nil && l.node == n {
						end(i, rnd.IntN(2) == 0)
						time.Sleep(time.Duration(rnd.Int64N(int64(4 * time.Second))))
						begin(i)
					}
				}
			}
		case 3, 4:
			var a, b []string
			for i := 1; i <= workers; i++ {
				if rnd.IntN(2) == 0 {
					a = append(a, ip(i))
				} else {
					b = append(b, ip(i))
				}
			}
			c.net.Split(a, b)
			time.Sleep(time.Duration(rnd.Int64N(int64(8 * time.Second))))
			c.net.Join(a, b)
		case 5:
			c.net.Faults(time.Duration(rnd.Int64N(int64(60*time.Millisecond))), rnd.Float64()/10, 0.05)
		}
		time.Sleep(time.Duration(rnd.Int64N(int64(6 * time.Second))))
	}
	c.net.Faults(time.Millisecond, 0, 0)
	for i := 1; i <= workers; i++ {
		if lives[i] == nil {
			begin(i)
		}
	}
	time.Sleep(30 * time.Second)
	healed := time.Now()
	time.Sleep(20 * time.Second)
	for i := 1; i <= workers; i++ {
		lives[i].end()
		lives[i].stop()
	}
	r := limits.Requests[0]
	r.N, r.Per = r.N*1005, r.Per*1000 // by a clock that runs as fast as any
	adm.check(t, r)
	after := 0
	for _, a := range slices.Backward(adm.all) {
		if a.err == nil && a.at.After(healed) {
			after++
		}
	}
	want := 20 * float64(limits.Requests[0].N) / limits.Requests[0].Per.Seconds()
	assert.Greater(t, float64(after), 0.9*want, "%v is used when all is well again", limits)
	var id string
	for _, l := range lives[1:] {
		if id == "" {
			id = l.node.cluster()
		}
		require.Equal(t, id, l.node.cluster())
	}
}
