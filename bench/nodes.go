package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/go-redis/redis_rate/v10"
	"github.com/gubernator-io/gubernator/v2"
	"github.com/redis/go-redis/v9"
	"github.com/sirupsen/logrus"

	"github.com/choked/choked"
	"github.com/choked/choked/cluster"
	"github.com/choked/choked/internal/redisserver"
	"github.com/choked/choked/redisstore"
)

// taker takes one from a key, or waits. When it does not get it, it says when
// to come again, as far as it knows.
type taker func(ctx context.Context) (ok bool, again time.Duration, err error)

// team is several nodes that share limits, each seen by its own workers.
type team struct {
	name string
	// open returns a taker for each of n nodes, on a key that is new, and how
	// many times they have asked others than themselves.
	open func(ctx context.Context, n int, perSecond int64, per time.Duration) ([]taker, func() error, error)
	// waits: the taker waits its turn by itself.
	waits bool
}

// startNodes starts n nodes of choked on loopback, and waits until there is a
// leader and three of them vote.
func startNodes(ctx context.Context, n int, dirs bool) (nodes []*cluster.Node, stop func() error, err error) {
	if !dirs {
		return startNodesIn(ctx, n, "")
	}
	dir, err := os.MkdirTemp("", "choked-bench-")
	if err != nil {
		return nil, nil, err
	}
	nodes, end, err := startNodesIn(ctx, n, dir)
	if err != nil {
		return nil, nil, errors.Join(err, os.RemoveAll(dir))
	}
	return nodes, func() error { return errors.Join(end(), os.RemoveAll(dir)) }, nil
}

// startNodesIn is startNodes, the state of each in a directory of its own in
// dir. With none, nothing is written.
func startNodesIn(ctx context.Context, n int, dir string) (nodes []*cluster.Node, stop func() error, err error) {
	stop = func() error {
		var err error
		for _, node := range nodes {
			err = errors.Join(err, node.Close())
		}
		return err
	}
	var addrs []string
	for range n {
		addr, err := freePort()
		if err != nil {
			return nil, nil, err
		}
		addrs = append(addrs, addr)
	}
	for i, addr := range addrs {
		cfg := cluster.Config{Name: fmt.Sprint("node-", i+1), Bind: addr, Join: addrs[:min(n, 3)], Secret: "bench"}
		if dir != "" {
			cfg.Dir = fmt.Sprint(dir, "/", i)
			if err := os.Mkdir(cfg.Dir, 0o700); err != nil {
				return nil, nil, errors.Join(err, stop())
			}
		}
		node, err := cluster.Start(cfg)
		if err != nil {
			return nil, nil, errors.Join(err, stop())
		}
		nodes = append(nodes, node)
	}
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		voters, leader := 0, false
		for _, m := range nodes[0].Members() {
			if m.Voter {
				voters++
			}
		}
		_, leader = nodes[0].Leader()
		if leader && voters >= min(n, 3) {
			return nodes, stop, nil
		}
		if time.Now().After(end) || ctx.Err() != nil {
			return nil, nil, errors.Join(fmt.Errorf("%d voters, leader: %v", voters, leader), stop())
		}
	}
}

// freePort is a loopback address that is free for TCP and UDP.
func freePort() (string, error) {
	for range 20 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return "", err
		}
		p, err := net.ListenPacket("udp", l.Addr().String())
		if err = errors.Join(err, l.Close()); err == nil {
			return l.Addr().String(), p.Close()
		}
	}
	return "", errors.New("no free port")
}

