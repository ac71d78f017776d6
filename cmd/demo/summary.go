package main

import (
	"cmp"
	"fmt"
	"io"
	"math"
	"slices"
	"time"

	"github.com/choked/choked"
	"github.com/choked/choked/bucket"
	"github.com/choked/choked/internal/testkit/history"
)

// summary holds the results of a run; -json prints it. A wait lasts from when the
// caller had the prompt until the prompt was admitted. The longest wait may be one
// that the end of the run cut short.
type summary struct {
	Store   string  `json:"store"`
	Workers int     `json:"workers"`
	Seconds float64 `json:"seconds"`

	Admitted int64 `json:"admitted"` // calls
	Tokens   int64 `json:"tokens"`   // in them
	Refused  int64 `json:"refused429"`

	// Over is the worst excess of the admissions over burst + rate · W, over all
	// windows W, in units, as far as it is proved. Suspect is the excess if each
	// admission is counted at the time at which its caller learnt of it.
	Over    float64 `json:"over"`
	OverOf  string  `json:"over_of,omitempty"` // the limit
	Suspect float64 `json:"suspect"`

	// Use is the share of the quota of the tightest limit that was admitted, from
	// second UseFrom of the run, when the limit's burst was spent, to the end. If
	// the burst was never spent, UseFrom is 0, the start.
	Use     float64 `json:"use"`
	UseOf   string  `json:"use_of"` // the limit
	UseFrom float64 `json:"use_from"`

	// Calibration is, for each worker, the factor that corrected its token estimates
	// at the end: about 1/bias, learnt from the usage that the provider reported.
	Calibration []float64 `json:"calibration,omitempty"`

	Jain    float64 `json:"jain"` // fairness between workers, by calls
	WaitP50 float64 `json:"wait_p50_ms"`
	WaitP99 float64 `json:"wait_p99_ms"`
	WaitMax float64 `json:"wait_max_ms"`

	LeaderChanges int    `json:"leader_changes"`
	Exchanges     int64  `json:"exchanges"`             // with the store, by all workers
	StoreCalls    int64  `json:"store_calls,omitempty"` // scripts that Redis has run
	Killed        string `json:"killed,omitempty"`
	Crashes       int    `json:"crashes"` // unexpected ends of worker processes

	limits choked.Limits
}

// summarize returns the results of the run, which has ended.
func (d *demo) summarize() summary {
	took := time.Duration(d.end - d.start)
	s := summary{Store: d.store, Workers: d.workers, Seconds: round(took.Seconds(), 1), Refused: d.provider.refused.Load(),
		LeaderChanges: d.leaderChanges, Exchanges: d.exchanges, Killed: d.killed, Crashes: d.crashes, limits: d.limits}
	slices.SortFunc(d.records, func(a, b history.Record) int { return cmp.Compare(a.After, b.After) })
	each := make([]int64, d.workers)
	waits := make([]time.Duration, 0, len(d.records))
	for _, r := range d.records {
		s.Admitted += r.Cost.Requests
		s.Tokens += r.Cost.Tokens
		each[r.Worker]++
		waits = append(waits, r.Waited)
	}
	slices.Sort(waits)
	s.WaitP50, s.WaitP99, s.WaitMax = millis(waits, 0.5), millis(waits, 0.99), max(millis(waits, 1), round(float64(d.longestUnserved)/float64(time.Millisecond), 1))
	s.Jain = round(history.Jain(each), 4)
	for u := range bucket.NumUnits {
		for _, r := range d.limits.Of(u) {
			excess := history.CheckRate(d.records, u, r)
			if over := round(excess.Proved, 3); over > s.Over {
				s.Over, s.OverOf = over, fmt.Sprintf("%v %v", u, r)
			}
			s.Suspect = max(s.Suspect, round(excess.Suspect, 3))
			if use, from := usedShare(d.records, u, r, d.start, d.end); use >= s.Use {
				s.Use, s.UseOf, s.UseFrom = use, fmt.Sprintf("%v %v", u, r), time.Duration(from-d.start).Seconds()
			}
		}
	}
	s.Use, s.UseFrom = round(s.Use, 4), round(s.UseFrom, 1)
	for _, p := range d.fleet.slots {
		if f := p.status.Calibration; f > 0 {
			s.Calibration = append(s.Calibration, round(f, 3))
		}
	}
	return s
}

