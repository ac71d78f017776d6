package main

import (
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	raftboltdb "github.com/hashicorp/raft-boltdb/v2"

	"github.com/hashicorp/raft"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"

	"github.com/choked/choked"
)

// load is callers that take as much as they can get.
type load struct {
	stores  []choked.Store // of the workers
	keys    []string
	limits  choked.Limits
	callers int // on each worker, spread over the keys
	span    time.Duration
}

// spent is what a load has cost, all nodes and callers together.
type spent struct {
	admitted  int64
	exchanges int64
	cpu       time.Duration
	wire      int64 // bytes over loopback
}

func (s spent) each(n int64) float64 { return float64(n) / float64(max(s.admitted, 1)) }

func (l load) run(ctx context.Context) (s spent, err error) {
	ctx, cancel := context.WithTimeout(ctx, l.span)
	defer cancel()
	var limiters []*choked.Limiter
	var wg sync.WaitGroup
	sent, used := loopback(), cpu()
	for i, store := range l.stores {
		c := choked.New(store)
		defer c.Close()
		for j := range l.callers {
			lim, err := c.Limiter(l.keys[(i*l.callers+j)%len(l.keys)], l.limits, nil)
			if err != nil {
				return s, err
			}
			if j < len(l.keys) { // the first that this worker has of the key
				limiters = append(limiters, lim)
			}
			wg.Go(func() {
				for lim.Wait(ctx, choked.Cost{Requests: 1, Tokens: 1}) == nil {
				}
			})
		}
	}
	wg.Wait()
	s.cpu, s.wire = cpu()-used, loopback()-sent
	for _, lim := range limiters {
		st := lim.Stats()
		s.admitted, s.exchanges = s.admitted+st.Admitted, s.exchanges+st.Exchanges
	}
	return s, nil
}

// loopback is how many bytes have been sent over it.
func loopback() int64 {
	b, err := os.ReadFile("/sys/class/net/lo/statistics/tx_bytes")
	if err != nil {
		return 0
	}
	n, _ := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	return n
}

// exchange measures what an admission costs of what is shared: exchanges with
// the leader, entries of the log, bytes in it and on the wire.
func exchange(ctx context.Context, c config) ([]table, error) {
	t := table{
		note: "Three nodes that write to disk, four callers on each, one key; for each admission. On the wire is all that goes over loopback, TCP's and IP's own bytes included; CPU is of all nodes and callers.",
		head: []string{"limit", "admitted", "exchanges", "entries", "bytes in the log", "bytes on the wire", "CPU"},
	}
	for _, limit := range []string{"50/s", "1000/s", "20000/s"} {
		s, entries, size, err := logged(ctx, limit, c.seconds)
		if err != nil {
			return nil, err
		}
		t.row(limit, s.admitted, fmt.Sprintf("%.3f", s.each(s.exchanges)), fmt.Sprintf("%.3f", s.each(entries)),
			fmt.Sprintf("%.1f", s.each(size)), fmt.Sprintf("%.0f", s.each(s.wire)), (s.cpu / time.Duration(max(s.admitted, 1))).Round(100*time.Nanosecond))
	}
	return []table{t}, nil
}

func logged(ctx context.Context, limit string, d time.Duration) (s spent, entries, size int64, err error) {
	dir, err := os.MkdirTemp("", "choked-bench-")
	if err != nil {
		return s, 0, 0, err
	}
	defer os.RemoveAll(dir)
	nodes, stop, err := startNodesIn(ctx, 3, dir)
	if err != nil {
		return s, 0, 0, err
	}
	s, err = load{stores: spread(nodes, 3), keys: []string{"cost"}, limits: choked.MustLimits(limit, ""), callers: 4, span: d}.run(ctx)
	if stopErr := stop(); err == nil {
		err = stopErr
	}
	if err != nil {
		return s, 0, 0, err
	}
	logs, err := filepath.Glob(filepath.Join(dir, "*", "raft.db"))
	if err != nil {
		return s, 0, 0, err
	}
	for _, log := range logs { // they are alike, but for those who left before the end
		n, b, err := count(log)
		if err != nil {
			return s, 0, 0, err
		}
		if n > entries {
			entries, size = n, b
		}
	}
	return s, entries, size, nil
}

// count is how many entries a log has, and their bytes.
func count(file string) (entries, size int64, err error) {
	db, err := raftboltdb.NewBoltStore(file)
	if err != nil {
		return 0, 0, err
	}
	defer db.Close()
	first, err := db.FirstIndex()
	if err != nil {
		return 0, 0, err
	}
	last, err := db.LastIndex()
	if err != nil {
		return 0, 0, err
	}
	for i := first; i <= last && i > 0; i++ {
		var l raft.Log
		if err := db.GetLog(i, &l); err != nil {
			return 0, 0, fmt.Errorf("%s: entry %d: %w", file, i, err)
		}
		if l.Type == raft.LogCommand {
			entries, size = entries+1, size+int64(len(l.Data))
		}
	}
	return entries, size, nil
}

