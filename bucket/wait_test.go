package bucket

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

// Wait and RetryAfter are exact without other operations: the ask is granted then, and
// not a nanosecond earlier.
func TestWaitIsExact(t *testing.T) { waitIsExact(t, anyLimits()) }

func TestWaitForWindowsIsExact(t *testing.T) { waitIsExact(t, anyTimedLimits()) }

func waitIsExact(t *testing.T, limits *rapid.Generator[Limits]) {
	rapid.Check(t, func(t *rapid.T) {
		o := newOps(limits.Draw(t, "limits"))
		b := New(&o.limits, 1)
		for range rapid.IntRange(1, 15).Draw(t, "length") {
			o.apply(b, o.next(t, true))
		}
		need := o.limits.Limited(o.cost(t, 1))
		if need.IsZero() {
			need = o.limits.Limited(one)
		}
		if rapid.Bool().Draw(t, "prefetch") {
			prefetchIsExact(t, o, b, need)
			return
		}
		room, wait := b.RoomFor(o.now, need), b.Wait(o.now, need)
		g, err := clone(b).Lease(o.now, &Ask{ID: LeaseID{2, 1}, Need: need, Want: need})
		switch {
		case err != nil:
			t.Fatalf("need of %v within burst %v: %v", need, o.limits.Burst(), err)
		case g.OK != (wait == 0):
			t.Fatalf("need of %v: Wait is %v, and Lease %+v", need, wait, g)
		case g.OK != room.Covers(need):
			t.Fatalf("need of %v: Room is %v, and Lease %+v", need, room, g)
		case !g.OK && g.RetryAfter != wait:
			t.Fatalf("need of %v: Wait is %v, RetryAfter %v", need, wait, g.RetryAfter)
		}
		firstAt(t, o, b, wait, &Ask{ID: LeaseID{2, 1}, Need: need, Want: need})
	})
}

func prefetchIsExact(t *rapid.T, o *ops, b *Bucket, want Cost) {
	a := &Ask{ID: LeaseID{2, 1}, Want: want}
	if g, _ := clone(b).Lease(o.now, a); !g.OK {
		firstAt(t, o, b, g.RetryAfter, a)
	}
}

// firstAt checks that a is granted after wait and not before.
func firstAt(t *rapid.T, o *ops, b *Bucket, wait time.Duration, a *Ask) {
	if wait > 100*366*24*time.Hour {
		return // beyond the end of time, as the store counts it
	}
	at := o.now + int64(wait)
	if g, _ := clone(b).Lease(at, a); !g.OK {
		t.Fatalf("%v, need %v, want %v: to be granted after %v, and then it is %+v", o.limits, a.Need, a.Want, wait, g)
	}
	if wait > 1 {
		if g, _ := clone(b).Lease(at-1, a); g.OK {
			t.Fatalf("%v, need %v, want %v: to be granted after %v, and a nanosecond before it is %+v", o.limits, a.Need, a.Want, wait, g)
		}
	}
}
