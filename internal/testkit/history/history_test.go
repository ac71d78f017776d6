package history

import (
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/choked/choked/bucket"
)

// bruteForce computes the excess over all windows, from each known instant to each
// later one.
func bruteForce(rs []Record, u bucket.Unit, r bucket.Rate) Excess {
	worst := Nothing
	for _, first := range rs {
		for _, last := range rs {
			var inside, noted float64
			for _, x := range rs {
				if x.Before >= first.Before && x.After <= last.After {
					inside += float64(x.Cost.Of(u))
				}
				if x.After >= first.After && x.After <= last.After {
					noted += float64(x.Cost.Of(u))
				}
			}
			bound := func(w int64) float64 { return float64(r.Burst) + float64(w)*float64(r.N)/float64(r.Per) }
			if w := last.After - first.Before; w >= 0 {
				worst.Proved = max(worst.Proved, inside-bound(w))
			}
			if w := last.After - first.After; w >= 0 {
				worst.Suspect = max(worst.Suspect, noted-bound(w))
			}
		}
	}
	return worst
}

// random returns up to 40 admissions, some of them at one instant, some with a wide
// range of possible instants.
func random(rng *rand.Rand) []Record {
	rs := make([]Record, 1+rng.IntN(40))
	at := rng.Int64N(1e12)
	for i := range rs {
		at += rng.Int64N(3) * rng.Int64N(40e6)
		doubt := rng.Int64N(2) * rng.Int64N(50e6)
		rs[i] = Record{Before: at - rng.Int64N(doubt+1), After: at + rng.Int64N(doubt+1), Cost: bucket.Cost{Requests: 1, Tokens: rng.Int64N(60)}}
	}
	rng.Shuffle(len(rs), func(i, j int) { rs[i], rs[j] = rs[j], rs[i] })
	return rs
}

func TestCheckAgreesWithAllWindows(t *testing.T) {
	for seed := range uint64(1500) {
		rng := rand.New(rand.NewPCG(seed, 0))
		rs := random(rng)
		r := bucket.Rate{N: 1 + rng.Int64N(100), Per: time.Second, Burst: 1 + rng.Int64N(20)}
		for u := range bucket.NumUnits {
			want, got := bruteForce(rs, u, r), CheckRate(rs, u, r)
			if math.Abs(got.Proved-want.Proved) > 1e-6 || math.Abs(got.Suspect-want.Suspect) > 1e-6 {
				t.Fatalf("seed %d: CheckRate(%v, %v) = %v, all windows say %v", seed, u, r, got, want)
			}
			assert.LessOrEqual(t, got.Proved, got.Suspect+1e-6, "seed %d: proved is suspect", seed)
		}
	}
}

const ms = int64(time.Millisecond)

// at returns an admission of one request at a known instant.
func at(t int64) Record { return Record{Before: t, After: t, Cost: bucket.Cost{Requests: 1}} }

func TestViolationsAreFound(t *testing.T) {
	limits, err := bucket.ParseLimits("requests 10/s burst 2")
	require.NoError(t, err)
	for _, tt := range []struct {
		name string
		rs   []Record
		want Excess
	}{
		{"no admissions exceed nothing", nil, Nothing},
		{"the burst at once is allowed", []Record{at(0), at(0)}, Excess{0, 0}},
		{"one more is not", []Record{at(0), at(0), at(0)}, Excess{1, 1}},
		{"the rate may follow the burst", []Record{at(0), at(0), at(100 * ms), at(200 * ms)}, Excess{0, 0}},
		{"half a unit early", []Record{at(0), at(0), at(50 * ms)}, Excess{0.5, 0.5}},
		{"time that was not used is not saved beyond the burst",
			[]Record{at(0), at(1e6 * ms), at(1e6 * ms), at(1e6 * ms)}, Excess{1, 1}},
		{"perhaps late enough: suspected, not proved",
			[]Record{at(0), at(0), {Before: 0, After: 50 * ms, Cost: bucket.Cost{Requests: 1}}, at(150 * ms)}, Excess{0.5, 0.5}},
		{"recorded late, at the instant of the next",
			[]Record{at(0), at(0), {Before: 100 * ms, After: 199 * ms, Cost: bucket.Cost{Requests: 1}}, at(200 * ms)}, Excess{0, 0}},
		{"recorded late, after a pause",
			[]Record{at(0), {Before: 0, After: 299 * ms, Cost: bucket.Cost{Requests: 1}}, at(300 * ms), at(300 * ms)}, Excess{0, 0.99}},
		{"too many, however late each was",
			[]Record{{After: 10 * ms, Cost: bucket.Cost{Requests: 1}}, {After: 10 * ms, Cost: bucket.Cost{Requests: 1}}, {After: 10 * ms, Cost: bucket.Cost{Requests: 1}}}, Excess{0.9, 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := Check(tt.rs, limits)
			if len(tt.rs) == 0 {
				assert.Equal(t, tt.want, got)
				return
			}
			assert.InDelta(t, tt.want.Proved, got.Proved, 1e-9, "proved")
			assert.InDelta(t, tt.want.Suspect, got.Suspect, 1e-9, "suspect")
		})
	}
}