// spentShare is the share of a burst beyond which the burst counts as spent.
const spentShare = 0.9

// usedShare returns which share of a rate's quota was admitted from the time from
// to end. from is when the burst was first spent, or start if it never was; the
// quota is the rest of the burst at that time plus the refill until end. rs are
// in order of After.
func usedShare(rs []history.Record, u bucket.Unit, r bucket.Rate, start, end int64) (use float64, from int64) {
	from, left, admitted := start, float64(r.Burst), 0.0
	level := history.Level{Rate: r}
	found := false
	for _, rec := range rs {
		if rec.After > end {
			break
		}
		admitted += float64(rec.Cost.Of(u))
		if used := level.Add(rec.After, rec.Cost.Of(u)); !found && used >= spentShare*float64(r.Burst) {
			found, from, left, admitted = true, rec.After, float64(r.Burst)-used, 0
		}
	}
	allowed := left + float64(end-from)*float64(r.N)/float64(r.Per)
	if allowed <= 0 {
		return 0, from
	}
	return admitted / allowed, from
}

func millis(sorted []time.Duration, p float64) float64 {
	return round(float64(history.Quantile(sorted, p))/float64(time.Millisecond), 1)
}

func round(x float64, digits int) float64 {
	scale := math.Pow10(digits)
	return math.Round(x*scale) / scale
}

// print writes the summary as text.
func (s summary) print(out io.Writer) {
	fmt.Fprintf(out, "\n%.1f s, %d workers, -store %s, %v\n\n", s.Seconds, s.Workers, s.Store, s.limits)
	line := func(name, format string, args ...any) {
		fmt.Fprintf(out, "  %-10s"+format+"\n", append([]any{name}, args...)...)
	}
	if s.Store == "none" {
		line("sent", "%d calls, %d tokens, without a limiter: all count as admitted", s.Admitted, s.Tokens)
	} else {
		line("admitted", "%d calls, %d tokens", s.Admitted, s.Tokens)
	}
	line("refused", "%d by the provider (429; it allows burst + rate · W, plus %v of refill)", s.Refused, tolerance)
	if s.Over > 0 {
		line("over", "%v units above burst + rate · W of %s, in the worst window", s.Over, s.OverOf)
	} else {
		line("over", "0 units above burst + rate · W in every window (suspected: %v)", s.Suspect)
	}
	from := "from the start"
	if s.UseFrom > 0 {
		from = fmt.Sprintf("from second %.1f, when the burst was spent", s.UseFrom)
	}
	line("use", "%.1f%% of %s, %s", 100*s.Use, s.UseOf, from)
	if len(s.Calibration) > 0 {
		line("estimates", "times %.3g, by worker: corrected by the usage that the provider reported", s.Calibration)
	}
	line("fairness", "%.4f between workers (Jain's index)", s.Jain)
	line("waits", "half below %.0f ms, 99%% below %.0f ms, longest %.0f ms", s.WaitP50, s.WaitP99, s.WaitMax)
	line("store", "%d exchanges, %.1f a second and worker", s.Exchanges, float64(s.Exchanges)/max(s.Seconds, 0.1)/float64(s.Workers))
	if s.StoreCalls > 0 {
		line("redis", "%d calls, %.2f an admission", s.StoreCalls, float64(s.StoreCalls)/float64(max(s.Admitted, 1)))
	}
	if s.Killed != "" {
		line("killed", "%s; %d changes of leader", s.Killed, s.LeaderChanges)
	} else {
		line("leader", "%d changes", s.LeaderChanges)
	}
	if s.Crashes > 0 {
		line("crashes", "%d worker processes", s.Crashes)
	}
	fmt.Fprintln(out)
}
