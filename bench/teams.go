package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"
	"time"

	"github.com/go-redis/redis_rate/v10"
	"github.com/gubernator-io/gubernator/v2"
	"github.com/redis/go-redis/v9"
	"github.com/sirupsen/logrus"

	"github.com/choked/choked"
	"github.com/choked/choked/internal/testkit/ports"
	"github.com/choked/choked/internal/testkit/redisserver"
	"github.com/choked/choked/redisstore"
)

// taker takes one unit of a key, or waits for it. If it is refused, it returns after
// what time to retry, as far as the limiter tells.
type taker func(ctx context.Context) (ok bool, retryAfter time.Duration, err error)

// team is a limiter on several nodes that share a limit.
type team struct {
	name string
	// open returns a taker for each of n nodes, all on one new key.
	open  func(ctx context.Context, n int, limit choked.Rate) ([]taker, func() error, error)
	waits bool // the takers wait for admission and do not refuse
	split bool // each node limits its calls to an equal part of the limit, without the others
	ours  bool // an error ends the run; errors of others are counted
}

// sharedTeams returns the teams that share a limit, those of choked first.
func sharedTeams(wait bool) []team {
	return []team{chokedTeam(wait), chokedRedisTeam(wait), redisRate, batching, global}
}

// splitTeams limit single processes, so that each node has a part of the limit.
var splitTeams = []team{splitTeam(xTime), splitTeam(uber), splitTeam(goLimiter), splitTeam(throttledGCRA)}

// chokedTakers returns a taker for each store, on one key.
func chokedTakers(stores []choked.Store, key string, limit choked.Rate, wait bool) ([]taker, func() error, error) {
	var takers []taker
	var chokes []*choked.Choke
	stop := func() error {
		var err error
		for _, c := range chokes {
			err = errors.Join(err, c.Close())
		}
		return err
	}
	limits := choked.Limits{Requests: []choked.Rate{limit}}
	one := choked.Cost{Requests: 1}
	for _, s := range stores {
		c := choked.New(s)
		chokes = append(chokes, c)
		l, err := c.Limiter(key, limits, nil)
		if err != nil {
			return nil, nil, errors.Join(err, stop())
		}
		if wait {
			takers = append(takers, func(ctx context.Context) (bool, time.Duration, error) {
				err := l.Wait(ctx, one)
				if errors.Is(err, choked.ErrDeadline) { // not admitted before the end of the run
					return false, time.Second, nil
				}
				return err == nil, 0, err
			})
		} else {
			takers = append(takers, func(ctx context.Context) (bool, time.Duration, error) {
				v, err := l.Allow(ctx, one)
				return v.OK, v.RetryAfter, err
			})
		}
	}
	return takers, stop, nil
}

func chokedTeam(wait bool) team {
	return team{name: "choked, cluster", waits: wait, ours: true, open: func(ctx context.Context, n int, limit choked.Rate) ([]taker, func() error, error) {
		nodes, stop, err := startNodes(ctx, n, false)
		if err != nil {
			return nil, nil, err
		}
		takers, end, err := chokedTakers(spread(nodes, n), "bench", limit, wait)
		if err != nil {
			return nil, nil, errors.Join(err, stop())
		}
		return takers, func() error { return errors.Join(end(), stop()) }, nil
	}}
}

func chokedRedisTeam(wait bool) team {
	return team{name: "choked, redisstore", waits: wait, ours: true, open: func(ctx context.Context, n int, limit choked.Rate) ([]taker, func() error, error) {
		server, err := redisserver.Start()
		if err != nil {
			return nil, nil, err
		}
		var stores []*redisstore.Store
		stop := func() error {
			var err error
			for _, s := range stores {
				err = errors.Join(err, s.Close())
			}
			return errors.Join(err, server.Stop())
		}
		for range n {
			s, err := redisstore.Open(server.URL(), redisstore.Config{})
			if err != nil {
				return nil, nil, errors.Join(err, stop())
			}
			stores = append(stores, s)
		}
		takers, end, err := chokedTakers(spread(stores, n), "bench", limit, wait)
		if err != nil {
			return nil, nil, errors.Join(err, stop())
		}
		return takers, func() error { return errors.Join(end(), stop()) }, nil
	}}
}

// maxCallers is the largest number of callers on a node, and the size of a connection
// pool.
const maxCallers = 128

var redisRate = team{name: "redis_rate", open: func(ctx context.Context, n int, limit choked.Rate) ([]taker, func() error, error) {
	server, err := redisserver.Start()
	if err != nil {
		return nil, nil, err
	}
	var takers []taker
	var clients []*redis.Client
	theirs := redis_rate.Limit{Rate: int(limit.N), Burst: int(limit.Burst), Period: limit.Per}
	for range n {
		client := redis.NewClient(&redis.Options{Addr: server.Addr, PoolSize: maxCallers})
		clients = append(clients, client)
		l := redis_rate.NewLimiter(client)
		takers = append(takers, func(ctx context.Context) (bool, time.Duration, error) {
			r, err := l.Allow(ctx, "bench", theirs)
			if err != nil {
				return false, 0, err
			}
			return r.Allowed > 0, r.RetryAfter, nil
		})
	}
	return takers, func() error {
		var err error
		for _, c := range clients {
			err = errors.Join(err, c.Close())
		}
		return errors.Join(err, server.Stop())
	}, nil
}}

