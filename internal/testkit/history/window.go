package history

import (
	"cmp"
	"math"
	"slices"

	"github.com/choked/choked/bucket"
)

// suspectWindow is suspect for a window: at most r.N units with s < After ≤ s + Per.
func suspectWindow(rs []Record, u bucket.Unit, r bucket.Rate) float64 {
	var sum, most int64
	first := 0
	for _, rec := range rs {
		for sum += rec.Cost.Of(u); rs[first].After <= rec.After-int64(r.Per); first++ {
			sum -= rs[first].Cost.Of(u)
		}
		most = max(most, sum)
	}
	return float64(most - r.N)
}

// provedWindow is proved for a window: the units of records that lie inside a stretch that
// is shorter than Per, whenever between their two instants they were decided. rs is in the
// order of After. The fullest stretch ends at some After.
func provedWindow(rs []Record, u bucket.Unit, r bucket.Rate) float64 {
	begins := make([]int, len(rs)) // indices of rs in the order of Before
	for i := range begins {
		begins[i] = i
	}
	before := func(i int) int64 { return min(rs[i].Before, rs[i].After) }
	slices.SortFunc(begins, func(i, j int) int { return cmp.Compare(before(i), before(j)) })
	var sum int64
	most := int64(math.MinInt64)
	gone, next := make([]bool, len(rs)), 0
	for i, rec := range rs {
		for ; next < len(begins) && before(begins[next]) <= rec.After-int64(r.Per); next++ {
			left := begins[next]
			if gone[left] = true; left < i { // it was counted
				sum -= rs[left].Cost.Of(u)
			}
		}
		if !gone[i] {
			sum += rec.Cost.Of(u)
		}
		most = max(most, sum)
	}
	return float64(most - r.N)
}
