package cluster

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/choked/choked"
	"github.com/choked/choked/internal/boottime"
)

// TestBoundHoldsUnderRandomFaults runs three to five nodes, three of them seeds, that
// crash, restart, leave, have full disks and are separated from each other, with clocks that drift
// apart and packets that are delayed, lost or duplicated. A seed of the random
// generator decides what happens. CHOKED_SEEDS=200 CHOKED_FIRST=0 runs more of them.
func TestBoundHoldsUnderRandomFaults(t *testing.T) {
	if testing.Short() {
		t.Skip("needs seconds")
	}
	first := number(t, "CHOKED_FIRST", 0)
	for seed := first; seed < first+number(t, "CHOKED_SEEDS", 8); seed++ {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			dirs := make([]string, 5)
			for i := range dirs {
				dirs[i] = t.TempDir()
			}
			inBubble(t, func(t *testing.T, c *fleet) {
				rnd := rand.New(rand.NewPCG(uint64(seed), 5))
				newMisadventures(t, c, dirs[:3+rnd.IntN(3)], rnd).run()
			})
		})
	}
}

// number returns the value of an environment variable, or another number if it is not
// set.
func number(t *testing.T, name string, otherwise int) int {
	t.Helper()
	s := os.Getenv(name)
	if s == "" {
		return otherwise
	}
	n, err := strconv.Atoi(s)
	require.NoError(t, err, name)
	return n
}

// misadventures are the random faults of a fleet.
type misadventures struct {
	*testing.T
	*fleet
	rnd    *rand.Rand
	limits choked.Limits
	lives  []life // the present or the last life of each node
	adm    admissions
}

// life is a run of a node, until it crashes or is closed.
type life struct {
	dir   string
	drift int64 // of its clock, in units of 0.01%
	disk  *smallDisk
	node  *Node // nil: it has ended
	end   context.CancelFunc
	stop  func()
}

func newMisadventures(t *testing.T, c *fleet, dirs []string, rnd *rand.Rand) *misadventures {
	m := &misadventures{T: t, fleet: c, rnd: rnd}
	m.limits = choked.MustLimits("requests " + []string{"10/s", "10/s burst 3", "600/m burst 30", "10/s burst 20"}[rnd.IntN(4)])
	m.seeds = []string{ip(1) + ":7946", ip(2) + ":7946", ip(3) + ":7946"}
	for _, dir := range dirs {
		m.lives = append(m.lives, life{dir: dir, drift: rnd.Int64N(99) - 49, disk: new(smallDisk)}) // any two differ by less than 1%
	}
	return m
}

func (m *misadventures) run() {
	for _, i := range m.rnd.Perm(len(m.lives)) {
		m.begin(i)
		m.sleep(time.Second)
	}
	m.await("three voters", func() bool { return m.voters() == 3 })
	for range 6 {
		m.next()
		m.sleep(2 * time.Second)
	}

	m.net.Faults(time.Millisecond, 0, 0)
	for i := range m.lives {
		m.lives[i].disk.full.Store(false)
	}
	healed := time.Now()
	for i := range m.lives {
		if m.lives[i].node == nil {
			m.begin(i)
		}
	}
	m.await("calls are admitted on all nodes", func() bool { return len(m.adm.since(healed)) == len(m.lives) })
	assert.Less(m, time.Since(healed), 30*time.Second, "until calls are admitted on all nodes")
	time.Sleep(5 * time.Second) // until the leases of crashed nodes expire
	well := time.Now()
	time.Sleep(5 * time.Second)
	admitted := 0
	for _, n := range m.adm.since(well) {
		admitted += n
	}
	rate := m.limits.Requests[0]
	want := float64(rate.N) * time.Since(well).Seconds() / rate.Per.Seconds()
	assert.Greater(m, float64(admitted), 0.9*want, "%v is used when all is well again", m.limits)

	for _, l := range m.lives {
		require.Equal(m, m.lives[0].node.cluster(), l.node.cluster())
		l.end()
		l.stop()
	}
	rate.N, rate.Per = rate.N*1005, rate.Per*1000 // by the fastest clock that is allowed
	m.adm.check(m.T, rate)
}

// next lets a random fault happen.
func (m *misadventures) next() {
	switch i := m.rnd.IntN(len(m.lives)); m.rnd.IntN(9) {
	case 0, 1:
		up := 0
		for _, l := range m.lives {
			if l.node != nil {
				up++
			}
		}
		if m.lives[i].node == nil {
			m.begin(i)
		} else if up > 1+len(m.lives)/2 {
			m.finish(i)
		}
	case 2:
		for i, l := range m.lives {
			if l.node != nil && l.node == m.leader() {
				m.finish(i)
				m.sleep(2 * time.Second)
				m.begin(i)
			}
		}
	case 3, 4:
		var a, b []string
		for i := range m.lives {
			if m.rnd.IntN(2) == 0 {
				a = append(a, ip(1+i))
			} else {
				b = append(b, ip(1+i))
			}
		}
		m.net.Split(a, b)
		m.sleep(5 * time.Second)
		m.net.Join(a, b)
	case 5:
		for j := range m.lives {
			m.net.Cut(ip(1+i), ip(1+j))
		}
		m.sleep(5 * time.Second)
		for j := range m.lives {
			m.net.Heal(ip(1+i), ip(1+j))
		}
	case 6:
		m.lives[i].disk.full.Store(true)
		m.sleep(10 * time.Second)
		m.lives[i].disk.full.Store(false)
	case 7: // disks of a size fill at the same time, and stay full for longer
		for j := range m.lives {
			m.lives[j].disk.full.Store(m.rnd.IntN(4) > 0)
		}
		m.sleep(10 * time.Second)
		if m.rnd.IntN(2) == 0 {
			for j := range m.lives {
				m.lives[j].disk.full.Store(false)
			}
		}
	case 8:
		m.net.Faults(time.Duration(m.rnd.Int64N(int64(60*time.Millisecond))), m.rnd.Float64()/10, 0.05)
	}
}

// begin starts node i.
func (m *misadventures) begin(i int) {
	l := &m.lives[i]
	l.disk.full.Store(false) // or it would not start
	cfg := m.config(1 + i)
	cfg.Dir, cfg.diskFault = l.dir, l.disk.fault
	cfg.clock = boottime.Distorted(func(ns int64) int64 { return ns + ns*l.drift/10000 })
	l.node = m.start(cfg)
	ctx, cancel := context.WithCancel(m.Context())
	l.end, l.stop = cancel, m.adm.spend(ctx, m.T, l.node, m.limits, 2)
}

// finish ends the life of node i: it crashes, or leaves.
func (m *misadventures) finish(i int) {
	l := &m.lives[i]
	n := l.node
	l.node = nil
	if m.rnd.IntN(2) == 0 {
		m.crash(n)
		l.end()
		l.stop()
		return
	}
	l.end()
	l.stop()
	m.leave(n)
}

// sleep lets a random time pass, less than most.
func (m *misadventures) sleep(most time.Duration) {
	time.Sleep(time.Duration(m.rnd.Int64N(int64(most))))
}