var (
	batching = gubernatorTeam("gubernator, BATCHING", gubernator.Behavior_BATCHING)
	global   = gubernatorTeam("gubernator, GLOBAL", gubernator.Behavior_GLOBAL)
)

// behaviors are the defaults of gubernator, except that global limits are synchronized
// twice as often and timeouts are long enough that no call fails by them.
var behaviors = gubernator.BehaviorConfig{
	BatchWait: 500 * time.Microsecond, BatchLimit: 1000, BatchTimeout: 5 * time.Second,
	GlobalSyncWait: 50 * time.Millisecond, GlobalBatchLimit: 1000, GlobalTimeout: 5 * time.Second,
}

// settings describes the settings of the other teams.
func settings() string {
	b := behaviors
	return fmt.Sprintf("redis_rate: one server, a pool of %d connections for each node. gubernator: leaky bucket, BatchWait %v, BatchLimit %d, GlobalSyncWait %v, GlobalBatchLimit %d, timeouts %v.",
		maxCallers, b.BatchWait, b.BatchLimit, b.GlobalSyncWait, b.GlobalBatchLimit, b.BatchTimeout)
}

// startGubernator starts a daemon at each of the peers. stop waits for 5 s at most: now
// and then a daemon does not stop after a load.
func startGubernator(ctx context.Context, peers []gubernator.PeerInfo) (stop func(), err error) {
	var daemons []*gubernator.Daemon
	stop = func() {
		stopped := make(chan struct{})
		go func() {
			defer close(stopped)
			for _, d := range daemons {
				d.Close()
			}
		}()
		select {
		case <-stopped:
		case <-time.After(5 * time.Second):
		}
	}
	for _, p := range peers {
		d, err := gubernator.SpawnDaemon(ctx, gubernator.DaemonConfig{
			Logger: logrus.WithField("instance", p.GRPCAddress), InstanceID: p.GRPCAddress,
			GRPCListenAddress: p.GRPCAddress, HTTPListenAddress: p.HTTPAddress, AdvertiseAddress: p.GRPCAddress,
			Behaviors: behaviors,
		})
		if err != nil {
			stop()
			return nil, err
		}
		d.PeerInfo = p
		daemons = append(daemons, d)
	}
	for _, d := range daemons {
		d.SetPeers(peers)
	}
	return stop, nil
}

// openGubernator starts a daemon for each two of the addresses that free returns. A
// connection may take such a port as its source port before the daemon binds it: then
// openGubernator tries again with other addresses.
func openGubernator(ctx context.Context, free func() ([]string, error)) (peers []gubernator.PeerInfo, stop func(), err error) {
	for range 10 {
		addrs, err := free()
		if err != nil {
			return nil, nil, err
		}
		peers = nil
		for at := range slices.Chunk(addrs, 2) {
			peers = append(peers, gubernator.PeerInfo{GRPCAddress: at[0], HTTPAddress: at[1]})
		}
		if stop, err = startGubernator(ctx, peers); !errors.Is(err, syscall.EADDRINUSE) {
			return peers, stop, err
		}
	}
	return nil, nil, err
}

// gubernatorTeam runs a daemon for each node in this process. The workers of a node
// call the daemon of their node.
func gubernatorTeam(name string, behavior gubernator.Behavior) team {
	return team{name: name, open: func(ctx context.Context, n int, limit choked.Rate) ([]taker, func() error, error) {
		peers, stop, err := openGubernator(ctx, func() ([]string, error) { return ports.Free(2 * n) })
		if err != nil {
			return nil, nil, err
		}
		var takers []taker
		for _, p := range peers {
			client, err := gubernator.DialV1Server(p.GRPCAddress, nil)
			if err != nil {
				stop()
				return nil, nil, err
			}
			takers = append(takers, func(ctx context.Context) (bool, time.Duration, error) {
				r, err := client.GetRateLimits(ctx, &gubernator.GetRateLimitsReq{Requests: []*gubernator.RateLimitReq{{
					Name: "bench", UniqueKey: "k", Algorithm: gubernator.Algorithm_LEAKY_BUCKET, Behavior: behavior,
					Duration: limit.Per.Milliseconds(), Limit: limit.N, Burst: limit.Burst, Hits: 1,
				}}})
				if err != nil {
					return false, 0, err
				}
				one := r.Responses[0]
				if one.Error != "" {
					return false, 0, errors.New(one.Error)
				}
				return one.Status == gubernator.Status_UNDER_LIMIT, time.Until(time.UnixMilli(one.ResetTime)), nil
			})
		}
		return takers, func() error { stop(); return nil }, nil
	}}
}

// splitTeam gives each node a limiter of its own with an equal part of the limit.
func splitTeam(who contestant) team {
	return team{name: who.name, waits: who.waits, split: true, open: func(ctx context.Context, n int, limit choked.Rate) ([]taker, func() error, error) {
		var takers []taker
		var closes []func()
		stop := func() error {
			for _, c := range closes {
				c()
			}
			return nil
		}
		for range n {
			take, done, err := who.open(1, choked.Rate{N: limit.N / int64(n), Per: limit.Per, Burst: limit.Burst / int64(n)})
			if err != nil {
				return nil, nil, errors.Join(err, stop())
			}
			closes = append(closes, done)
			takers = append(takers, func(context.Context) (bool, time.Duration, error) {
				ok, err := take(0)
				return ok, time.Millisecond, err
			})
		}
		return takers, stop, nil
	}}
}
