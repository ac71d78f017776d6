package bucket_test

import (
	"fmt"
	"time"

	"github.com/choked/choked/bucket"
)

func ExampleParseLimits() {
	limits, err := bucket.ParseLimits("requests 500/m,10_000/d; tokens 100000/m burst 20000")
	fmt.Println(limits, err)

	_, err = bucket.ParseLimits("requests 500 a minute")
	fmt.Println(err)
	// Output:
	// requests 500/m,10000/d; tokens 100000/m burst 20000 <nil>
	// limit on requests: rate "500 a minute": want "50/s", "100000/m", "5/10s", "10/h", "50/s burst 10", "500/m window", or "10000/d reset UTC"
}

func ExampleLimits_Fits() {
	limits, _ := bucket.ParseLimits("requests 50/s; tokens 100000/m")
	fmt.Println(limits.Fits(bucket.Cost{Requests: 1, Tokens: 120_000}))
	// Output: cost exceeds burst: 120000 tokens asked, at most 100000 fit in "100000/m"
}

// A bucket grants its quota as leases. Settling a lease returns the unspent units.
func ExampleBucket() {
	limits, _ := bucket.ParseLimits("requests 10/s")
	b := bucket.New(&limits, 0)
	now := int64(0) // nanoseconds of the store's time

	a := bucket.Ask{ID: bucket.LeaseID{Holder: 1, Seq: 1}, Need: bucket.Cost{Requests: 8}}
	g, _ := b.Lease(now, &a)
	fmt.Println(g.OK, g.Granted.Requests, "left", b.Level(now).Requests)

	b.Settle(now, a.ID, bucket.Cost{Requests: 3})
	fmt.Println("settled, left", b.Level(now).Requests)

	a = bucket.Ask{ID: bucket.LeaseID{Holder: 1, Seq: 2}, Need: bucket.Cost{Requests: 9}}
	g, _ = b.Lease(now, &a) // two more than the level: the last is promised 200ms ahead
	fmt.Println(g.OK, g.Granted.Requests, "ready in", g.Drips[0].Ready)

	a = bucket.Ask{ID: bucket.LeaseID{Holder: 1, Seq: 3}, Need: bucket.Cost{Requests: 1}}
	g, _ = b.Lease(now, &a)
	fmt.Println(g.OK, "retry after", g.RetryAfter)

	now += int64(time.Second)
	fmt.Println("a second later", b.Level(now).Requests)
	// Output:
	// true 8 left 2
	// settled, left 7
	// true 9 ready in 200ms
	// false retry after 50ms
	// a second later 1
}
