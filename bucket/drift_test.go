package bucket

import (
	"math/big"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// Two clocks, each wrong by at most ρ, run while real time advances. Whatever one
// counts, the other lies within the margin.
func TestMarginsCoverEveryPairOfClocks(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		real := rapid.Int64Range(0, int64(1000*time.Hour)).Draw(t, "real")
		rate := rapid.Int64Range(99_000, 101_000) // counted in 100,000 of real time
		count := func(name string) *big.Rat {
			return new(big.Rat).Mul(big.NewRat(rate.Draw(t, name), 100_000), big.NewRat(real, 1))
		}
		mine, other := count("mine"), count("other")
		d := time.Duration(new(big.Int).Div(mine.Num(), mine.Denom()).Int64()) // what a clock shows: whole nanoseconds
		shown := big.NewRat(int64(d), 1)
		lo, hi := big.NewRat(int64(Early(d)), 1), big.NewRat(int64(Late(d+1)), 1)
		if other.Cmp(lo) < 0 || other.Cmp(hi) > 0 {
			t.Fatalf("one clock shows %v, the other %v: outside %v to %v", shown, other, lo, hi)
		}
	})
}

// The margins are as narrow as the derivation allows.
func TestMarginsAreExact(t *testing.T) {
	for _, tt := range []struct{ d, early, late time.Duration }{
		{-time.Second, 0, 0},
		{0, 0, 0},
		{1, 0, 2},
		{101, 99, 104},       // 101·99/101, 101·101/99 = 103.04
		{99, 97, 101},        // 99·99/101 = 97.04
		{9999, 9801, 10_201}, // 99·101
	} {
		if got := Early(tt.d); got != tt.early {
			t.Errorf("Early(%d) = %d, want %d", tt.d, got, tt.early)
		}
		if got := Late(tt.d); got != tt.late {
			t.Errorf("Late(%d) = %d, want %d", tt.d, got, tt.late)
		}
	}
	if Drift != (fastest-slowest)/float64(fastest+slowest) {
		t.Errorf("the fraction %d/%d is not (1−ρ)/(1+ρ) for ρ = %v", slowest, fastest, Drift)
	}
}
