//go:build linux

package integration

import (
	"errors"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/choked/choked/bucket"
	"github.com/choked/choked/integration/internal/fleet"
	"github.com/choked/choked/internal/testkit/history"
)

// startOnNetwork starts a fleet with each worker on its own host of a network.
func startOnNetwork(t *testing.T, n int) (*fleet.Fleet, *fleet.Network) {
	t.Helper()
	need(t, fleet.NeedsForNetwork())
	var net *fleet.Network
	f := prepare(t, func(dir string) (*fleet.Fleet, error) {
		var err error
		if net, err = fleet.NewNetwork(n); err != nil {
			return nil, err
		}
		t.Cleanup(func() { assert.NoError(t, net.Close()) }) // after the fleet has ended
		return fleet.OnNetwork(dir, net)
	})
	startAll(t, f)
	return f, net
}

// The leader is cut off from the two others. It spends its leases until they expire,
// then its callers get ErrNoQuorum. The others elect another leader and are served.
// When the network is healed, all are served.
func TestPartLeader(t *testing.T) {
	f, net := startOnNetwork(t, 3)
	leader, err := f.AwaitLeader(10 * time.Second)
	require.NoError(t, err)
	alone := leader.Job.Slot
	others := []int{(alone + 1) % 3, (alone + 2) % 3}
	refused := leader.Status().NoQuorum
	require.NoError(t, f.Inject("cut the leader off", leader, func() error { return net.Cut([]int{alone}, others) }))
	for _, slot := range others {
		p := f.Slot(slot)
		sent := p.Status().Sent
		require.NoError(t, p.Await(10*time.Second, "served by another leader", func(s fleet.Status) bool {
			return s.Sent > sent+100 && s.Leader != leader.Status().ID
		}))
	}
	require.NoError(t, leader.Await(10*time.Second, "callers get ErrNoQuorum", func(s fleet.Status) bool {
		return s.NoQuorum >= refused+6 && !s.Leads
	}))
	healed := history.Now()
	require.NoError(t, f.Inject("heal", leader, net.Heal))
	require.NoError(t, f.AwaitServed(30*time.Second, 20), "all are served")
	recovery := time.Duration(history.Now() - healed)
	require.NoError(t, f.AwaitComplete(30*time.Second))
	t.Logf("all served %v after the network was healed", recovery)

	rs, _ := finish(t, f, 3*time.Second, "cut the leader off")
	expired := f.Faults[0].At + int64(bucket.TTL+500*time.Millisecond)
	for _, r := range rs {
		if r.Worker == uint32(alone) && r.Before > expired && r.After < healed {
			assert.Fail(t, "the minority admits calls after the expiry of its leases", "%v after the cut", time.Duration(r.Before-f.Faults[0].At))
			break
		}
	}
}

// Packets to the leader are dropped, but not those that it sends, and the other way
// round. The leader must not keep the others from electing one that can decide.
func TestPartOneWay(t *testing.T) {
	f, net := startOnNetwork(t, 3)
	for _, deaf := range []bool{true, false} {
		leader, err := f.AwaitLeader(10 * time.Second)
		require.NoError(t, err)
		alone := leader.Job.Slot
		others := []int{(alone + 1) % 3, (alone + 2) % 3}
		what := map[bool]string{true: "deafen the leader", false: "mute the leader"}[deaf]
		require.NoError(t, f.Inject(what, leader, func() error {
			if deaf {
				return net.DropFrom(alone, others...)
			}
			return errors.Join(net.DropFrom(others[0], alone), net.DropFrom(others[1], alone))
		}))
		for _, slot := range others {
			p := f.Slot(slot)
			sent := p.Status().Sent
			require.NoError(t, p.Await(15*time.Second, "served by another leader", func(s fleet.Status) bool {
				return s.Sent > sent+50 && s.Leader != leader.Status().ID
			}), what)
		}
		require.NoError(t, f.Inject("heal", leader, net.Heal))
		require.NoError(t, f.AwaitServed(30*time.Second, 20), "all are served")
		require.NoError(t, f.AwaitComplete(30*time.Second))
	}
	finish(t, f, 5*time.Second, "deafen the leader", "mute the leader")
}

// One packet in five is lost. Calls are admitted or fail with ErrNoQuorum, but with
// no other error.
func TestLoss(t *testing.T) {
	f, net := startOnNetwork(t, 3)
	for i := range 3 {
		require.NoError(t, f.Inject("lose packets", f.Slot(i), func() error { return net.Rules(i, "numgen random mod 100 < 20 drop") }))
	}
	require.NoError(t, f.AwaitServed(60*time.Second, 100))
	lossy := time.Duration(history.Now() - f.Faults[0].At)
	for _, p := range f.Running() {
		s := p.Status()
		assert.Zero(t, s.Failed, "calls that failed for another reason than a missing quorum: %s", s.Failure)
		t.Logf("%s: %d admitted, %d refused for want of a quorum", p.Job.Name, s.Sent, s.NoQuorum)
	}
	require.NoError(t, net.Heal())
	require.NoError(t, f.AwaitComplete(30*time.Second))
	t.Logf("300 calls in %v of loss", lossy)
	finish(t, f, 0)
}

// Each packet takes 80 ms. A decision takes 160 ms from a worker to the leader and
// back, and 160 ms from the leader to the voters and back. Quota is promised for a
// shorter time ahead, so the limit is not fully used. All workers are served, the
// leader does not change, and if it dies another one is elected.
func TestFarApart(t *testing.T) {
	f := begin(t, 6) // the last three addresses are those of the relays to the first three
	f.SetSeeds(3, 4, 5)
	for slot := range 3 {
		relay, err := fleet.NewRelay(f.Seeds[slot], net.JoinHostPort(f.Hosts[slot], "7946"), 80*time.Millisecond)
		require.NoError(t, err)
		t.Cleanup(func() { assert.NoError(t, relay.Close()) })
	}
	startSlot := func(slot int) {
		t.Helper()
		_, err := f.Start(slot, func(j *fleet.Job) { j.Advertise, j.Callers = f.Seeds[slot], 20 })
		require.NoError(t, err)
	}
	for slot := range 3 {
		startSlot(slot)
	}
	require.NoError(t, f.AwaitComplete(30*time.Second))
	leader, err := f.AwaitLeader(10 * time.Second)
	require.NoError(t, err)
	began, sent, late := history.Now(), int64(0), time.Duration(0)
	for _, p := range f.Running() {
		sent -= p.Status().Sent
	}
	require.NoError(t, f.AwaitServed(60*time.Second, 60))
	now := history.Now()
	for _, p := range f.Running() {
		sent += p.Status().Sent
		late += p.Late(began, now)
	}
	t.Logf("%.0f calls a second of 100 allowed", float64(sent)/time.Duration(now-began).Seconds())
	if late < 100*time.Millisecond { // a late machine is a reason for an election
		assert.True(t, leader.Status().Leads, "the leader has not changed")
	}
	for range 2 {
		leader, err := f.AwaitLeader(10 * time.Second)
		require.NoError(t, err)
		require.NoError(t, f.Inject("kill the leader", leader, leader.Kill))
		require.NoError(t, f.AwaitServed(30*time.Second, 20), "the others are served")
		startSlot(leader.Job.Slot)
		require.NoError(t, f.AwaitComplete(30*time.Second))
		require.NoError(t, f.AwaitServed(30*time.Second, 20))
	}
	// Two candidates within 80 ms have both voted for themselves before they learn of
	// each other. They try again up to a second later, now and then several times.
	finish(t, f, 10*time.Second, "kill the leader")
}