// choking makes takers of stores.
func choking(stores []choked.Store, perSecond int64, per time.Duration, wait bool) ([]taker, func() error, error) {
	var takers []taker
	var chokes []*choked.Choke
	stop := func() error {
		var err error
		for _, c := range chokes {
			err = errors.Join(err, c.Close())
		}
		return err
	}
	limits := choked.Limits{Requests: []choked.Rate{{N: perSecond, Per: per, Burst: perSecond}}}
	one := choked.Cost{Requests: 1}
	for _, s := range stores {
		c := choked.New(s)
		chokes = append(chokes, c)
		l, err := c.Limiter("bench", limits, nil)
		if err != nil {
			return nil, nil, errors.Join(err, stop())
		}
		if wait {
			takers = append(takers, func(ctx context.Context) (bool, time.Duration, error) {
				err := l.Wait(ctx, one)
				if errors.Is(err, choked.ErrDeadline) { // the end of the run comes before the turn
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

// spread gives n workers a store each, of those that there are in turn.
func spread[S choked.Store](stores []S, n int) []choked.Store {
	out := make([]choked.Store, n)
	for i := range out {
		out[i] = stores[i%len(stores)]
	}
	return out
}

func chokedTeam(wait bool) team {
	return team{"choked, cluster", func(ctx context.Context, n int, perSecond int64, per time.Duration) ([]taker, func() error, error) {
		nodes, stop, err := startNodes(ctx, n, false)
		if err != nil {
			return nil, nil, err
		}
		takers, end, err := choking(spread(nodes, n), perSecond, per, wait)
		if err != nil {
			return nil, nil, errors.Join(err, stop())
		}
		return takers, func() error { return errors.Join(end(), stop()) }, nil
	}, wait}
}

func chokedRedisTeam(wait bool) team {
	return team{"choked, redisstore", func(ctx context.Context, n int, perSecond int64, per time.Duration) ([]taker, func() error, error) {
		server, err := redisserver.Start()
		if err != nil {
			return nil, nil, err
		}
		var stores []*redisstore.Store
		for range n {
			s, err := redisstore.Open(server.URL(), redisstore.Config{})
			if err != nil {
				return nil, nil, errors.Join(err, server.Stop())
			}
			stores = append(stores, s)
		}
		takers, end, err := choking(spread(stores, n), perSecond, per, wait)
		if err != nil {
			return nil, nil, errors.Join(err, server.Stop())
		}
		return takers, func() error {
			err := end()
			for _, s := range stores {
				err = errors.Join(err, s.Close())
			}
			return errors.Join(err, server.Stop())
		}, nil
	}, wait}
}

var redisRate = team{name: "redis_rate", open: func(ctx context.Context, n int, perSecond int64, per time.Duration) ([]taker, func() error, error) {
	server, err := redisserver.Start()
	if err != nil {
		return nil, nil, err
	}
	var takers []taker
	var clients []*redis.Client
	limit := redis_rate.Limit{Rate: int(perSecond), Burst: int(perSecond), Period: per}
	for range n {
		client := redis.NewClient(&redis.Options{Addr: server.Addr, PoolSize: 20})
		clients = append(clients, client)
		l := redis_rate.NewLimiter(client)
		takers = append(takers, func(ctx context.Context) (bool, time.Duration, error) {
			r, err := l.Allow(ctx, "bench", limit)
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

// startGubernator starts a daemon at each of the peers. stop gives up waiting
// after a while: now and then a daemon hangs when it is stopped after load.
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
			Behaviors: gubernator.BehaviorConfig{GlobalSyncWait: 50 * time.Millisecond, GlobalTimeout: 5 * time.Second, BatchTimeout: 5 * time.Second},
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

// gubernatorTeam is three daemons in this process, the worker of each asking
// its own.
func gubernatorTeam(name string, behavior gubernator.Behavior) team {
	return team{name: name, open: func(ctx context.Context, n int, perSecond int64, per time.Duration) ([]taker, func() error, error) {
		var peers []gubernator.PeerInfo
		for range n {
			grpc, err1 := freePort()
			http, err2 := freePort()
			if err := errors.Join(err1, err2); err != nil {
				return nil, nil, err
			}
			peers = append(peers, gubernator.PeerInfo{GRPCAddress: grpc, HTTPAddress: http})
		}
		stop, err := startGubernator(ctx, peers)
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
					Duration: per.Milliseconds(), Limit: perSecond, Burst: perSecond, Hits: 1,
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
