package main

import (
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/choked/choked"
	"github.com/choked/choked/bucket"
	"github.com/choked/choked/internal/testkit/history"
)

func TestUsedShareCountsFromTheEndOfTheBurst(t *testing.T) {
	const sec = int64(time.Second)
	r := bucket.Rate{N: 10, Per: time.Second, Burst: 10}
	var rs []history.Record
	for range 10 {
		rs = append(rs, history.Record{After: sec, Cost: bucket.Cost{Requests: 1}})
	}
	for i := range int64(8) {
		rs = append(rs, history.Record{After: 2*sec + i, Cost: bucket.Cost{Requests: 1}})
	}
	rs = append(rs, history.Record{After: 4 * sec, Cost: bucket.Cost{Requests: 1}})
	use, from := usedShare(rs, bucket.Requests, r, 0, 3*sec)
	assert.Equal(t, sec, from, "nine of the ten units are spent, one is left")
	assert.InDelta(t, 9.0/21, use, 1e-9, "9 admitted of 1 left and 20 refilled")

	use, from = usedShare(rs[10:], bucket.Requests, r, 0, 3*sec)
	assert.Zero(t, from, "the burst is never spent: from the start")
	assert.InDelta(t, 8.0/40, use, 1e-9)
	use, _ = usedShare(nil, bucket.Requests, r, 0, 0)
	assert.Zero(t, use)
}

func Example_table() {
	t := newTable(options{workers: 3, limits: choked.MustLimits("requests 50/s; tokens 100000/m")}, os.Stdout)
	t.head()
	var rs []history.Record
	for i := range 50 {
		rs = append(rs, history.Record{Worker: uint32(i % 3), Cost: bucket.Cost{Requests: 1, Tokens: 29}})
	}
	t.row(time.Second, rs, 21, 0, "worker-2")
	t.event(1500*time.Millisecond, "kill -9 worker-2, the leader")
	t.row(2*time.Second, rs[:10], 24, 3, "-")
	// Output:
	//      s    #1   #2   #3 calls/s  tokens/s   use  429  waiting  leader
	//    1.0    17   17   16      50      1450  100%    0       21  worker-2
	//    1.5  * kill -9 worker-2, the leader
	//    2.0     4    3    3      10       290   20%    3       24  -
}
