package history

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/choked/choked/bucket"
)

// The checker of windows finds the fullest stretch, as counting in every stretch does.
func TestWindowsAgreeWithBruteForce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := bucket.Rate{Kind: bucket.Window, N: 5, Per: time.Duration(rapid.Int64Range(1, 20).Draw(t, "per"))}
		var rs []Record
		for range rapid.IntRange(1, 12).Draw(t, "records") {
			after := rapid.Int64Range(0, 60).Draw(t, "after")
			rs = append(rs, Record{
				Before: after - rapid.Int64Range(0, 6).Draw(t, "took"), After: after,
				Cost: bucket.Cost{Tokens: rapid.Int64Range(0, 4).Draw(t, "tokens")},
			})
		}
		var proved, suspect int64
		for s := int64(-10); s <= 60; s++ { // stretches (s, s + Per]
			var inside, maybe int64
			for _, rec := range rs {
				if s < rec.Before && rec.After <= s+int64(r.Per) {
					inside += rec.Cost.Tokens
				}
				if s < rec.After && rec.After <= s+int64(r.Per) {
					maybe += rec.Cost.Tokens
				}
			}
			proved, suspect = max(proved, inside), max(suspect, maybe)
		}
		got := CheckRate(rs, bucket.Tokens, r)
		require.Equal(t, Excess{float64(proved - r.N), float64(suspect - r.N)}, got)
	})
}
