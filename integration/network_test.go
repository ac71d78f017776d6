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

// startOnNetwork starts a fleet with each worker on a host of its own.
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

// The leader is cut off from the two others. Until its leases are over it
// spends them, then its callers are told that there is no quorum. The others go
// on with another leader; and so do all once the network is whole again.
func TestPartLeader(t *testing.T) {
	f, net := startOnNetwork(t, 3)
	leader, err := f.Leader(10 * time.Second)
	require.NoError(t, err)
	alone := leader.Job.Slot
	others := []int{(alone + 1) % 3, (alone + 2) % 3}
	refused := leader.Status().NoQuorum
	require.NoError(t, f.Do("cut the leader off", leader, func() error { return net.Cut([]int{alone}, others) }))
	for _, slot := range others {
		p := f.Slot(slot)
		sent := p.Status().Sent
		require.NoError(t, p.Await(10*time.Second, "served by another leader", func(s fleet.Status) bool {
			return s.Sent > sent+100 && s.Leader != leader.Status().ID
		}))
	}
	require.NoError(t, leader.Await(10*time.Second, "says that there is no quorum", func(s fleet.Status) bool {
		return s.NoQuorum >= refused+6 && !s.Leads
	}))
	healed := history.Now()
	require.NoError(t, f.Do("heal", leader, net.Heal))
	require.NoError(t, f.Served(30*time.Second, 20), "all are served")
	back := time.Duration(history.Now() - healed)
	require.NoError(t, f.Whole(30*time.Second))
	t.Logf("all were served %v after the network was healed", back)

	rs, _ := finish(t, f, 3*time.Second, "cut the leader off")
	over := f.Faults[0].At + int64(bucket.TTL+500*time.Millisecond)
	for _, r := range rs {
		if r.Worker == uint32(alone) && r.Before > over && r.After < healed {
			assert.Fail(t, "the minority goes on", "%v after the cut", time.Duration(r.Before-f.Faults[0].At))
			break
		}
	}
}

// The leader hears nobody, though it is heard: it must not keep the others from
// having one who can decide. And the other way round.
func TestPartOneWay(t *testing.T) {
	f, net := startOnNetwork(t, 3)
	for _, deaf := range []bool{true, false} {
		leader, err := f.Leader(10 * time.Second)
		require.NoError(t, err)
		alone := leader.Job.Slot
		others := []int{(alone + 1) % 3, (alone + 2) % 3}
		what := map[bool]string{true: "deafen the leader", false: "mute the leader"}[deaf]
		require.NoError(t, f.Do(what, leader, func() error {
			if deaf {
				return net.Deaf(alone, others...)
			}
			return errors.Join(net.Deaf(others[0], alone), net.Deaf(others[1], alone))
		}))
		for _, slot := range others {
			p := f.Slot(slot)
			sent := p.Status().Sent
			require.NoError(t, p.Await(15*time.Second, "served by another leader", func(s fleet.Status) bool {
				return s.Sent > sent+50 && s.Leader != leader.Status().ID
			}), what)
		}
		require.NoError(t, f.Do("heal", leader, net.Heal))
		require.NoError(t, f.Served(30*time.Second, 20), "all are served")
		require.NoError(t, f.Whole(30*time.Second))
	}
	finish(t, f, 5*time.Second, "deafen the leader", "mute the leader")
}

// One packet in five is lost. Calls are admitted, or refused for want of a
// quorum: there is no third.
func TestLoss(t *testing.T) {
	f, net := startOnNetwork(t, 3)
	for i := range 3 {
		require.NoError(t, f.Do("lose packets", f.Slot(i), func() error { return net.Rules(i, "numgen random mod 100 < 20 drop") }))
	}
	require.NoError(t, f.Served(60*time.Second, 100))
	lossy := time.Duration(history.Now() - f.Faults[0].At)
	for _, p := range f.Running() {
		s := p.Status()
		assert.Zero(t, s.Failed, "of calls that came to nothing, no quorum is the only reason: %s", s.Failure)
		t.Logf("%s: %d admitted, %d refused for want of a quorum", p.Job.Name, s.Sent, s.NoQuorum)
	}
	require.NoError(t, net.Heal())
	require.NoError(t, f.Whole(30*time.Second))
	t.Logf("300 calls in %v of loss", lossy)
	finish(t, f, 0)
}

// Each packet takes 80 ms: to the leader and back it is 160 ms, and as much again
// from the leader to the others and back, which is more than quota is promised
// ahead: not all of the limit is used. Everybody is served, nobody is elected
// without need, and another leader is found when the first one dies.
func TestFarApart(t *testing.T) {
	f := begin(t, 6) // the last three addresses are those at which the first are reached
	f.SeedBy(3, 4, 5)
	for slot := range 3 {
		relay, err := fleet.NewRelay(f.Seeds[slot], net.JoinHostPort(f.Hosts[slot], "7946"), 80*time.Millisecond)
		require.NoError(t, err)
		t.Cleanup(func() { assert.NoError(t, relay.Close()) })
	}
	begins := func(slot int) {
		t.Helper()
		_, err := f.Start(slot, func(j *fleet.Job) { j.Advertise, j.Callers = f.Seeds[slot], 20 })
		require.NoError(t, err)
	}
	for slot := range 3 {
		begins(slot)
	}
	require.NoError(t, f.Whole(30*time.Second))
	leader, err := f.Leader(10 * time.Second)
	require.NoError(t, err)
	began, sent, late := history.Now(), int64(0), time.Duration(0)
	for _, p := range f.Running() {
		sent -= p.Status().Sent
	}
	require.NoError(t, f.Served(60*time.Second, 60))
	now := history.Now()
	for _, p := range f.Running() {
		sent += p.Status().Sent
		late += p.Late(began, now)
	}
	t.Logf("%.0f calls a second, of 100 that are allowed", float64(sent)/time.Duration(now-began).Seconds())
	if late < 100*time.Millisecond { // else it may have been elected with reason
		assert.True(t, leader.Status().Leads, "the leader is the same as before")
	}
	for range 2 {
		leader, err := f.Leader(10 * time.Second)
		require.NoError(t, err)
		require.NoError(t, f.Do("kill the leader", leader, leader.Kill))
		require.NoError(t, f.Served(30*time.Second, 20), "the others are served")
		begins(leader.Job.Slot)
		require.NoError(t, f.Whole(30*time.Second))
		require.NoError(t, f.Served(30*time.Second, 20))
	}
	// Two that stand for election within 80 ms have both voted for themselves when they
	// hear of each other, and try again up to a second later: now and then several times.
	finish(t, f, 10*time.Second, "kill the leader")
}