// growth measures how the cost of an admission grows with what there is more of,
// while as much is admitted, and draws it.
func growth(ctx context.Context, c config) ([]table, error) {
	const total = 5000 // a second
	nodes, stop, err := startNodes(ctx, 3, false)
	if err != nil {
		return nil, err
	}
	defer stop()
	run := 0
	measure := func(keys, workers, rates int) (spent, error) {
		run++
		l := load{stores: spread(nodes, workers), callers: max(2, (2*keys+workers-1)/workers), span: 4 * time.Second}
		for i := range keys {
			l.keys = append(l.keys, fmt.Sprintf("growth-%d-%d", run, i))
		}
		// A burst of a tenth of a second: little more than the rate is measured.
		limit := func(per string, seconds int) string {
			n := max(total*seconds/keys, 1)
			return fmt.Sprintf("%d/%s burst %d", n, per, max(n/seconds/10, 2))
		}
		all := []string{limit("s", 1), limit("2s", 2), limit("3s", 3), limit("4s", 4), limit("5s", 5), limit("6s", 6), limit("7s", 7), limit("8s", 8)}
		var err error
		if l.limits, err = choked.ParseLimits(strings.Join(all[:(rates+1)/2], ","), strings.Join(all[:rates/2], ",")); err != nil {
			return spent{}, err
		}
		return l.run(ctx)
	}
	var tables []table
	var panels []panel
	for _, of := range []struct {
		what string
		ns   []int
		cost func(n int) (spent, error)
	}{
		{"keys", []int{1, 10, 100, 1000}, func(n int) (spent, error) { return measure(n, 3, 1) }},
		{"workers", []int{1, 3, 10, 30, 100, 300}, func(n int) (spent, error) { return measure(1, n, 1) }},
		{"rates of the key", []int{1, 2, 4, 8}, func(n int) (spent, error) { return measure(1, 3, n) }},
	} {
		t := table{
			note: fmt.Sprintf("More %s. All keys together admit %d a second, to as many callers as two for each key and worker; three nodes.", of.what, total),
			head: []string{of.what, "admitted", "exchanges an admission", "CPU an admission"},
		}
		p := panel{of: of.what}
		for _, n := range of.ns {
			s, err := of.cost(n)
			if err != nil {
				return nil, err
			}
			each := s.cpu / time.Duration(max(s.admitted, 1))
			t.row(n, s.admitted, fmt.Sprintf("%.3f", s.each(s.exchanges)), each.Round(100*time.Nanosecond))
			p.cpu = append(p.cpu, plotter.XY{X: float64(n), Y: float64(each) / 1e3})
		}
		tables, panels = append(tables, t), append(panels, p)
	}
	if c.plot == "" {
		return tables, nil
	}
	return tables, drawGrowth(c.plot, panels)
}

// panel is one curve: what an admission costs, by how many there are of
// something.
type panel struct {
	of  string
	cpu plotter.XYs // microseconds
}

func drawGrowth(file string, panels []panel) error {
	var plots []*plot.Plot
	most := 1.0
	for _, p := range panels {
		for _, xy := range p.cpu {
			most = max(most, xy.Y)
		}
	}
	for i, p := range panels {
		pl := plot.New()
		pl.X.Label.Text = p.of
		var ticks plot.ConstantTicks
		for _, xy := range p.cpu {
			ticks = append(ticks, plot.Tick{Value: xy.X, Label: fmt.Sprint(xy.X)})
		}
		pl.X.Scale, pl.X.Tick.Marker = plot.LogScale{}, ticks
		pl.Y.Scale, pl.Y.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
		if i == 0 {
			pl.Y.Label.Text = "CPU an admission, µs"
		}
		line, points, err := plotter.NewLinePoints(p.cpu)
		if err != nil {
			return err
		}
		points.Shape = draw.CircleGlyph{}
		pl.Add(plotter.NewGrid(), line, points)
		pl.Y.Min, pl.Y.Max = 1, math.Pow(10, math.Ceil(math.Log10(most)))
		plots = append(plots, pl)
	}
	img := vgsvg.New(24*vg.Centimeter, 8*vg.Centimeter)
	tiles := draw.Tiles{Rows: 1, Cols: len(plots), PadX: 5 * vg.Millimeter, PadTop: 2 * vg.Millimeter, PadRight: 3 * vg.Millimeter}
	for i, canvas := range plot.Align([][]*plot.Plot{plots}, tiles, draw.New(img))[0] {
		plots[i].Draw(canvas)
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	if _, err := img.WriteTo(f); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}
