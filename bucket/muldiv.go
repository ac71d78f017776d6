package bucket

import (
	"math"
	"math/bits"
)

// mulDiv returns ⌊a·b/c⌋ for a, b ≥ 0 and c > 0 through a 128-bit product, and
// the largest int64 where the quotient does not fit.
func mulDiv(a, b, c int64) int64 {
	q, _ := mulDivRem(a, b, c)
	return q
}

// mulDivCeil is mulDiv rounded up.
func mulDivCeil(a, b, c int64) int64 {
	q, rem := mulDivRem(a, b, c)
	if rem && q < math.MaxInt64 {
		q++
	}
	return q
}

func mulDivRem(a, b, c int64) (q int64, rem bool) {
	hi, lo := bits.Mul64(uint64(a), uint64(b))
	if hi >= uint64(c) {
		return math.MaxInt64, false
	}
	quo, r := bits.Div64(hi, lo, uint64(c))
	if quo > math.MaxInt64 {
		return math.MaxInt64, false
	}
	return int64(quo), r > 0
}

// end is the latest instant that a store counts, exported as [MaxInstant]: no wait
// reaches it, and the sum of two instants does not overflow.
const end = math.MaxInt64 / 2

// later returns t + d, at most end.
func later(t, d int64) int64 {
	if d > end-t {
		return end
	}
	return t + d
}