func TestCheckTakesTheWorstOfAllLimits(t *testing.T) {
	limits, err := bucket.ParseLimits("requests 100/s,3/m; tokens 1000/m")
	require.NoError(t, err)
	rs := []Record{at(0), at(0), at(0), at(0)}
	assert.Equal(t, Excess{1, 1}, Check(rs, limits), "one over 3/m, none over 100/s or on tokens")
	rs[0].Cost.Tokens = 1005
	assert.Equal(t, Excess{5, 5}, Check(rs, limits), "five tokens over 1000/m")
}

func TestRecordsAreReadAsWritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "records")
	w, err := Open(path)
	require.NoError(t, err)
	r, err := Follow(path)
	require.NoError(t, err)
	defer r.Close()

	var want []Record
	for i := range 3000 {
		rec := Record{Before: int64(i), After: math.MaxInt64 - int64(i), Waited: -1, Cost: bucket.Cost{Requests: 1, Tokens: int64(i) << 30, Input: -2, Output: 3, Spend: math.MaxInt64 - int64(i)},
			Worker: uint32(i), Incarnation: math.MaxUint32, Key: 7}
		want = append(want, rec)
		require.NoError(t, w.Append(rec))
		if i == 1000 {
			got, err := r.Next(nil)
			require.NoError(t, err)
			assert.Equal(t, want, got, "records of a file that still grows")
		}
	}
	require.NoError(t, w.Close())
	rest, err := r.Next(nil)
	require.NoError(t, err)
	assert.Equal(t, want[1001:], rest, "records written after the first read")

	require.NoError(t, os.Truncate(path, 3000*Size-1))
	all, err := Read(path)
	require.NoError(t, err)
	assert.Equal(t, want[:2999], all, "an incomplete last record is omitted")

	b, err := os.ReadFile(path)
	require.NoError(t, err)
	b[5*Size+3]++
	require.NoError(t, os.WriteFile(path, b, 0o600))
	_, err = Read(path)
	assert.ErrorContains(t, err, "record 5: the checksum does not match")

	_, err = Read(path + ".missing")
	assert.ErrorIs(t, err, os.ErrNotExist)
}

func TestNowDoesNotRunBackwards(t *testing.T) {
	a := Now()
	b := Now()
	assert.LessOrEqual(t, a, b)
}

func TestJain(t *testing.T) {
	assert.Equal(t, 1.0, Jain([]int64{5, 5, 5}), "equal shares")
	assert.InDelta(t, 1.0/3, Jain([]int64{7, 0, 0}), 1e-12, "one has all of it")
	assert.Equal(t, 1.0, Jain([]int64{0, 0}), "all shares are zero")
}

func TestQuantile(t *testing.T) {
	waits := []time.Duration{1, 2, 3, 4}
	assert.Equal(t, time.Duration(2), Quantile(waits, 0.5))
	assert.Equal(t, time.Duration(4), Quantile(waits, 0.99))
	assert.Equal(t, time.Duration(1), Quantile(waits, 0))
	assert.Zero(t, Quantile(nil, 0.5))
}

func TestGap(t *testing.T) {
	rs := []Record{at(10), at(20), at(50), at(60)}
	for _, tt := range []struct {
		name     string
		from, to int64
		gap      time.Duration
		end      int64
	}{
		{"between two admissions", 0, 70, 30, 50},
		{"from the beginning", 21, 55, 29, 50},
		{"to the end", 50, 200, 140, 200},
		{"of no admissions", 30, 40, 10, 40},
	} {
		gap, end := Gap(rs, tt.from, tt.to)
		assert.Equal(t, tt.gap, gap, tt.name)
		assert.Equal(t, tt.end, end, tt.name)
	}
}

func BenchmarkCheck(b *testing.B) {
	rs := make([]Record, 100_000)
	for i := range rs {
		t := int64(i) * 20 * ms
		rs[i] = Record{Before: t - ms, After: t, Cost: bucket.Cost{Requests: 1, Tokens: 30}}
	}
	limits, err := bucket.ParseLimits("requests 50/s; tokens 100000/m")
	require.NoError(b, err)
	for b.Loop() {
		Check(rs, limits)
	}
}
