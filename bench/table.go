package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// table is a table of results in Markdown, with a note above it.
type table struct {
	note string
	head []string
	rows [][]string
}

func (t *table) row(cells ...any) {
	var row []string
	for _, c := range cells {
		row = append(row, fmt.Sprint(c))
	}
	t.rows = append(t.rows, row)
}

func (t *table) write(out io.Writer) {
	if t.note != "" {
		fmt.Fprintf(out, "\n%s\n", t.note)
	}
	fmt.Fprintf(out, "\n| %s |\n|%s\n", strings.Join(t.head, " | "), strings.Repeat("---|", len(t.head)))
	for _, r := range t.rows {
		fmt.Fprintf(out, "| %s |\n", strings.Join(r, " | "))
	}
}

func median[T int64 | float64 | time.Duration](xs []T) T {
	xs = slices.Sorted(slices.Values(xs))
	return xs[len(xs)/2]
}

// medians returns the median of each figure over all runs.
func medians(runs [][]float64) []float64 {
	out := make([]float64, len(runs[0]))
	for i := range out {
		var xs []float64
		for _, r := range runs {
			xs = append(xs, r[i])
		}
		out[i] = median(xs)
	}
	return out
}

func quantile(ds []time.Duration, p float64) time.Duration {
	ds = slices.Sorted(slices.Values(ds))
	return ds[min(int(p*float64(len(ds))), len(ds)-1)].Round(time.Microsecond)
}

// ratio formats a as a multiple of b.
func ratio(a, b float64) string {
	if b == 0 {
		return "–"
	}
	return fmt.Sprintf("%.3g×", a/b)
}

func percent(share float64) string { return fmt.Sprintf("%.1f%%", 100*share) }
